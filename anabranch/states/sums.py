"""Blocks of counts and sums: plain, exact, and fading with a half-life."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anabranch.states.blocks import REFERENCE, TIME, TIME_ELEMENT, Block, Element, Lifted, Rows, Sums

SCALE = 2.0**-32
"""Sums of floats are kept times this power of two, which is exact, so that no order of adding overflows."""


@dataclass(frozen=True)
class Tally(Sums):
    """Number of events that have the element: [n]."""

    element: Element
    empty = (0.0,)

    def sql(self) -> tuple[str, ...]:
        return (f"CAST(count({self.element.sql}) AS DOUBLE)",)

    def lift(self, lifted: Lifted) -> Rows:
        return lifted[self.element].valid.astype(np.float64)[:, None]

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        return (0.0 if values[self.element] is None else 1.0,)


@dataclass(frozen=True)
class Total(Sums):
    """Sum of a double element: [sum * SCALE]."""

    element: Element
    empty = (0.0,)

    def sql(self) -> tuple[str, ...]:
        return (f"coalesce(sum({self.element.sql} * {SCALE!r}D), 0D)",)

    def lift(self, lifted: Lifted) -> Rows:
        element = lifted[self.element]
        return np.where(element.valid, element.values.astype(np.float64) * SCALE, 0.0).astype(np.float64)[
            :, None
        ]

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        value = values[self.element]
        return (0.0 if value is None else value * SCALE,)


@dataclass(frozen=True)
class ExactTotal(Sums):
    """Exact sum of a whole element in limbs of 32 bits: [top * 2**64 + middle * 2**32 + low].

    Every limb of a stored state is below 2**32 in size, so float64 adds a million states without rounding.
    """

    element: Element
    empty = (0.0, 0.0, 0.0)

    def sql(self) -> tuple[str, ...]:
        low = f"coalesce(sum(({self.element.sql}) & 4294967295L), 0L)"
        high = f"(coalesce(sum(shiftright(({self.element.sql}), 32)), 0L) + shiftright({low}, 32))"
        return (
            f"CAST(shiftright({high}, 32) AS DOUBLE)",
            f"CAST({high} & 4294967295L AS DOUBLE)",
            f"CAST({low} & 4294967295L AS DOUBLE)",
        )

    def lift(self, lifted: Lifted) -> Rows:
        element = lifted[self.element]
        whole = np.where(element.valid, element.values, 0).astype(np.int64)
        high = whole >> 32
        return np.stack([np.where(high < 0, -1, 0), high & 0xFFFFFFFF, whole & 0xFFFFFFFF], axis=1).astype(
            np.float64
        )

    def settled(self, rows: Rows) -> Rows:
        # Without the carry, the limbs of a state that every build merges would outgrow float64.
        low = np.floor(rows[:, 2] / 2.0**32)
        middle = rows[:, 1] + low
        high = np.floor(middle / 2.0**32)
        return np.stack([rows[:, 0] + high, middle - high * 2.0**32, rows[:, 2] - low * 2.0**32], axis=1)

    @staticmethod
    def whole(rows: Rows) -> list[int]:
        """The sums of states (q, 3) as Python integers."""
        limbs = rows.astype(np.int64).tolist()
        return [(top << 64) + (middle << 32) + low for top, middle, low in limbs]


@dataclass(frozen=True)
class Faded(Block):
    """Sum of a double element with fading weights: [reference, sum * SCALE, weight].

    An event weighs 2 ** ((its time - reference) / half_life). A merge moves the older reference to the
    newer one. `_reference_micros` is at or after every event of a group (the cut, the end of a tile), so
    weights are at most 1.
    """

    element: Element
    half_life: int  # microseconds
    empty = (float("-inf"), 0.0, 0.0)

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element, TIME_ELEMENT)

    def sql(self) -> tuple[str, ...]:
        x = self.element.sql
        weight = f"pow(2D, ({TIME} - {REFERENCE}) / {self.half_life}D)"
        counted = f"CASE WHEN {x} IS NOT NULL THEN {weight} END"
        reference = f"max(CASE WHEN {x} IS NOT NULL THEN CAST({REFERENCE} AS DOUBLE) END)"
        return (
            f"coalesce({reference}, double('-Infinity'))",
            f"coalesce(sum({x} * {SCALE!r}D * {weight}), 0D)",
            f"coalesce(sum({counted}), 0D)",
        )

    @property
    def family(self) -> tuple[object, ...]:
        return (*super().family, self.half_life)

    def lift(self, lifted: Lifted) -> Rows:
        element, times = lifted[self.element], lifted[TIME_ELEMENT].values
        return np.stack(
            [
                np.where(element.valid, times, -np.inf),
                np.where(element.valid, element.values.astype(np.float64) * SCALE, 0.0),
                element.valid,
            ],
            axis=1,
        ).astype(np.float64)

    def combine(self, left: Rows, right: Rows) -> Rows:
        out = np.empty(np.broadcast_shapes(left.shape, right.shape))
        reference = np.maximum(left[..., 0], right[..., 0])
        level = np.where(np.isfinite(reference), reference, 0.0)
        out[..., 0] = reference
        old = np.exp2((left[..., 0] - level) / self.half_life)
        new = np.exp2((right[..., 0] - level) / self.half_life)
        out[..., 1] = left[..., 1] * old + right[..., 1] * new
        out[..., 2] = left[..., 2] * old + right[..., 2] * new
        return out
