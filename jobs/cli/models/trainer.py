"""The verb that trains on request: trainer."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from jobs.cli.options import AsJson, Names
from jobs.servers.processes import stop_event
from jobs.show import Steps, result
from jobs.wiring.job import job

if TYPE_CHECKING:
    from batch.training.request_service import Rows
    from batch.training.train import Trained
    from jobs.wiring.context import Context


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(trainer)


def trainer(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="Answer the waiting requests and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train on request by messages (training-requests), and answer on training-results, until stopped."""
    from anabranch.stores.kafka.training_topics import REQUESTS, TrainingTopics
    from batch.training.request_service import TrainingService

    stopping, steps, chosen = stop_event(), Steps(), sorted(set(names or []))
    with job() as context:
        trained = tuple(chosen or sorted(list_projects(context.settings.projects)))
        with closing(TrainingTopics(context.bus, "-".join(["anabranch-trainer", *chosen]))) as topics:
            desk = Desk(context=context, names=trained, steps=steps)
            service = TrainingService(topics, desk, steps, others=bool(chosen))
            topics.wait_until_ready()
            steps.step(f"trainer of {', '.join(desk.names)}: waiting for messages on {REQUESTS}")
            while not stopping.is_set():
                if not service.serve(1.0) and once and topics.drained():
                    break
    value = {"requests": service.requests, "trainings": service.trainings}
    result(
        as_json, value, f"trainer stopped after {service.requests} requests and {service.trainings} trainings"
    )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The training desk (batch/training/request_service.py) of the real stores."""

    context: "Context"
    names: tuple[str, ...]
    steps: Steps

    def project(self, name: str) -> Project:
        return self.context.project(name)

    def check(self, project: Project, rows: "Rows") -> None:
        # The rules of landing, as for events that arrive over REST.
        from anabranch.events.faults import find_fault
        from anabranch.values.times import SECOND, now_micros
        from batch.landing.loader import find_source

        latest = now_micros() + self.context.settings.times.future_skew_seconds * SECOND
        for name, events in rows.items():
            source = find_source(project, name)
            if source.topic is None:
                raise MisuseError(
                    f"source {name!r} has no topic, so its rows cannot come by message: "
                    "load them with 'anabranch ingest'"
                )
            for number, event in enumerate(events):
                fault = find_fault(event, source, project.key_sets(source), latest)
                if fault is not None:
                    raise MisuseError(f"row {number} of {name!r}: {fault.reason}")

    def land(self, project: Project, rows: Sequence["Rows"]) -> None:
        # As all events, over their topic and past the quality gate.
        from batch.landing.publishing import publish_rows
        from batch.landing.topics import land

        context = self.context
        for each in rows:
            for name, events in each.items():
                publish_rows(context.bus, project, project.sources[name], events, context.schemas)
        land(context, project, self.steps, context.gate(project))

    def train(self, project: Project, requests: Sequence[str]) -> "Trained":
        from batch.training.train import train
        from jobs.cli.models.training import begin_online, training_job
        from jobs.flows.building import score_current_rows

        context, asked = self.context, training_job(self.context, project, self.steps)
        trained = train(context, replace(asked, about={**asked.about, "requests": ",".join(requests)}))
        begin_online(context, project, self.steps)
        if trained.champion:
            score_current_rows(context, project, self.steps)
        return trained
