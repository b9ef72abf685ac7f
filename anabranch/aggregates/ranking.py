"""Categories by their totals: maps of the largest totals, and the categories that have them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from math import isfinite
from typing import Any, ClassVar, Unpack

import numpy as np

from anabranch.aggregates.base import TOLERANCE, Aggregate, Bound, Folded, bounded, size
from anabranch.aggregates.categories import Counted
from anabranch.errors import DeclarationError
from anabranch.states.blocks import Lifted, Values
from anabranch.states.formulas import Formula, double, identity, wholes
from anabranch.states.totals import LONGEST_CATEGORY, CategoryTotals, Number
from anabranch.states.wavelet import Whole
from anabranch.values.nested import ArrayType, MapType
from anabranch.values.numbers import ExactType
from anabranch.values.sql.expressions import expression_type
from anabranch.values.types import BIGINT, DOUBLE, STRING, Column, DataType

MOST_IN_MAP, MOST_IN_LIST = 200, 32
_LEAST_CAPACITY, _EVERY = 100, 10_000
_CATEGORIES = "STRING, whole numbers, BOOLEAN and DATE"


@dataclass(frozen=True, init=False)
class Ranked(Aggregate, ABC):
    """Base of aggregates over categories by their totals: the argument is the category, `total` is summed.

    Without `total` events are counted. An event without a category does not count.
    """

    total: str | None = None
    written: ClassVar[tuple[str, ...]] = ("argument", "where", "total")
    takes = _CATEGORIES
    summed: ClassVar[DataType | None] = None
    """The type of `total`; `bind` sets it."""

    @property
    @abstractmethod
    def shown(self) -> int:
        """How many categories a value has at most."""

    @property
    def capacity(self) -> int:
        """Up to how many categories values are exact."""
        return max(_LEAST_CAPACITY, 5 * self.shown)

    @abstractmethod
    def result(self, category: DataType, total: DataType) -> DataType:
        """The type of values, for categories and totals of these types."""

    @abstractmethod
    def value(self, ranked: list[tuple[str, Any]], category: DataType) -> Any:
        """A value of the categories with the largest totals, the largest first."""

    def _accepts(self, kind: DataType) -> bool:
        return kind.categorical

    def bind(self, schema: tuple[Column, ...], place: str) -> Bound:
        if self.total is None:
            return super().bind(schema, place)
        kind = expression_type(self.total, schema, place)
        if not kind.foldable or not kind.numeric:
            raise DeclarationError(f"{place}: {self.total!r} of type {kind} cannot be summed: give a number")
        return Aggregate.bind(self.but(summed=kind), schema, place)

    def over(self, kind: DataType) -> Bound:
        extra, exact = self._totals(_named(self.text, kind), kind)

        def values(found: Iterable[Mapping[str, Number]]) -> Values:
            out = [self.value(_typed(_largest(totals, self.shown), exact), kind) for totals in found]
            listed = np.empty(len(out), dtype=object)
            listed[:] = out
            return Values(listed, np.ones(len(out), dtype=bool))

        def finish(found: Folded) -> Values:
            return values({} if state is None else extra.totals(state) for state in found.extras[0])

        def exactly(lifted: Lifted, first: Whole, end: Whole) -> Values:
            return values(extra.exact_totals(lifted, first, end))

        within = f"then totals within {1 / (self.capacity + 1):.2%} of all"
        return Bound(
            self.result(kind, exact or DOUBLE),
            Formula(finish),
            extras=(extra,),
            exactly=exactly,
            exactness=f"exact up to {self.capacity:,} categories, {within}",
        )

    def _totals(self, category: str, kind: DataType) -> tuple[CategoryTotals, ExactType | None]:
        """The state, and the type of exact totals."""
        if self.total is None or self.summed is None:
            return CategoryTotals(identity(category, kind, self.where), self.capacity, wide=False), BIGINT
        exact = self.summed if isinstance(self.summed, ExactType) else None
        parts = (double(self.total, self.where),) if exact is None else wholes(self.total, exact, self.where)
        element = identity(category, kind, f"{parts[0].sql} IS NOT NULL")
        result = None if exact is None else exact.sum_type
        return CategoryTotals(element, self.capacity, parts, wide=result != BIGINT), result

    def witnesses(self) -> Mapping[str, Aggregate]:
        sizes = None if self.total is None else size(self.total)
        return {
            "totals": TotalsMap(self.text, self.total, _EVERY, self.where),
            "sizes": TotalsMap(self.text, sizes, _EVERY, self.where),
        }

    def slack(self, witnessed: Mapping[str, object]) -> float:
        """How far a served total may be from the exact one: the error beyond `capacity`, and rounding."""
        sizes, totals = _map(witnessed["sizes"]), _map(witnessed["totals"])
        rounding = TOLERANCE * max(1.0, sum(sizes.values())) if _floating(totals) else 0.0
        return rounding + (sum(sizes.values()) / (self.capacity + 1) if len(sizes) > self.capacity else 0.0)


def _named(category: str, kind: DataType) -> str:
    """SQL of a category as it is told apart and shown: a long text is cut, and ends with a digest."""
    if not kind.text:
        return category
    cut = f"concat(left({category}, {LONGEST_CATEGORY}), '...', left(sha2({category}, 256), 16))"
    return f"(CASE WHEN length({category}) > {LONGEST_CATEGORY} THEN {cut} ELSE {category} END)"


def _largest(totals: Mapping[str, Number], most: int) -> list[tuple[str, Number]]:
    """The categories with the largest totals, of equals the smaller text first; none beyond DOUBLE."""
    found = (one for one in totals.items() if isinstance(one[1], int) or isfinite(one[1]))
    return nsmallest(most, found, key=lambda one: (-one[1], one[0].encode()))


def _typed(ranked: list[tuple[str, Number]], exact: ExactType | None) -> list[tuple[str, Any]]:
    if exact is None:
        return list(ranked)
    values = exact.from_wholes([int(total) for _, total in ranked]).tolist()
    return [(name, value) for (name, _), value in zip(ranked, values, strict=True)]


def _map(value: object) -> dict[str, float]:
    return {name: float(total) for name, total in value.items()} if isinstance(value, Mapping) else {}


def _floating(totals: Mapping[str, object]) -> bool:
    return any(isinstance(total, float) for total in totals.values())


@dataclass(frozen=True, init=False)
class TotalsMap(Ranked):
    """A map of the `most` categories with the largest totals: of `Count` and `Sum` with by= and most=."""

    most: int = 20

    def __init__(self, category: str, total: str | None, most: int, where: str | None) -> None:
        super().__init__(category, where=where)
        object.__setattr__(self, "total", total)
        object.__setattr__(self, "most", most)

    @property
    def shown(self) -> int:
        return self.most

    def result(self, category: DataType, total: DataType) -> DataType:
        return MapType(total)

    def value(self, ranked: list[tuple[str, Any]], category: DataType) -> Any:
        return dict(ranked)

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        if exact == served or not isinstance(exact, Mapping) or not isinstance(served, Mapping):
            return exact == served
        slack, totals, found = self.slack(witnessed), _map(witnessed["totals"]), _map(served)
        right = all(abs(totals.get(name, 0.0) - total) <= slack for name, total in found.items())
        # What is missing may be as large as the least that is shown.
        least = min(found.values(), default=0.0)
        missing = [total for name, total in _map(exact).items() if name not in found]
        right &= slack > 0 and len(found) == len(exact)
        return right and all(total <= least + 2 * slack for total in missing)


@dataclass(frozen=True, init=False)
class Top(Ranked):
    """The `k` categories with the most events, or with the largest sums of `total`, the largest first.

    Of equal ones that with the smaller text comes first. Exact up to max(100, 5 k) categories; beyond, totals
    are right to 1 / (that number + 1) of all events, or of the sum of sizes. No events: an empty list.
    """

    k: int = 1

    def __init__(self, argument: str, k: int, *, total: str | None = None, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "k", bounded("Top", "k", k, MOST_IN_LIST))
        object.__setattr__(self, "total", total)

    @property
    def shown(self) -> int:
        return self.k

    def result(self, category: DataType, total: DataType) -> DataType:
        return ArrayType(BIGINT if category.integral else STRING)

    def value(self, ranked: list[tuple[str, Any]], category: DataType) -> Any:
        return [int(name) if category.integral else name for name, _ in ranked]

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        if exact == served or not isinstance(exact, list) or not isinstance(served, list):
            return exact == served
        slack, totals = self.slack(witnessed), _map(witnessed["totals"])
        pairs = [[totals.get(str(name), 0.0) for name in pair] for pair in zip(exact, served, strict=False)]
        right = slack > 0 and len(exact) == len(served)
        return right and all(abs(wanted - total) <= 2 * slack for wanted, total in pairs)


@dataclass(frozen=True, init=False)
class Mapped(Aggregate, ABC):
    """Base of aggregates that may be a map of the largest: with `by` and `most` instead of `among`."""

    most: int | None = None

    def __init__(self, argument: str, most: int | None, **scope: Unpack[Counted]) -> None:
        object.__setattr__(self, "most", most)
        super().__init__(argument, **scope)

    def _check_by(self, place: str) -> None:
        if self.most is None:
            super()._check_by(place)
        else:
            bounded(place, "most", self.most, MOST_IN_MAP)
        if self.most is not None and self.by is None:
            raise DeclarationError(f"{place}: most= needs by=, the column of the categories")
        if self.most is not None and self.among:
            raise DeclarationError(
                f"{place}: most= makes one map and among= a column for each category: give one of them"
            )

    def by_category(self, schema: tuple[Column, ...], place: str) -> dict[str, Aggregate]:
        if self.most is None or self.by is None:
            return super().by_category(schema, place)
        kind = expression_type(self.by, schema, f"{place}, by")
        if not kind.categorical:
            raise DeclarationError(f"{place}: by={self.by!r} is {kind}: most= needs {_CATEGORIES}")
        return {"": self.totals_map(self.by, self.most, schema, place)}

    @abstractmethod
    def totals_map(self, by: str, most: int, schema: tuple[Column, ...], place: str) -> TotalsMap:
        """The aggregate that makes the map."""
