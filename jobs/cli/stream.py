"""The verb `stream`: the streams of some or all projects in one process, until stopped."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from jobs.cli.options import AsJson, Names
from jobs.servers.processes import stop_event
from jobs.show import Steps, result
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.wiring.context import Context
    from speed.progress import Snapshot

_REPORT_SECONDS = 5.0


def stream(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="Drain the topics and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep tiles and approximate scores of projects current from Kafka, until stopped."""
    from speed.progress import StreamMetrics
    from speed.streams import Streams

    stopping = stop_event()
    with job() as context:
        projects = _projects(context, names or [])
        with closing(StreamMetrics(0 if once else context.settings.speed.metrics_port)) as metrics:
            streams, steps = Streams(context.speed_layer(once=once), projects), Steps()
            started = ", ".join(streams.start()) or "no view has a topic"
            steps.step(f"stream of {_names(projects)}: {started}")
            reported = time.monotonic()
            while streams.active and not stopping.is_set():
                stopping.wait(0.2 if once else 1.0)
                snapshots = streams.look()
                metrics.show(snapshots)
                if time.monotonic() - reported >= _REPORT_SECONDS:
                    reported = time.monotonic()
                    steps.report([escape(snapshot.line()) for snapshot in snapshots])
            streams.stop()
            snapshots = streams.look()
    _report(as_json, projects, snapshots)
    failed = [
        f"{snapshot.project}.{snapshot.source} ({snapshot.failure})"
        for snapshot in snapshots
        if snapshot.failed
    ]
    if failed:
        raise AnabranchError(
            f"given up: {', '.join(failed)}: correct the cause and start the stream again, "
            "which continues from its checkpoint"
        )


def _projects(context: "Context", names: list[str]) -> list[Project]:
    chosen = names or sorted(list_projects(context.settings.projects))
    projects = [context.project(name) for name in dict.fromkeys(chosen)]
    if not projects:
        raise MisuseError("no project is declared: run 'anabranch init NAME'")
    return projects


def _names(projects: list[Project]) -> str:
    return ", ".join(project.name for project in projects)


def _report(as_json: bool, projects: list[Project], snapshots: list["Snapshot"]) -> None:
    events, asked = (
        sum(snapshot.events for snapshot in snapshots if snapshot.unit == unit)
        for unit in ("events", "requests")
    )
    views = sum(len(project.views) for project in projects)
    value: dict[str, object] = {
        "projects": [project.name for project in projects],
        "views": views,
        "events": events,
        "requests": asked,
    }
    failed = {
        f"{snapshot.project}.{snapshot.source}": snapshot.failure for snapshot in snapshots if snapshot.failed
    }
    if failed:
        value["failed"] = failed
    if len(projects) == 1:
        value["project"] = projects[0].name
    answered = f", {asked:,} score requests answered" if asked else ""
    result(as_json, value, f"stream of {_names(projects)} stopped after {events:,} events read{answered}")
