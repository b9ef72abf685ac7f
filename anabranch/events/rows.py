"""Rows of events as they are read: the columns of the lake, which every event has beside those of its source.

_arrival TIMESTAMP   when it came: the broker's time of a message, or the moment a file was loaded
_date DATE           of the arrival; the lake is partitioned by it
_file STRING         where it came from: a file, or ...
_topic STRING        ... a topic; with `_file` a message that batches take as a row of a file (see judging.py)
_partition INT       of the topic
_offset BIGINT       in the partition, or (rising, with gaps) in the file
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

LAKE_COLUMNS = {
    "_arrival": "TIMESTAMP",
    "_date": "DATE",
    "_file": "STRING",
    "_topic": "STRING",
    "_partition": "INT",
    "_offset": "BIGINT",
}
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


def lake_columns() -> list[Column]:
    """The lake's columns of raw events; the date is always that of the arrival."""
    return [
        (F.to_date("_arrival") if name == "_date" else F.col(name)).cast(kind).alias(name)
        for name, kind in LAKE_COLUMNS.items()
    ]


def sealed(frame: DataFrame, *columns: Column) -> DataFrame:
    """`frame.select(columns)`, each computed once.

    Spark copies an expression into every later one that reads it, which makes plans beyond any heap over the
    cells of a wide source. It does not look through a generator, so this is one, of one row. A generator's
    own expressions are interpreted, not compiled, so the row is put together before it.
    """
    row = frame.select(F.struct(*columns).alias("_row"))
    return row.select(F.explode(F.array("_row")).alias("_row")).select("_row.*")
