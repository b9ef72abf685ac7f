"""Verbs that move events: ingest, publish, land, build, rollback, stream."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.times import SECOND, format_time, now_micros, parse_duration, parse_time
from jobs.cli.options import AsJson, Name, Names, SourceName
from jobs.monitoring.runs import note_rows
from jobs.monitoring.targets import announced
from jobs.servers.processes import stop_event
from jobs.show import Steps, picked, result, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.wiring.context import Context
    from speed.progress import Snapshot, StreamMetrics


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (ingest, publish, land, build, rollback, stream, relay):
        app.command()(verb)


def ingest(
    name: Name,
    source: SourceName,
    files: Annotated[list[str], typer.Argument(metavar="FILE...")],
    delimiter: Annotated[str, typer.Option(help="What stands between the cells of CSV; \\t is a tab.")] = ",",
    encoding: Annotated[str, typer.Option(help="The encoding of CSV, such as latin-1 or cp1252.")] = "utf-8",
    header: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names of CSV's columns, for those in its first line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Land files (CSV, JSON lines, Parquet) in the lake, each exactly once; bad rows go to quarantine."""
    from batch.landing.ingest import ingest as run
    from batch.landing.records import CsvForm

    names = () if header is None else tuple(name.strip() for name in header.split(","))
    form = CsvForm(delimiter=delimiter.replace("\\t", "\t"), encoding=encoding, header=names)
    with job() as context:
        project = context.project(name)
        landed = run(context, project, source, files, Steps(), context.gate(project), form)
    note_rows(landed.rows, landed.quarantined)
    value = {
        "project": name,
        "source": source,
        **picked(landed, "rows quarantined skipped_files reports unmet"),
    }
    text = (
        f"{landed.rows:,} rows landed, {landed.quarantined:,} in quarantine, "
        f"{landed.skipped_files} files already there{gate_lines(landed.unmet, landed.reports)}"
    )
    look = f" (and anabranch quarantine {name})" if landed.quarantined else ""
    result(as_json, value, f"{text}\nNext: anabranch build {name}{look}")
    if landed.quarantined and not landed.rows:
        raise AnabranchError(f"no row of {', '.join(files)} was good: see 'anabranch quarantine {name}'")


def gate_lines(unmet: Sequence[str], reports: Sequence[str]) -> str:
    """The quality gate's findings, as further lines."""
    lines = [f"not as expected: {each}" for each in unmet] + [f"report: {path}" for path in reports[-5:]]
    return "".join(f"\n{line}" for line in lines)


def publish(
    name: Name,
    source: SourceName,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Publish the rows of a CSV or JSON lines file to the source's topic; faulty rows are counted."""
    from batch.landing.publishing import publish_file

    with job() as context:
        latest = now_micros() + context.settings.times.future_skew_seconds * SECOND
        found = publish_file(
            context.bus, context.project(name), source, file, Steps(), latest, context.schemas
        )
    value = {
        "project": name,
        "source": source,
        "published": found.events,
        **picked(found, "faulty first_fault"),
    }
    text = f"{found.events:,} events published"
    if found.faulty:
        text += (
            f", {found.faulty:,} of them faulty: landing puts those in quarantine, and no feature has them\n"
            f"the first is {found.first_fault}"
        )
    result(as_json, value, text)
    if found.faulty == found.events > 0:
        raise AnabranchError(f"no row of {file} was good: {found.first_fault}")


def land(
    name: Name,
    once: Annotated[bool, typer.Option("--once", help="Land what waits and stop (the default).")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep landing what arrives, until Ctrl-C or SIGTERM.")
    ] = False,
    every: Annotated[
        str, typer.Option(help="With --follow: how often a batch becomes visible, such as 30s or 5m.")
    ] = "30s",
    as_json: AsJson = False,
) -> None:
    """Land the events of the project's topics, each exactly once, and read what its tables have."""
    from batch.landing.topics import Follow
    from jobs.flows.landing import land_topics

    if once and follow:
        raise MisuseError("--once and --follow contradict each other: give one of them")
    pause = parse_duration(every, "--every") // SECOND
    following = Follow(every_seconds=pause, stopping=stop_event()) if follow else None
    with job() as context:
        project = context.project(name)
        loads = land_topics(context, project, Steps(), following)
    counts = [
        f"{source} {each.rows:,} rows ({each.quarantined:,} in quarantine)" for source, each in loads.items()
    ]
    findings = "".join(gate_lines(each.unmet, each.reports) for each in loads.values())
    value = {source: picked(each, "rows quarantined reports unmet") for source, each in loads.items()}
    text = f"landed: {', '.join(counts) or 'no source has a topic or a table'}{findings}"
    result(as_json, {"project": name, "sources": value}, text)


def build(
    name: Name,
    cut: Annotated[
        str | None, typer.Option(help="Slot boundary up to which to build (ISO 8601); the latest by default.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every event again, not only those since the last build.")
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Publish even if validation fails; the reason is kept."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Land, build batch views from what is new, validate and publish them, and make them current."""
    from jobs.cli.platform.watch import summary, watch_built
    from jobs.flows.building import build_project, why_empty
    from jobs.flows.watching import sentence

    steps = Steps()
    with job() as context:
        project, boundary = context.project(name), None if cut is None else parse_time(cut)
        built = build_project(context, project, boundary, steps, full=full, accept=accept)
        watched = watch_built(context, project, steps)
        empty = why_empty(context, project, built.manifest)
    entry = built.manifest
    approximation = None if built.approximation is None else dict(built.approximation.values())
    if approximation is not None and not as_json:
        title = "Approximate scores of the stream against the batch's that replace them"
        table(title, list(approximation), [list(approximation.values())])
    value = {
        "project": name,
        **picked(entry, "batch_version model_version"),
        "cut": format_time(entry.cut),
        "rows": dict(entry.rows),
        "current_rows": built.current_rows,
        "seconds": round(built.seconds, 2),
        "approximation": approximation,
        "watch": summary(watched),
        "empty": empty,
    }
    rows = ", ".join(f"{view} {count:,} keys" for view, count in entry.rows.items())
    lines = [f"batch version {entry.batch_version} up to {format_time(entry.cut)} is current: {rows}", *empty]
    if watched is not None:
        lines.append(watched if isinstance(watched, str) else sentence(watched))
    result(as_json, value, "\n".join([*lines, next_step(project)]))


def next_step(project: Project) -> str:
    """What to do after a build: train the model, where one is declared."""
    first = "answer {} KEY, or anabranch serve" if project.model is None else "train {}"
    return f"Next: anabranch {first.format(project.name)}"


def rollback(
    name: Name,
    model: Annotated[
        bool,
        typer.Option("--model", help="The model alone: the previous champion serves the same batch version."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the previous batch version and its model current again, or the previous model alone."""
    from jobs.flows.building import rollback_project

    with job() as context:
        project = context.project(name)
        if model:
            _roll_back_model(context, project, as_json)
            return
        entry = rollback_project(context, project, Steps())
    value = {
        "project": name,
        **picked(entry, "batch_version model_version"),
        "cut": format_time(entry.cut),
    }
    model_too = "" if project.model is None else f" (model {entry.model_version})"
    text = f"batch version {entry.batch_version}{model_too} is current again"
    result(as_json, value, text)


def _roll_back_model(context: "Context", project: Project, as_json: bool) -> None:
    from batch.release.announcing import announce
    from batch.release.promotion import roll_back
    from jobs.flows.building import score_current_rows

    version = roll_back(context.models, project)
    announced = announce(context.models, context.bus, project)
    score_current_rows(context, project, Steps())
    why = f"; {announced.why}" if announced.why else ""
    value = {"project": project.name, "champion": version, "devices_told": not announced.why}
    text = f"version {version} of {project.name} is champion again, and the batch version stays{why}"
    result(as_json, value, text)


_REPORT_SECONDS = 5.0


def stream(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="Drain the topics and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep tiles and approximate scores of projects current from Kafka, until stopped."""
    from speed.streams import Streams

    stopping = stop_event()
    with job() as context:
        projects = _projects(context, names or [])
        with _metrics("stream", context, projects, once) as metrics:
            load = None if once else context.project_now
            streams, steps = Streams(context.speed_layer(once=once), projects, load), Steps()
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


def relay(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="Copy what the topics hold and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the projects' topics that producers stamp, so that they can be read by arrival, until stopped."""
    from anabranch.events.predictions import landed_sources
    from anabranch.stores.kafka.relays import Relays
    from speed.progress import of_relay

    stopping, steps = stop_event(), Steps()
    with job() as context:
        projects = _projects(context, names or [])
        fed = [
            (source.topic, project.name)
            for project in projects
            for source in landed_sources(project).values()
        ]
        readers = {topic: name for topic, name in reversed(fed) if topic is not None}
        context.bus.ensure_topics(list(readers))
        topics = context.bus.relayed(list(readers))
        steps.step(f"relay of {', '.join(topics)}" if topics else "no topic is stamped by its producers")
        measured = _metrics("relay", context, projects, once)
        with measured as metrics, closing(Relays(context.bus, steps.step)) as relays:
            if once:
                states = relays.copy_all(topics)
            else:
                relays.start(topics)
                while topics and relays.active and not stopping.wait(_REPORT_SECONDS):
                    relays.measure()
                    snapshots = [of_relay(readers[state.topic], state) for state in relays.states()]
                    metrics.show(snapshots)
                    steps.report([escape(snapshot.line()) for snapshot in snapshots])
                states = relays.states()
    copied = {state.topic: picked(state, "copied lost") for state in states}
    total = sum(state.copied for state in states)
    result(
        as_json,
        {"projects": [project.name for project in projects], "topics": copied},
        f"{total:,} messages copied",
    )
    failed = [f"{state.topic} ({state.failure})" for state in states if state.failure is not None]
    if failed:
        raise AnabranchError(f"given up: {', '.join(failed)}: correct the cause and start the relay again")


@contextmanager
def _metrics(
    job: str, context: "Context", projects: Sequence[Project], once: bool
) -> Iterator["StreamMetrics"]:
    """Gauges that Prometheus scrapes while the block runs; none of a process that drains and stops."""
    from speed.progress import StreamMetrics

    settings = context.settings
    metrics = StreamMetrics(None if once else settings.speed.metrics_port)
    name = "-".join(one.name for one in projects)
    with closing(metrics), announced(settings.data, job, name, metrics.place):
        yield metrics


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
    views = sum(len(project.own_views) for project in projects)
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
