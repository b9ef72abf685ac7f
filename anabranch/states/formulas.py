"""How values of each type become numbers in a state and come back: the only place that knows types by name."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np

from anabranch.states.blocks import Element, Rows, Values
from anabranch.values.types import BIGINT, DOUBLE, DataType

_WIDE = Context(prec=60)  # the default context would round long sums


@dataclass(frozen=True)
class Formula:
    """A function over arrays of states, and its constants. Equal ones are one formula: features that share it are finished by one call."""

    function: Callable[..., Values]
    constants: tuple[Hashable, ...] = ()

    def __call__(self, states: object) -> Values:
        """The values of the states."""
        return self.function(states, *self.constants)


@dataclass(frozen=True)
class Coded:
    """A value as one or two double elements (compared in order), and the way back from rows (q, len(elements))."""

    elements: tuple[Element, ...]
    decode: Formula
    type: DataType


def filtered(sql: str, where: str | None) -> str:
    """`sql` where the filter holds, else NULL."""
    return f"({sql})" if where is None else f"(CASE WHEN ({where}) THEN ({sql}) END)"


def double(argument: str, where: str | None) -> Element:
    """A finite number; NaN and infinities are not numbers and do not count."""
    x = f"CAST(({argument}) AS DOUBLE)"
    finite = f"abs({x}) < double('Infinity')"
    return Element(sql=f"(CASE WHEN {f'({where}) AND ' if where else ''}{finite} THEN {x} END)")


def whole(argument: str, kind: DataType, where: str | None) -> Element:
    """An exact whole number: an integer itself, or a DECIMAL of up to 18 digits without its point."""
    unscaled = (
        f"CAST(({argument}) * {Decimal(10) ** kind.scale:f}BD AS BIGINT)"
        if kind.name == "DECIMAL"
        else f"CAST(({argument}) AS BIGINT)"
    )
    return Element(sql=filtered(unscaled, where), kind="whole")


def wide(argument: str, kind: DataType, where: str | None) -> tuple[Element, Element]:
    """A wide DECIMAL without its point as two exact whole numbers: high * 10 ** 18 + low, with 0 <= low < 10 ** 18."""
    x, scale = f"({argument})", kind.scale
    before, unit = f"floor({x})", f"{10 ** (18 - scale)}BD"
    rest = f"pmod({before}, {unit})"
    behind = f"CAST(CAST({x} - {before} AS DECIMAL(18,{scale})) * {10**scale}BD AS BIGINT)"
    parts = (
        f"CAST(({before} - {rest}) div {unit} AS BIGINT)",
        f"(CAST({rest} AS BIGINT) * {10**scale}L + {behind})",
    )
    high, low = (Element(sql=filtered(part, where), kind="whole") for part in parts)
    return high, low


def binary(argument: str, where: str | None) -> Element:
    """The bytes of a text (UTF-8) or binary value."""
    return Element(sql=filtered(f"CAST(({argument}) AS BINARY)", where), kind="binary")


def unscaled(numbers: list[int], valid: np.ndarray, kind: DataType) -> Values:
    """Whole numbers as values of BIGINT or DECIMAL type (Python integers when there is no fraction)."""
    if kind.name != "DECIMAL":
        return Values(np.array(numbers, dtype=np.int64), valid)
    out = np.empty(len(numbers), dtype=object)
    out[:] = [Decimal(number).scaleb(-kind.scale, _WIDE) for number in numbers] if kind.scale else numbers
    return Values(out, valid)


def coded(argument: str, kind: DataType, where: str | None) -> Coded:
    """A value of any type but text as numbers that sort as the values do."""
    if kind.wide:
        high, low = wide(argument, kind, where)
        return Coded((*_in_halves(high.sql), *_in_halves(low.sql)), Formula(_quarters, (kind,)), kind)
    if kind == BIGINT or kind.name == "DECIMAL":
        return Coded(_in_halves(whole(argument, kind, where).sql), Formula(_halves, (kind,)), kind)
    if kind.name in ("FLOAT", "DOUBLE"):
        return Coded((double(argument, where),), Formula(_plain, (np.float64,)), DOUBLE)
    inner = {"DATE": "unix_date({})", "TIMESTAMP": "unix_micros({})", "BOOLEAN": "CAST({} AS INT)"}.get(
        kind.name, "{}"
    )
    element = Element(sql=filtered(f"CAST({inner.format(f'({argument})')} AS DOUBLE)", where))
    target = {"DATE": np.int32, "BOOLEAN": np.bool_}.get(kind.name, np.int64)
    return Coded((element,), Formula(_plain, (target,)), BIGINT if kind.integral else kind)


def _plain(rows: Rows, target: type[np.generic]) -> Values:
    valid = np.isfinite(rows[:, 0])
    return Values(np.where(valid, rows[:, 0], 0).astype(target), valid)


def _in_halves(number: str) -> tuple[Element, Element]:
    """A BIGINT as its upper and lower 32 bits, which sort as it does."""
    return Element(sql=f"CAST(shiftright({number}, 32) AS DOUBLE)"), Element(
        sql=f"CAST({number} & 4294967295L AS DOUBLE)"
    )


def _quarters(rows: Rows, kind: DataType) -> Values:
    valid = np.isfinite(rows[:, 0])
    safe = np.where(valid[:, None], rows, 0).astype(np.int64).tolist()
    return unscaled([((a << 32) + b) * 10**18 + (c << 32) + d for a, b, c, d in safe], valid, kind)


def _halves(rows: Rows, kind: DataType) -> Values:
    valid = np.isfinite(rows[:, 0])
    safe = np.where(valid[:, None], rows, 0).astype(np.int64)
    return unscaled(((safe[:, 0] << 32) + safe[:, 1]).tolist(), valid, kind)
