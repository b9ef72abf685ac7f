"""Beginnings of days, weeks and months in a time zone, as microseconds since 1970-01-01 UTC."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from math import gcd
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from anabranch.values.times import DAY, FIRST, HOUR, LAST, floor_to, from_micros, to_micros

PERIODS = ("day", "week", "month")
"""Weeks begin on Mondays."""
_EARLIEST, _LATEST = 2, 9998  # years whose neighbours are years too
_TYPICAL = range(2000, 2040)


def beginning(period: str, zone: str, at: int) -> int:
    """The last beginning of a period at or before `at`, which never moves back.

    A day begins with its first instant, whatever the clocks do at midnight. Where the clocks are set back
    over midnight the new day has begun, although they show the old one again.
    """
    if not FIRST < at < LAST:
        return floor_to(at, DAY)
    found = _around(period, zone, _year(at))
    place = bisect_right(found, at) - 1
    return max(found[place], FIRST) if place >= 0 else floor_to(at, DAY)


def beginnings(period: str, zone: str, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """`beginning` at many times."""
    out = at // DAY * DAY
    within = np.flatnonzero((at > FIRST) & (at < LAST))
    years = at[within].astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
    years = np.clip(years, _EARLIEST, _LATEST)
    for year in np.unique(years).tolist():
        found = np.array(_around(period, zone, year), dtype=np.int64)
        chosen = within[years == year]
        places = np.searchsorted(found, at[chosen], side="right") - 1
        out[chosen] = np.where(places >= 0, np.maximum(found[places], FIRST), out[chosen])
    return out


@lru_cache(maxsize=64)
def step_of(zone: str) -> int:
    """Of what, in microseconds, all midnights of the years 2000 to 2039 in the zone are multiples.

    A day for UTC, an hour for most zones, 30 or 15 minutes for those that are apart from UTC by these.
    """
    step = gcd(*(one for year in _TYPICAL for one in _of_year("day", zone, year)))
    return DAY if step % DAY == 0 else gcd(step, HOUR)


def _year(at: int) -> int:
    return min(max(from_micros(at).year, _EARLIEST), _LATEST)


@lru_cache(maxsize=512)
def _around(period: str, zone: str, year: int) -> tuple[int, ...]:
    """The beginnings in a year and its neighbours, sorted."""
    return tuple(one for each in (year - 1, year, year + 1) for one in _of_year(period, zone, each))


@lru_cache(maxsize=512)
def _of_year(period: str, zone: str, year: int) -> tuple[int, ...]:
    known = UTC if zone == "UTC" else ZoneInfo(zone)
    # Of a midnight that occurs twice the first counts; one that the clocks skip is the instant of the skip.
    return tuple(
        to_micros(datetime(one.year, one.month, one.day, tzinfo=known)) for one in _days(period, year)
    )


def _days(period: str, year: int) -> Iterator[date]:
    if period == "month":
        yield from (date(year, month, 1) for month in range(1, 13))
        return
    first = date(year, 1, 1)
    step = 7 if period == "week" else 1
    day = first + timedelta(days=(-first.weekday()) % 7 if period == "week" else 0)
    while True:
        yield day
        if (date(year, 12, 31) - day).days < step:
            return
        day += timedelta(days=step)
