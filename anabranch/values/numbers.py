"""Types of numbers: whole numbers, floats and DECIMAL."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.values.datatype import (
    DataType,
    Decoded,
    JsonSchema,
    counted,
    from_halves,
    halves_sql,
)
from anabranch.values.texts import AROUND_PATTERN, LONGEST_TEXT, bare_text, readable_sql

_WIDE = Context(prec=60)  # the default context would round long sums
# Linear in the length of a text: nothing in it can be read in two ways.
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?0*[0-9]{1,3})?"
_FLOAT = rf"{_NUMBER}|[+-]?NaN|[nN][aA][nN]|[+-]?[iI][nN][fF](?:[iI][nN][iI][tT][yY])?"
_NUMBERS, _FLOATS = re.compile(_NUMBER), re.compile(_FLOAT)
WHOLE, BEYOND_WHOLE = 2.0**53, 2.0**63
"""Doubles from the first on have no fraction; those below the second are exact as BIGINT."""
_PARTS = rf"^{AROUND_PATTERN}[+-]?([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?{AROUND_PATTERN}$"


def exact_number(value: object, scale: int) -> Decimal | None:
    """The number of a JSON value or text; None for no number, or one with digits beyond `scale`."""
    whole = _whole_text(value)
    text = bare_text(value) if whole is None else whole
    if not _NUMBERS.fullmatch(text):
        return None
    number = Decimal(text)
    _, digits, exponent = number.as_tuple()
    shown = "".join(map(str, digits))
    behind = -int(exponent) - (len(shown) - len(shown.rstrip("0")))
    return number if not number or behind <= scale else None


def _whole_text(value: object) -> str | None:
    """The whole number that a double is, with all its digits; None for a double that may have a fraction."""
    return str(int(value)) if isinstance(value, float) and WHOLE <= abs(value) < BEYOND_WHOLE else None


def _exact_sql(text: str, scale: int) -> str:
    """SQL of whether `text` is a number without digits beyond `scale`: the twin of `exact_number`."""
    whole, fraction, power = (f"regexp_extract({text}, r'{_PARTS}', {group})" for group in (1, 2, 3))
    # Digits up to the last that is not zero, less those before the point: none of a zero.
    digits = f"nullif(length(trim(TRAILING '0' FROM concat({whole}, {fraction}))), 0)"
    behind = f"{digits} - length({whole}) - coalesce(try_cast({power} AS INT), 0)"
    return f"({readable_sql(text, _NUMBER)} AND coalesce({behind}, 0) <= {scale})"


def _bare_sql(text: str) -> str:
    """The text without the one character around it that casts to numbers do not ignore."""
    return f"translate({text}, '\\u007f', '')"


def _decimal_sql(text: str, kind: str) -> str:
    """SQL of the number `text` as a DECIMAL; Spark alone takes no zero with an exponent of 38 or more."""
    plain_zero = rf"regexp_replace({_bare_sql(text)}, r'(?s)^({AROUND_PATTERN}[+-]?[0.]+)[eE].*$', '$1')"
    return f"try_cast({plain_zero} AS {kind})"


class ExactType(DataType):
    """Numbers that states hold without rounding, as whole numbers of 64 bits."""

    json_types: ClassVar[tuple[type, ...]] = (int, float)

    def cell(self, value: Any) -> Any:
        return _whole_text(value) or super().cell(value)

    @property
    @abstractmethod
    def sum_type(self) -> "ExactType":
        """The type of sums."""

    @abstractmethod
    def wholes_sql(self, argument: str) -> tuple[str, ...]:
        """SQL of one BIGINT, or of two (high, low) for the value high * 10 ** 18 + low."""

    @abstractmethod
    def from_wholes(self, numbers: list[int]) -> NDArray[Any]:
        """Values from whole numbers without a decimal point."""

    def state_sql(self, argument: str, where: str | None) -> tuple[str, ...]:
        return tuple(
            half for whole in self.wholes_sql(argument) for half in halves_sql(counted(whole, where))
        )

    def from_state(self, rows: NDArray[np.float64]) -> Decoded:
        wholes, valid = from_halves(rows)
        return self.from_wholes([joined(parts) for parts in wholes.tolist()]), valid


def joined(parts: Sequence[int]) -> int:
    """The whole number of the one or two parts that `wholes_sql` gives."""
    return parts[0] if len(parts) == 1 else parts[0] * 10**18 + parts[1]


class WholeType(ExactType):
    """Whole numbers of `bits` bits."""

    integral = True
    bits: ClassVar[int]
    cql = "int"
    example = 1
    expected = "a whole number"

    @property
    def state_type(self) -> DataType:
        return BIGINT

    def cell_sql(self, text: str) -> str:
        # Spark alone does not read a whole number that is written with a point or an exponent: 45.0, 4.5e1.
        whole = f"try_cast({_decimal_sql(text, 'DECIMAL(38,0)')} AS {self})"
        written = f"CASE WHEN {_exact_sql(text, 0)} THEN {whole} END"
        return (
            f"CASE WHEN octet_length({text}) <= {LONGEST_TEXT} "
            f"THEN coalesce(try_cast({text} AS {self}), {written}) END"
        )

    def reads(self, value: object) -> bool:
        number, edge = exact_number(value, 0), 1 << (self.bits - 1)
        return number is not None and -edge <= number < edge

    def key_text(self, value: object) -> str | None:
        return str(int(exact_number(value, 0) or 0)) if self.fault(value) is None else None

    def read(self, given: Any) -> Any:
        return given if given is None or type(given) is int else int(exact_number(given, 0) or 0)

    @property
    def json_schema(self) -> JsonSchema:
        edge = 1 << (self.bits - 1)
        return {"type": "integer", "minimum": -edge, "maximum": edge - 1}

    @property
    def sum_type(self) -> ExactType:
        return BIGINT

    def wholes_sql(self, argument: str) -> tuple[str, ...]:
        return (f"CAST(({argument}) AS BIGINT)",)

    def from_wholes(self, numbers: list[int]) -> NDArray[Any]:
        return np.array(numbers, dtype=np.int64)

    # A double holds every value but those of BIGINT.
    state_sql = DataType.state_sql
    from_state = DataType.from_state


class TinyIntType(WholeType):
    """Whole numbers from -128 to 127."""

    name, aliases, bits = "TINYINT", ("BYTE",), 8
    arrow = pa.int8()


class SmallIntType(WholeType):
    """Whole numbers from -32,768 to 32,767."""

    name, aliases, bits = "SMALLINT", ("SHORT",), 16
    arrow = pa.int16()


class IntType(WholeType):
    """Whole numbers of 32 bits."""

    name, aliases, bits = "INT", ("INTEGER",), 32
    arrow = pa.int32()


class BigIntType(WholeType):
    """Whole numbers of 64 bits."""

    name, aliases, bits = "BIGINT", ("LONG",), 64
    cql = "bigint"
    state_sql = ExactType.state_sql
    from_state = ExactType.from_state
    arrow = pa.int64()

    @property
    def sum_type(self) -> ExactType:
        # A sum may need more than 64 bits; one of smaller integers never does.
        return DecimalType(38, 0)


class FloatingType(DataType):
    """Floating-point numbers. States take NaN and infinities as NULL."""

    floating = True
    in_keys = False
    categorical = False
    cql = "double"
    example = 1.5
    json_types = (int, float)
    state_array = np.float64
    expected = "a number"
    json_schema: ClassVar[JsonSchema] = {"type": "number"}

    @property
    def state_type(self) -> DataType:
        return DOUBLE

    def cell_sql(self, text: str) -> str:
        # Java's own notations are refused, 12d, 1f, 0x1p3, and numbers beyond all doubles. Most cells have
        # none of these letters, nor are they long enough.
        letters = " OR ".join(f"contains({text}, '{letter}')" for letter in (*"dDfFxXeE", "\\u007f"))
        number = f"try_cast({_bare_sql(text)} AS {self})"
        endless = f"(abs({number}) < CAST('Infinity' AS {self}) OR contains(lower({text}), 'n'))"
        return (
            f"CASE WHEN octet_length({text}) < {self.shortest_beyond} AND NOT ({letters}) "
            f"THEN try_cast({text} AS {self}) "
            f"WHEN {readable_sql(text, _FLOAT)} AND {endless} THEN {number} END"
        )

    @property
    @abstractmethod
    def beyond(self) -> int:
        """The smallest number that is rounded to infinity."""

    @property
    def shortest_beyond(self) -> int:
        """Digits of the smallest number that is rounded to infinity."""
        return len(str(self.beyond))

    def reads(self, value: object) -> bool:
        text = bare_text(value)
        if not _NUMBERS.fullmatch(text):
            return bool(_FLOATS.fullmatch(text))
        return abs(Decimal(text)) < self.beyond

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        if strict and type(value) is float:
            return None  # decoded JSON holds no NaN, and most values take this path
        return super().fault(value, strict=strict)

    def read(self, given: Any) -> Any:
        return None if given is None else float(bare_text(given) if isinstance(given, str) else given)

    def state_sql(self, argument: str, where: str | None) -> tuple[str, ...]:
        return (finite(argument, where),)

    def identity_sql(self, argument: str, where: str | None) -> str:
        return f"CAST(CAST({finite(argument, where)} AS STRING) AS BINARY)"


def finite(argument: str, where: str | None, below: str = "double('Infinity')") -> str:
    """SQL of a DOUBLE of a size `below`, 0.0 for -0.0; NULL for NaN and others, and where `where` fails."""
    x = f"CAST(({argument}) AS DOUBLE)"
    condition = f"({where}) AND " if where else ""
    return f"(CASE WHEN {condition}abs({x}) < {below} THEN {x} + 0D END)"


class FloatType(FloatingType):
    """Floats of 32 bits."""

    name, aliases = "FLOAT", ("REAL",)
    arrow = pa.float32()
    beyond = 2**128 - 2**103

    def read(self, given: Any) -> Any:
        value = super().read(given)
        return None if value is None else float(np.float32(value))


class DoubleType(FloatingType):
    """Floats of 64 bits."""

    name = "DOUBLE"
    arrow = pa.float64()
    beyond = 2**1024 - 2**970


class DecimalType(ExactType):
    """Decimals of `precision` digits, `scale` of them behind the point."""

    name, aliases = "DECIMAL", ("DEC", "NUMERIC")
    decimal = True
    in_keys = False
    categorical = False
    cql = "decimal"
    example = "1.50"
    json_types = (int, float, str)
    expected = "a number"

    def __init__(self, precision: int = 10, scale: int = 0) -> None:
        self.precision, self.scale = precision, scale

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})"

    @classmethod
    def declared(cls, arguments: tuple[int, ...]) -> Self | None:
        precision, scale = (*arguments, 0)[:2] if arguments else (10, 0)
        return cls(precision, scale) if 1 <= precision <= 38 and scale <= precision else None

    @property
    def wide(self) -> bool:
        """Whether it has more digits than 64 bits hold."""
        return self.precision > 18

    @property
    def foldable(self) -> bool:
        return not self.wide or (self.precision <= 36 and self.scale <= 18)  # two whole numbers of 18 digits

    @property
    def arrow(self) -> pa.DataType:
        return pa.decimal128(self.precision, self.scale)

    def cell_sql(self, text: str) -> str:
        # Spark alone rounds what has more digits than the type, and reads digits of other scripts.
        before, behind = self.precision - self.scale, self.scale
        plain = f"[+-]?(?=[.]?[0-9])0*[0-9]{{0,{before}}}(?:[.][0-9]{{0,{behind}}}0*)?"
        fits = f"{readable_sql(text, plain)} OR {_exact_sql(text, behind)}"
        return f"CASE WHEN {fits} THEN {_decimal_sql(text, str(self))} END"

    def reads(self, value: object) -> bool:
        number = exact_number(value, self.scale)
        return number is not None and (not number or number.adjusted() < self.precision - self.scale)

    def value(self, raw: Any) -> Any:
        number = raw.item() if isinstance(raw, np.generic) else raw
        return int(number) if isinstance(number, Decimal) and self.scale == 0 else number

    def read(self, given: Any) -> Any:
        number = None if given is None else exact_number(given, self.scale)
        return None if number is None else self.value(number)

    def to_json(self, value: Any) -> Any:
        number = self.value(value)
        return f"{number:f}" if isinstance(number, Decimal) else number  # as text, so that no digit is lost

    @property
    def json_schema(self) -> JsonSchema:
        return {"type": ["number", "string"], "description": str(self)}

    def to_cql(self, value: Any) -> Any:
        return Decimal(value) if isinstance(value, int) else value

    @property
    def sum_type(self) -> ExactType:
        return DecimalType(38, self.scale)

    def wholes_sql(self, argument: str) -> tuple[str, ...]:
        if not self.wide:
            return (f"CAST(({argument}) * {Decimal(10) ** self.scale:f}BD AS BIGINT)",)
        x, scale = f"({argument})", self.scale
        before, unit = f"floor({x})", f"{10 ** (18 - scale)}BD"
        rest = f"pmod({before}, {unit})"
        behind = f"CAST(CAST({x} - {before} AS DECIMAL(18,{scale})) * {10**scale}BD AS BIGINT)"
        return (
            f"CAST(({before} - {rest}) div {unit} AS BIGINT)",
            f"(CAST({rest} AS BIGINT) * {10**scale}L + {behind})",
        )

    def from_wholes(self, numbers: list[int]) -> NDArray[Any]:
        out = np.empty(len(numbers), dtype=object)
        out[:] = [Decimal(number).scaleb(-self.scale, _WIDE) for number in numbers] if self.scale else numbers
        return out


BIGINT, DOUBLE = BigIntType(), DoubleType()
