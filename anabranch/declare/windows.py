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

A window with an offset O ends before the answer, at its head: it holds the events in
[floor(t - O - W, hop), floor(t - O, hop)), so that `7d` and `7d offset 7d` meet. As its head moves on,
events enter it that the batch has long known, so a batch keeps hops at both ends:

    event time ->  tail(C)         tail(C + S)           head(C)         head(C + S)       C
                   |  tail hops    |  collapsed          |  head hops    |                 |

Where the slack is longer than the window, nothing is in every answer: all from tail(C) to head(C + S) is
hops. What would lie at or after the cut is among the early events and tiles.

All that this assumes of a window is a tail that lies on a hop and never moves back, and a head that is the
time of the answer or lies on a hop and never moves back either. To add a kind of window, write a subclass of
`Window` and call `register_window`.

Tiles have two tiers. Every event is in a wide tile of an hour (or a hop, where that is longer). Where a
tail may lie within an hour, fine tiles of a hop hold the same events again, and an answer reads those of
that one hour:

    event time ->   |....:....:tail:fine:fine:fine| wide         | wide         | wide ... t
                      the tail's hour: fine tiles   all later: wide tiles

Of the hour of a head that lies within it, an answer reads the fine tiles before the head. An event ahead of
its arrival has a wide tile of its own instant, and no fine one, unless the instant is the beginning of a wide
tile: then it is in the tiles that begin there.
"""

import re
import zoneinfo
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DeclarationError
from anabranch.values.calendars import PERIODS, beginning, beginnings, step_of
from anabranch.values.names import nearest
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, format_duration, parse_duration

LIFETIME, OFFSET, _TO_DATE = "lifetime", "offset", ["to", "date"]
FARTHEST = 36_500 * DAY
"""How far a window with an offset may reach back."""


@dataclass(frozen=True)
class Window(ABC):
    """The events from a tail up to a head, the time of the answer by default. `hop` is in microseconds."""

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

    def head(self, at: int) -> int:
        """The end of the window at `at`: that time itself, or a multiple of the hop that never moves back.

        A window without a tail ends at `at`.
        """
        return at

    def heads(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The heads at many times."""
        if type(self).head is Window.head:
            return at
        return np.array([self.head(moment) for moment in at.tolist()], dtype=np.int64)

    @property
    def bounded(self) -> bool:
        """Whether the window has a beginning."""
        return True

    @property
    def suffix(self) -> str:
        """What the names of the window's feature columns end with."""
        return self.name

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

    def collapsed_to(self, cut: int) -> int:
        """The end of a batch's collapsed state, which may lie before its beginning: there is none then."""
        return self.head(cut)

    def hops(self, cut: int, slack: int) -> list[tuple[int, int]]:
        """The stretches that a batch keeps in hops, before and after the collapsed state; some are empty."""
        tail, since = self.tail(cut), self.collapsed_from(cut, slack)
        if tail is None or since is None:
            return []
        until = min(self.head(cut + slack), cut)
        return [(tail, min(since, until)), (max(since, self.collapsed_to(cut)), until)]


def _multiples(micros: int, hop: int) -> str:
    """The multiples of a hop next to a duration, for an error."""
    below = micros // hop * hop
    fitting = [each for each in (below, below + hop) if each > 0]
    return " or ".join(repr(format_duration(each)) for each in fitting)


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
                f"choose {_multiples(width, step)}, or give the view a smaller hop="
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
class ShiftedWindow(Window):
    """The `width` microseconds before the last `offset`, such as ``7d offset 7d``, both ends rounded down to
    a hop: what the window without the offset was at that end.
    """

    width: int
    offset: int

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:
        words = text.split()
        if OFFSET not in words:
            return None
        if len(words) != 3 or words[1] != OFFSET:
            raise DeclarationError(
                f"{place}: window {text!r} is not understood: an offset stands between two durations, the "
                "width and how long before the answer the window ends, such as '7d offset 7d'"
            )
        if words[0] == LIFETIME:
            raise DeclarationError(
                f"{place}: window {text!r} has an offset but no width: a lifetime ends at the answer; "
                "give a width, such as '365d offset 7d'"
            )
        plain = SlidingWindow.read(words[0], hop, place)
        if re.fullmatch(r"-\S+|0+[smhd]?", words[2]):
            raise DeclarationError(
                f"{place}: window {text!r}: an offset is at least a hop, here {format_duration(plain.hop)}: "
                f"write {words[0]!r} for the window that ends at the answer"
            )
        offset = parse_duration(words[2], f"{place}: window {text!r}: offset")
        if offset % plain.hop:
            raise DeclarationError(
                f"{place}: window {text!r}: the offset {words[2]!r} is no multiple of the window's hop "
                f"{format_duration(plain.hop)}: choose {_multiples(offset, plain.hop)}, or give the view a "
                "smaller hop="
            )
        if plain.width + offset > FARTHEST:
            raise DeclarationError(
                f"{place}: window {text!r} reaches back too far: width and offset are "
                f"{format_duration(FARTHEST)} together at most"
            )
        return cls(" ".join(words), plain.hop, plain.width, offset)

    def tail(self, at: int) -> int:
        return self.head(at) - self.width

    def tails(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.heads(at) - self.width

    def head(self, at: int) -> int:
        return floor_to(at - self.offset, self.hop)

    def heads(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at - self.offset) // self.hop * self.hop

    @property
    def suffix(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def meaning(self) -> tuple[object, ...]:
        return (self.width, self.hop, self.offset)


@dataclass(frozen=True)
class CalendarWindow(Window):
    """The events since the day, week or month began in a zone: ``month to date Europe/Berlin``."""

    period: str
    zone: str

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:  # noqa: ARG003 - the zone's step
        words = text.split()
        if words[1:3] != _TO_DATE and "date" not in words:
            return None
        if words[1:3] != _TO_DATE or words[0] not in PERIODS or len(words) > 4:
            raise DeclarationError(
                f"{place}: window {text!r} is not understood: write 'day to date', 'week to date' or "
                "'month to date', and behind it a time zone other than UTC, such as 'Europe/Berlin'"
            )
        zone = words[3] if len(words) == 4 else "UTC"
        if zone not in zoneinfo.available_timezones():
            near = nearest(zone, zoneinfo.available_timezones()) or "Europe/Berlin"
            raise DeclarationError(
                f"{place}: window {text!r} has an unknown time zone {zone!r}: write one such as {near!r}"
            )
        name = " ".join([words[0], *_TO_DATE, *([zone] if zone != "UTC" else [])])
        return cls(name, step_of(zone), words[0], zone)

    def tail(self, at: int) -> int:
        return floor_to(beginning(self.period, self.zone, at), self.hop)

    def tails(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return beginnings(self.period, self.zone, at) // self.hop * self.hop

    @property
    def suffix(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower().replace("+", "plus"))


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


_KINDS: list[type[Window]] = [ShiftedWindow, CalendarWindow, LifetimeWindow]


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


def edges(spans: Iterable[Window], wide: int, at: int, until: int | None = None) -> list[tuple[int, int]]:
    """Stretches of event time that answers at `at`, or up to `until`, may take from fine tiles.

    For each tail that lies within a wide tile, the stretch is from the tail to the end of that tile; for each
    head before the answer, from the beginning of its wide tile to the head.
    """
    last, found = at if until is None else until, set()
    for span in spans:
        tails = {tail for moment in (at, last) if (tail := span.tail(moment)) is not None}
        found |= {(tail, floor_to(tail, wide) + wide) for tail in tails if tail % wide}
        if span.head(last) < last:
            since, head = floor_to(span.head(at), wide), span.head(last)
            found |= {(since, head)} if since < head else set()
    return sorted(found)


def standard_hop(width: int) -> int:
    """The hop of a window: 5 minutes below 12 hours, 1 hour below 12 days, else a day."""
    if width >= 12 * DAY:
        return DAY
    return HOUR if width >= 12 * HOUR else 5 * MINUTE
