"""Events from a file: CSV, JSON lines or Parquet, of one source, or with a column `source`."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.messages import EXACT
from anabranch.testing.rows import ARRIVAL, SOURCE, feeds
from anabranch.values.names import listed

KINDS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
DELIMITERS = ",;\t|"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_CELL = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """The rows of a file, each a dict by column; None is no value.

    `delimiter` and `encoding` say how a CSV is written; `schema` is that of Parquet; rows of JSON are
    `objects`. `faults` name rows that cannot be read: they are left out.
    """

    names: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    delimiter: str = ","
    encoding: str = "utf-8"
    schema: pa.Schema | None = None
    objects: bool = False
    faults: Sequence[str] = field(default=())


def read_file(project: Project, path: Path, source: str | None = None) -> list[dict[str, Any]]:
    """The events of a file, for `fold` and `assert_lawful`. Columns that the source lacks are left out.

    Without a column `source` the events are of `source`, or of the only source whose columns the file has.
    Raises MisuseError for a file that cannot be read, and when the source is not clear.
    """
    found = read_rows(path)
    if found.faults:
        raise MisuseError(f"{path}: {found.faults[0]}")
    rows = found.rows
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


def kind_of(path: Path) -> str | None:
    """The ending that says how a file is written, such as ``.csv`` of ``rows.csv.gz``; None for another."""
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    return kind if kind in KINDS and (kind != ".parquet" or not name.endswith(".gz")) else None


def read_rows(path: Path, most: int | None = None) -> FileRows:
    """The first `most` rows of a CSV, JSON lines or Parquet file (text also in .gz); all of them by default.

    A CSV's delimiter is the one of comma, semicolon, tab and bar that divides its first line into most
    columns. Raises MisuseError for a file that cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        raise MisuseError(f"{path}: events are read from files named {', '.join(KINDS)} (text also in .gz)")
    try:
        if kind == ".parquet":
            return _parquet(path, most)
        raw = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
        if raw.startswith(_UTF_16):
            raise MisuseError(f"{path} is UTF-16: write it as UTF-8, with 'iconv -f UTF-16 -t UTF-8'")
        return _csv(raw, most) if kind == ".csv" else _objects(raw, path, most)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise MisuseError(f"{path} cannot be read: {error}") from error


def _csv(raw: bytes, most: int | None) -> FileRows:
    encoding = "utf-8"
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, text = "cp1252", raw.decode("cp1252", errors="replace")
    csv.field_size_limit(_LONGEST_CELL)
    first = text.splitlines()[:1]
    delimiter = max(DELIMITERS, key=lambda sign: len(next(csv.reader(first, delimiter=sign), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names, rows, faults = next(reader, []), [], []
    for cells in islice((cells for cells in reader if cells), most):
        if len(cells) != len(names):
            faults.append(f"line {reader.line_num} has {len(cells)} cells, the header {len(names)}")
        else:
            rows.append({name: cell or None for name, cell in zip(names, cells, strict=True)})
    return FileRows(names=names, rows=rows, delimiter=delimiter, encoding=encoding, faults=faults)


def _parquet(path: Path, most: int | None) -> FileRows:
    file = pq.ParquetFile(path)
    batches: Iterator[pa.RecordBatch] = file.iter_batches(most or 65_536)
    given = (row for batch in batches for row in batch.to_pylist())
    rows = [_plain(row) for row in islice(given, most)]
    return FileRows(names=file.schema_arrow.names, rows=rows, schema=file.schema_arrow)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Parquet, its times as texts: without a zone UTC."""
    return {
        name: value.isoformat() if isinstance(value, date | datetime) else value
        for name, value in row.items()
    }


def _objects(raw: bytes, path: Path, most: int | None) -> FileRows:
    text = raw.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] == b"[":
        found: Iterable[Any] = EXACT.decode(text)
        return object_rows(found, path, most)
    return object_rows(map(EXACT.decode, filter(bytes.strip, text.splitlines())), path, most)


def object_rows(found: Iterable[Any], place: object, most: int | None = None) -> FileRows:
    """JSON objects as rows; raises MisuseError for another value."""
    rows = list(islice(found, most))
    wrong = next((number for number, each in enumerate(rows, 1) if not isinstance(each, dict)), None)
    if wrong is not None:
        raise MisuseError(f"{place}: event {wrong} is no JSON object: write one object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return FileRows(names=names, rows=rows, objects=True)
