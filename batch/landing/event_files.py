"""Files to be landed (CSV, JSON lines, Parquet): found, and checked before the first is loaded."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
from pyarrow import ArrowException
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import FoundFile, files_at, is_local, spark_path

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_KNOWN = ".csv, .json, .jsonl, .ndjson or .parquet"
_LONGEST_HEADER = 1_048_576  # bytes: what has no line break for longer is no text
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """A file that fits its source.

    `header`: a CSV's columns in its own order. Files of one `form` may be read together: the text of a CSV's
    header, the schema of Parquet.
    """

    found: FoundFile
    format: str
    header: tuple[str, ...] = ()
    form: str = ""

    @property
    def path(self) -> str:
        """Absolute path, or URL."""
        return self.found.path


def find_files(patterns: Sequence[str], spark: SparkSession | None) -> list[FoundFile]:
    """Files named by paths, folders (every events file below) and globs, in order.

    Files that are added to a folder later are left to the next load. Raises AnabranchError for a name that
    has none.
    """
    found: dict[str, FoundFile] = {}
    for pattern in patterns:
        matches, several = files_at(pattern, spark).find(pattern)
        if several and not any(sign in pattern for sign in "*?["):
            matches = [each for each in matches if _format(each.name)]
        if not matches:
            raise AnabranchError(
                f"{pattern!r} names no file of events: give a {_KNOWN} file, a folder of them or a pattern"
            )
        found |= {each.path: each for each in matches if each.path not in found}
    return list(found.values())


def check_file(found: FoundFile, source: Source, spark: SparkSession | None) -> EventFile:
    """The file as one of `source`'s. Raises AnabranchError with the reason when it does not fit."""
    kind = _format(found.name)
    if kind is None:
        raise AnabranchError(
            f"{found.path} is of no known format: it must end in {_KNOWN} (text also in .gz)"
        )
    if (
        found.name[0] in "._"
        or ":" in found.path.partition("://")[2 if "://" in found.path else 0].partition("/")[2]
    ):
        raise AnabranchError(
            f"{found.path} cannot be read by Spark: "
            "a name may not begin with '.' or '_' nor hold ':'; rename the file"
        )
    if found.size == 0:
        raise AnabranchError(f"{found.path} is empty: give a file with events")
    try:
        if kind == "parquet":
            names, schema = _parquet_schema(found, spark)
            _check_columns(found.path, names, source)
            return EventFile(found=found, format=kind, form=schema)
        first_line = _first_line(found, kind, spark)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ArrowException, PySparkException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnabranchError(
            f"{found.path} cannot be read as {kind.upper()} ({why}): "
            "check that it is whole, UTF-8 and yours to read"
        ) from error
    if kind == "json":
        return EventFile(found=found, format=kind)
    header = _read_header(found.path, first_line, source)
    return EventFile(found=found, format=kind, header=header, form=first_line)


def open_text(path: str) -> IO[str]:
    """A local file as text, gzip unpacked; bytes that are not UTF-8 become surrogates that encode back."""
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _first_line(found: FoundFile, kind: str, spark: SparkSession | None) -> str:
    """The first line of a CSV. Raises an error for a broken archive or another encoding."""
    start = files_at(found.path, spark).start(found.path, _LONGEST_HEADER)
    if found.name.endswith(".gz"):
        start = zlib.decompressobj(wbits=31).decompress(start, _LONGEST_HEADER)
    if start.startswith(_OTHER_ENCODINGS):
        raise AnabranchError(f"{found.path} is UTF-16: nothing was landed; write it as UTF-8")
    return (start.splitlines() or [b""])[0].decode("utf-8-sig") if kind == "csv" else ""


def _parquet_schema(found: FoundFile, spark: SparkSession | None) -> tuple[list[str], str]:
    if spark is None or is_local(found.path):
        local = pq.read_schema(found.path)
        return list(local.names), local.remove_metadata().to_string()
    schema = spark.read.parquet(spark_path(found.path)).schema
    return schema.names, schema.json()


def _read_header(path: str, first_line: str, source: Source) -> tuple[str, ...]:
    """Columns of a CSV by its first line. Raises AnabranchError when they are not the source's."""
    header = next(csv.reader([first_line]), [])
    if not any(cell.strip() for cell in header):
        raise AnabranchError(f"{path} has no header: its first line must name the columns {_names(source)}")
    _check_columns(path, header, source, first_line)
    return tuple(header)


def _check_columns(path: str, names: Sequence[str], source: Source, first_line: str = "") -> None:
    declared = [column.name for column in source.columns]
    faults = {
        "lacks": [name for name in declared if name not in names],
        "has unknown": [name for name in dict.fromkeys(names) if name not in declared],
        "has twice": [name for name in dict.fromkeys(names) if list(names).count(name) > 1],
    }
    listed = " and ".join(
        f"{what} {', '.join(repr(name[:200]) for name in found)}" for what, found in faults.items() if found
    )
    if listed:
        other = [
            word
            for sign, word in _OTHER_DELIMITERS.items()
            if set(next(csv.reader([first_line], delimiter=sign), [])) >= set(declared)
        ]
        way = (
            f"it has {other[0]} between its columns, write it with commas"
            if other
            else "with commas between them"
        )
        raise AnabranchError(
            f"{path} {listed}: nothing was landed; "
            f"source {source.name!r} has the columns {_names(source)}, {way}"
        )


def _names(source: Source) -> str:
    return ", ".join(column.name for column in source.columns)


def _format(name: str) -> str | None:
    inner = name.removesuffix(".gz")
    found = _FORMATS.get(Path(inner).suffix.lower())
    return None if found == "parquet" and inner != name else found
