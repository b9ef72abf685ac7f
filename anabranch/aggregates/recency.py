"""Aggregates that depend on the time of the answer: recency, and sums that fade with a half-life."""

from dataclasses import dataclass
from typing import ClassVar, Unpack

import numpy as np

from anabranch.aggregates.base import ANYTHING, OF_SIZES, Additive, Aggregate, Bound, Folded, ratio
from anabranch.aggregates.categories import Counted
from anabranch.states.blocks import TIME, Values
from anabranch.states.formulas import Formula, double
from anabranch.states.leading import Least
from anabranch.states.sums import SCALE, Faded
from anabranch.values.times import SECOND, parse_duration
from anabranch.values.types import DOUBLE, DataType


@dataclass(frozen=True, init=False)
class TimeSince(Aggregate):
    """Seconds since the latest event (with a non-null argument, if one is given). No events: null."""

    takes = ANYTHING

    def __init__(self, argument: str | None = None, **scope: Unpack[Counted]) -> None:
        super().__init__(argument or "1", **scope)

    def over(self, kind: DataType) -> Bound:
        return Bound(DOUBLE, Formula(_since), (Least(self.present(kind, TIME, "whole"), -1),))


def _since(found: Folded) -> Values:
    latest = -found.rows[0][:, 0]
    valid = np.isfinite(latest)
    return Values((found.at - np.where(valid, latest, 0)) / SECOND, valid)


@dataclass(frozen=True, init=False)
class DecayedSum(Additive):
    """Sum in which the weight of an event halves with each `half_life` until the answer. No events: null."""

    half_life: str = "1d"
    windows: ClassVar[str] = "none"

    def __init__(self, argument: str, *, half_life: str, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "half_life", half_life)
        parse_duration(half_life, f"{type(self).__name__}: half_life")

    @property
    def longest_tile(self) -> int | None:
        # Weights within a tile go down to 2 ** -500. In a tile twice as wide they would underflow.
        return 500 * parse_duration(self.half_life)

    def over(self, kind: DataType) -> Bound:
        block = Faded(double(self.text, self.where), parse_duration(self.half_life))
        return Bound(DOUBLE, Formula(self.faded, (block.half_life,)), (block,), exactness=OF_SIZES)

    @staticmethod
    def faded(found: Folded, half_life: int) -> Values:
        """The value of states [reference, weighted sum, weight] at the time of the answer."""
        rows = found.rows[0]
        valid = np.isfinite(rows[:, 0])
        weight = np.exp2((np.where(valid, rows[:, 0], 0) - found.at) / half_life)
        return Values(rows[:, 1] * weight / SCALE, valid)


@dataclass(frozen=True, init=False)
class DecayedMean(DecayedSum):
    """Mean in which the weight of an event halves with each `half_life`. No events: null."""

    @staticmethod
    def faded(found: Folded, half_life: int) -> Values:  # noqa: ARG004 - as the sum it overrides
        rows = found.rows[0]
        return ratio(rows[:, 1], rows[:, 2] * SCALE, rows[:, 2] > 0)
