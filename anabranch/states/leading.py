"""Blocks of extremes: the smallest value, and the leading ones of tuples such as (event time, value)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anabranch.states.blocks import Block, Element, Lifted, Rows


@dataclass(frozen=True)
class Least(Block):
    """Smallest value of a double element: [min]; with `sign` -1 the largest, negated."""

    element: Element
    sign: int = 1
    merge = "min"
    empty = (float("inf"),)

    def sql(self) -> tuple[str, ...]:
        least = f"min({self.element.sql})" if self.sign > 0 else f"-max({self.element.sql})"
        return (f"coalesce(CAST({least} AS DOUBLE), double('Infinity'))",)

    def lift(self, lifted: Lifted) -> Rows:
        element = lifted[self.element]
        return np.where(element.valid, self.sign * element.values, np.inf).astype(np.float64)[:, None]

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        value = values[self.element]
        return (math.inf if value is None else float(self.sign * value),)

    def combine(self, left: Rows, right: Rows) -> Rows:
        return np.minimum(left, right)

    def reduce(self, rows: Rows) -> Rows:
        merged: Rows = rows.min(axis=0)
        return merged


@dataclass(frozen=True)
class Leading(Block):
    """The lexicographically largest tuple of elements: [part, ...]; with `sign` -1 the smallest, negated.

    Of (event time, value) it is the last value and, negated, the first. At equal times the larger (or
    smaller) value leads, so the result does not depend on the order of arrival. An event counts when its
    last part is not NULL.
    """

    parts: tuple[Element, ...]
    sign: int = 1

    @property
    def empty(self) -> tuple[float, ...]:
        return (float("-inf"),) * len(self.parts)

    def sql(self) -> tuple[str, ...]:
        minus = "-" if self.sign < 0 else ""
        fields = ", ".join(
            f"{minus}CAST(({part.sql}) AS DOUBLE) AS p{i}" for i, part in enumerate(self.parts)
        )
        leader = f"max(CASE WHEN ({self.parts[-1].sql}) IS NOT NULL THEN struct({fields}) END)"
        return tuple(f"coalesce({leader}.p{i}, double('-Infinity'))" for i in range(len(self.parts)))

    def lift(self, lifted: Lifted) -> Rows:
        counted = lifted[self.parts[-1]].valid
        columns = [
            np.where(counted, self.sign * lifted[part].values.astype(np.float64), -np.inf)
            for part in self.parts
        ]
        return np.stack(columns, axis=1)

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        if values[self.parts[-1]] is None:
            return self.empty
        return tuple(self.sign * float(values[part]) for part in self.parts)

    def combine(self, left: Rows, right: Rows) -> Rows:
        behind = np.zeros(left.shape[:-1], dtype=bool)  # whether left is smaller than right
        level = np.ones(left.shape[:-1], dtype=bool)  # whether both are equal so far
        for part in range(left.shape[-1]):
            behind |= level & (left[..., part] < right[..., part])
            level &= left[..., part] == right[..., part]
        return np.where(behind[..., None], right, left)


@dataclass(frozen=True)
class LeadingFew(Block):
    """The `count` leading tuples of elements in the order of Leading, concatenated: [part, part, ...]."""

    parts: tuple[Element, ...]
    count: int
    sign: int = 1

    @property
    def empty(self) -> tuple[float, ...]:
        return (float("-inf"),) * (len(self.parts) * self.count)

    def sql(self) -> tuple[str, ...]:
        minus = "-" if self.sign < 0 else ""
        fields = ", ".join(
            f"{minus}CAST(({part.sql}) AS DOUBLE) AS p{i}" for i, part in enumerate(self.parts)
        )
        one = f"CASE WHEN ({self.parts[-1].sql}) IS NOT NULL THEN struct({fields}) END"
        all_ = f"sort_array(collect_list({one}), false)"
        places = [(place, part) for place in range(self.count) for part in range(len(self.parts))]
        return tuple(f"coalesce(get({all_}, {place}).p{part}, double('-Infinity'))" for place, part in places)

    @property
    def family(self) -> tuple[object, ...]:
        return (*super().family, len(self.parts))

    def lift(self, lifted: Lifted) -> Rows:
        leading = Leading(self.parts, self.sign).lift(lifted)
        rows = self.blank(len(leading))
        rows[:, : len(self.parts)] = leading
        return rows

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        leading = Leading(self.parts, self.sign).state_of(values)
        return (*leading, *self.empty[len(leading) :])

    def combine(self, left: Rows, right: Rows) -> Rows:
        shape = (*left.shape[:-1], self.count, len(self.parts))
        both = np.concatenate([left.reshape(shape), right.reshape(shape)], axis=-2)
        order = np.lexsort([-both[..., part] for part in reversed(range(len(self.parts)))], axis=-1)[
            ..., : self.count
        ]
        return np.take_along_axis(both, order[..., None], axis=-2).reshape(left.shape)
