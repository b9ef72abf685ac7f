"""Extras: mergeable states of no fixed length (text, sketches), kept as bytes beside the row of float64.

Like a block, an extra says how Spark builds it (`sql`), how states merge, and what it is over windows of a sorted array
(`over`). No events are None.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.blocks import TIME, TIME_ELEMENT, Element, Leading, Lifted, Values
from features.ranges import over_ranges

Bytes = NDArray[np.object_]


class Extra(ABC):
    """A state of bytes."""

    @property
    @abstractmethod
    def elements(self) -> tuple[Element, ...]:
        """What is read of each event."""

    @abstractmethod
    def sql(self) -> str:
        """A Spark aggregate expression that gives BINARY, NULL for no events."""

    @abstractmethod
    def merge(self, states: Sequence[bytes]) -> bytes:
        """One state of at least one."""

    @abstractmethod
    def over(self, lifted: Lifted, first: NDArray[np.int64], end: NDArray[np.int64]) -> Bytes:
        """States of the events in [first, end), one a range."""


@dataclass(frozen=True)
class LeadingText(Extra):
    """The bytes of the last value (`sign` 1) or first value (-1): 8 bytes of time, big-endian and order-preserving, then the value."""

    element: Element
    sign: int = 1

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element, TIME_ELEMENT)

    def sql(self) -> str:
        # Flipping the sign bit makes the bytes of negative times sort before those of positive ones.
        stamped = f"concat(unhex(lpad(hex({TIME} ^ (-9223372036854775807L - 1L)), 16, '0')), {self.element.sql})"
        return f"{'max' if self.sign > 0 else 'min'}({stamped})"

    def merge(self, states: Sequence[bytes]) -> bytes:
        return max(states) if self.sign > 0 else min(states)

    def over(self, lifted: Lifted, first: NDArray[np.int64], end: NDArray[np.int64]) -> Bytes:
        found = lifted[self.element]
        # Text is replaced by its rank, so that the search is one of numbers.
        distinct = sorted(set(found.values[found.valid].tolist()))
        rank = {value: position for position, value in enumerate(distinct)}
        codes = np.fromiter((rank.get(value, 0) for value in found.values), dtype=np.float64, count=len(found.values))
        ranked = Element(sql=f"rank of {self.element.sql}")
        block = Leading(parts=(TIME_ELEMENT, ranked), sign=self.sign)
        rows = self.sign * over_ranges(block, {TIME_ELEMENT: lifted[TIME_ELEMENT], ranked: Values(codes, found.valid)}, first, end)
        out = np.empty(len(rows), dtype=object)
        for i in np.flatnonzero(np.isfinite(rows[:, 0])):
            out[i] = (int(rows[i, 0]) + (1 << 63)).to_bytes(8, "big") + distinct[int(rows[i, 1])]
        return out
