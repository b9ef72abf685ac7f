"""Windows over event time: half-open, the tail rounded down to a hop, so that stored hops fill them exactly.

A window of width W at time t holds the events in [floor(t - W, hop), t): it is never shorter than W and at most one
hop longer (a sawtooth). Batch state of one key, for a cut C and a slack S (the longest a batch may be late):

    event time ->   floor(C - W, hop)        floor(C + S - W, hop)                      C           t
                    |  tail hop | tail hop |...|  collapsed: one state ................. |           |
                                                                                        early: event time >= C, exact
                    any tail in this stretch is on a hop                                | tiles of the stream (arrival >= C)

An answer at t in [C, C + S] is collapsed + the tail hops at or after floor(t - W, hop) + early + tiles, all before t.

Nothing else is assumed of a window than that its tail lies on a hop and never moves back. So a further kind is one
subclass of `Window` and `register_window`; the collapsed state begins at the tail of the latest answer, C + S.

Tiles come in two tiers. Wide ones hold an hour (or a hop, where hops are longer), and every event is in one of them. Where
a tail may lie within an hour, fine ones of a hop hold the same events again; an answer reads them of that one hour only:

    event time ->   |....:....:tail:fine:fine:fine| wide         | wide         | wide ... t
                      the tail's hour: fine tiles   all later: wide tiles

An event ahead of its arrival has a tile of its own instant among the wide ones, and no fine one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DeclarationError
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, format_duration, parse_duration

LIFETIME = "lifetime"


@dataclass(frozen=True)
class Window(ABC):
    """A kind of window: the events from its tail up to the time of the answer. `hop` in microseconds."""

    name: str
    hop: int

    @classmethod
    @abstractmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:
        """The window written as `text`, None when that is another kind; raises DeclarationError, beginning with `place`."""

    @abstractmethod
    def tail(self, at: int) -> int | None:
        """Where the window begins at time `at`: a multiple of the hop that never moves back; None for no beginning."""

    def tails(self, at: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The tails at many times."""
        return np.array([self.tail(moment) for moment in at.tolist()], dtype=np.int64)

    @property
    def bounded(self) -> bool:
        """Whether the window has a beginning."""
        return True

    @property
    def label(self) -> str:
        """The window as pages show it."""
        return self.name

    @property
    def meaning(self) -> tuple[object, ...]:
        """What stored states depend on."""
        return (self.name, self.hop)

    def needs_fine(self, wide: int) -> bool:
        """Whether a tail may lie within a wide tile, so that fine ones are needed."""
        return self.hop % wide != 0

    def collapsed_from(self, cut: int, slack: int) -> int | None:
        """Where the collapsed state of a batch begins: at the tail of the latest answer that the batch can give."""
        return self.tail(cut + slack)


@dataclass(frozen=True)
class SlidingWindow(Window):
    """The last `width` microseconds, such as ``7d``, the tail rounded down to a hop."""

    width: int

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self:
        width = parse_duration(text, f"{place}: window")
        step = parse_duration(hop, f"{place}: hop") if hop else standard_hop(width)
        if step > standard_hop(width):
            most = format_duration(standard_hop(width))
            raise DeclarationError(
                f"{place}: hop {hop!r} is larger than the window {text!r} may have: use {most} or less"
            )
        if width % step:
            raise DeclarationError(
                f"{place}: window {text!r} is no multiple of its hop {format_duration(step)}: "
                "choose another window, or give the view a smaller hop="
            )
        return cls(text, step, width)

    def tail(self, at: int) -> int:
        return floor_to(at - self.width, self.hop)

    def tails(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at - self.width) // self.hop * self.hop

    @property
    def meaning(self) -> tuple[object, ...]:
        return (self.width, self.hop)


@dataclass(frozen=True)
class LifetimeWindow(Window):
    """All events of the key, written ``lifetime``."""

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:
        if text != LIFETIME:
            return None
        return cls(LIFETIME, parse_duration(hop, f"{place}: hop") if hop else DAY)

    def tail(self, at: int) -> None:
        return None

    def tails(self, at: NDArray[np.int64]) -> None:
        return None

    @property
    def bounded(self) -> bool:
        return False

    @property
    def label(self) -> str:
        return "ever"

    @property
    def meaning(self) -> tuple[object, ...]:
        return (None, self.hop)

    def needs_fine(self, wide: int) -> bool:
        return False


_KINDS: list[type[Window]] = [LifetimeWindow]


def register_window(kind: type[Window]) -> None:
    """Make `kind` known to declarations; every registered kind is asked to read a text before it is taken for a duration."""
    if kind not in _KINDS:
        _KINDS.append(kind)


def make_window(text: str, hop: str | None, place: str) -> Window:
    """The window written as `text`; raises DeclarationError, beginning with `place`, when no kind reads it."""
    found = (kind.read(text, hop, place) for kind in _KINDS)
    return next((window for window in found if window is not None), None) or SlidingWindow.read(
        text, hop, place
    )


def edges(spans: Iterable[Window], wide: int, at: int) -> list[tuple[int, int]]:
    """Stretches [tail, end of the tail's wide tile) of event time that an answer at `at` takes from fine tiles.

    There is one for each tail that lies within a wide tile.
    """
    tails = {tail for span in spans if (tail := span.tail(at)) is not None and tail % wide}
    return [(tail, floor_to(tail, wide) + wide) for tail in sorted(tails)]


def standard_hop(width: int) -> int:
    """The hop of a window: 5 minutes below 12 hours, 1 hour below 12 days, else a day."""
    if width >= 12 * DAY:
        return DAY
    return HOUR if width >= 12 * HOUR else 5 * MINUTE
