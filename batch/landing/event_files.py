"""Files to be landed (CSV, JSON lines, Parquet): found, and checked before the first is loaded."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
from pyarrow import ArrowException
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import FoundFile, files_at, is_local, nanosecond_columns, spark_path
from batch.landing.records import CsvForm, plain_line

_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_KNOWN = ".csv, .json, .jsonl, .ndjson or .parquet"
_LONGEST_HEADER = 1_048_576  # bytes: what has no line break for longer is no text
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """A file that fits its source.

    `header`: a CSV's columns in its own order. Files of one `form` may be read together: the text of a CSV's
    header, the schema of Parquet. `csv` is how a CSV is written.
    """

    found: FoundFile
    format: str
    header: tuple[str, ...] = ()
    form: str = ""
    csv: CsvForm = field(default_factory=CsvForm)

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
        if not matches and not several:
            raise AnabranchError(f"there is no file {pattern!r}: check the path")
        if not matches:
            raise AnabranchError(
                f"{pattern!r} names no file of events: give a {_KNOWN} file, a folder of them or a pattern"
            )
        found |= {each.path: each for each in matches if each.path not in found}
    _refuse_delta([each.path for each in found.values() if _format(each.name) == "parquet"], spark)
    return list(found.values())


def _refuse_delta(paths: Sequence[str], spark: SparkSession | None) -> None:
    """Raise AnabranchError for files of a Delta table: some hold rows that were deleted or replaced."""
    folders = {path.rpartition("/")[0] for path in paths}
    # A partition's folder is named column=value and lies in that of its table.
    while partitions := {folder for folder in folders if "=" in folder.rpartition("/")[2]}:
        folders = (folders - partitions) | {folder.rpartition("/")[0] for folder in partitions}
    for folder in sorted(folders):
        if files_at(folder, spark).find(f"{folder}/_delta_log")[0]:
            raise AnabranchError(
                f"{folder} is a Delta table, whose files also hold rows that were deleted: nothing was "
                f'landed; read it where it lies, with Source(table="delta:{folder}")'
            )


def check_file(
    found: FoundFile, source: Source, spark: SparkSession | None, form: CsvForm | None = None
) -> EventFile:
    """The file as one of `source`'s. Raises AnabranchError with the reason when it does not fit.

    `form` is how CSV is written, plain by default.
    """
    kind, form = _format(found.name), form or CsvForm()
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
        first_line = _first_line(found, kind, spark, form)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ArrowException, PySparkException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnabranchError(
            f"{found.path} cannot be read as {kind.upper()} ({why}): "
            "check that it is whole, UTF-8 and yours to read"
        ) from error
    if kind == "json":
        return EventFile(found=found, format=kind)
    header = _read_header(found.path, first_line, source, form)
    line = first_line if form.plain else plain_line(header).decode()
    return EventFile(found=found, format=kind, header=header, form=line, csv=form)


def open_text(path: str) -> IO[str]:
    """A local file as text, gzip unpacked; bytes that are not UTF-8 become surrogates that encode back."""
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _first_line(found: FoundFile, kind: str, spark: SparkSession | None, form: CsvForm) -> str:
    """The first line of a CSV. Raises an error for a broken archive or another encoding."""
    start = files_at(found.path, spark).start(found.path, _LONGEST_HEADER)
    if found.name.endswith(".gz"):
        start = zlib.decompressobj(wbits=31).decompress(start, _LONGEST_HEADER)
    if start.startswith(_OTHER_ENCODINGS):
        raise AnabranchError(
            f"{found.path} is UTF-16: nothing was landed; write it as UTF-8, for example with "
            "'iconv -f UTF-16 -t UTF-8'"
        )
    if kind != "csv":
        return ""
    first = (start.removeprefix(b"\xef\xbb\xbf").splitlines() or [b""])[0]
    try:
        return first.decode(form.encoding)
    except UnicodeDecodeError as error:
        raise AnabranchError(
            f"{found.path} is not in {form.encoding.upper()}: nothing was landed; name its encoding, "
            "for example with --encoding latin-1 or --encoding cp1252"
        ) from error


def _parquet_schema(found: FoundFile, spark: SparkSession | None) -> tuple[list[str], str]:
    if spark is None or is_local(found.path):
        local = pq.read_schema(found.path)
        return list(local.names), local.remove_metadata().to_string()
    schema = spark.read.parquet(spark_path(found.path)).schema
    return schema.names, f"{schema.json()} {nanosecond_columns(spark, found.path)}"


def _read_header(path: str, first_line: str, source: Source, form: CsvForm) -> tuple[str, ...]:
    """Columns of a CSV by its first line. Raises AnabranchError when they are not the source's."""
    header = next(csv.reader([first_line], delimiter=form.delimiter), [])
    if not any(cell.strip() for cell in header):
        raise AnabranchError(f"{path} has no header: its first line must name the columns {_names(source)}")
    if form.header and len(form.header) != len(header):
        raise AnabranchError(
            f"{path} has {len(header)} columns and --header names {len(form.header)}: nothing was landed; "
            "name each column of the file, in its order"
        )
    names = form.header or tuple(header)
    _check_columns(path, names, source, first_line)
    return names


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
        raise AnabranchError(
            f"{path} {listed}: nothing was landed; "
            f"source {source.name!r} has the columns {_names(source)}{_way(names, declared, first_line)}"
        )


def _way(names: Sequence[str], declared: Sequence[str], first_line: str) -> str:
    """What makes a CSV readable whose columns are the declared ones in another form."""
    for sign, words in _OTHER_DELIMITERS.items():
        found = _alike(next(csv.reader([first_line], delimiter=sign), []), declared)
        if found is not None:
            named = "" if list(found) == first_line.split(sign) else f" --header '{','.join(found)}'"
            return f", and the file has {words} between its own: add --delimiter '{sign}'{named}"
    found = _alike(names, declared) if first_line else None
    return "" if found is None else f": add --header '{','.join(found)}'"


def _alike(names: Sequence[str], declared: Sequence[str]) -> list[str] | None:
    """The declared columns that the names mean, whatever their case and spaces; None if they do not."""
    meant = {name.strip().lower(): name for name in declared}
    found = [meant.get(name.strip().lower(), "") for name in names]
    return found if sorted(found) == sorted(declared) else None


def _names(source: Source) -> str:
    return ", ".join(column.name for column in source.columns)


def _format(name: str) -> str | None:
    inner = name.removesuffix(".gz")
    found = _FORMATS.get(Path(inner).suffix.lower())
    return None if found == "parquet" and inner != name else found
