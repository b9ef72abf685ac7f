"""Blocks: the mergeable columns that states are made of.

A state is a row of float64. A block owns `width` adjacent columns of it and defines how Spark builds them
from events (`sql`), the state of one event (`lift`), the merge of two states of disjoint events (`combine`)
and the state of no events (`empty`). `combine` is associative and commutative up to rounding, so batch,
tiles and training sets share one definition. SQL reads the source's columns, `_event_micros` (event time,
BIGINT) and `_reference_micros`.

An element is the value of each event that a block reads, or NULL, as SQL that includes the cast and the
filter:

    double    finite DOUBLE; NaN and infinities count as NULL
    whole     BIGINT, exact
    binary    BINARY
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
TIME, REFERENCE = "_event_micros", "_reference_micros"  # no column of a source begins like this


@dataclass(frozen=True)
class Element:
    """One value per event: SQL of type `kind`, NULL where the event does not count."""

    sql: str
    kind: str = "double"


TIME_ELEMENT = Element(sql=TIME, kind="whole")


@dataclass(frozen=True)
class Values:
    """Elements of n events: `values` (n,) float64, int64 or object, and `valid` (n,) bool."""

    values: NDArray[np.generic]
    valid: NDArray[np.bool_]


Lifted = Mapping[Element, Values]


def one_value(value: Any, kind: str) -> Values:
    """The element of one event from a plain value; NULL is None."""
    valid = np.array([value is not None])
    if kind == "binary":
        return Values(np.array([value], dtype=object), valid)
    return Values(np.array([value or 0], dtype=np.int64 if kind == "whole" else np.float64), valid)


def own_elements(part: object) -> tuple[Element, ...]:
    """The elements among the fields of a block or an extra, each a field or a member of a tuple."""
    fields = [value if isinstance(value, tuple) else (value,) for value in vars(part).values()]
    return tuple(element for field in fields for element in field if isinstance(element, Element))


class Block(ABC):
    """Columns of a state that merge together."""

    merge: ClassVar[str] = "combine"
    """Columns of "sum" and "min" blocks are merged for all blocks at once (layout.py)."""

    @property
    def elements(self) -> tuple[Element, ...]:
        """The values that are read from each event: the block's fields, unless it overrides this."""
        return own_elements(self)

    @property
    @abstractmethod
    def empty(self) -> tuple[float, ...]:
        """The state of no events; its length is the block's width."""

    @abstractmethod
    def sql(self) -> tuple[str, ...]:
        """Spark aggregate expressions, one per column, of type DOUBLE and never NULL."""

    @abstractmethod
    def lift(self, lifted: Lifted) -> Rows:
        """States of single events, shape (n, width): `empty` for an event that does not count."""

    def state_of(self, values: Mapping[Element, Any]) -> tuple[float, ...]:
        """What `lift` gives for one event, from plain values, NULL as None: many times as quick."""
        lifted = {element: one_value(values[element], element.kind) for element in self.elements}
        return tuple(self.lift(lifted)[0].tolist())

    @abstractmethod
    def combine(self, left: Rows, right: Rows) -> Rows:
        """Merge pairwise; the arguments and the result have shape (..., width)."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.empty)

    @property
    def family(self) -> tuple[object, ...]:
        """The parameters of `combine`: adjacent blocks of one family are merged by one call."""
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
        """Merge the states of each owner (sorted) to one, pairs of neighbours at a time."""
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
        """States (n, width) in normal form, with the same meaning, after many merges."""
        return rows

    def blank(self, count: int) -> Rows:
        """`count` empty states, shape (count, width)."""
        return np.tile(np.asarray(self.empty, dtype=np.float64), (count, 1))


class Sums(Block):
    """Base of blocks whose columns add."""

    merge = "sum"

    def combine(self, left: Rows, right: Rows) -> Rows:
        return left + right

    def reduce(self, rows: Rows) -> Rows:
        merged: Rows = rows.sum(axis=0)
        return merged
