"""The base of aggregates.

The argument is a column or a row-by-row SQL expression. Events whose argument is NULL, NaN or infinite do
not count, nor do events that the filter `where` excludes. Each class states its value for no events.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.categories import Counted, Named, check_categories, conditions, named_categories
from anabranch.errors import DeclarationError
from anabranch.states.blocks import Block, Element, Lifted, Rows, Values
from anabranch.states.extras import Bytes, Extra
from anabranch.states.formulas import Formula, double
from anabranch.values.sql.expressions import compiled, expression_type
from anabranch.values.types import BOOLEAN, Column, DataType

NUMBERS = "numbers"
ORDERED = "numbers, BOOLEAN, DATE and TIMESTAMP"
ANYTHING = "every type"
CONDITION = "BOOLEAN"
TOLERANCE = 1e-9  # of floats, relative
EXACT, ROUNDED, OF_SIZES = "exact", "to rounding", "to 1e-9 of the sizes"


@dataclass(frozen=True)
class Folded:
    """Folded states of q windows [since, at) (microseconds): rows (q, width) and bytes (q,) of each part."""

    rows: list[Rows]
    extras: list[Bytes]
    at: NDArray[np.int64]
    since: NDArray[np.int64]


Exactly = Callable[[Lifted, NDArray[np.int64], NDArray[np.int64]], Values]


@dataclass(frozen=True)
class Bound:
    """An aggregate over a known schema: blocks and extras of its state, and the way from states to values.

    Features of one view with equal `finish` are finished by one call, so `finish` treats states
    independently. `exactly` computes the values of training sets from sorted events and ranges of them,
    without states. `exactness` states for people how far a served value may be from the true one.
    """

    type: DataType
    finish: Formula
    blocks: tuple[Block, ...] = ()
    extras: tuple[Extra, ...] = ()
    exactly: Exactly | None = None
    exactness: str = EXACT


@dataclass(frozen=True)
class Aggregate(ABC):
    """A summary of events that merges: state(A + B) = merge(state(A), state(B)) for disjoint A and B.

    With `by`, a column or expression, and categories `among`, it is one feature for each category and one for
    all other events (categories.py).
    """

    argument: str | None = None
    where: str | None = None
    by: str | None = None
    among: Named = ()

    written: ClassVar[tuple[str, ...]] = ("argument", "where")
    """Its fields that are SQL. `over` finds them compiled (expressions.py)."""
    takes: ClassVar[str] = NUMBERS
    windows: ClassVar[str] = "any"
    """Windows it allows: "any", "none" (it forgets by itself) or "finite" (a lifetime has no meaning)."""

    def __init__(self, argument: str, **scope: Unpack[Counted]) -> None:
        place = type(self).__name__
        unknown = [name for name in scope if name not in Counted.__optional_keys__]
        if unknown:
            raise TypeError(f"{place}() got an unexpected keyword argument {unknown[0]!r}")
        object.__setattr__(self, "argument", argument)
        object.__setattr__(self, "where", scope.get("where"))
        object.__setattr__(self, "by", scope.get("by"))
        among = scope.get("among", ())
        if self.by is None and among:
            raise DeclarationError(f"{place}: among= needs by=, the column of the categories")
        object.__setattr__(self, "among", named_categories(among, place) if among else ())
        self._check_by(place)

    def _check_by(self, place: str) -> None:
        if self.by is not None and not self.among:
            raise DeclarationError(
                f"{place}: by={self.by!r} needs categories, such as among=('food', 'travel')"
            )

    def by_category(self, schema: tuple[Column, ...], place: str) -> "dict[str, Aggregate]":
        """The aggregate of each category by its name; itself, named "", without `among`.

        Raises DeclarationError that begins with `place` for categories that `by` cannot have.
        """
        if self.by is None or not self.among:
            return {"": self}
        check_categories(self.by, self.among, schema, place)
        if self.where is not None:
            self._check_where(schema, place)
        filters = conditions(self.by, self.among, self.where)
        return {name: self.but(where=where, by=None, among=()) for name, where in filters.items()}

    def but(self, **changes: object) -> Self:
        """This aggregate with other values of the fields `changes`."""
        one = copy(self)
        for name, value in changes.items():
            object.__setattr__(one, name, value)
        return one

    def _check_where(self, schema: tuple[Column, ...], place: str) -> None:
        if self.where is not None and expression_type(self.where, schema, f"{place}, where") != BOOLEAN:
            raise DeclarationError(
                f"{place}, where: {self.where!r} is not a condition: write one such as 'heart_rate > 120'"
            )

    def bind(self, schema: tuple[Column, ...], place: str) -> Bound:
        """Check arguments and filter against `schema`; raises DeclarationError that begins with `place`."""
        self._check_where(schema, place)
        kind = self.kind_of(self.argument, schema, place)
        texts = {name: text for name in self.written if (text := getattr(self, name)) is not None}
        return self.but(**{n: compiled(text, schema, place).sql for n, text in texts.items()}).over(kind)

    def kind_of(self, argument: object, schema: tuple[Column, ...], place: str) -> DataType:
        """The type of an argument; raises DeclarationError when this aggregate cannot take it."""
        if not isinstance(argument, str) or not argument.strip():
            raise DeclarationError(
                f"{place}: {type(self).__name__} needs a column or SQL expression, not {argument!r}"
            )
        kind = expression_type(argument, schema, place)
        if not self._accepts(kind):
            raise DeclarationError(
                f"{place}: {type(self).__name__} cannot take {argument!r} of type {kind}: "
                f"it takes {self.takes}"
            )
        return kind

    def _accepts(self, kind: DataType) -> bool:
        if self.takes == CONDITION:
            return kind == BOOLEAN
        if not kind.foldable:
            return False
        return self.takes == ANYTHING or kind.numeric or (self.takes == ORDERED and not kind.text)

    @abstractmethod
    def over(self, kind: DataType) -> Bound:
        """The bound aggregate for an argument of type `kind`; called on a copy whose SQL is compiled."""

    def plain(self, items: Sequence[tuple[int, Any]], at: int, since: int) -> object:
        """What it means, as a loop over (event time, value) of the events that count in a window [since, at).

        Values are plain: exact numbers as int and Decimal. `anabranch.testing` proves an aggregate that is
        added from outside against this.
        """
        raise NotImplementedError(f"aggregate {type(self).__name__} does not say what it means")

    def meaning(self) -> str:
        """Canonical text of everything that determines the value."""
        # Without categories the text is as it was before there were any.
        unsaid = [("by", None), ("among", ()), ("most", None)]
        said = [(field.name, getattr(self, field.name)) for field in fields(self)]
        arguments = ", ".join(f"{name}={value!r}" for name, value in said if (name, value) not in unsaid)
        return f"{type(self).__name__}({arguments})"

    @property
    def longest_tile(self) -> int | None:
        """The widest tile (microseconds) that holds its state without loss; None for no limit."""
        return None

    @property
    def texts(self) -> tuple[str, ...]:
        """Every SQL text of the declaration."""
        return tuple(text for name in (*self.written, "by") if (text := getattr(self, name)) is not None)

    def witnesses(self) -> "Mapping[str, Aggregate]":
        """Exact aggregates that `agrees` needs to judge an approximate value."""
        return {}

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        """Whether a served value is as close to the exact one as stated: floats within `rounding`."""
        if isinstance(exact, float) and isinstance(served, float):
            return exact == served or abs(exact - served) <= self.rounding(exact, witnessed)
        return exact == served

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        """How far the value may be from `exact` when events are folded in another order."""
        return TOLERANCE * max(1.0, abs(exact))

    @property
    def text(self) -> str:
        """The argument's SQL."""
        return self.argument or ""

    def present(self, kind: DataType, value: str = "1D", element_kind: str = "double") -> Element:
        """`value` for each event that counts: the argument is finite and not NULL, and the filter holds."""
        if kind.floating:
            found = f"{double(self.text, self.where).sql} IS NOT NULL"
        else:
            found = f"({self.text}) IS NOT NULL" + (f" AND ({self.where})" if self.where else "")
        return Element(sql=f"(CASE WHEN {found} THEN {value} END)", kind=element_kind)


@dataclass(frozen=True, init=False)
class Additive(Aggregate, ABC):
    """A sum of floats in some form: right to 1e-9 of the same sum of sizes, as values may cancel."""

    def witnesses(self) -> "Mapping[str, Aggregate]":
        return {"size": self.but(argument=size(self.text))}

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        return TOLERANCE * max(1.0, abs(exact), number(witnessed["size"]))


def size(argument: str) -> str:
    """SQL of a number's absolute value, as DOUBLE: the smallest BIGINT has one."""
    return f"abs(CAST(({argument}) AS DOUBLE))"


def number(value: object) -> float:
    """The value of a witness, 0 for NULL."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def decoded(found: Folded, decode: Formula, sign: int = 1, first: int = 0) -> Values:
    """Values coded in the only block's columns from `first` on, times `sign`."""
    # The formula that calls this makes NULL of infinities.
    return decode.function(sign * found.rows[0][:, first:], *decode.constants)


def ratio(above: NDArray[np.float64], below: NDArray[np.float64], valid: NDArray[np.bool_]) -> Values:
    """Quotients where `valid`."""
    return Values(np.divide(above, below, out=np.zeros(len(above)), where=valid), valid)


def bounded(place: str, name: str, value: object, most: int) -> int:
    """A whole number in [1, most]; raises DeclarationError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise DeclarationError(f"{place}: {name}={value!r} must be a whole number from 1 to {most}")
    return value
