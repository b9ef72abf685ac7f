"""Events from a file: CSV, JSON lines or Parquet, of one source, or with a column `source`."""

import csv
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.messages import EXACT
from anabranch.testing.rows import ARRIVAL, SOURCE, feeds
from anabranch.values.names import listed

KINDS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")


def read_file(project: Project, path: Path, source: str | None = None) -> list[dict[str, Any]]:
    """The events of a file, for `fold` and `assert_lawful`. Columns that the source lacks are left out.

    Without a column `source` the events are of `source`, or of the only source whose columns the file has.
    Raises MisuseError for a file that cannot be read, and when the source is not clear.
    """
    rows = _rows(path)
    columns = {name: {c.name for c in each.columns} for name, (each, _) in feeds(project).items()}
    if source is not None and source not in columns:
        raise MisuseError(f"project {project.name!r} has no source {source!r}: {listed(source, columns)}")
    there = {name for row in rows for name in row}
    if source is None and rows and SOURCE not in there:
        source = _only(columns, there, path)
    events = []
    for row in rows:
        name = source if source is not None else row.get(SOURCE)
        kept = {*columns.get(str(name), row), ARRIVAL}
        given = {column: value for column, value in row.items() if column in kept and value is not None}
        events.append({**given, SOURCE: name})
    return events


def _only(columns: Mapping[str, set[str]], there: set[str], path: Path) -> str:
    fitting = [name for name, own in columns.items() if own <= there]
    if len(fitting) != 1:
        which = f"fits {', '.join(fitting)}" if fitting else f"has not all columns of {', '.join(columns)}"
        raise MisuseError(
            f"{path} has no column {SOURCE!r}, and {which}: add the column, or name the source with --source"
        )
    return fitting[0]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() not in KINDS:
        raise MisuseError(f"{path}: events are read from files named {', '.join(KINDS)}")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as lines:
                return [_cells(row) for row in csv.DictReader(lines)]
        if path.suffix.lower() == ".parquet":
            return [_plain(row) for row in pq.read_table(path).to_pylist()]
        return _objects(path)
    except (OSError, ValueError) as error:
        raise MisuseError(f"{path} cannot be read: {error}") from error


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of CSV; an empty cell is NULL."""
    return {str(name): value or None for name, value in row.items()}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Parquet, its times as texts: without a zone UTC."""
    return {
        name: value.isoformat() if isinstance(value, date | datetime) else value
        for name, value in row.items()
    }


def _objects(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    whole = text.lstrip()[:1] == b"["
    found: Sequence[Any] = (
        EXACT.decode(text) if whole else [EXACT.decode(line) for line in text.splitlines() if line.strip()]
    )
    wrong = next((number for number, each in enumerate(found, 1) if not isinstance(each, dict)), None)
    if wrong is not None:
        raise MisuseError(f"{path}: event {wrong} is no JSON object: write one object a line")
    return list(found)
