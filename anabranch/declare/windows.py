"""Windows over event time: half-open, the tail rounded down to a hop, so that stored hops fill them exactly.

A window of width W at time t holds the events in [floor(t - W, hop), t): it is never shorter than W and at most one
hop longer (a sawtooth). Batch state of one key, for a cut C and a slack S (the longest a batch may be late):

    event time ->   floor(C - W, hop)        floor(C + S - W, hop)                      C           t
                    |  tail hop | tail hop |...|  collapsed: one state ................. |           |
                                                                                        early: event time >= C, exact
                    any tail in this stretch is on a hop                                | tiles of the stream (arrival >= C)

An answer at t in [C, C + S] is collapsed + the tail hops at or after floor(t - W, hop) + early + tiles, all before t.

Tiles come in two tiers. Wide ones hold an hour (or a hop, where hops are longer), and every event is in one of them. Where
a tail may lie within an hour, fine ones of a hop hold the same events again; an answer reads them of that one hour only:

    event time ->   |....:....:tail:fine:fine:fine| wide         | wide         | wide ... t
                      the tail's hour: fine tiles   all later: wide tiles

An event ahead of its arrival has a tile of its own instant among the wide ones, and no fine one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from anabranch.errors import DeclarationError
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, format_duration, parse_duration

LIFETIME = "lifetime"


@dataclass(frozen=True)
class Window:
    """`width` and `hop` in microseconds; width None is the key's whole life."""

    name: str
    width: int | None
    hop: int

    def tail(self, at: int) -> int | None:
        """Where the window begins at time `at`; None for a lifetime."""
        return None if self.width is None else floor_to(at - self.width, self.hop)


def edges(spans: Iterable[Window], wide: int, at: int) -> list[tuple[int, int]]:
    """Stretches [tail, end of the tail's wide tile) of event time that an answer at `at` takes from fine tiles, one a tail within a wide tile."""
    tails = {tail for span in spans if (tail := span.tail(at)) is not None and tail % wide}
    return [(tail, floor_to(tail, wide) + wide) for tail in sorted(tails)]


def standard_hop(width: int | None) -> int:
    """The hop of a window: 5 minutes below 12 hours, 1 hour below 12 days, else a day."""
    if width is None or width >= 12 * DAY:
        return DAY
    return HOUR if width >= 12 * HOUR else 5 * MINUTE


def make_window(text: str, hop: str | None, place: str) -> Window:
    """The window written as `text`; raises DeclarationError, beginning with `place`, when no hop divides it."""
    if text == LIFETIME:
        return Window(LIFETIME, None, parse_duration(hop, f"{place}: hop") if hop else DAY)
    width = parse_duration(text, f"{place}: window")
    step = parse_duration(hop, f"{place}: hop") if hop else standard_hop(width)
    if step > standard_hop(width):
        most = format_duration(standard_hop(width))
        raise DeclarationError(
            f"{place}: hop {hop!r} is larger than the window {text!r} may have: use {most} or less"
        )
    if width % step:
        raise DeclarationError(
            f"{place}: window {text!r} is no multiple of its hop {format_duration(step)}: choose another window, or give the view a smaller hop="
        )
    return Window(text, width, step)
