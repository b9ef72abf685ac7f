"""Rows of CSV that stand on several lines, put together of the lines of their file (RFC 4180).

Spark reads text line by line, in as many pieces as it likes, so that a line break within quotes cuts a row in
two, and a piece may look like a row of somebody else. Files are therefore read by lines first, and again as
records where a line ended within quotes; then one task has all lines of a file, in their order. So are files
of another form (`CsvForm`) read, whose records become plain CSV.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, islice
from operator import itemgetter

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.errors import MisuseError
from anabranch.events.rows import LONGEST_EVENT

ENDLESS = "a quote opens a text that does not end within"
"""In the message of a load that met a record without an end."""
_BATCH = 4_096


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How a CSV file differs from plain CSV; `header` has the columns' names in place of the first line's."""

    delimiter: str = ","
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        signs = f'0aZ \r\n"{self.delimiter}'
        try:
            fits = signs.encode(self.encoding) == signs.encode("ascii")
        except (LookupError, UnicodeEncodeError):
            fits = False
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"' or not fits:
            raise MisuseError(
                f"CSV with the delimiter {self.delimiter!r} in {self.encoding!r} is not read: give one ASCII "
                "character and an encoding that extends ASCII, such as latin-1; write others as UTF-8"
            )

    @property
    def plain(self) -> bool:
        """Whether Spark can read the lines as they are."""
        return self == CsvForm()

    def as_plain(self, record: bytes) -> bytes:
        """The record as plain CSV; as it is, for quarantine, where it is not of the encoding."""
        if self.plain:
            return record
        try:
            text = io.StringIO(record.decode(self.encoding), newline="")
        except UnicodeDecodeError:
            return record
        return plain_line(next(csv.reader(text, delimiter=self.delimiter), []))


def plain_line(cells: Sequence[str]) -> bytes:
    """The cells as one record of plain CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue().encode()


def ends_open(line: bytes, *, within: bool, delimiter: bytes = b",") -> bool:
    """Whether a line ends within quotes, given whether it begins there, so that the next one belongs to it.

    Only a quote at the beginning of a cell opens a text; any other is a letter.
    """
    text, any_cell = _patterns(delimiter)
    place, pattern = 0, text if within else any_cell
    while within or line.find(b'"', place) >= 0:
        cell = pattern.match(line, place)
        if cell is None:
            return True
        if cell.end() == len(line):
            return False
        place, pattern, within = cell.end() + 1, any_cell, False
    return False


@cache
def _patterns(delimiter: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """The rest of a cell that began in quotes, and a whole cell."""
    sign = re.escape(delimiter)
    rest = rb'[^"]*+(?:""[^"]*+)*+"[^%s]*+' % sign
    return re.compile(rest), re.compile(rb'"%s|(?!")[^%s]*+' % (rest, sign))


def records(lines: Iterable[bytes], delimiter: bytes = b",") -> Iterator[bytes]:
    """The records of a file's lines, which are given without the line feeds that end them.

    Carriage returns end a line as well, before a line feed or alone. Raises ValueError for a record of more
    than LONGEST_EVENT bytes, since the rest of the file would become one.
    """
    kept: list[bytes] = []
    size = 0
    for line in lines:
        *returned, last = line.split(b"\r")
        for part, end in [*((part, b"\r") for part in returned), (last, b"\n")]:
            if returned and not last and end == b"\n" and not kept:
                continue  # the line feed after a carriage return
            within = ends_open(part, within=bool(kept), delimiter=delimiter)
            kept.append(part)
            size += len(part) + 1
            if not within:
                yield b"".join(kept)
                kept, size = [], 0
                continue
            if size > LONGEST_EVENT:
                raise ValueError(f"{ENDLESS} {LONGEST_EVENT} bytes: {b''.join(kept)[:100]!r}")
            kept.append(end)
    if kept:
        yield b"".join(kept).rstrip(b"\r\n")


def read_records(spark: SparkSession, paths: Sequence[str], file: Column, form: CsvForm) -> DataFrame:
    """`value` STRING, a record of a file as plain CSV, and `_file`, which is `file` of its lines.

    Files of another form come without their first record, which named their columns.
    """
    lines = spark.read.option("lineSep", "\n").text(list(paths))
    placed = lines.select(
        F.col("value").cast("binary").alias("value"),
        file.alias("_file"),
        F.col("_metadata.file_block_start").alias("_block"),
        F.monotonically_increasing_id().alias("_line"),
    )
    ordered = placed.repartition("_file").sortWithinPartitions("_file", "_block", "_line")
    joined = ordered.mapInArrow(partial(_joined, form), "value BINARY, _file STRING")
    return joined.select(F.col("value").cast("string").alias("value"), "_file")


def _joined(form: CsvForm, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    lines = (
        pair
        for batch in batches
        for pair in zip(batch.column("_file").to_pylist(), batch.column("value").to_pylist(), strict=True)
    )
    for file, those in groupby(lines, key=itemgetter(0)):
        found = map(form.as_plain, records((line for _, line in those), form.delimiter.encode()))
        if not form.plain:
            next(found, None)
        while some := list(islice(found, _BATCH)):
            columns = [pa.array(some, pa.binary()), pa.array([file] * len(some))]
            yield pa.RecordBatch.from_arrays(columns, ["value", "_file"])
