"""Landing what the topics hold, with the rows counted for the metrics of the job."""

from collections.abc import Mapping

from anabranch.declare.projects import Project
from anabranch.progress import Progress
from batch.landing.loader import LoadSummary
from batch.landing.topics import Follow, land
from jobs.monitoring.runs import note_rows
from jobs.wiring.context import Context


def land_topics(
    context: Context, project: Project, steps: Progress, follow: Follow | None = None
) -> Mapping[str, LoadSummary]:
    """What was landed, by source (`batch.landing.topics.land`)."""
    loads = land(context, project, steps, context.gate(project), follow)
    for each in loads.values():
        note_rows(each.rows, each.quarantined)
    return loads
