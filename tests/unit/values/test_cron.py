"""Cron's expressions: what is read, what is refused, and the next time against a search minute by minute."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import DeclarationError
from anabranch.values.cron import PRESETS, parse_cron


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("@hourly", "2026-12-01T03:00"),
        ("0 3 * * *", "2026-12-01T03:00"),
        ("30 2 * * *", "2026-12-02T02:30"),
        ("*/20 * * * *", "2026-12-01T02:40"),
        ("5-50/15 2 * * *", "2026-12-01T02:35"),
        ("0 0 29 feb *", "2028-02-29T00:00"),
        ("0 12 13 * FRI", "2026-12-04T12:00"),  # day or weekday, whichever comes first
        ("0 12 * * 7", "2026-12-06T12:00"),
        ("15 8 1,15 1-3,dec mon-fri", "2026-12-01T08:15"),
        ("@yearly", "2027-01-01T00:00"),
    ],
)
def test_the_next_time_is_the_one_that_cron_means(text: str, after: str) -> None:
    now = datetime(2026, 12, 1, 2, 30, 40, tzinfo=UTC)
    found = parse_cron(text, "x").after(now)
    assert found.isoformat() == f"{after}:00+00:00"
    assert parse_cron(text, "x").after(now.astimezone(timezone(timedelta(hours=5, minutes=45)))) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (5, "write cron's five fields"),
        ("", "write five fields"),
        ("* * * *", "write five fields"),
        ("0 3 * * * *", "write five fields"),
        ("@nightly", "there is no '@nightly': there are @hourly"),
        ("60 * * * *", "'60' is no minute: they are 0 to 59"),
        ("0 24 * * *", "no hour"),
        ("0 0 0 * *", "no day"),
        ("0 0 1 13 *", "no month"),
        ("0 0 * * 8", "no weekday"),
        ("5-3 * * * *", "'5-3' is no minute"),
        ("*/0 * * * *", "is no minute"),
        ("*/x * * * *", "is no minute"),
        ("1, * * * *", "'' is no minute"),
        ("0 0 * * mo", "'mo' is no weekday"),
        ("٣ * * * *", "is no minute"),
        ("0 0 31 4,6 *", "no year has such a day"),
        ("0 0 30 2 *", "no year has such a day"),
    ],
)
def test_what_never_comes_is_refused_with_its_place(text: object, why: str) -> None:
    with pytest.raises(DeclarationError, match=f"(?s)^schedule: train.*{why}"):
        parse_cron(text, "schedule: train")


def _any_of(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    return st.one_of(
        st.just("*"),
        st.lists(number, min_size=1, max_size=3).map(lambda found: ",".join(map(str, found))),
        st.integers(1, 9).map(lambda step: f"*/{step}"),
        st.tuples(number, number).map(lambda ends: "-".join(str(end) for end in sorted(ends))),
    )


@given(
    minute=_any_of(0, 59),
    hour=_any_of(0, 23),
    day=_any_of(1, 28),
    weekday=_any_of(0, 6),
    start=st.integers(0, 700 * 1440),
)
def test_the_next_time_is_the_first_minute_that_fits(
    minute: str, hour: str, day: str, weekday: str, start: int
) -> None:
    cron = parse_cron(f"{minute} {hour} {day} * {weekday}", "x")

    def fits(moment: datetime) -> bool:
        of_day = [moment.day in cron.days, moment.isoweekday() % 7 in cron.weekdays]
        right = any(of_day) if cron.either else all(of_day)
        return right and moment.hour in cron.hours and moment.minute in cron.minutes

    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    found = cron.after(now)
    assert found > now
    assert fits(found)
    between = range(1, min(int((found - now) / timedelta(minutes=1)), 500))
    assert not any(fits(now + timedelta(minutes=number)) for number in between)


def test_presets_are_their_expressions() -> None:
    assert all(parse_cron(name, "x") == parse_cron(text, "x") for name, text in PRESETS.items())
