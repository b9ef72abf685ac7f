"""Files to be landed: found, checked before anything is read for good, and read as raw rows. CSV, JSON lines, Parquet."""

import csv
import glob
import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
from pyarrow import ArrowException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.declaration import Source
from features.errors import AnabranchError
from features.times import from_micros
from stores.events import LAKE_COLUMNS, parse_json, parse_text

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_BROKEN = "_broken"
_LONGEST_HEADER = 1_048_576  # bytes: what has no line break for longer is no text
_RFC_4180 = {"quote": '"', "escape": '"', "mode": "PERMISSIVE", "columnNameOfCorruptRecord": _BROKEN, "maxCharsPerColumn": "-1", "maxColumns": "100000"}


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """A file that fits its source. `header`: a CSV's columns in its own order; `first_line`: the text of that header."""

    path: Path
    format: str
    header: tuple[str, ...] = ()
    first_line: str = ""

    def digest(self) -> str:
        """SHA-256 of the content: what the file is, whatever it is called."""
        with self.path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (every events file below) and globs, in order; raises AnabranchError when one names none."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(each for each in path.rglob("*") if each.is_file() and _format(each) and each.name[0] not in "._")
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]  # noqa: PTH207 - may be absolute
        if not matches:
            raise AnabranchError(f"{pattern!r} names no file of events: give a .csv, .json, .jsonl, .ndjson or .parquet file, a folder of them or a pattern")
        found += matches
    return list(dict.fromkeys(each.resolve() for each in found))


def check_file(path: Path, source: Source) -> EventFile:
    """The file as one of `source`'s; raises AnabranchError saying why it cannot be."""
    kind = _format(path)
    if kind is None:
        raise AnabranchError(f"{path} is of no known format: it must end in .csv, .json, .jsonl, .ndjson or .parquet (text also in .gz)")
    if path.name[0] in "._" or ":" in str(path):
        raise AnabranchError(f"{path} cannot be read by Spark: a name may not begin with '.' or '_' nor hold ':'; rename the file")
    try:
        if path.stat().st_size == 0:
            raise AnabranchError(f"{path} is empty: give a file with events")
        if kind == "parquet":
            _check_columns(path, pq.read_schema(path).names, source)
            return EventFile(path=path, format=kind)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
            first_line = _first_line(content.readline(_LONGEST_HEADER)) if kind == "csv" else ""
            content.read(1)  # a broken archive says so here
    except (OSError, EOFError, UnicodeDecodeError, ArrowException) as error:
        raise AnabranchError(f"{path} cannot be read as {kind.upper()} ({error}): check that it is whole, UTF-8 and yours to read") from error
    if kind == "json":
        return EventFile(path=path, format=kind)
    header = _read_header(path, first_line, source)
    return EventFile(path=path, format=kind, header=header, first_line=first_line)


def open_text(path: Path) -> IO[str]:
    """The file as text, also when it is packed by gzip; what is not UTF-8 becomes lone surrogates, and encodes back."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _first_line(line: bytes) -> str:
    return (line.splitlines() or [b""])[0].decode("utf-8-sig")


def _read_header(path: Path, first_line: str, source: Source) -> tuple[str, ...]:
    """Columns of a CSV by its first line; raises AnabranchError when they are not the source's."""
    header = next(csv.reader([first_line]), [])
    if not any(cell.strip() for cell in header):
        raise AnabranchError(f"{path} has no header: its first line must name the columns {_names(source)}")
    _check_columns(path, header, source)
    return tuple(header)


def _check_columns(path: Path, names: Sequence[str], source: Source) -> None:
    declared = [column.name for column in source.columns]
    faults = {
        "lacks": [name for name in declared if name not in names],
        "has unknown": [name for name in dict.fromkeys(names) if name not in declared],
        "has twice": [name for name in dict.fromkeys(names) if list(names).count(name) > 1],
    }
    said = " and ".join(f"{what} {', '.join(repr(name) for name in found)}" for what, found in faults.items() if found)
    if said:
        raise AnabranchError(f"{path} {said}: nothing was landed; source {source.name!r} has the columns {_names(source)}, with commas between them")


def _names(source: Source) -> str:
    return ", ".join(column.name for column in source.columns)


def _format(path: Path) -> str | None:
    inner = path.with_suffix("") if path.suffix == ".gz" else path
    found = _FORMATS.get(inner.suffix.lower())
    return None if found == "parquet" and inner != path else found


def read_file(spark: SparkSession, file: EventFile, source: Source, arrival: int) -> DataFrame:
    """The file's rows as `parse_text` and `parse_json` give them, all with one `arrival` (microseconds)."""
    # The scheme keeps a cluster's default file system out of it; glob signs in the name are only signs.
    name = "file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(file.path))
    origin = {"_arrival": F.lit(from_micros(arrival)), "_file": F.lit(str(file.path)), "_offset": F.monotonically_increasing_id()}
    lake = [origin.get(column, F.lit(None)).cast(kind).alias(column) for column, kind in LAKE_COLUMNS.items()]
    if file.format == "parquet":
        return parse_text(source, _parquet_rows(spark.read.parquet(name), source, lake))
    lines = spark.read.text(name).select("value", *lake).where(F.trim("value", F.lit(" \t")) != "")
    return parse_json(source, lines) if file.format == "json" else parse_text(source, _csv_rows(lines, file))


def _csv_rows(lines: DataFrame, file: EventFile) -> DataFrame:
    columns = ", ".join(f"`{name}` STRING" for name in file.header)
    cells = F.from_csv("value", f"{columns}, {_BROKEN} STRING", _RFC_4180)
    quotes = F.length("value") - F.length(F.replace("value", F.lit('"'), F.lit("")))
    fault = (
        F.when(~F.is_valid_utf8("value"), "the text is not UTF-8")
        .when(quotes % 2 != 0, "a quote is not closed: a row must stand on one line, quotes in it doubled")
        .when(F.col(f"_cells.{_BROKEN}").isNotNull(), f"the row has not {len(file.header)} cells: as many as the header are expected")
    )
    # No row can equal the header: its event time would have to be the name of a column.
    rows = lines.where(F.col("value") != file.first_line).select("*", cells.alias("_cells"))
    named = [F.col("_cells")[name].alias(name) for name in file.header]
    return rows.select(*LAKE_COLUMNS, F.col("value").alias("_raw"), fault.alias("_fault"), *named)


def _parquet_rows(table: DataFrame, source: Source, lake: list[Column]) -> DataFrame:
    found = {field.name: field.dataType.simpleString() for field in table.schema.fields}
    columns = []
    for column in source.columns:
        kind = found[column.name]
        if kind.startswith(("struct", "array", "map")):
            raise AnabranchError(f"column {column.name!r} is {kind}, which is no single value: nothing was landed; write it as {column.type}")
        typed = F.col(f"`{column.name}`")
        columns.append(typed if kind == str(column.type).lower() else typed.cast("string").alias(column.name))
    return table.select(*columns, *lake, F.to_json(F.struct("*")).alias("_raw"))
