"""Typed terms of SQL expressions, and conversions between types that give NULL instead of an error.

Whole numbers are computed in 64 bits, so INT * INT is a BIGINT. All conversions are written out, so that
Spark and this module cannot disagree about a type.
"""

from dataclasses import dataclass
from decimal import Decimal

from anabranch.values.dates import DATE, TIMESTAMP
from anabranch.values.numbers import DecimalType, FloatType, WholeType
from anabranch.values.times import DAY, FIRST, LAST
from anabranch.values.types import (
    BIGINT,
    BINARY,
    DOUBLE,
    INT,
    STRING,
    ArrayType,
    DataType,
    parse_type,
)

FLOAT = FloatType()
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Digits of a whole number by its bits."""
_MOST = 38  # digits of a DECIMAL


@dataclass(frozen=True)
class Term:
    """Part of an expression: Spark SQL of `type`, None for NULL; `literal` is the value of a literal."""

    sql: str
    type: DataType | None
    literal: str | int | Decimal | None = None


def plain(kind: DataType) -> DataType:
    """The type by which Spark computes with values of `kind`."""
    return kind if kind.spark == str(kind) else parse_type(kind.spark)


def number(value: int | Decimal) -> Term:
    """A literal number."""
    if isinstance(value, int):
        kind = literal_type(value)
        if kind == INT:
            return Term(str(value) if value >= 0 else f"({value})", INT, value)
        if kind == BIGINT:
            return Term(f"{value}L" if value >= 0 else f"CAST('{value}' AS BIGINT)", BIGINT, value)
        return Term(f"CAST('{value}' AS {kind})", kind, value)
    digits, scale = _shown(value)
    return Term(f"{value:f}BD", DecimalType(max(digits, scale, 1), scale), value)


def text_term(value: str) -> Term:
    """A literal text."""
    return Term(f"'{in_quotes(value)}'", STRING, value)


def in_quotes(value: str) -> str:
    """A text as it stands between single quotes."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def literal_type(value: int) -> DataType:
    """The type of a whole number without a suffix."""
    if -(1 << 31) <= value < 1 << 31:
        return INT
    return BIGINT if -(1 << 63) <= value < 1 << 63 else DecimalType(len(str(abs(value))), 0)


def _shown(value: Decimal) -> tuple[int, int]:
    _, digits, exponent = value.as_tuple()
    return len(digits), max(-int(exponent), 0)


def exact(term: Term) -> DecimalType | None:
    """The DECIMAL that holds every value of an exact number, a literal's own digits; None for other terms."""
    if isinstance(term.type, DecimalType):
        return term.type
    if not isinstance(term.type, WholeType):
        return None
    return DecimalType(
        len(str(abs(term.literal))) if isinstance(term.literal, int) else _DIGITS[term.type.bits]
    )


def convert(term: Term, kind: DataType) -> Term:
    """The term as `kind`: NULL where its value is none of that type. `may_convert` says what can be asked."""
    if term.type == kind:
        return term
    value = term.literal
    if isinstance(value, int) and kind == BIGINT and literal_type(value) == INT:
        return Term(f"{value}L" if value >= 0 else f"({value}L)", BIGINT, value)
    if isinstance(value, int | Decimal) and kind == DOUBLE:
        return Term(f"{value}D" if value >= 0 else f"({value}D)", DOUBLE, value)
    if term.type is None:
        return Term(f"CAST(NULL AS {kind.spark})", kind)
    sql = f"try_cast({term.sql} AS {kind.spark})"
    if term.type == STRING and kind.time and value is None:
        # Spark alone reads '12:00' as today at noon.
        sql = f"CASE WHEN {term.sql} RLIKE '^\\\\s*[0-9]{{4}}' THEN {sql} END"
    return Term(sql, kind)


def may_convert(source: DataType | None, kind: DataType) -> bool:
    """Whether CAST is defined from one type to the other."""
    if source is None or source == kind:
        return True
    if isinstance(source, ArrayType) or isinstance(kind, ArrayType):
        return (
            isinstance(source, ArrayType)
            and isinstance(kind, ArrayType)
            and may_convert(source.inner, kind.inner)
        )
    if source.nested or kind.nested:
        return False
    if STRING in (source, kind):
        return True
    if BINARY in (source, kind):
        return False
    if source.time or kind.time:
        number = kind if source.time else source
        return number.time or (TIMESTAMP in (source, kind) and number.numeric)
    return True


def common_type(left: DataType | None, right: DataType | None) -> DataType | None:
    """The type to which both are converted to be compared or chosen between; None when there is none."""
    if left == right or right is None:
        return left
    if left is None:
        return right
    if isinstance(left, ArrayType) and isinstance(right, ArrayType):
        inner = common_type(left.inner, right.inner)
        return None if inner is None else ArrayType(inner)
    if left.nested or right.nested:
        return None
    if left.numeric and right.numeric:
        return _common_number(left, right)
    if {left, right} == {DATE, TIMESTAMP}:
        return TIMESTAMP
    if STRING in (left, right):
        other = right if left == STRING else left
        return other if not other.numeric else BIGINT if other.integral else DOUBLE
    return None


def _common_number(left: DataType, right: DataType) -> DataType | None:
    if isinstance(left, WholeType) and isinstance(right, WholeType):
        return left if left.bits >= right.bits else right
    if left.floating or right.floating:
        return DOUBLE
    a, b = exact(Term("", left)), exact(Term("", right))
    if a is None or b is None:
        return None
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    return DecimalType(digits, scale) if digits <= _MOST else DOUBLE


def decimal_result(operator: str, left: DecimalType, right: DecimalType) -> DecimalType | None:
    """The type by Spark's rules of a result of `+`, `-`, `*` or `%` of DECIMALs; None beyond 38 digits.

    Source: org.apache.spark.sql.catalyst.expressions, Add, Multiply, Remainder.
    """
    p1, s1, p2, s2 = left.precision, left.scale, right.precision, right.scale
    scale = max(s1, s2)
    digits = max(p1 - s1, p2 - s2) + scale + 1
    if operator == "*":
        scale = s1 + s2
        digits = p1 + p2 + 1
    elif operator == "%":
        digits = min(p1 - s1, p2 - s2) + scale
    return DecimalType(digits, scale) if digits <= _MOST else None


def rounded(kind: DecimalType, places: int) -> DecimalType | None:
    """The type of a DECIMAL that is rounded to so many places, by Spark's rules; None beyond 38 digits."""
    whole = kind.precision - kind.scale + 1
    if places < 0:
        digits, scale = max(whole, 1 - places), 0
    else:
        scale = min(kind.scale, places)
        digits = whole + scale
    return DecimalType(digits, scale) if digits <= _MOST else None


def in_years(term: Term) -> Term:
    """A time of the years 1 to 9999, NULL for any other: other systems keep no other years."""
    if term.type == DATE:
        days = f"{FIRST // DAY} AND {LAST // DAY}"
        return Term(f"CASE WHEN unix_date({term.sql}) BETWEEN {days} THEN {term.sql} END", DATE)
    limits = f"{FIRST}L AND {LAST}L"
    return Term(f"CASE WHEN unix_micros({term.sql}) BETWEEN {limits} THEN {term.sql} END", term.type)
