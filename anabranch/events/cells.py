"""One cell of text as a value of its declared type, or NULL when it is not one: the same for files and topics.

Native columns that never raise. Text around which spaces stand is read without them; a cell of nothing but spaces is
unknown, not wrong. Spark alone would read more than is meant ('12d' as a double, '12:00' as today at noon, 2024 as New
Year's Day): what is read here depends on the cell only and is what ISO 8601 and plain numbers say.
"""

from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from anabranch.values.types import DataType

_TIME = r"^\s*(?!0000)\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s?([Zz]|UTC|[+-]\d{2}(:?\d{2})?)?)?\s*$"
_NO_SECONDS = r"^(.{16})\s?([ZU+-])"
_ENDLESS = ("inf", "+inf", "-inf")
_HINTS = {"TIMESTAMP": " (ISO 8601, such as 2024-05-01T12:00:00Z)", "DATE": " (ISO 8601, such as 2024-05-01)"}


def named(name: str) -> Column:
    """The column of that name, whatever characters it holds."""
    return F.col(f"`{name}`")


def cell(text: Column, kind: DataType) -> Column:
    """`text` as a value of `kind`, NULL when it is unknown or cannot be read."""
    if kind.name == "STRING":
        return text
    if kind.name == "BINARY":
        return text.cast("binary")
    if kind.integral:
        return F.coalesce(text.try_cast(str(kind)), _whole(text).try_cast(str(kind)))
    if kind.name in ("FLOAT", "DOUBLE"):
        return F.when(~_java_number(text), text.try_cast(str(kind)))
    if kind.name == "TIMESTAMP":
        return F.when(text.rlike(_TIME), _timestamp(text))
    if kind.name == "DATE":
        return F.when(text.rlike(_TIME) & _timestamp(text).isNotNull(), text.try_cast("DATE"))
    return text.try_cast(str(kind))


def is_wrong(text: Column, value: Column) -> Column:
    """Is there text that did not become a value?"""
    return value.isNull() & (F.trim(text) != "")


def complaint(name: str, text: Column, kind: DataType) -> Column:
    """The reason for a cell that is wrong, such as ``age: 'abc' is not INT``."""
    return F.concat(
        F.lit(f"{name}: '"), F.left(text, F.lit(40)), F.lit(f"' is not {kind}{_HINTS.get(kind.name, '')}")
    )


def _whole(text: Column) -> Column:
    """A whole number written with a point or an exponent (45.0, 4.5e1); NULL when it has a fraction."""
    exact = text.try_cast("DECIMAL(38,18)")
    return F.when((exact == F.floor(exact)) & (exact.cast("double") == text.try_cast("double")), exact)


def _java_number(text: Column) -> Column:
    """Java's own ways to write a double: 12d, 1f, 0x1p3. Nearly every number has none of their letters, which is seen at once."""
    letters = reduce(Column.__or__, [F.contains(text, F.lit(letter)) for letter in "dDfFxX"])
    suffix = F.upper(F.right(F.rtrim(text), F.lit(1))).isin("D", "F") & ~F.lower(F.trim(text)).isin(*_ENDLESS)
    return letters & (suffix | F.contains(F.lower(text), F.lit("x")))


def _timestamp(text: Column) -> Column:
    # Spark does not read a zone right after the minutes, nor a small z.
    full = F.regexp_replace(F.upper(F.trim(text)), _NO_SECONDS, "$1:00$2")
    return F.coalesce(text.try_cast("TIMESTAMP"), full.try_cast("TIMESTAMP"))
