"""Beginnings of days, weeks and months, compared with the clocks of their zones."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from anabranch.values.calendars import beginning, beginnings, step_of
from anabranch.values.times import DAY, FIRST, HOUR, LAST, MINUTE, format_time, parse_time


@pytest.mark.parametrize(
    ("period", "zone", "at", "began"),
    [
        ("day", "UTC", "2024-03-10T00:00:00Z", "2024-03-10T00:00:00Z"),
        ("day", "UTC", "2024-03-09T23:59:59.999999Z", "2024-03-09T00:00:00Z"),
        ("week", "UTC", "2024-03-10T12:00:00Z", "2024-03-04T00:00:00Z"),
        ("week", "UTC", "2025-01-01T12:00:00Z", "2024-12-30T00:00:00Z"),
        ("month", "UTC", "2024-02-29T12:00:00Z", "2024-02-01T00:00:00Z"),
        ("month", "Europe/Berlin", "2024-03-31T21:59:59Z", "2024-02-29T23:00:00Z"),
        ("month", "Europe/Berlin", "2024-03-31T22:00:00Z", "2024-03-31T22:00:00Z"),
        ("day", "Asia/Kathmandu", "2024-03-10T18:15:00Z", "2024-03-10T18:15:00Z"),
        # The clocks of Cairo skip the midnight of 2024-04-26: the day begins at one o'clock.
        ("day", "Africa/Cairo", "2024-04-26T01:00:00Z", "2024-04-25T22:00:00Z"),
        # Midnight of 2024-11-03 occurs twice in Havana: the day begins with the first.
        ("day", "America/Havana", "2024-11-03T05:30:00Z", "2024-11-03T04:00:00Z"),
        # In St. John's the clocks went back at one minute past midnight, to the day before.
        ("day", "America/St_Johns", "2010-11-07T02:30:30Z", "2010-11-07T02:30:00Z"),
        ("day", "America/St_Johns", "2010-11-07T02:31:00Z", "2010-11-07T02:30:00Z"),
        ("day", "America/St_Johns", "2010-11-07T04:00:00Z", "2010-11-07T02:30:00Z"),
        # Samoa had no 30th of December 2011.
        ("day", "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z"),
        ("day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z"),
    ],
)
def test_a_period_begins_with_its_first_instant(period: str, zone: str, at: str, began: str) -> None:
    assert format_time(beginning(period, zone, parse_time(at))) == began


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])
@pytest.mark.parametrize("period", ["day", "week", "month"])
def test_beginnings_of_many_times_are_those_of_each_and_never_move_back(period: str, zone: str) -> None:
    start = parse_time("2023-12-20T00:00:00Z")
    times = np.arange(start, start + 400 * DAY, 7 * HOUR + 13 * MINUTE)
    found = beginnings(period, zone, times)
    assert found.tolist() == [beginning(period, zone, at) for at in times.tolist()]
    assert (np.diff(found) >= 0).all()
    local = [datetime.fromtimestamp(at / 1e6, UTC).astimezone(ZoneInfo(zone)) for at in set(found.tolist())]
    assert {(one.hour, one.minute) for one in local} == {(0, 0)}
    assert {one.isoweekday() for one in local} == ({1} if period == "week" else set(range(1, 8)))
    assert {one.day for one in local} == {1} or period != "month"


def test_times_beyond_the_calendar_have_beginnings_too() -> None:
    ends = [-(2**62), FIRST - 1, FIRST, FIRST + HOUR, FIRST + 40 * DAY, LAST - DAY, LAST, LAST + DAY, 2**62]
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        found = beginnings("month", zone, np.array(ends, dtype=np.int64)).tolist()
        assert found == [beginning("month", zone, at) for at in ends] == sorted(found)
        assert all(began <= at for began, at in zip(found, ends, strict=True))


def test_the_step_of_a_zone_is_what_its_midnights_are_multiples_of() -> None:
    zones = {"UTC": DAY, "Europe/Berlin": HOUR, "Etc/GMT+12": HOUR, "Asia/Kolkata": 30 * MINUTE}
    odd = {"Asia/Kathmandu": 15 * MINUTE, "Australia/Lord_Howe": 30 * MINUTE, "Africa/Abidjan": DAY}
    assert {zone: step_of(zone) for zone in (zones | odd)} == zones | odd
