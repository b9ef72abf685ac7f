"""Rows of events as they are read: the columns of the lake, which every event has beside those of its source.

_arrival TIMESTAMP   when it came: the broker's time of a message, or the moment a file was loaded
_date DATE           of the arrival; the lake is partitioned by it
_file STRING         where it came from: a file, or ...
_topic STRING        ... a topic; with `_file` a message that batches take as a row of a file (see judging.py)
_partition INT       of the topic
_offset BIGINT       in the partition, or (rising, with gaps) in the file
_identity STRING     what identifies an event of a source without an id; NULL for others

What identifies it is the place of a message, or the values of a row:

    payments/3/42@1764529452123                topic, partition, offset, stamp (ms), of the original if copied
    row:9b74c9897bac770ffc029102a200c5de       the beginning of a SHA-256 of the typed values
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.names import IDENTITY
from anabranch.declare.sources import Source
from anabranch.values.types import BINARY

LAKE_COLUMNS = {
    "_arrival": "TIMESTAMP",
    "_date": "DATE",
    "_file": "STRING",
    "_topic": "STRING",
    "_partition": "INT",
    "_offset": "BIGINT",
    IDENTITY: "STRING",
}
_DIGITS = 32  # hexadecimal: 128 bits, so that no two rows of a lake share them
LONGEST_EVENT = 1_048_576
"""Bytes of one event's text; a longer one goes to quarantine."""
BASE64 = "base64:"
"""Begins the text of a message in quarantine that is no text, with its bytes as Base64."""
LONGEST_KEPT = 2 * LONGEST_EVENT
"""Bytes of a text in quarantine: more than the Base64 of the longest event."""


def kept_text(raw: Column, *, binary: bool) -> Column:
    """The text in which quarantine keeps an event, from which `kept_value` makes its bytes again.

    `binary`: whether the source's messages may be other than text. Of other sources bytes that are no UTF-8
    are replaced, and nothing is written as Base64.
    """
    plain = F.left(F.make_valid_utf8(raw), F.lit(LONGEST_EVENT))
    if not binary:
        return plain
    readable = F.is_valid_utf8(raw) & ~F.contains(raw, F.lit("\0")) & ~F.startswith(raw, F.lit(BASE64))
    coded = F.concat(F.lit(BASE64), F.base64(F.left(raw.cast("binary"), F.lit(LONGEST_EVENT))))
    # Rows of files are texts, whatever the format of the topic.
    return F.when(raw.isNull() | readable | F.col("_topic").isNull(), plain).otherwise(coded)


def kept_value(text: Column) -> Column:
    """The value of a message, as STRING of unchanged bytes, of the text in which quarantine kept it."""
    coded = F.startswith(text, F.lit(BASE64))
    bytes_ = F.unbase64(F.substring(text, len(BASE64) + 1, LONGEST_KEPT)).cast("string")
    return F.when(coded, bytes_).otherwise(text)


def lake_columns(**made: Column) -> list[Column]:
    """The lake's columns of raw events, or as `made`; the date is always that of the arrival."""
    made = {"_date": F.to_date("_arrival"), **made}
    return [made.get(name, F.col(name)).cast(kind).alias(name) for name, kind in LAKE_COLUMNS.items()]


def message_identity(topic: Column, partition: Column, offset: Column, stamp: Column) -> Column:
    """What identifies a message without an id; `stamp` is its time in the original, in ms since 1970.

    The stamp tells a message from one at the same place of a topic that was deleted and made again.
    """
    return F.concat(topic, F.lit("/"), partition, F.lit("/"), offset, F.lit("@"), stamp)


def row_identity(source: Source, values: Mapping[str, Column]) -> Column:
    """What identifies a row without an id: a digest of the typed `values` of the source's columns.

    Equal rows are one event, wherever they come from and however their files are written.
    """
    texts = [
        F.hex(values[column.name]) if column.type == BINARY else values[column.name].cast("string")
        for column in source.columns
    ]
    return F.concat(F.lit("row:"), F.left(F.sha2(F.to_json(F.array(*texts)), 256), F.lit(_DIGITS)))


def sealed(frame: DataFrame, *columns: Column) -> DataFrame:
    """`frame.select(columns)`, each computed once.

    Spark copies an expression into every later one that reads it, which makes plans beyond any heap over the
    cells of a wide source. It does not look through a generator, so this is one, of one row. A generator's
    own expressions are interpreted, not compiled, so the row is put together before it.
    """
    row = frame.select(F.struct(*columns).alias("_row"))
    return row.select(F.explode(F.array("_row")).alias("_row")).select("_row.*")
