"""Types of numbers: whole numbers, floats and DECIMAL."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.values.datatype import DataType, Decoded, JsonSchema, counted, number_text

_WIDE = Context(prec=60)  # the default context would round long sums
_WHOLE = re.compile(r"[+-]?\d{1,40}(\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class ExactType(DataType):
    """Numbers that states hold without rounding, as whole numbers of 64 bits."""

    json_types: ClassVar[tuple[type, ...]] = (int, float)

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
            half for whole in self.wholes_sql(argument) for half in _halves_sql(counted(whole, where))
        )

    def from_state(self, rows: NDArray[np.float64]) -> Decoded:
        valid = np.isfinite(rows[:, 0])
        safe = np.where(valid[:, None], rows, 0).astype(np.int64)
        wholes = ((safe[:, ::2] << 32) + safe[:, 1::2]).tolist()
        return self.from_wholes([joined(parts) for parts in wholes]), valid


def joined(parts: Sequence[int]) -> int:
    """The whole number of the one or two parts that `wholes_sql` gives."""
    return parts[0] if len(parts) == 1 else parts[0] * 10**18 + parts[1]


def _halves_sql(number: str) -> tuple[str, str]:
    """The upper and lower 32 bits of a BIGINT, which sort as it does."""
    return f"CAST(shiftright({number}, 32) AS DOUBLE)", f"CAST({number} & 4294967295L AS DOUBLE)"


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
        exact = f"try_cast({text} AS DECIMAL(38,18))"
        no_fraction = f"{exact} = floor({exact}) AND CAST({exact} AS DOUBLE) = try_cast({text} AS DOUBLE)"
        whole = f"CASE WHEN {no_fraction} THEN {exact} END"
        return f"coalesce(try_cast({text} AS {self}), try_cast({whole} AS {self}))"

    def reads(self, value: object) -> bool:
        if isinstance(value, float):
            number = int(value) if value.is_integer() else None
        else:
            text = number_text(value)
            number = int(text.partition(".")[0] or "0") if _WHOLE.fullmatch(text) else None
        edge = 1 << (self.bits - 1)
        return number is not None and -edge <= number < edge

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
        # Java's own notations are refused: 12d, 1f, 0x1p3. Most cells have none of their letters.
        letters = " OR ".join(f"contains({text}, '{letter}')" for letter in "dDfFxX")
        endless = f"lower(trim({text})) IN ('inf', '+inf', '-inf')"
        suffix = f"upper(right(rtrim({text}), 1)) IN ('D', 'F') AND NOT ({endless})"
        java = f"(({letters}) AND (({suffix}) OR contains(lower({text}), 'x')))"
        return f"CASE WHEN NOT {java} THEN try_cast({text} AS {self}) END"

    def reads(self, value: object) -> bool:
        text = number_text(value)
        return bool(_NUMBER.fullmatch(text)) and abs(float(text)) < float("inf")

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        if strict and type(value) is float:
            return None  # decoded JSON holds no NaN, and most values take this path
        return super().fault(value, strict=strict)

    def state_sql(self, argument: str, where: str | None) -> tuple[str, ...]:
        return (finite(argument, where),)

    def identity_sql(self, argument: str, where: str | None) -> str:
        # Adding zero makes -0.0 the same value as 0.0, as in every comparison.
        return f"CAST(CAST(({finite(argument, where)} + 0D) AS STRING) AS BINARY)"


def finite(argument: str, where: str | None) -> str:
    """SQL of a finite DOUBLE; NULL for NaN and infinities, and where `where` fails."""
    x = f"CAST(({argument}) AS DOUBLE)"
    condition = f"({where}) AND " if where else ""
    return f"(CASE WHEN {condition}abs({x}) < double('Infinity') THEN {x} END)"


class FloatType(FloatingType):
    """Floats of 32 bits."""

    name, aliases = "FLOAT", ("REAL",)
    arrow = pa.float32()


class DoubleType(FloatingType):
    """Floats of 64 bits."""

    name = "DOUBLE"
    arrow = pa.float64()


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

    def reads(self, value: object) -> bool:
        text = number_text(value)
        try:
            number = Decimal(text) if _NUMBER.fullmatch(text) else None
        except InvalidOperation:  # an exponent beyond all bounds
            return False
        return number is not None and (number == 0 or number.adjusted() < self.precision - self.scale)

    def value(self, raw: Any) -> Any:
        number = raw.item() if isinstance(raw, np.generic) else raw
        return int(number) if isinstance(number, Decimal) and self.scale == 0 else number

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
