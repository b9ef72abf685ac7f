"""Blocks of central moments, merged by deltas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anabranch.states.blocks import Block, Element, Lifted, Rows
from anabranch.states.sums import SCALE


def _mean(x: str) -> str:
    return f"coalesce(avg({x} * {SCALE!r}D) / {SCALE!r}D, 0D)"  # a sum of large numbers would overflow


@dataclass(frozen=True)
class Moments(Block):
    """Count, mean and central moments of a double element: [n, mean, M2, M3, M4] up to `order` (2 to 4).

    Merged by deltas (Chan, Golub, LeVeque 1979; Pebay 2008, SAND2008-6212). Sums of powers would lose the
    digits of a small spread far from zero.
    """

    element: Element
    order: int = 2

    @property
    def empty(self) -> tuple[float, ...]:
        return (0.0,) * (1 + self.order)

    def sql(self) -> tuple[str, ...]:
        x = self.element.sql
        second = f"(var_pop({x}) * count({x}))"
        columns = [f"CAST(count({x}) AS DOUBLE)", _mean(x), f"coalesce({second}, 0D)"]
        if self.order >= 3:
            columns.append(f"coalesce(skewness({x}) * pow({second}, 1.5D) / sqrt(count({x})), 0D)")
        if self.order >= 4:
            columns.append(f"coalesce((kurtosis({x}) + 3D) * {second} * {second} / count({x}), 0D)")
        return tuple(columns)

    def lift(self, lifted: Lifted) -> Rows:
        element = lifted[self.element]
        rows = np.zeros((len(element.values), self.width))
        rows[:, 0] = element.valid
        rows[:, 1] = np.where(element.valid, element.values, 0.0)
        return rows

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        value = values[self.element]
        return self.empty if value is None else (1.0, value, *self.empty[2:])

    def combine(self, left: Rows, right: Rows) -> Rows:
        a, b = left[..., 0], right[..., 0]
        n = a + b
        some = np.where(n > 0, n, 1.0)
        delta = right[..., 1] - left[..., 1]
        out = np.empty(np.broadcast_shapes(left.shape, right.shape))
        out[..., 0] = n
        # A merge with an empty state must return the other exactly: the share of the delta is 0 or 1.
        out[..., 1] = np.where(
            a == 0, right[..., 1], np.where(b == 0, left[..., 1], left[..., 1] + delta * (b / some))
        )
        delta = np.where((a == 0) | (b == 0), 0.0, delta)
        shift = delta * delta * a * b / some
        out[..., 2] = left[..., 2] + right[..., 2] + shift
        if self.order >= 3:
            out[..., 3] = (
                left[..., 3]
                + right[..., 3]
                + shift * delta * (a - b) / some
                + 3 * delta * (a * right[..., 2] - b * left[..., 2]) / some
            )
        if self.order >= 4:
            squares = 6 * delta**2 * (a**2 * right[..., 2] + b**2 * left[..., 2]) / some**2
            cubes = 4 * delta * (a * right[..., 3] - b * left[..., 3]) / some
            out[..., 4] = (
                left[..., 4]
                + right[..., 4]
                + shift * delta**2 * (a**2 - a * b + b**2) / some**2
                + squares
                + cubes
            )
        return out


@dataclass(frozen=True)
class CoMoments(Block):
    """Joint moments of two elements: [n, mean x, mean y, Mxx, Myy, Mxy], merged by deltas.

    Either element is NULL where the other is.
    """

    x: Element
    y: Element
    empty = (0.0,) * 6

    def sql(self) -> tuple[str, ...]:
        x, y = self.x.sql, self.y.sql
        return (
            f"CAST(count({x}) AS DOUBLE)",
            _mean(x),
            _mean(y),
            f"coalesce(var_pop({x}) * count({x}), 0D)",
            f"coalesce(var_pop({y}) * count({y}), 0D)",
            f"coalesce(covar_pop({x}, {y}) * count({x}), 0D)",
        )

    def lift(self, lifted: Lifted) -> Rows:
        x, y = lifted[self.x], lifted[self.y]
        rows = np.zeros((len(x.values), 6))
        rows[:, 0] = x.valid
        rows[:, 1] = np.where(x.valid, x.values, 0.0)
        rows[:, 2] = np.where(x.valid, y.values, 0.0)
        return rows

    def combine(self, left: Rows, right: Rows) -> Rows:
        a, b = left[..., 0], right[..., 0]
        n = a + b
        some = np.where(n > 0, n, 1.0)
        share = np.where(a == 0, 1.0, np.where(b == 0, 0.0, b / some))  # exactly 1 or 0 when a side is empty
        both = (a > 0) & (b > 0)
        dx, dy = right[..., 1] - left[..., 1], right[..., 2] - left[..., 2]
        weight = np.where(both, a * share, 0.0)
        out = left + right
        out[..., 0] = n
        out[..., 1] = np.where(a == 0, right[..., 1], left[..., 1] + np.where(b == 0, 0.0, dx) * share)
        out[..., 2] = np.where(a == 0, right[..., 2], left[..., 2] + np.where(b == 0, 0.0, dy) * share)
        out[..., 3] += dx * dx * weight
        out[..., 4] += dy * dy * weight
        out[..., 5] += dx * dy * weight
        return out
