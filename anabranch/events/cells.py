"""One cell of text as a value of its declared type, or NULL when it is not one: for files and topics alike.

Native columns that never raise. Spaces and control characters around a value are ignored; a cell of nothing
else is unknown, not wrong. Spark alone would read more than is meant ('12d' as a double, '12:00' as today at
noon, 2024 as New Year's Day): what a type reads (`DataType.cell_sql`) depends on the cell only and follows
ISO 8601 and plain numbers.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

from anabranch.values.names import quoted
from anabranch.values.numbers import BEYOND_WHOLE, WHOLE
from anabranch.values.texts import AROUND
from anabranch.values.types import DataType


def named(name: str) -> Column:
    """The column of that name, whatever characters it holds."""
    return F.col(quoted(name))


def cell(name: str, kind: DataType) -> Column:
    """The text in column `name` as a value of `kind`, NULL when it is unknown or cannot be read."""
    return F.expr(kind.cell_sql(quoted(name)))


def text_sql(name: str, found: str, kind: DataType) -> str:
    """SQL of the text of column `name`, of the Spark type `found`, as a cell of `kind`.

    A double that is whole in any case has all its digits, whichever JDK writes it.
    """
    value = quoted(name)
    text = f"CAST({value} AS STRING)"
    if found not in ("float", "double") or not (kind.integral or kind.decimal):
        return text
    whole = f"abs({value}) >= {WHOLE:.0f}D AND abs({value}) < {BEYOND_WHOLE:.0f}D"
    return f"CASE WHEN {whole} THEN CAST(try_cast({value} AS BIGINT) AS STRING) ELSE {text} END"


def is_wrong(text: Column, value: Column) -> Column:
    """Whether there is text that did not become a value."""
    return value.isNull() & (F.trim(text, F.lit(AROUND)) != "")


def complaint(name: str, text: Column, kind: DataType) -> Column:
    """The reason for a cell that is wrong, such as ``age: 'abc' is not INT``."""
    hint = f" ({kind.hint})" if kind.hint else ""
    return F.concat(F.lit(f"{name}: '"), F.left(text, F.lit(40)), F.lit(f"' is not {kind}{hint}"))
