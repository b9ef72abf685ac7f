"""The aggregates a declaration may use. Each class owns all of itself: types it takes, blocks of its state, its finish.

Common to all: events where the argument is NULL do not count; NaN and infinities count as NULL; `where=` leaves events out;
what no events give stands in each class. The argument is a column or a row-by-row SQL expression.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from features.blocks import TIME_ELEMENT, Block, Element, ExactTotal, Leading, Least, Moments, Rows, Tally, Total, Values
from features.errors import DeclarationError
from features.extras import Bytes, Extra, LeadingText
from features.schema import BIGINT, BOOLEAN, DOUBLE, STRING, Column, DataType, expression_type
from features.values import binary, coded, double, unscaled, whole

NUMBERS = "numbers"
ORDERED = "numbers, BOOLEAN, DATE and TIMESTAMP"
ANYTHING = "every type"
Finish = Callable[[list[Rows], list[Bytes]], Values]


@dataclass(frozen=True)
class Bound:
    """An aggregate over a known schema: what its state is made of and how a state becomes a value of `type`.

    `finish` takes one (q, width) array a block and one (q,) array of bytes or None an extra.
    """

    type: DataType
    finish: Finish
    blocks: tuple[Block, ...] = ()
    extras: tuple[Extra, ...] = ()


@dataclass(frozen=True)
class Aggregate(ABC):
    """A summary of events that merges: state(A and B) = merge(state(A), state(B)) for disjoint A and B."""

    argument: str | None = None
    where: str | None = None

    takes: ClassVar[str] = NUMBERS
    invertible: ClassVar[bool] = False  # can the state of a part be taken out of the state of the whole?

    def __init__(self, argument: str, *, where: str | None = None) -> None:
        object.__setattr__(self, "argument", argument)
        object.__setattr__(self, "where", where)

    def bind(self, schema: tuple[Column, ...], place: str) -> Bound:
        """Check the argument and filter against `schema`; raises DeclarationError that begins with `place`."""
        if self.where is not None and expression_type(self.where, schema, f"{place}, where") not in (BOOLEAN, None):
            raise DeclarationError(f"{place}, where: {self.where!r} is not a condition: write one such as 'heart_rate > 120'")
        kind = self._kind(self.argument, schema, place)
        return self.over(kind)

    def _kind(self, argument: object, schema: tuple[Column, ...], place: str) -> DataType:
        if not isinstance(argument, str) or not argument.strip():
            raise DeclarationError(f"{place}: {type(self).__name__} needs a column or SQL expression, not {argument!r}")
        kind = expression_type(argument, schema, place) or DOUBLE
        if not self._accepts(kind):
            raise DeclarationError(f"{place}: {type(self).__name__} cannot take {argument!r} of type {kind}: it takes {self.takes}")
        return kind

    def _accepts(self, kind: DataType) -> bool:
        if kind.name == "DECIMAL" and kind.precision > 18:
            return False
        return self.takes == ANYTHING or kind.numeric or (self.takes == ORDERED and not kind.text)

    @abstractmethod
    def over(self, kind: DataType) -> Bound:
        """The bound aggregate for an argument of type `kind`."""

    def meaning(self) -> str:
        """Canonical text of all that decides the value: part of the fingerprint of a view."""
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"

    @property
    def _text(self) -> str:
        return self.argument or ""


@dataclass(frozen=True, init=False)
class Count(Aggregate):
    """Number of events (with a non-null argument, when one is given). No events: 0."""

    takes = ANYTHING
    invertible = True

    def __init__(self, argument: str | None = None, *, where: str | None = None) -> None:
        super().__init__(argument or "1", where=where)

    def over(self, kind: DataType) -> Bound:
        if kind.name in ("FLOAT", "DOUBLE"):
            element = double(self._text, self.where)
        else:
            condition = f"({self._text}) IS NOT NULL" + (f" AND ({self.where})" if self.where else "")
            element = Element(sql=f"(CASE WHEN {condition} THEN 1D END)")
        return Bound(BIGINT, lambda rows, _: Values(rows[0][:, 0].astype(np.int64), np.ones(len(rows[0]), dtype=bool)), (Tally(element),))


@dataclass(frozen=True, init=False)
class Sum(Aggregate):
    """Sum; exact for whole numbers and DECIMAL, to rounding (1e-9 relative) for floats. No events: null."""

    invertible = True

    def over(self, kind: DataType) -> Bound:
        if kind.name in ("FLOAT", "DOUBLE"):
            number = double(self._text, self.where)
            return Bound(DOUBLE, lambda rows, _: Values(rows[0][:, 0], rows[1][:, 0] > 0), (Total(number), Tally(number)))
        number = whole(self._text, kind, self.where)
        # A sum of BIGINT may need more than 64 bits; one of smaller integers never does.
        result = DataType("DECIMAL", 38, kind.scale) if kind.name == "DECIMAL" or kind == BIGINT else BIGINT
        return Bound(result, lambda rows, _: unscaled(ExactTotal.whole(rows[0]), rows[1][:, 0] > 0, result), (ExactTotal(number), Tally(number)))


@dataclass(frozen=True, init=False)
class Mean(Aggregate):
    """Arithmetic mean, from (sum, n). No events: null."""

    invertible = True

    def over(self, kind: DataType) -> Bound:
        number = double(self._text, self.where)
        return Bound(DOUBLE, lambda rows, _: _ratio(rows[0][:, 0], rows[1][:, 0], rows[1][:, 0] > 0), (Total(number), Tally(number)))


@dataclass(frozen=True, init=False)
class Min(Aggregate):
    """Smallest value. No events: null."""

    takes = ORDERED
    sign: ClassVar[int] = 1

    def over(self, kind: DataType) -> Bound:
        code = coded(self._text, kind, self.where)
        if len(code.elements) == 1:
            block: Block = Least(code.elements[0], self.sign)
            return Bound(code.type, lambda rows, _: code.decode(self.sign * rows[0]), (block,))
        block = Leading(code.elements, -self.sign)
        return Bound(code.type, lambda rows, _: code.decode(-self.sign * rows[0]), (block,))


@dataclass(frozen=True, init=False)
class Max(Min):
    """Largest value. No events: null."""

    sign = -1


@dataclass(frozen=True, init=False)
class Variance(Aggregate):
    """Sample variance (divisor n - 1), as SQL's var_samp. Fewer than two events: null."""

    def over(self, kind: DataType) -> Bound:
        return Bound(DOUBLE, lambda rows, _: self.spread(rows[0]), (Moments(double(self._text, self.where)),))

    @staticmethod
    def spread(rows: Rows) -> Values:
        """Variance of moment states."""
        return _ratio(rows[:, 2], rows[:, 0] - 1, rows[:, 0] > 1)


@dataclass(frozen=True, init=False)
class StdDev(Variance):
    """Sample standard deviation, the root of Variance. Fewer than two events: null."""

    @staticmethod
    def spread(rows: Rows) -> Values:
        variance = _ratio(rows[:, 2], rows[:, 0] - 1, rows[:, 0] > 1)
        return Values(np.sqrt(np.maximum(variance.values.astype(np.float64), 0)), variance.valid)


@dataclass(frozen=True, init=False)
class Last(Aggregate):
    """The value of the latest event that has one; at equal event times the largest. No events: null."""

    takes = ANYTHING
    sign: ClassVar[int] = 1

    def over(self, kind: DataType) -> Bound:
        if kind.text:
            extra = LeadingText(binary(self._text, self.where), self.sign)
            return Bound(kind, lambda _, found: _texts(found[0], kind), extras=(extra,))
        code = coded(self._text, kind, self.where)
        block = Leading((TIME_ELEMENT, *code.elements), self.sign)
        return Bound(code.type, lambda rows, _: code.decode(self.sign * rows[0][:, 1:]), (block,))


@dataclass(frozen=True, init=False)
class First(Last):
    """The value of the earliest event that has one; at equal event times the smallest. No events: null."""

    sign = -1


def _ratio(above: np.ndarray, below: np.ndarray, valid: np.ndarray) -> Values:
    return Values(np.divide(above, below, out=np.zeros(len(above)), where=valid), valid)


def _texts(stamped: Bytes, kind: DataType) -> Values:
    out = np.empty(len(stamped), dtype=object)
    found: Sequence[bytes | None] = stamped.tolist()
    out[:] = [None if state is None else state[8:].decode() if kind == STRING else state[8:] for state in found]
    return Values(out, np.array([state is not None for state in found], dtype=bool))
