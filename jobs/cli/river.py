"""Verbs that move events: ingest, publish, land, build, rollback, stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.times import SECOND, format_time, parse_duration, parse_time
from jobs.cli.options import AsJson, Name
from jobs.cli.stream import stream
from jobs.servers.processes import told_to_stop
from jobs.show import Steps, result, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.wiring.context import Context

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of a source of the project.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (ingest, publish, land, build, rollback, stream):
        app.command()(verb)


def ingest(
    name: Name,
    source: SourceName,
    files: Annotated[list[str], typer.Argument(metavar="FILE...")],
    as_json: AsJson = False,
) -> None:
    """Land files (CSV, JSON lines, Parquet) in the lake, each exactly once; bad rows go to quarantine."""
    from batch.landing.ingest import ingest as run

    with job() as context:
        project = context.project(name)
        landed = run(
            context.spark,
            context.lake,
            project,
            source,
            files,
            context.settings.times,
            Steps(),
            context.gate(project),
        )
    value = {
        "project": name,
        "source": source,
        "rows": landed.rows,
        "quarantined": landed.quarantined,
        "skipped_files": landed.skipped_files,
    }
    value |= {"reports": landed.reports, "unmet": landed.unmet}
    text = f"{landed.rows:,} rows landed, {landed.quarantined:,} in quarantine, {landed.skipped_files} files already there"
    text += gated(landed.unmet, landed.reports)
    result(
        as_json,
        value,
        f"{text}\nNext: anabranch build {name}"
        + (f" (and anabranch quarantine {name})" if landed.quarantined else ""),
    )
    if landed.quarantined and not landed.rows:
        raise AnabranchError(f"no row of {', '.join(files)} was good: see 'anabranch quarantine {name}'")


def gated(unmet: Sequence[str], reports: Sequence[str]) -> str:
    """What the quality gate has to say, as further lines."""
    shown = [f"not as expected: {each}" for each in unmet] + [f"report: {path}" for path in reports[-5:]]
    return "".join(f"\n{line}" for line in shown)


def publish(
    name: Name,
    source: SourceName,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Publish the rows of a CSV or JSON lines file to the source's topic."""
    from batch.landing.publishing import publish_file

    with job() as context:
        count = publish_file(context.bus, context.project(name), source, file, Steps())
    result(as_json, {"project": name, "source": source, "published": count}, f"{count:,} events published")


def land(
    name: Name,
    once: Annotated[bool, typer.Option("--once", help="Land what is there and stop (the default).")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on landing what comes, until stopped by Ctrl-C or SIGTERM.")
    ] = False,
    every: Annotated[
        str, typer.Option(help="With --follow: how often a batch becomes visible, such as 30s or 5m.")
    ] = "30s",
    as_json: AsJson = False,
) -> None:
    """Land what the project's topics hold in the lake, exactly once."""
    from batch.landing.topics import Follow
    from batch.landing.topics import land as run

    if once and follow:
        raise MisuseError("--once and --follow contradict each other: give one of them")
    pause = parse_duration(every, "--every") // SECOND
    following = Follow(every_seconds=pause, stopping=told_to_stop()) if follow else None
    with job() as context:
        project = context.project(name)
        found = run(
            context.spark,
            context.lake,
            context.bus,
            project,
            context.settings.times,
            Steps(),
            context.gate(project),
            following,
        )
    value = {
        source: {
            "rows": landed.rows,
            "quarantined": landed.quarantined,
            "reports": landed.reports,
            "unmet": landed.unmet,
        }
        for source, landed in found.items()
    }
    text = ", ".join(
        f"{source} {landed.rows:,} rows ({landed.quarantined:,} in quarantine)"
        for source, landed in found.items()
    )
    result(
        as_json,
        {"project": name, "sources": value},
        f"landed: {text or 'no source has a topic'}"
        + "".join(gated(each.unmet, each.reports) for each in found.values()),
    )


def build(
    name: Name,
    cut: Annotated[
        str | None, typer.Option(help="Slot boundary up to which to build (ISO 8601); the latest by default.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read every event again, instead of those that came since the last build."
        ),
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Publish even if validation fails; the reason is kept with the version."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Land, build batch views from what is new, validate and publish them, and make them current."""
    from jobs.cli.watch import summary, watch_built
    from jobs.flows.building import build_project
    from jobs.flows.watching import said

    steps = Steps()
    with job() as context:
        project = context.project(name)
        built = build_project(
            context, project, None if cut is None else parse_time(cut), steps, full=full, accept=accept
        )
        looked = watch_built(context, project, steps)
    entry = built.manifest
    value = {
        "project": name,
        "batch_version": entry.batch_version,
        "cut": format_time(entry.cut),
        "rows": dict(entry.rows),
        "current_rows": built.current_rows,
        "model_version": entry.model_version,
        "seconds": round(built.seconds, 2),
        "approximation": None if built.approximation is None else dict(built.approximation.values()),
        "watch": summary(looked),
    }
    rows = ", ".join(f"{view} {count:,} keys" for view, count in entry.rows.items())
    text = f"batch version {entry.batch_version} up to {format_time(entry.cut)} is current: {rows}"
    if built.approximation is not None and not as_json:
        columns = list(built.approximation.values())
        table(
            "Approximate scores of the stream against the batch's that replace them",
            columns,
            [list(built.approximation.values().values())],
        )
    watched = "" if looked is None else f"\n{looked if isinstance(looked, str) else said(looked)}"
    result(as_json, value, f"{text}{watched}\nNext: anabranch train {name}")


def rollback(
    name: Name,
    model: Annotated[
        bool,
        typer.Option(
            "--model", help="The model alone: the champion before serves again, and the batch version stays."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the previous batch version, and the model it was built with, current again; or the model before alone."""
    with job() as context:
        project = context.project(name)
        if model:
            _roll_back_model(context, project, as_json)
            return
        from jobs.flows.building import rollback_project  # with Spark, which the model alone does not need

        entry = rollback_project(context, project, Steps())
    value = {
        "project": name,
        "batch_version": entry.batch_version,
        "cut": format_time(entry.cut),
        "model_version": entry.model_version,
    }
    result(
        as_json, value, f"batch version {entry.batch_version} (model {entry.model_version}) is current again"
    )


def _roll_back_model(context: "Context", project: Project, as_json: bool) -> None:
    from batch.release.announcing import announce
    from batch.release.promotion import roll_back

    version = roll_back(context.models, project)
    told = announce(context.models, context.bus, project)
    said = f"version {version} of {project.name} is champion again, and the batch version stays" + (
        f"; {told.why}" if told.why else ""
    )
    result(as_json, {"project": project.name, "champion": version, "devices_told": not told.why}, said)
