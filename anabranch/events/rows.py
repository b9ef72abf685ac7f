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
