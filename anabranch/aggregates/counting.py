"""Counts, sums, and values derived from them. All states add."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Unpack

import numpy as np

from anabranch.aggregates.base import (
    ANYTHING,
    CONDITION,
    OF_SIZES,
    ROUNDED,
    Additive,
    Aggregate,
    Bound,
    Folded,
    decoded,
    ratio,
)
from anabranch.aggregates.categories import Counted
from anabranch.aggregates.ranking import Mapped, TotalsMap
from anabranch.errors import DeclarationError
from anabranch.states.blocks import Block, Element, Values
from anabranch.states.formulas import Formula, coded, double, wholes
from anabranch.states.leading import Least
from anabranch.states.sums import SCALE, ExactTotal, Tally, Total
from anabranch.values.numbers import ExactType, joined
from anabranch.values.times import parse_duration
from anabranch.values.types import BIGINT, BOOLEAN, DOUBLE, ArrayType, Column, DataType


@dataclass(frozen=True, init=False)
class Count(Mapped):
    """Number of events (with a non-null argument, when one is given). No events: 0.

    With `by` and `most` a map of the `most` categories that have the most events. No events: an empty map.
    """

    takes = ANYTHING

    def __init__(
        self, argument: str | None = None, *, most: int | None = None, **scope: Unpack[Counted]
    ) -> None:
        super().__init__(argument or "1", most, **scope)

    def totals_map(self, by: str, most: int, schema: tuple[Column, ...], place: str) -> TotalsMap:
        there = f"({self.text}) IS NOT NULL"
        if self.kind_of(self.argument, schema, place).floating:
            there = f"abs(CAST(({self.text}) AS DOUBLE)) < CAST('Infinity' AS DOUBLE)"
        filters = [f"({self.where})"] if self.where else []
        filters += [] if self.argument == "1" else [there]
        return TotalsMap(by, None, most, " AND ".join(filters) or None)

    def over(self, kind: DataType) -> Bound:
        # The element of Sum and Mean of floats, so that their count is stored once.
        counted = double(self.text, self.where) if kind.floating else self.present(kind)
        return Bound(BIGINT, Formula(_tallied), (Tally(counted),))


def _tallied(found: Folded) -> Values:
    return Values(found.rows[0][:, 0].astype(np.int64), np.ones(len(found.at), dtype=bool))


@dataclass(frozen=True, init=False)
class Sum(Mapped, Additive):
    """Sum: exact for whole numbers and DECIMAL, for floats to 1e-9 of the sum of sizes. No events: null.

    With `by` and `most` a map of the `most` categories with the largest sums. No events: an empty map.
    """

    def __init__(self, argument: str, *, most: int | None = None, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, most, **scope)

    def totals_map(self, by: str, most: int, schema: tuple[Column, ...], place: str) -> TotalsMap:
        self.kind_of(self.argument, schema, place)
        return TotalsMap(by, self.text, most, self.where)

    def over(self, kind: DataType) -> Bound:
        if kind.floating:
            number = double(self.text, self.where)
            return Bound(DOUBLE, Formula(_summed), (Total(number), Tally(number)), exactness=OF_SIZES)
        if not isinstance(kind, ExactType):
            raise TypeError(f"type {kind} is numeric: expected a FloatingType or an ExactType")
        parts, result = wholes(self.text, kind, self.where), kind.sum_type
        blocks = (*map(ExactTotal, parts), Tally(parts[0]))
        return Bound(result, Formula(_summed_exactly, (result,)), blocks)


def _summed(found: Folded) -> Values:
    return Values(found.rows[0][:, 0] / SCALE, found.rows[1][:, 0] > 0)


def _summed_exactly(found: Folded, result: ExactType) -> Values:
    *totals, tally = found.rows
    parts = zip(*map(ExactTotal.whole, totals), strict=True)
    return Values(result.from_wholes([joined(part) for part in parts]), tally[:, 0] > 0)


@dataclass(frozen=True, init=False)
class Mean(Additive):
    """Arithmetic mean, from (sum, n). No events: null."""

    def over(self, kind: DataType) -> Bound:
        number = double(self.text, self.where)
        return Bound(DOUBLE, Formula(_mean), (Total(number), Tally(number)), exactness=OF_SIZES)


def _mean(found: Folded) -> Values:
    return ratio(found.rows[0][:, 0], found.rows[1][:, 0] * SCALE, found.rows[1][:, 0] > 0)


@dataclass(frozen=True, init=False)
class Rate(Additive):
    """Events, or the sum of the argument, per unit of time over the window's actual length. No events: 0.

    `per` is the unit, one hour by default.
    """

    per: str = "1h"
    windows: ClassVar[str] = "finite"

    def __init__(self, argument: str | None = None, *, per: str = "1h", **scope: Unpack[Counted]) -> None:
        super().__init__(argument or "1", **scope)
        object.__setattr__(self, "per", per)
        parse_duration(per, f"{type(self).__name__}: per")

    def over(self, kind: DataType) -> Bound:
        block: Block = (
            Tally(self.present(kind)) if self.argument == "1" else Total(double(self.text, self.where))
        )
        exactness = ROUNDED if self.argument == "1" else OF_SIZES
        unit = parse_duration(self.per) * (1.0 if self.argument == "1" else 1 / SCALE)
        return Bound(DOUBLE, Formula(_per_unit, (unit,)), (block,), exactness=exactness)


def _per_unit(found: Folded, unit: float) -> Values:
    # A window may have no length, such as today's at midnight; it has no events then.
    length = np.maximum(found.at - found.since, 1)
    return Values(found.rows[0][:, 0] / (length / unit), np.ones(len(found.at), dtype=bool))


@dataclass(frozen=True, init=False)
class Histogram(Aggregate):
    """Counts below the first edge, in each [low, high), and from the last edge up. No events: zeros."""

    edges: tuple[float, ...] = ()

    def __init__(self, argument: str, *, edges: tuple[float, ...], **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "edges", tuple(float(edge) for edge in edges))
        if (
            not 1 <= len(self.edges) <= 64
            or not all(map(math.isfinite, self.edges))
            or any(a >= b for a, b in pairwise(self.edges))
        ):
            raise DeclarationError(
                f"Histogram: edges {edges!r} must be 1 to 64 numbers, each larger than the one before"
            )

    def over(self, kind: DataType) -> Bound:
        x = double(self.text, self.where).sql
        inner = [f"{x} >= {low!r}D AND {x} < {high!r}D" for low, high in pairwise(self.edges)]
        conditions = [f"{x} < {self.edges[0]!r}D", *inner, f"{x} >= {self.edges[-1]!r}D"]
        return Bound(
            ArrayType(BIGINT),
            Formula(_histogram),
            tuple(Tally(Element(sql=f"(CASE WHEN {text} THEN 1D END)")) for text in conditions),
        )


def _histogram(found: Folded) -> Values:
    out = np.empty(len(found.at), dtype=object)
    out[:] = np.concatenate(found.rows, axis=1).astype(np.int64).tolist()
    return Values(out, np.ones(len(out), dtype=bool))


@dataclass(frozen=True, init=False)
class Any(Aggregate):
    """Whether the condition held for any event. No events (or only NULL): null."""

    takes = CONDITION
    sign: ClassVar[int] = -1

    def over(self, kind: DataType) -> Bound:
        code = coded(self.text, BOOLEAN, self.where)
        return Bound(
            BOOLEAN, Formula(decoded, (code.decode, self.sign)), (Least(code.elements[0], self.sign),)
        )


@dataclass(frozen=True, init=False)
class All(Any):
    """Whether the condition held for every event. No events (or only NULL): null."""

    sign = 1
