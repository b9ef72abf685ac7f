"""Verbs about the lake's tables: upkeep, history, erase."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from anabranch.values.times import format_time
from jobs.cli.options import AsJson, Name
from jobs.show import Steps, result, table
from jobs.wiring.job import job


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (upkeep, history, erase):
        app.command()(verb)


def upkeep(
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compact small files of the lake, remove what no version within the horizon needs, and old rows of quarantine."""
    from batch.upkeep.tables import Upkeep

    with job() as context:
        project = context.project(name)
        # What these name must stay: without them nothing is removed.
        manifest, models = context.views.manifest(name), context.models.list(name)
        work = Upkeep(context, context.settings.upkeep, Steps(), dry_run)
        tended = work.run(project, manifest, models)
    if not as_json:
        columns = [
            "table",
            "files",
            "after",
            "on disk MB",
            "after",
            "folders compacted",
            "files removed",
            "rows deleted",
            "kept for",
        ]
        rows = [
            [
                *(
                    each.table,
                    each.before.files,
                    each.after.files,
                    each.before.bytes_on_disk / 1e6,
                    each.after.bytes_on_disk / 1e6,
                ),
                *(len(each.compacted), each.removed, each.deleted, f"{each.retention / 86_400:g} d"),
            ]
            for each in tended
        ]
        table(f"Upkeep of {name}" + (" (dry run: nothing was done)" if dry_run else ""), columns, rows)
    saved = sum(each.before.bytes_on_disk - each.after.bytes_on_disk for each in tended)
    folders, removed = sum(len(each.compacted) for each in tended), sum(each.removed for each in tended)
    value = {
        "project": name,
        "dry_run": dry_run,
        "tables": [asdict(each) for each in tended],
        "bytes_saved": saved,
    }
    said = (
        f"{folders} folders to compact, {removed:,} files to remove"
        if dry_run
        else f"{folders} folders compacted, {removed:,} files removed"
    )
    result(as_json, value, f"{said}; {saved / 1e6:,.1f} MB less on disk")


def history(
    name: Name,
    most: Annotated[int, typer.Option(min=1, help="Versions of each table to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was done to each source's table, and the batch versions that serve."""
    from delta.tables import DeltaTable

    from anabranch.events.predictions import landed_sources
    from anabranch.stores.lake.table_files import Table

    with job() as context:
        project = context.project(name)
        batches = _batches(context, name)
        paths = {each.name: context.lake.path(project, each) for each in landed_sources(project).values()}
        found = {
            source: Table(context.spark, path)
            for source, path in paths.items()
            if DeltaTable.isDeltaTable(context.spark, path)
        }
        changes = {source: each.history(most) for source, each in found.items()}
        figures = {source: each.figures() for source, each in found.items()}
    sources = {
        source: {
            **asdict(figures[source]),
            "versions": [{**asdict(each), "at": _text(each.at)} for each in listed],
        }
        for source, listed in changes.items()
    }
    if not as_json:
        for source, listed in changes.items():
            title = (
                f"Events of {source}: {figures[source].files:,} files, {figures[source].bytes / 1e6:,.1f} MB"
            )
            rows = [
                [each.version, _text(each.at), each.operation, each.rows, each.files, each.bytes, each.job]
                for each in listed
            ]
            table(title, ["version", "time", "operation", "rows added", "files", "bytes", "job"], rows)
        columns = ["", "version", "built", "cut", "model", "keys", "lake versions"]
        table(f"Batch versions of {name}", columns, [[role, *_row(entry)] for role, entry in batches.items()])
    result(
        as_json,
        {"project": name, "sources": sources, "batches": batches},
        f"{len(sources)} tables, {len(batches)} batch versions",
    )


def erase(
    name: Name,
    key: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY...", help="The key to erase: its value, or COLUMN=VALUE for each of several columns."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, and delete nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete everything that is kept of one key, older versions included, and build without it. Cannot be undone."""
    from batch.upkeep.erasing import Erasure, entity
    from jobs.flows.erasing import erase_key

    steps = Steps()
    with job() as context:
        project = context.project(name)
        whom = entity(project, key)
        if dry_run:
            found = Erasure(context, project, whom, steps).count()
            value = {"project": name, "key": whom, "dry_run": True, "rows": dict(found.rows)}
        else:
            done = erase_key(context, project, whom, steps)
            found = done.erased
            value = {
                "project": name,
                "key": whom,
                "dry_run": False,
                "rows": dict(found.rows),
                "files_removed": found.files,
            }
            value |= {"batch_version": done.batch_version, "complete_after": format_time(done.until)}
    if not as_json:
        table(
            f"Rows of {' '.join(key)} in {name}" + (" (dry run: nothing was deleted)" if dry_run else ""),
            ["table", "rows"],
            list(found.rows.items()),
        )
    result(as_json, value, _erased(value))


def _erased(value: dict[str, Any]) -> str:
    rows = sum(value["rows"].values())
    if value["dry_run"]:
        return f"{rows:,} rows to delete: run it again without --dry-run"
    built = (
        "no batch version was built yet"
        if value["batch_version"] is None
        else f"batch version {value['batch_version']} is without it"
    )
    return (
        f"{rows:,} rows deleted, {value['files_removed']:,} files removed; {built}\n"
        f"What arrives of it before {value['complete_after']} counts from the first build after that. Topics keep their records until their retention ends.\n"
        f"Models have learnt from it: anabranch train {value['project']}"
    )


def _batches(context: Any, name: str) -> dict[str, dict[str, Any]]:
    manifest = context.views.manifest(name)
    entries = {"current": manifest, "previous": manifest and manifest.previous}
    return {role: _described(entry) for role, entry in entries.items() if entry is not None}


def _described(entry: Any) -> dict[str, Any]:
    return {
        "batch_version": entry.batch_version,
        "built_at": format_time(entry.built_at),
        "cut": format_time(entry.cut),
        "model_version": entry.model_version,
        "rows": dict(entry.rows),
        "lake_versions": dict(entry.lake_versions),
    }


def _row(entry: dict[str, Any]) -> list[Any]:
    keys = ", ".join(f"{view} {count:,}" for view, count in entry["rows"].items())
    versions = ", ".join(f"{source} {version}" for source, version in entry["lake_versions"].items())
    return [
        str(entry["batch_version"]),
        entry["built_at"],
        entry["cut"],
        entry["model_version"],
        keys,
        versions,
    ]


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
