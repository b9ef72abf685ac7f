"""A kind of window that Anabranch does not have, as a user would add it: the calendar day of the answer."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Self

from anabranch.declare.windows import Window
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, from_micros, to_micros

OFFSETS = {"today": 0, "today_delhi": 5 * HOUR + 30 * MINUTE}


@dataclass(frozen=True)
class TodayWindow(Window):
    """The events since midnight, ``today`` by UTC and ``today_delhi`` by the time of Delhi, 5 hours and 30 minutes ahead."""

    offset: int = 0

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:  # noqa: ARG003 - its hop is fixed
        offset = OFFSETS.get(text)
        return None if offset is None else cls(text, 30 * MINUTE if offset else DAY, offset)

    def tail(self, at: int) -> int:
        return floor_to(at + self.offset, DAY) - self.offset


def midnight(window: TodayWindow, at: int) -> int:
    """The same by the calendar, for the oracle."""
    zone = timezone(timedelta(microseconds=window.offset))
    local = from_micros(at).astimezone(zone)
    return to_micros(datetime(local.year, local.month, local.day, tzinfo=zone).astimezone(UTC))
