"""Rows of files to be landed: which files go together, their rows parsed, and a name for each file's content.

The content of a file is told by its lines (of Parquet: its rows), each hashed twice, the hashes added up.
Sums need no order and no second pass: Spark computes them wherever the file is read, in as many pieces as it
likes. The same lines under another name, packed or not, are the same content.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.events.decoders.csv_lines import CsvDecoder, may_be_cut
from anabranch.events.decoders.decoder import table_cells
from anabranch.events.decoders.json_objects import JsonDecoder
from anabranch.events.judging import parse, read_cells
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.stores.files.filesystems import in_microseconds, nanosecond_columns, spark_path
from anabranch.values.times import from_micros
from batch.landing.event_files import EventFile
from batch.landing.records import CsvForm, read_records

_TASK_BYTES = 128 * 1024 * 1024
_GROUP_TASKS = 8  # of a core: bounds what is done again after a crash, and still keeps every core busy
_GROUP_FILES = 2_000
# A line that begins with a character beyond it is not blank, which is seen ten times faster than by trimming.
_BLANK = ord(" ")


@dataclass(frozen=True, kw_only=True)
class FileGroup:
    """Files of one form that are read, judged and committed together."""

    files: tuple[EventFile, ...]

    @property
    def header(self) -> str | None:
        """The first line of CSV files."""
        return self.files[0].form if self.files[0].format == "csv" else None

    @property
    def csv(self) -> CsvForm:
        """How CSV files are written."""
        return self.files[0].csv

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.found.size for file in self.files)

    def __str__(self) -> str:
        first = self.files[0].found.name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more files"


def groups(files: Sequence[EventFile], cores: int) -> Iterator[FileGroup]:
    """The files in order, as many together as are quickly read; a large one alone."""
    kinds: dict[tuple[str, str, CsvForm], list[EventFile]] = {}
    for file in files:
        kinds.setdefault((file.format, file.form, file.csv), []).append(file)
    most = cores * _GROUP_TASKS * _TASK_BYTES
    for alike in kinds.values():
        chosen: list[EventFile] = []
        for file in alike:
            if chosen and (
                len(chosen) == _GROUP_FILES
                or sum(each.found.size for each in chosen) + file.found.size > most
            ):
                yield FileGroup(files=tuple(chosen))
                chosen = []
            chosen.append(file)
        yield FileGroup(files=tuple(chosen))


def raw_rows(spark: SparkSession, group: FileGroup, arrival: int, *, by_record: bool = False) -> DataFrame:
    """Raw rows: `value` of text files or all columns of Parquet, and the lake's columns.

    All have one `arrival` (microseconds). A row is a line, or with `by_record` all lines of a CSV's record.
    """
    paths, name = [spark_path(file.path) for file in group.files], _file_name(group)
    if by_record:
        table, name = read_records(spark, paths, name, group.csv), F.col("_file")
    elif group.files[0].format == "parquet":  # of one schema
        nanoseconds = nanosecond_columns(spark, group.files[0].path)
        table = in_microseconds(spark.read.parquet(*paths), nanoseconds)
    else:
        table = spark.read.text(paths)
    origin = {
        "_arrival": F.lit(from_micros(arrival)),
        "_file": name,
        "_offset": F.monotonically_increasing_id(),
    }
    lake = [origin.get(column, F.lit(None)).cast(kind).alias(column) for column, kind in LAKE_COLUMNS.items()]
    rows = table.select(*[named(column) for column in table.columns if column != "_file"], *lake)
    # Many small files would each become a small file of the lake.
    return (
        rows
        if len(group.files) == 1
        else rows.coalesce(max(spark.sparkContext.defaultParallelism, math.ceil(group.bytes / _TASK_BYTES)))
    )


def _file_name(group: FileGroup) -> Column:
    """The path of every row's file, as `Found` has it."""
    if len(group.files) == 1:
        return F.lit(group.files[0].path)
    url = F.col("_metadata.file_path")
    plain = F.when(
        F.contains(url, F.lit("%")), F.url_decode(F.replace(url, F.lit("+"), F.lit("%2B")))
    ).otherwise(url)
    # Of this machine's files Hadoop writes one slash or three.
    local = [
        F.when(F.startswith(plain, F.lit(start)), F.substr(plain, F.lit(len(start))))
        for start in ("file:///", "file:/")
    ]
    return F.coalesce(*local, plain)


def parse_rows(raw: DataFrame, group: FileGroup, source: Source) -> DataFrame:
    """Typed events of raw rows, in the format of the group's files."""
    first = group.files[0]
    if first.format == "parquet":
        return read_cells(source, table_cells(source, raw))
    # No row can equal the header: its event time would have to be the name of a column.
    lines = raw.where((F.ascii("value") > _BLANK) | (F.trim("value", F.lit(" \t")) != ""))
    if first.format == "json":
        return parse(source, lines, JsonDecoder())
    return parse(source, lines.where(F.col("value") != first.form), CsvDecoder(first.header))


def has_cut_rows(bad: DataFrame | None, group: FileGroup) -> bool:
    """Whether some of the rows for quarantine may be pieces of rows that stand on several lines."""
    return (
        bad is not None
        and group.header is not None
        and not bad.where(may_be_cut("_raw", "_reason")).isEmpty()
    )


def observed_content(raw: DataFrame) -> tuple[DataFrame, Observation]:
    """The rows of one file, and what will tell its content when they have been read."""
    observation = Observation()
    return raw.observe(observation, *_sums(raw)), observation


def contents(spark: SparkSession, group: FileGroup) -> dict[str, str]:
    """The content of every file by its path, by reading all of them."""
    raw = raw_rows(spark, group, 0)
    found = {
        row["_file"]: content_name(row.asDict())
        for row in raw.groupBy("_file").agg(*_sums(raw)).toLocalIterator()
    }
    strange = found.keys() - {file.path for file in group.files}
    if strange:
        raise AnabranchError(
            f"rows of {min(strange)} came up, which was not to be read: "
            "rename the files so that their names are plain"
        )
    return {file.path: found.get(file.path, content_name({"lines": 0})) for file in group.files}


def content_name(sums: dict[str, Any]) -> str:
    """A name for the sums of a file."""
    return hashlib.sha256(
        repr(sorted((name, value or 0) for name, value in sums.items() if name != "_file")).encode()
    ).hexdigest()[:32]


def _sums(raw: DataFrame) -> list[Column]:
    # Spark has no hashes of maps.
    names = [
        F.to_json(named(field.name)) if "map<" in field.dataType.simpleString() else named(field.name)
        for field in raw.schema.fields
        if field.name not in LAKE_COLUMNS
    ]
    # Of two hashes 48 bits each, in halves: sums of 2^39 rows fit into 64 bits.
    hashes = [F.xxhash64(*names), F.xxhash64(F.lit(7), *names)]
    halves = [
        half
        for each in hashes
        for half in (F.shiftrightunsigned(each, 40), F.shiftrightunsigned(each, 16).bitwiseAND(0xFFFFFF))
    ]
    return [
        F.count(F.lit(1)).alias("lines"),
        *[F.sum(half).alias(f"sum_{number}") for number, half in enumerate(halves)],
    ]
