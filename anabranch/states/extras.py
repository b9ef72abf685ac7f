"""Extras: mergeable states of variable length (texts, sketches), kept as bytes beside the row of float64.

Like a block, an extra defines how Spark builds it (`sql`), how states merge (`merge`), and its states over
ranges of a sorted array (`over`). The state of no events is None.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.states.blocks import TIME, TIME_ELEMENT, Element, Lifted, Values, own_elements
from anabranch.states.leading import LeadingFew
from anabranch.states.ranges import prepare

Bytes = NDArray[np.object_]
KEPT_LETTERS = 10_000
"""Letters of a text, or bytes of a BINARY, that a state keeps: the rest is cut off."""
LONGEST_VALUE = 4 * KEPT_LETTERS  # bytes in UTF-8
LONGEST_IDENTITY = 64
"""Bytes by which values are told apart, beyond which a digest stands for a value."""


class Extra(ABC):
    """A state of bytes."""

    @property
    def elements(self) -> tuple[Element, ...]:
        """The values that are read from each event: the extra's fields, unless it overrides this."""
        return own_elements(self)

    @property
    def largest(self) -> int:
        """About the bytes of the largest state; 0 where they are few."""
        return 0

    @abstractmethod
    def sql(self) -> str:
        """A Spark aggregate expression of type BINARY, NULL for no events."""

    @abstractmethod
    def merge(self, states: Sequence[bytes]) -> bytes:
        """Merge at least one state into one."""

    @abstractmethod
    def state_of(self, values: Mapping[Element, Any]) -> bytes | None:
        """The state of one event, from plain values, NULL as None; None for one that does not count."""

    @abstractmethod
    def over(self, lifted: Lifted, first: NDArray[np.int64], end: NDArray[np.int64]) -> Bytes:
        """States of the events in each range [first, end)."""


@dataclass(frozen=True)
class LeadingTexts(Extra):
    """The bytes of the `count` last values (`sign` 1) or first values (-1), the leading one first.

    Each is a uint32 length (big-endian), 8 bytes that sort as the event time does, and the value.
    """

    element: Element
    count: int = 1
    sign: int = 1

    @property
    def elements(self) -> tuple[Element, ...]:
        return (self.element, TIME_ELEMENT)

    @property
    def largest(self) -> int:
        return self.count * LONGEST_VALUE

    def sql(self) -> str:
        # Flipping the sign bit makes the bytes of negative times sort before those of positive ones.
        stamped = (
            f"concat(unhex(lpad(hex({TIME} ^ (-9223372036854775807L - 1L)), 16, '0')), {self.element.sql})"
        )
        framed = "concat(unhex(lpad(hex(octet_length({0})), 8, '0')), {0})"
        if self.count == 1:
            return framed.format(f"{'max' if self.sign > 0 else 'min'}({stamped})")
        few = f"slice(sort_array(collect_list({stamped}), {str(self.sign < 0).lower()}), 1, {self.count})"
        joined = f"aggregate({few}, X'', (done, one) -> concat(done, {framed.format('one')}))"
        return f"CASE WHEN count({self.element.sql}) > 0 THEN {joined} END"

    def merge(self, states: Sequence[bytes]) -> bytes:
        stamped = sorted((one for state in states for one in frames(state)), reverse=self.sign > 0)[
            : self.count
        ]
        return b"".join(map(framed, stamped))

    def state_of(self, values: Mapping[Element, Any]) -> bytes | None:
        value = values[self.element]
        if value is None:
            return None
        return framed((values[TIME_ELEMENT] + (1 << 63)).to_bytes(8, "big") + value)

    @staticmethod
    def values(state: bytes) -> list[bytes]:
        """The values of a state, the leading one first."""
        return [one[8:] for one in frames(state)]

    def over(self, lifted: Lifted, first: NDArray[np.int64], end: NDArray[np.int64]) -> Bytes:
        element = lifted[self.element]
        # Ranks stand for the texts, so that numbers are searched.
        distinct = sorted(set(element.values[element.valid].tolist()))
        rank = {value: position for position, value in enumerate(distinct)}
        codes = np.fromiter(
            (rank.get(value, 0) for value in element.values), dtype=np.float64, count=len(element.values)
        )
        ranked = Element(sql=f"rank of {self.element.sql}")
        block = LeadingFew((TIME_ELEMENT, ranked), self.count, self.sign)
        rows = prepare(block, {TIME_ELEMENT: lifted[TIME_ELEMENT], ranked: Values(codes, element.valid)})(
            first, end
        )
        out = np.empty(len(rows), dtype=object)
        for i, line in enumerate((self.sign * rows).reshape(len(rows), self.count, 2).tolist()):
            stamped = [
                (int(time) + (1 << 63)).to_bytes(8, "big") + distinct[int(code)]
                for time, code in line
                if math.isfinite(time)
            ]
            out[i] = b"".join(map(framed, stamped)) or None
        return out


def framed(value: bytes) -> bytes:
    """A value as a frame: a uint32 length (big-endian) and so many bytes."""
    return len(value).to_bytes(4, "big") + value


def frames(state: bytes) -> list[bytes]:
    """The values of concatenated frames: each is a uint32 length (big-endian) and so many bytes."""
    out, place = [], 0
    while place < len(state):
        size = int.from_bytes(state[place : place + 4], "big")
        out.append(state[place + 4 : place + 4 + size])
        place += 4 + size
    return out
