"""The flow of an erasure: land events under way, delete the key, build a version without it."""

from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.values.times import SECOND, now_micros
from batch.building.publication import latest_cut
from batch.landing.topics import land
from batch.upkeep.erasing import Erased, Erasure
from jobs.flows.building import build_project
from jobs.show import Steps
from jobs.wiring.context import Context


@dataclass(frozen=True, kw_only=True)
class FinishedErasure:
    """What was deleted, and the first batch version without the key: None when none was built.

    Events of the key that arrive before `until` (microseconds) count from the first build whose cut is not
    earlier.
    """

    erased: Erased
    batch_version: int | None
    until: int


def erase_key(context: Context, project: Project, key: dict[str, str], steps: Steps) -> FinishedErasure:
    """Erase a key of a project; raises AnabranchError with nothing deleted when a server is away."""
    if context.answers.served(project)[0] != project:
        raise AnabranchError(
            f"project {project.name!r} was declared anew since the version that serves was built, and that "
            f"one's views are erased by what they were: run 'anabranch build {project.name}' first"
        )
    steps.step("landing what the topics hold, so that it can be deleted")
    land(context, project, steps, context.gate(project))
    times = context.settings.times
    until = latest_cut(times, now_micros()) + times.slot_seconds * SECOND
    erasure = Erasure(context, project, key, steps)
    erased = erasure.run(until)
    built = None
    if context.views.manifest(project.name) is not None:
        steps.step("building a version without the key")
        built = build_project(context, project, None, steps, full=True).manifest.batch_version
        erasure.unserve(until)  # what a stream wrote meanwhile
        context.views.drop_tiles(project.name, [project])  # of views that were declared before
    return FinishedErasure(erased=erased, batch_version=built, until=until)
