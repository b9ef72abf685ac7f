"""Windows over event time: half-open, the tail rounded down to a hop, so that stored hops fill them exactly.

A sliding window of width W at time t holds the events in [floor(t - W, hop), t): at least W and at most one
hop more. The batch state of one key, for a cut C and a slack S (the time for which a batch can answer after
its cut):

    event time ->  floor(C - W, hop)       floor(C + S - W, hop)       C           t
                   |  tail hop | tail hop |...|  collapsed: one state  |           |
                                                                       early: event time >= C, each kept
                   every tail is in this stretch, on a hop             tiles of the stream: arrival >= C

An answer at t in [C, C + S] merges the collapsed state, the tail hops at or after floor(t - W, hop), and
the early events and tiles before t.

All that this assumes of a window is a tail that lies on a hop and never moves back; the collapsed state
begins at the tail of the latest answer, at C + S. To add a kind of window, write a subclass of `Window` and
call `register_window`.

Tiles have two tiers. Every event is in a wide tile of an hour (or a hop, where that is longer). Where a
tail may lie within an hour, fine tiles of a hop hold the same events again, and an answer reads those of
that one hour:

    event time ->   |....:....:tail:fine:fine:fine| wide         | wide         | wide ... t
                      the tail's hour: fine tiles   all later: wide tiles

An event ahead of its arrival has a wide tile of its own instant, and no fine one.
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
    """The events from a tail up to the time of the answer. `hop` is in microseconds."""

    name: str
    hop: int

    @classmethod
    @abstractmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:
        """The window written as `text`, None for a text of another kind.

        Raises DeclarationError, beginning with `place`, for a window that cannot be.
        """

    @abstractmethod
    def tail(self, at: int) -> int | None:
        """The beginning of the window at `at`, a multiple of the hop that never moves back; None for none."""

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
        """The parameters that stored states depend on."""
        return (self.name, self.hop)

    def needs_fine(self, wide: int) -> bool:
        """Whether a tail may lie within a wide tile, so that fine ones are needed."""
        return self.hop % wide != 0

    def collapsed_from(self, cut: int, slack: int) -> int | None:
        """The beginning of a batch's collapsed state: the tail of the batch's latest possible answer."""
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
    """Make `kind` known to declarations. Registered kinds read a text before it is read as a duration."""
    if kind not in _KINDS:
        _KINDS.append(kind)


def make_window(text: str, hop: str | None, place: str) -> Window:
    """The window written as `text`; raises DeclarationError, beginning with `place`, for any other text."""
    windows = (kind.read(text, hop, place) for kind in _KINDS)
    return next((window for window in windows if window is not None), None) or SlidingWindow.read(
        text, hop, place
    )


def edges(spans: Iterable[Window], wide: int, at: int) -> list[tuple[int, int]]:
    """Stretches of event time that an answer at `at` takes from fine tiles.

    For each tail that lies within a wide tile, the stretch is from the tail to the end of that tile.
    """
    tails = {tail for span in spans if (tail := span.tail(at)) is not None and tail % wide}
    return [(tail, floor_to(tail, wide) + wide) for tail in sorted(tails)]


def standard_hop(width: int) -> int:
    """The hop of a window: 5 minutes below 12 hours, 1 hour below 12 days, else a day."""
    if width >= 12 * DAY:
        return DAY
    return HOUR if width >= 12 * HOUR else 5 * MINUTE
