"""Time as whole microseconds since 1970-01-01 UTC: durations, floors, and ISO 8601 text."""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from anabranch.errors import DeclarationError, MisuseError
from anabranch.values.texts import bare_text

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_OTHER_UNITS = {**_UNITS, "w": 7 * DAY}
_UNIT_WORDS = {*_OTHER_UNITS, "sec", "second", "min", "minute", "hr", "hour", "day", "week", "wk"}
"""Units as others write them, without an s at the end."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str, what: str = "duration") -> int:
    """Microseconds of ``"30s"``, ``"15m"``, ``"1h"`` or ``"7d"``.

    Raises DeclarationError, beginning with `what`, for anything else.
    """
    match = re.fullmatch(r"([1-9]\d{0,6})([smhd])", str(text).strip())
    if match is None:
        meant = _meant_duration(str(text))
        raise DeclarationError(
            f"{what} {text!r} is not understood: "
            "write a whole number and s, m, h or d, such as '15m', '1h' or '7d'"
            + ("" if meant is None else f": did you mean {meant!r}?")
        )
    return int(match[1]) * _UNITS[match[2]]


def _meant_duration(text: str) -> str | None:
    """The duration that a text of another form means, such as ``'90m'`` for ``1.5 hours``."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([a-z]+)", text.strip().lower())
    if match is None:
        return None
    word = match[2].removesuffix("s") if len(match[2]) > 2 else match[2]
    if word not in _UNIT_WORDS:
        return None
    micros = round(float(match[1]) * _OTHER_UNITS[word[0]])
    return format_duration(micros) if micros > 0 and micros % SECOND == 0 else None


def format_duration(micros: int) -> str:
    """The shortest text of a duration that `parse_duration` reads back: ``1h`` for 3,600,000,000."""
    for unit in ("d", "h", "m", "s"):
        if micros % _UNITS[unit] == 0:
            return f"{micros // _UNITS[unit]}{unit}"
    return f"{micros / SECOND:g}s"


def floor_to(micros: int, step: int) -> int:
    """The last multiple of `step` at or before `micros` (also for times before 1970)."""
    return micros // step * step


def to_micros(moment: datetime) -> int:
    """Microseconds of a time; one without a zone is taken as UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (aware - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The aware UTC time of `micros`."""
    return _EPOCH + timedelta(microseconds=micros)


TIME_PATTERN = (
    r"(?!0000)([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?) ?([Zz]|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
"""ISO 8601 as texts of times are read everywhere: a day, or a day and a time, with or without a zone."""
_TIME = re.compile(TIME_PATTERN)
FIRST, LAST = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1
"""The first and the last microsecond of the years 1 to 9999."""
_WIDEST_ZONE = 18 * HOUR


def parse_time(text: str) -> int:
    """Microseconds of ISO 8601 text, without a zone UTC; raises MisuseError for any other text.

    Nanoseconds are cut off. Times are of the years 1 to 9999 in UTC, zones of at most 18 hours.
    """
    micros = _micros(bare_text(text))
    if micros is None or not FIRST <= micros <= LAST:
        raise MisuseError(f"time {text!r} is not ISO 8601: write for example 2024-05-01T12:00:00Z")
    return micros


def _micros(text: str) -> int | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day, clock, zone = found.groups()
    ahead = _zone(zone)
    try:
        naive = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
    except ValueError:
        return None
    return None if ahead is None else to_micros(naive) - ahead


def _zone(text: str | None) -> int | None:
    """Microseconds by which a zone is ahead of UTC; None for a zone that does not exist."""
    if text is None or text[0] not in "+-":
        return 0
    minutes = int(text[-2:]) if len(text) > 3 else 0
    ahead = int(text[1:3]) * HOUR + minutes * MINUTE
    if minutes >= 60 or ahead > _WIDEST_ZONE:
        return None
    return -ahead if text[0] == "-" else ahead


@lru_cache(maxsize=1024)  # keys that are answered together share one time
def format_time(micros: int) -> str:
    """ISO 8601 text in UTC with a ``Z``."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


def sortable_time(moment: datetime) -> str:
    """ISO 8601 text in UTC, to the microsecond and of one width, so that texts sort as their times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def now_micros() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000
