"""Dates and times over vectors, in UTC: a DATE is days since 1970, a TIMESTAMP microseconds, both int64."""

import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from anabranch.values.vectors.numbers import (
    LEAST,
    MOST,
    Twin,
    Values,
    Vector,
    double_to_bigint,
    joined,
    plain,
)
from anabranch.values.vectors.texts import AROUND, read_text, texts

SECOND, DAY = 1_000_000, 86_400_000_000
_UNITS = {"WEEK": 7 * DAY, "DAY": DAY, "HOUR": 3600 * SECOND, "MINUTE": 60 * SECOND, "SECOND": SECOND}
_MONTHS = {"YEAR": 12, "QUARTER": 3, "MONTH": 1}
_SMALL = {**_UNITS, "MILLISECOND": 1000, "MICROSECOND": 1}
_DATE = r"([+-]?[0-9]{4,7})(?:-([0-9]{1,2})(?:-([0-9]{1,2})"
_DAY_TEXT = re.compile(_DATE + r"(?:[ T].*)?)?)?", re.DOTALL)
_CLOCK = r"([0-9]{1,2})(?::([0-9]{1,2})(?::([0-9]{1,2})(?:\.([0-9]*))?)?)?"
_TIME_TEXT = re.compile(_DATE + r"(?:[ T](?:" + _CLOCK + r")?(.*))?)?)?", re.DOTALL)
_ZONE = re.compile(r"(?:UTC|GMT|UT)?([+-])([0-9]{1,2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?")


def _days(values: Values) -> Any:
    return values.astype("datetime64[D]")


def _of_day(unit: str, base: int, modulus: int | None = None) -> Twin:
    def run(a: Vector) -> Vector:
        found = _days(a[0]).astype(f"datetime64[{unit}]").astype(np.int64)
        return (found if modulus is None else found % modulus) + base, a[1]

    return run


def _quarter(a: Vector) -> Vector:
    months, nulls = _of_day("M", 0, 12)(a)
    return months // 3 + 1, nulls


def _since(unit: str) -> Twin:
    """Days since the beginning of a month or year, from 1."""

    def run(a: Vector) -> Vector:
        begin = _days(a[0]).astype(f"datetime64[{unit}]").astype("datetime64[D]").astype(np.int64)
        return a[0] - begin + 1, a[1]

    return run


def _week(a: Vector) -> Vector:
    """ISO 8601: the week of the Thursday of the same week."""
    thursday = a[0] - (a[0] + 3) % 7 + 3
    day, _ = _since("Y")((thursday, None))
    return (day - 1) // 7 + 1, a[1]


def _last_day(a: Vector) -> Vector:
    following = _days(a[0]).astype("datetime64[M]") + np.timedelta64(1, "M")
    return following.astype("datetime64[D]").astype(np.int64) - 1, a[1]


def _part(step: int, modulus: int) -> Twin:
    return lambda a: (a[0] // step % modulus, a[1])


def _floored(step: int) -> Twin:
    return lambda a: (a[0] // step, a[1])


def _begin_of_day_unit(days: Values, unit: str) -> Values:
    if unit == "WEEK":
        monday: Values = days - (days + 3) % 7
        return monday
    months = _days(days).astype("datetime64[M]").astype(np.int64)
    begin = months - months % _MONTHS[unit]
    found: Values = begin.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return found


def truncated(a: Vector, unit: str) -> Vector:
    """date_trunc: the beginning of the unit that a time lies in."""
    if unit in _SMALL and unit != "WEEK":
        return a[0] // _SMALL[unit] * _SMALL[unit], a[1]
    return _begin_of_day_unit(a[0] // DAY, unit) * DAY, a[1]


def truncated_day(a: Vector, unit: str) -> Vector:
    """trunc of a DATE."""
    return _begin_of_day_unit(a[0], unit), a[1]


def moved(a: Vector, count: int, unit: str) -> Vector:
    """A TIMESTAMP moved by whole units."""
    if unit in _UNITS:
        step = count * _UNITS[unit]
        found = a[0] + step
        return found, joined(a[1], ((a[0] ^ found) & (np.int64(step) ^ found)) < 0)
    days = a[0] // DAY
    return moved_day((days, a[1]), count, unit)[0] * DAY + a[0] % DAY, a[1]


def moved_day(a: Vector, count: int, unit: str) -> Vector:
    """A DATE moved by whole units; the day is the last of its month where that is shorter."""
    if unit in _UNITS:
        return a[0] + count * _UNITS[unit] // DAY, a[1]
    months = _days(a[0]).astype("datetime64[M]") + np.timedelta64(count * _MONTHS[unit], "M")
    begin = months.astype("datetime64[D]").astype(np.int64)
    end = (months + np.timedelta64(1, "M")).astype("datetime64[D]").astype(np.int64)
    return np.minimum(begin + _since("M")(a)[0] - 1, end - 1), a[1]


def _micros(a: Vector, step: int) -> Vector:
    """A whole number of steps of microseconds as a TIMESTAMP; beyond all times the first or the last one."""
    most = MOST // step
    inside = np.clip(a[0], -most, most) * step
    return np.where(a[0] > most, MOST, np.where(a[0] < -most, LEAST, inside)), a[1]


def _seconds(a: Vector) -> Vector:
    """Seconds since 1970, a DOUBLE, as a TIMESTAMP; NaN and infinities are NULL."""
    good = np.isfinite(a[0])
    return (np.where(good, a[0], 0) * SECOND).astype(np.int64), joined(a[1], ~good)


def _double_to_time(a: Vector) -> Vector:
    return double_to_bigint((a[0] * SECOND, a[1]))


def _day_to_text(a: Vector) -> Vector:
    return texts([_signed(text) for text in np.datetime_as_string(_days(a[0])).tolist()]), a[1]


def _time_to_text(a: Vector) -> Vector:
    shown = np.datetime_as_string(a[0].astype("datetime64[us]")).tolist()
    found = []
    for text in shown:
        day, clock = text.split("T")
        found.append(f"{_signed(day)} {clock.rstrip('0').rstrip('.') if '.' in clock else clock}")
    return texts(found), a[1]


def _signed(day: str) -> str:
    """The text of a day as Java writes it: numpy gives years before 0 three digits, and none a plus."""
    if day[0] == "-":
        year, rest = day[1:].split("-", 1)
        return f"-{year:0>4}-{rest}"
    return f"+{day}" if len(day) > 10 else day


def _day(text: str) -> int | None:
    found = _DAY_TEXT.fullmatch(text.strip(AROUND))
    return None if found is None else _ordinal(*found.groups())


def _ordinal(year: str, month: str | None, day: str | None) -> int | None:
    try:
        return (date(int(year), int(month or 1), int(day or 1)) - date(1970, 1, 1)).days
    except ValueError:
        return None


def _time(text: str) -> int | None:
    found = _TIME_TEXT.fullmatch(text.strip(AROUND))
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    days = _ordinal(year, month, day)
    clock = [int(part or 0) for part in (hour, minute, second)]
    if days is None or clock[0] > 23 or clock[1] > 59 or clock[2] > 59 or (zone and hour is None):
        return None
    micros = int((fraction or "")[:6].ljust(6, "0"))
    local = days * DAY + ((clock[0] * 60 + clock[1]) * 60 + clock[2]) * SECOND + micros
    ahead = _ahead((zone or "").strip(), local)
    return None if ahead is None else local - ahead


def _ahead(zone: str, local: int) -> int | None:
    """Microseconds by which a zone is ahead of UTC at a local time; None for one that does not exist."""
    if zone in ("", "Z", "UTC", "GMT", "UT"):
        return 0
    offset = _ZONE.fullmatch(zone)
    if offset is not None:
        sign, hours, minutes, seconds = offset.groups()
        ahead = (int(hours) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
        if ahead > 18 * 3600 or int(minutes or 0) > 59 or int(seconds or 0) > 59:
            return None
        return (-ahead if sign == "-" else ahead) * SECOND
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=local)
        shift = at.replace(tzinfo=zoneinfo.ZoneInfo(zone)).utcoffset()
    except (OverflowError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return None
    return None if shift is None else shift // timedelta(microseconds=1)


TIMES: dict[str, Twin] = {
    "year": _of_day("Y", 1970),
    "quarter": _quarter,
    "month": _of_day("M", 1, 12),
    "day": _since("M"),
    "dayofyear": _since("Y"),
    "dayofweek": lambda a: ((a[0] + 4) % 7 + 1, a[1]),
    "weekday": lambda a: ((a[0] + 3) % 7, a[1]),
    "weekofyear": _week,
    "last_day": _last_day,
    "hour": _part(3600 * SECOND, 24),
    "minute": _part(60 * SECOND, 60),
    "second": _part(SECOND, 60),
    "unix_seconds": _floored(SECOND),
    "unix_millis": _floored(1000),
    "days_between": plain(np.subtract),
    "days_later": plain(np.add),
    "itself": lambda a: a,
    "date_trunc": truncated,
    "trunc": truncated_day,
    "moved": moved,
    "moved_day": moved_day,
    "seconds_to_time": lambda a: _micros(a, SECOND),
    "millis_to_time": lambda a: _micros(a, 1000),
    "timestamp_seconds": _seconds,
    "double_to_time": _double_to_time,
    "day_to_time": lambda a: (a[0] * DAY, a[1]),
    "time_to_day": _floored(DAY),
    "time_to_double": lambda a: (a[0] / SECOND, a[1]),
    "day_to_text": _day_to_text,
    "time_to_text": _time_to_text,
    "text_to_day": read_text(_day, np.int64),
    "text_to_time": read_text(_time, np.int64),
}
"""Twins by the names that programs call them by; some are also called with whole numbers and units."""
