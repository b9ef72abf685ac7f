"""Verbs about what is kept: upkeep, history, erase, retire."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.errors import MisuseError
from anabranch.values.times import format_time
from jobs.cli.options import AsJson, Name
from jobs.show import Steps, picked, result, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from anabranch.stores.cassandra.manifest import Manifest
    from jobs.wiring.context import Context


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (upkeep, history, erase, retire):
        app.command()(verb)


def upkeep(
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compact small files of the lake, and remove old versions' files and old rows of quarantine."""
    from batch.upkeep.tables import Upkeep

    with job() as context:
        project = context.project(name)
        # What the manifest and the models name must stay: without them nothing is removed.
        manifest, models = context.views.manifest(name), context.models.list(name)
        borrowing = [each for other in project.shared_with for each in context.models.list(other)]
        tending = Upkeep(context, context.settings.upkeep, Steps(), dry_run)
        tended = tending.run(project, manifest, models, borrowing)
    saved = sum(each.before.bytes_on_disk - each.after.bytes_on_disk for each in tended)
    if not as_json:
        heads = ["table", "files", "after", "on disk MB", "after", "folders compacted"]
        heads += ["files removed", "rows deleted", "kept for"]
        suffix = " (dry run: nothing was done)" if dry_run else ""
        table(f"Upkeep of {name}{suffix}", heads, [_tended_row(each) for each in tended])
    folders, removed = sum(len(each.compacted) for each in tended), sum(each.removed for each in tended)
    text = f"{folders} folders compacted, {removed:,} files removed"
    if dry_run:
        text = f"{folders} folders to compact, {removed:,} files to remove"
    tables = [asdict(each) for each in tended]
    value = {"project": name, "dry_run": dry_run, "tables": tables, "bytes_saved": saved}
    result(as_json, value, f"{text}; {abs(saved) / 1e6:,.1f} MB {'less' if saved >= 0 else 'more'} on disk")


def _tended_row(tended: Any) -> list[object]:
    before, after = tended.before, tended.after
    files = [before.files, after.files, before.bytes_on_disk / 1e6, after.bytes_on_disk / 1e6]
    done = [len(tended.compacted), tended.removed, tended.deleted]
    return [tended.table, *files, *done, f"{tended.retention / 86_400:g} d"]


def history(
    name: Name,
    most: Annotated[int, typer.Option(min=1, help="Versions of each table to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the changes of each source's table, and the batch versions that serve."""
    from delta.tables import DeltaTable

    from anabranch.events.predictions import landed_sources
    from anabranch.stores.lake.table_files import Table

    with job() as context:
        project, spark = context.project(name), context.spark
        batches = _batches(context, name)
        paths = {each.name: context.lake.path(project, each) for each in landed_sources(project).values()}
        tables = {
            source: Table(spark, path)
            for source, path in paths.items()
            if DeltaTable.isDeltaTable(spark, path)
        }
        changes = {source: each.history(most) for source, each in tables.items()}
        figures = {source: each.figures() for source, each in tables.items()}
    if not as_json:
        heads = ["version", "time", "operation", "rows added", "files", "bytes", "job"]
        for source, listed in changes.items():
            size = f"{figures[source].files:,} files, {figures[source].bytes / 1e6:,.1f} MB"
            rows = [[c.version, _text(c.at), c.operation, c.rows, c.files, c.bytes, c.job] for c in listed]
            table(f"Events of {source}: {size}", heads, rows)
        heads = ["", "version", "built", "cut", "model", "keys", "lake versions"]
        table(f"Batch versions of {name}", heads, [[role, *_row(entry)] for role, entry in batches.items()])
    sources = {
        source: {
            **asdict(figures[source]),
            "versions": [{**asdict(each), "at": _text(each.at)} for each in listed],
        }
        for source, listed in changes.items()
    }
    value = {"project": name, "sources": sources, "batches": batches}
    result(as_json, value, f"{len(sources)} tables, {len(batches)} batch versions")


def erase(
    name: Name,
    key: Annotated[
        list[str],
        typer.Argument(metavar="KEY...", help="The key to erase: a value, or COLUMN=VALUE for each column."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, and delete nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all data of one key, older versions included, and build without it. Cannot be undone."""
    from batch.upkeep.erasing import Erasure, entity
    from jobs.flows.erasing import erase_key

    steps = Steps()
    value: dict[str, Any] = {"project": name, "dry_run": dry_run}
    with job() as context:
        project = context.project(name)
        value["key"] = entity(project, key)
        if dry_run:
            rows = dict(Erasure(context, project, value["key"], steps).count().rows)
        else:
            done = erase_key(context, project, value["key"], steps)
            rows = dict(done.erased.rows)
            value |= {"files_removed": done.erased.files, "batch_version": done.batch_version}
            value["complete_after"] = format_time(done.until)
    value["rows"] = rows
    if not as_json:
        suffix = " (dry run: nothing was deleted)" if dry_run else ""
        table(
            f"Rows of {' '.join(key)} in {name}{suffix}",
            ["table", "rows"],
            [list(each) for each in rows.items()],
        )
    result(as_json, value, _erased(value, learns=project.model is not None))


def retire(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, and remove what is listed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a project: its tables, tiles, topics, lake, checkpoints and models. Cannot be undone."""
    from jobs.flows.retiring import RetiredProject

    with job() as context:
        going = RetiredProject(context, name)
        going.check()
        listed = going.listed()
        if not as_json:
            table(f"What goes with {name}", ["what", "which"], [list(row) for row in listed])
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Remove all of {name}?", err=True)):
            raise MisuseError(f"nothing was removed: to remove it, run 'anabranch retire {name} --yes'")
        going.go(Steps())
    counts = f"{len(going.tables)} tables, {len(going.topics)} topics, {len(going.folders)} folders"
    text = (
        f"{name} is gone: {counts}, {going.models} versions of its model. Topics and files of yours stay, "
        f"and so do the runs of its trainings in MLflow.\nNext: remove {name}.py from the folder of projects"
    )
    result(as_json, {"project": name, **dict(listed)}, text)


def _erased(value: dict[str, Any], *, learns: bool) -> str:
    rows = sum(value["rows"].values())
    if value["dry_run"]:
        return f"{rows:,} rows to delete: run it again without --dry-run"
    built = "no batch version was built yet"
    if value["batch_version"] is not None:
        built = f"batch version {value['batch_version']} is without it"
    return (
        f"{rows:,} rows deleted, {value['files_removed']:,} files removed; {built}\n"
        f"Events of the key that arrive before {value['complete_after']} count from the first later build. "
        "Topics keep their records until their retention ends."
        + (f"\nModels have learnt from it: anabranch train {value['project']}" if learns else "")
    )


def _batches(context: "Context", name: str) -> dict[str, dict[str, Any]]:
    manifest = context.views.manifest(name)
    entries = {"current": manifest, "previous": manifest and manifest.previous}
    return {role: _described(entry) for role, entry in entries.items() if entry is not None}


def _described(entry: "Manifest") -> dict[str, Any]:
    return {
        **picked(entry, "batch_version model_version"),
        "built_at": format_time(entry.built_at),
        "cut": format_time(entry.cut),
        "rows": dict(entry.rows),
        "lake_versions": dict(entry.lake_versions),
    }


def _row(entry: dict[str, Any]) -> list[Any]:
    keys = ", ".join(f"{view} {count:,}" for view, count in entry["rows"].items())
    versions = ", ".join(f"{source} {version}" for source, version in entry["lake_versions"].items())
    version, model = str(entry["batch_version"]), entry["model_version"]
    return [version, entry["built_at"], entry["cut"], model, keys, versions]


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
