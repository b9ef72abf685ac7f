"""Blocks: the mergeable columns that states are made of, each with its Spark SQL, its merge and its empty value.

A state is a row of float64. A block owns `width` neighbouring columns of it and says how Spark builds them from
events (`sql`), what one event gives (`lift`), how two states of disjoint events become one (`combine`), and what no event
gives (`empty`). `combine` is associative and commutative up to rounding: that is what lets batch, tiles and training
sets share one definition. SQL is over the columns of the source, `event_micros` (event time, BIGINT) and `reference_micros`.

Elements are what an aggregate counts, one value or NULL an event, as a SQL text that already holds cast and filter:

    double    finite DOUBLE; NaN and infinities count as NULL
    whole     BIGINT, exact
    binary    BINARY
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
TIME = "event_micros"
REFERENCE = "reference_micros"


@dataclass(frozen=True)
class Element:
    """One value an event: SQL giving `kind`, or NULL where the event does not count."""

    sql: str
    kind: str = "double"


TIME_ELEMENT = Element(sql=TIME, kind="whole")


@dataclass(frozen=True)
class Values:
    """Elements of n events: `values` (n,) float64, int64 or object, and `valid` (n,) bool."""

    values: NDArray[np.generic]
    valid: NDArray[np.bool_]


Lifted = Mapping[Element, Values]


class Block(ABC):
    """Columns of a state that merge together."""

    merge: ClassVar[str] = (
        "combine"  # "sum" and "min" columns are merged for all blocks at once (see layout.py)
    )

    @property
    @abstractmethod
    def elements(self) -> tuple[Element, ...]:
        """What is read of each event."""

    @property
    @abstractmethod
    def empty(self) -> tuple[float, ...]:
        """The state of no events; its length is the block's width."""

    @abstractmethod
    def sql(self) -> tuple[str, ...]:
        """Spark aggregate expressions, one a column, each a DOUBLE and never NULL."""

    @abstractmethod
    def lift(self, lifted: Lifted) -> Rows:
        """States of single events, shape (n, width); an event that does not count gives `empty`."""

    @abstractmethod
    def combine(self, left: Rows, right: Rows) -> Rows:
        """Merge pairwise; both and the result have shape (..., width)."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.empty)

    @property
    def family(self) -> tuple[object, ...]:
        """What `combine` depends on: neighbours of one family merge at once."""
        return (type(self).__name__, self.width)

    def reduce(self, rows: Rows) -> Rows:
        """Merge along the first axis: (k, ..., width) to (..., width), k >= 1, in log2(k) steps."""
        while len(rows) > 1:
            half = len(rows) // 2
            merged = self.combine(rows[:half], rows[half : 2 * half])
            rows = np.concatenate([merged, rows[2 * half :]]) if len(rows) % 2 else merged
        only: Rows = rows[0]
        return only

    def gather(self, rows: Rows, owner: NDArray[np.int64]) -> Rows:
        """Merge the states of each owner (sorted), neighbours at once, until each has one."""
        while len(owner) > 1 and (owner[1:] == owner[:-1]).any():
            rank = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
            left = np.flatnonzero(rank % 2 == 0)
            paired = np.zeros(len(left), dtype=bool)
            paired[left + 1 < len(owner)] = (
                owner[left[left + 1 < len(owner)] + 1] == owner[left[left + 1 < len(owner)]]
            )
            merged = rows[left].copy()
            merged[paired] = self.combine(rows[left[paired]], rows[left[paired] + 1])
            rows, owner = merged, owner[left]
        return rows

    def settled(self, rows: Rows) -> Rows:
        """States (n, width) of many merges as one of events would be: what they mean stays."""
        return rows

    def blank(self, count: int) -> Rows:
        """`count` empty states, shape (count, width)."""
        return np.tile(np.asarray(self.empty, dtype=np.float64), (count, 1))


class Sums(Block):
    """Base of blocks whose columns simply add."""

    merge = "sum"

    def combine(self, left: Rows, right: Rows) -> Rows:
        return left + right

    def reduce(self, rows: Rows) -> Rows:
        merged: Rows = rows.sum(axis=0)
        return merged


@dataclass(frozen=True)
class Tally(Sums):
    """How many events have the element: [n]."""

    element: Element
    empty = (0.0,)

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element,)

    def sql(self) -> tuple[str, ...]:
        return (f"CAST(count({self.element.sql}) AS DOUBLE)",)

    def lift(self, lifted: Lifted) -> Rows:
        return lifted[self.element].valid.astype(np.float64)[:, None]


@dataclass(frozen=True)
class Total(Sums):
    """Sum of a double element: [sum]."""

    element: Element
    empty = (0.0,)

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element,)

    def sql(self) -> tuple[str, ...]:
        return (f"coalesce(sum({self.element.sql}), 0D)",)

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        return np.where(found.valid, found.values, 0.0).astype(np.float64)[:, None]


@dataclass(frozen=True)
class ExactTotal(Sums):
    """Exact sum of a whole element in limbs of 32 bits: [top * 2**64 + middle * 2**32 + low].

    Every limb of a stored state is below 2**32 in size, so a million states add without a rounding in float64.
    """

    element: Element
    empty = (0.0, 0.0, 0.0)

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element,)

    def sql(self) -> tuple[str, ...]:
        low = f"coalesce(sum(({self.element.sql}) & 4294967295L), 0L)"
        high = f"(coalesce(sum(shiftright(({self.element.sql}), 32)), 0L) + shiftright({low}, 32))"
        return (
            f"CAST(shiftright({high}, 32) AS DOUBLE)",
            f"CAST({high} & 4294967295L AS DOUBLE)",
            f"CAST({low} & 4294967295L AS DOUBLE)",
        )

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        whole = np.where(found.valid, found.values, 0).astype(np.int64)
        high = whole >> 32
        return np.stack([np.where(high < 0, -1, 0), high & 0xFFFFFFFF, whole & 0xFFFFFFFF], axis=1).astype(
            np.float64
        )

    def settled(self, rows: Rows) -> Rows:
        # Without the carry, limbs of a state that is merged build after build would outgrow float64.
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
class Least(Block):
    """Smallest of a double element: [min]; `sign` -1 keeps the largest, negated, so that one merge serves both."""

    element: Element
    sign: int = 1
    merge = "min"
    empty = (float("inf"),)

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element,)

    def sql(self) -> tuple[str, ...]:
        found = f"min({self.element.sql})" if self.sign > 0 else f"-max({self.element.sql})"
        return (f"coalesce(CAST({found} AS DOUBLE), double('Infinity'))",)

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        return np.where(found.valid, self.sign * found.values, np.inf).astype(np.float64)[:, None]

    def combine(self, left: Rows, right: Rows) -> Rows:
        return np.minimum(left, right)

    def reduce(self, rows: Rows) -> Rows:
        merged: Rows = rows.min(axis=0)
        return merged


@dataclass(frozen=True)
class Leading(Block):
    """The lexicographically largest tuple of elements: [part, part, ...]; `sign` -1 keeps the smallest, negated.

    With (event time, value) it is the last value and, negated, the first; at equal times the larger (or smaller) value
    leads, which makes the result independent of the order of arrival. An event counts when its last part is there.
    """

    parts: tuple[Element, ...]
    sign: int = 1

    @property
    def elements(self) -> tuple[Element, ...]:
        return self.parts

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

    def combine(self, left: Rows, right: Rows) -> Rows:
        behind = np.zeros(left.shape[:-1], dtype=bool)  # is left smaller than right?
        level = np.ones(left.shape[:-1], dtype=bool)  # equal so far?
        for part in range(left.shape[-1]):
            behind |= level & (left[..., part] < right[..., part])
            level &= left[..., part] == right[..., part]
        return np.where(behind[..., None], right, left)


@dataclass(frozen=True)
class Moments(Block):
    """Count, mean and central moments of a double element: [n, mean, M2, M3, M4] up to `order` (2 to 4).

    Merged by deltas (Chan, Golub, LeVeque 1979; Pebay 2008, SAND2008-6212), never by sums of powers, so a small
    spread far from zero keeps its digits.
    """

    element: Element
    order: int = 2

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element,)

    @property
    def empty(self) -> tuple[float, ...]:
        return (0.0,) * (1 + self.order)

    def sql(self) -> tuple[str, ...]:
        x = self.element.sql
        second = f"(var_pop({x}) * count({x}))"
        columns = [f"CAST(count({x}) AS DOUBLE)", f"coalesce(avg({x}), 0D)", f"coalesce({second}, 0D)"]
        if self.order >= 3:
            columns.append(f"coalesce(skewness({x}) * pow({second}, 1.5D) / sqrt(count({x})), 0D)")
        if self.order >= 4:
            columns.append(f"coalesce((kurtosis({x}) + 3D) * {second} * {second} / count({x}), 0D)")
        return tuple(columns)

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        rows = np.zeros((len(found.values), self.width))
        rows[:, 0] = found.valid
        rows[:, 1] = np.where(found.valid, found.values, 0.0)
        return rows

    def combine(self, left: Rows, right: Rows) -> Rows:
        a, b = left[..., 0], right[..., 0]
        n = a + b
        some = np.where(n > 0, n, 1.0)
        delta = right[..., 1] - left[..., 1]
        out = np.empty(np.broadcast_shapes(left.shape, right.shape))
        out[..., 0] = n
        # An empty side must give back the other to the last bit: its share of the delta is exactly 0 or 1.
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
    """Joint moments of two elements that are there together: [n, mean x, mean y, Mxx, Myy, Mxy], merged by deltas as Moments."""

    x: Element
    y: Element
    empty = (0.0,) * 6

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.x, self.y)

    def sql(self) -> tuple[str, ...]:
        x, y = self.x.sql, self.y.sql
        return (
            f"CAST(count({x}) AS DOUBLE)",
            f"coalesce(avg({x}), 0D)",
            f"coalesce(avg({y}), 0D)",
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


@dataclass(frozen=True)
class LeadingFew(Block):
    """The `count` leading tuples of elements, as Leading, one after another from the first: [part, part, part, part, ...]."""

    parts: tuple[Element, ...]
    count: int
    sign: int = 1

    @property
    def elements(self) -> tuple[Element, ...]:
        return self.parts

    @property
    def empty(self) -> tuple[float, ...]:
        return (float("-inf"),) * (len(self.parts) * self.count)

    def sql(self) -> tuple[str, ...]:
        minus = "-" if self.sign < 0 else ""
        fields = ", ".join(
            f"{minus}CAST(({part.sql}) AS DOUBLE) AS p{i}" for i, part in enumerate(self.parts)
        )
        all_ = f"sort_array(collect_list(CASE WHEN ({self.parts[-1].sql}) IS NOT NULL THEN struct({fields}) END), false)"
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

    def combine(self, left: Rows, right: Rows) -> Rows:
        shape = (*left.shape[:-1], self.count, len(self.parts))
        both = np.concatenate([left.reshape(shape), right.reshape(shape)], axis=-2)
        order = np.lexsort([-both[..., part] for part in reversed(range(len(self.parts)))], axis=-1)[
            ..., : self.count
        ]
        return np.take_along_axis(both, order[..., None], axis=-2).reshape(left.shape)


@dataclass(frozen=True)
class Faded(Block):
    """Sum of a double element, each event weighing 2 ** ((its time - reference) / half_life): [reference, sum, weight].

    Merging moves the older reference to the newer one. `reference_micros` of the frame is a time at or after every event
    of the group (the cut, the end of a tile), so that a weight never passes 1.
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
            f"coalesce(sum({x} * {weight}), 0D)",
            f"coalesce(sum({counted}), 0D)",
        )

    @property
    def family(self) -> tuple[object, ...]:
        return (*super().family, self.half_life)

    def lift(self, lifted: Lifted) -> Rows:
        found, times = lifted[self.element], lifted[TIME_ELEMENT].values
        return np.stack(
            [np.where(found.valid, times, -np.inf), np.where(found.valid, found.values, 0.0), found.valid],
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
