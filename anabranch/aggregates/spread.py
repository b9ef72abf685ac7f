"""Moments of one or two columns, merged by deltas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.base import ROUNDED, Aggregate, Bound, Folded, number, ratio, size
from anabranch.aggregates.categories import Counted
from anabranch.aggregates.counting import Mean
from anabranch.states.blocks import TIME, Element, Rows, Values
from anabranch.states.formulas import MODERATE, Formula, moderate
from anabranch.states.moments import CoMoments, Moments
from anabranch.values.times import DAY, parse_duration
from anabranch.values.types import DOUBLE, Column, DataType

_ROUNDING = 1e-14  # a spread below this share of the mean is rounding, not spread
_STEP = 2.0**-46  # of a mean's size: how far merged means, and so deviations from them, may differ


def _scales(x: str, where: str | None) -> dict[str, Aggregate]:
    """Witnesses of how far values lie from zero and from each other."""
    return {"size": _mean_size(x, where), "deviation": StdDev(x, where=where)}


def _mean_size(x: str, where: str | None) -> Mean:
    """The mean size of the values that count in moments; one that does not must not excuse wrong moments."""
    return Mean(f"CASE WHEN {size(x)} < {MODERATE} THEN {size(x)} END", where=where)


def _step(witnessed: Mapping[str, object], prefix: str = "") -> tuple[float, float]:
    """The deviation of a column, and the rounding of one value's deviation from its mean."""
    deviation = number(witnessed[f"{prefix}deviation"])
    return deviation, _STEP * (number(witnessed[f"{prefix}size"]) + deviation)


def _is_rounding(witnessed: Mapping[str, object], prefix: str = "") -> bool:
    """Whether several values lie so close together that what is computed of their shape is rounding."""
    deviation, step = _step(witnessed, prefix)
    return witnessed[f"{prefix}deviation"] is not None and deviation <= 8 * step


def _of_rows(found: Folded, measure: Callable[[Rows], Values]) -> Values:
    return measure(found.rows[0])


@dataclass(frozen=True, init=False)
class Variance(Aggregate):
    """Sample variance (divisor n - 1), as SQL's var_samp. Fewer than two events: null."""

    order: ClassVar[int] = 2

    def over(self, kind: DataType) -> Bound:
        block = Moments(moderate(self.text, self.where), self.order)
        return Bound(DOUBLE, Formula(_of_rows, (self.measure,)), (block,), exactness=ROUNDED)

    def witnesses(self) -> Mapping[str, Aggregate]:
        return _scales(self.text, self.where)

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        deviation, step = _step(witnessed)
        return super().rounding(exact, witnessed) + step * (2 * deviation + step)

    @staticmethod
    def measure(rows: Rows) -> Values:
        """The value of moment states (q, 1 + order)."""
        return ratio(rows[:, 2], rows[:, 0] - 1, rows[:, 0] > 1)


@dataclass(frozen=True, init=False)
class StdDev(Variance):
    """Sample standard deviation, the root of Variance. Fewer than two events: null."""

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        return Aggregate.rounding(self, exact, witnessed) + _step(witnessed)[1]

    @staticmethod
    def measure(rows: Rows) -> Values:
        variance = ratio(rows[:, 2], rows[:, 0] - 1, rows[:, 0] > 1)
        return Values(np.sqrt(np.maximum(variance.values.astype(np.float64), 0)), variance.valid)


@dataclass(frozen=True, init=False)
class Skewness(Variance):
    """Population skewness, as Spark computes it: M3 / n over the cube of the deviation. No spread: null."""

    order = 3

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        deviation, step = _step(witnessed)
        return (
            Aggregate.rounding(self, exact, witnessed) + 8 * self.order * (1 + abs(exact)) * step / deviation
        )

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        return _is_rounding(witnessed) or super().agrees(exact, served, witnessed)

    @staticmethod
    def measure(rows: Rows) -> Values:
        spread = _spread(rows[:, 0], rows[:, 1], rows[:, 2])
        return ratio(np.sqrt(rows[:, 0]) * rows[:, 3], np.maximum(rows[:, 2], 0) ** 1.5, spread)


@dataclass(frozen=True, init=False)
class Kurtosis(Skewness):
    """Excess kurtosis of the population, as Spark's: n M4 / M2^2 - 3. No spread: null."""

    order = 4

    @staticmethod
    def measure(rows: Rows) -> Values:
        found = ratio(rows[:, 0] * rows[:, 4], rows[:, 2] ** 2, _spread(rows[:, 0], rows[:, 1], rows[:, 2]))
        return Values(found.values.astype(np.float64) - 3.0, found.valid)


def _spread(
    n: NDArray[np.float64], mean: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (n > 1) & (second > n * (np.abs(mean) * _ROUNDING) ** 2)
    return found


@dataclass(frozen=True, init=False)
class Covariance(Aggregate):
    """Sample covariance of two columns, over events that have both. Fewer than two events: null."""

    other: str = ""
    written: ClassVar[tuple[str, ...]] = ("argument", "where", "other")

    def __init__(self, argument: str, other: str, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "other", other)

    def bind(self, schema: tuple[Column, ...], place: str) -> Bound:
        self.kind_of(self.other, schema, place)
        return super().bind(schema, place)

    def over(self, kind: DataType) -> Bound:
        x, y = moderate(self.text, self.where).sql, moderate(self.other, self.where).sql
        first = Element(sql=f"(CASE WHEN {y} IS NOT NULL THEN {x} END)")
        second = Element(sql=f"(CASE WHEN {x} IS NOT NULL THEN {y} END)")
        return Bound(
            DOUBLE, Formula(_of_rows, (self.relation,)), (CoMoments(first, second),), exactness=ROUNDED
        )

    def witnesses(self) -> Mapping[str, Aggregate]:
        x, y = self.text, self.other
        pairs = {
            "x": f"CASE WHEN ({y}) IS NOT NULL THEN {x} END",
            "y": f"CASE WHEN ({x}) IS NOT NULL THEN {y} END",
        }
        return {
            f"{prefix}_{role}": witness
            for prefix, text in pairs.items()
            for role, witness in _scales(text, self.where).items()
        }

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        (x, x_step), (y, y_step) = _step(witnessed, "x_"), _step(witnessed, "y_")
        # Products that cancel leave the rounding of products.
        return super().rounding(exact, witnessed) + x * y_step + y * x_step + x_step * y_step

    @staticmethod
    def relation(rows: Rows) -> Values:
        """The value of states [n, mean x, mean y, Mxx, Myy, Mxy]."""
        return ratio(rows[:, 5], rows[:, 0] - 1, rows[:, 0] > 1)


@dataclass(frozen=True, init=False)
class Correlation(Covariance):
    """Pearson's correlation of two columns, over events that have both. No spread in either: null."""

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        without = any(_is_rounding(witnessed, prefix) for prefix in ("x_", "y_"))
        return without or super().agrees(exact, served, witnessed)

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        (x, x_step), (y, y_step) = _step(witnessed, "x_"), _step(witnessed, "y_")
        return Aggregate.rounding(self, exact, witnessed) + 4 * (x_step / x + y_step / y)

    @staticmethod
    def relation(rows: Rows) -> Values:
        valid = _spread(rows[:, 0], rows[:, 1], rows[:, 3]) & _spread(rows[:, 0], rows[:, 2], rows[:, 4])
        found = ratio(rows[:, 5], np.sqrt(np.maximum(rows[:, 3] * rows[:, 4], 0)), valid)
        return Values(np.clip(found.values.astype(np.float64), -1, 1), found.valid)


@dataclass(frozen=True, init=False)
class Slope(Aggregate):
    """Least-squares trend over event time, in units of the argument per `per` (a day by default).

    Agrees to 1e-6 relative for events that lie a millisecond apart or more.
    """

    per: str = "1d"

    def __init__(self, argument: str, *, per: str = "1d", **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "per", per)
        parse_duration(per, f"{type(self).__name__}: per")

    def over(self, kind: DataType) -> Bound:
        y = moderate(self.text, self.where)
        # Whole microseconds are exact in float64, and since 2020 their means keep 0.03 of one.
        moment = Element(
            sql=f"(CASE WHEN {y.sql} IS NOT NULL THEN CAST({TIME} - 1577836800000000L AS DOUBLE) END)"
        )
        return Bound(
            DOUBLE,
            Formula(_trend, (parse_duration(self.per),)),
            (CoMoments(moment, y),),
            exactness="to 1e-6 of itself",
        )

    def witnesses(self) -> Mapping[str, Aggregate]:
        return {"size": _mean_size(self.text, self.where)}

    def rounding(self, exact: float, witnessed: Mapping[str, object]) -> float:
        # Values that cancel, over events a millisecond apart, leave this much of their size.
        steepest = number(witnessed["size"]) * parse_duration(self.per) / DAY
        return 1e-6 * max(1.0, abs(exact), steepest)


def _trend(found: Folded, unit: int) -> Values:
    rows = found.rows[0]
    return ratio(rows[:, 5] * unit, rows[:, 3], (rows[:, 0] > 1) & (rows[:, 3] > rows[:, 0] * 1e-3))
