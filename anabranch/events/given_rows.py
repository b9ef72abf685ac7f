"""Rows that a user gives, to look features up for or to score, read by the rules that landing has for events.

A key, time or feature of such a row may be text or of another type: it is read as landing would read it, so
that ``007`` finds the events of key 7. What cannot be read is an error that names the row and the reason;
where rows stream, such rows are left out and counted.
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.errors import MisuseError
from anabranch.events.cells import complaint, is_wrong, named, text_sql
from anabranch.values.types import DataType

WRONG_ROW = "a row cannot be read: "
"""Begins the message of a job that met a row that cannot be read; the rest names row and reason."""
_SHOWN_COLUMNS, _SHOWN_LETTERS = 6, 200
_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal")
_MOMENTS = ("timestamp", "timestamp_ntz", "date")
_NO_VALUES = ("array", "map", "struct", "variant")


def read_column(rows: DataFrame, name: str, kind: DataType) -> tuple[Column, Column | None]:
    """The column as `kind`, and the reason where it cannot be read; no reason for a column that always can.

    Raises MisuseError for a column that holds no single values.
    """
    found = rows.schema[name].dataType.simpleString()
    if found.startswith(_NO_VALUES) or (found == "binary" and not kind.text):
        raise MisuseError(f"column {name!r} is {found.upper()} in the rows: it must be {kind}")
    given = named(name)
    if found == kind.spark.lower():
        return given, None
    written = text_sql(name, found, kind)
    text = F.expr(written)
    if kind.text:
        return (text if kind.spark == "STRING" else text.cast("binary")), None
    if (kind.floating and found.startswith(_NUMBERS)) or (kind.time and found in _MOMENTS):
        return given.cast(kind.spark), None
    value = F.expr(kind.cell_sql(written))
    return value, F.when(is_wrong(text, value), complaint(name, text, kind))


def read_columns(rows: DataFrame, kinds: Mapping[str, DataType]) -> dict[str, Column]:
    """The columns `kinds` of the rows in their types; the job fails at another value (WRONG_ROW)."""
    return {name: _or_error(rows, *read_column(rows, name, kind)) for name, kind in kinds.items()}


def unreadable(rows: DataFrame, kinds: Mapping[str, DataType]) -> Column | None:
    """The reason for which one of the columns cannot be read, NULL in a row that can; None if all can be."""
    found = [read_column(rows, name, kind)[1] for name, kind in kinds.items()]
    reasons = [reason for reason in found if reason is not None]
    return F.coalesce(*reasons) if reasons else None


def _or_error(rows: DataFrame, value: Column, reason: Column | None) -> Column:
    if reason is None:
        return value
    # A few columns tell the row: all of a wide one would make the plan grow with their square.
    shown = F.to_json(F.struct(*[named(each) for each in rows.columns[:_SHOWN_COLUMNS]]))
    row = F.concat(F.lit(WRONG_ROW), reason, F.lit(", in the row "), F.left(shown, F.lit(_SHOWN_LETTERS)))
    return F.when(reason.isNotNull(), F.raise_error(row)).otherwise(value)
