"""The flow of a verification: lands first, and compares again while a stream is still catching up."""

import time

from anabranch.declare.projects import Project
from batch.building.verification import Verified, verify
from batch.landing.topics import land
from jobs.show import Steps
from jobs.wiring.context import Context

_PATIENCE = 20.0  # seconds a running stream may need for events that were landed a moment ago


def verify_settled(context: Context, project: Project, sample: int | None, steps: Steps) -> Verified:
    """Land what the topics hold and compare; repeat while values differ and a stream may be catching up."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        served, manifest = context.answers.served(project)
        # Answers count what the owners' streams have read too, so their lakes must hold it; and what feeds
        # views that are declared no more.
        owners = [context.project(owner) for owner in {**project.lenders, **served.lenders}]
        steps.step("landing what the topics hold")
        for one in dict.fromkeys((project, served, *owners)):
            land(context, one, steps, context.gate(one))
        found = verify(context, context.answers, served, sample, steps, manifest)
        if not found.mismatches or time.monotonic() > deadline:
            return found
        steps.step(f"{found.mismatches} mismatches: looking again, as a stream may be catching up")
