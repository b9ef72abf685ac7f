"""Time as whole microseconds since 1970-01-01 UTC: durations, floors, and ISO 8601 text."""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from anabranch.errors import DeclarationError, MisuseError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str, what: str = "duration") -> int:
    """Microseconds of ``"30s"``, ``"15m"``, ``"1h"`` or ``"7d"``.

    Raises DeclarationError, beginning with `what`, for anything else.
    """
    match = re.fullmatch(r"([1-9]\d{0,6})([smhd])", str(text).strip())
    if match is None:
        raise DeclarationError(
            f"{what} {text!r} is not understood: "
            "write a whole number and s, m, h or d, such as '15m', '1h' or '7d'"
        )
    return int(match[1]) * _UNITS[match[2]]


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


def parse_time(text: str) -> int:
    """Microseconds of ISO 8601 text, without a zone UTC; raises MisuseError for any other text."""
    try:
        return to_micros(datetime.fromisoformat(text.strip()))
    except ValueError as error:
        raise MisuseError(f"time {text!r} is not ISO 8601: write for example 2024-05-01T12:00:00Z") from error


@lru_cache(maxsize=1024)  # keys that are answered together share one time
def format_time(micros: int) -> str:
    """ISO 8601 text in UTC with a ``Z``."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


def now_micros() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000
