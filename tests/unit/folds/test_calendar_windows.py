"""Windows since a day, week or month began obey the law, across changes of the clocks and ends of months."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Last, Project, Rate, Sum
from anabranch.testing import assert_lawful, fold
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import DAY, HOUR, MINUTE, from_micros, parse_time
from tests.support.law import START, Event, events_strategy, source
from tests.unit.folds.test_grains import CUTS, assert_grains
from tests.unit.folds.test_law import QUERIES, assert_answers, assert_training_rows

FEATURES = {"n": Count(), "total": Sum("x"), "last": Last("s"), "rate": Rate()}


def view(*windows: str, hop: str | None = None) -> FeatureView:
    """A view of a few features over the windows."""
    return FeatureView(name="periods", source=source, key="key", windows=windows, hop=hop, features=FEATURES)


ZONES = ("America/Havana", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
VIEWS = (
    view("day to date", "week to date", "month to date"),
    view("1h", "day to date Europe/Berlin", "month to date Europe/Berlin", "7d offset 7d"),
    view(*(f"{period} to date {zone}" for zone in ZONES for period in ("day", "week"))),
    view("40m", "day to date Asia/Kolkata", hop="4m"),
)
SHIFTS = st.sampled_from(
    [
        parse_time(day) // HOUR * HOUR - START
        for day in ("2024-02-24T00:00Z", "2024-03-26T00:00Z", "2024-10-29T00:00Z", "2023-12-27T00:00Z")
    ]
)
"""From the start of the events to before ends of months, of a year, and changes of the clocks."""


def shifted(events: list[Event], by: int) -> list[Event]:
    """The events at other times."""
    return [replace(event, time=event.time + by, arrival=event.arrival + by) for event in events]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    by=SHIFTS,
    cut_slots=st.integers(0, 12 * 24),
    late=st.integers(0, SLACK // MINUTE),
)
def test_answers_since_a_period_began_equal_the_fold(
    events: list[Event], by: int, cut_slots: int, late: int
) -> None:
    assert_answers(VIEWS, shifted(events, by), START + by + cut_slots * SLOT, late)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    by=SHIFTS,
    cuts=CUTS,
    late=st.integers(0, SLACK // MINUTE),
    compacting=st.booleans(),
)
def test_grains_of_several_builds_serve_a_period_that_begins(
    events: list[Event], by: int, cuts: list[int], late: int, compacting: bool
) -> None:
    days = [cut + by // SLOT for cut in cuts]
    assert_grains(VIEWS, shifted(events, by), days, late, compacting)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), by=SHIFTS, minutes=QUERIES)
def test_training_rows_since_a_period_began_equal_the_fold(
    events: list[Event], by: int, minutes: list[tuple[str, int]]
) -> None:
    asked = [(key, minute + by // MINUTE) for key, minute in minutes]
    assert_training_rows(VIEWS, shifted(events, by), asked)


def test_tiles_are_as_wide_as_all_hops_are_multiples_of() -> None:
    assert view("day to date").tiers == (DAY,)
    assert view("day to date Europe/Berlin").tiers == (HOUR,)
    mixed = view("40m", "day to date Asia/Kolkata", hop="4m")
    assert [span.hop for span in mixed.spans] == [4 * MINUTE, 30 * MINUTE]
    assert mixed.tiers == (HOUR, 2 * MINUTE)


def test_a_period_is_named_in_its_columns() -> None:
    windows = (
        "month to date",
        "month  to date Europe/Berlin",
        "day to date Etc/GMT+5",
        "day to date Etc/GMT-5",
    )
    assert view(*windows).column_names[:4] == (
        "n_month_to_date",
        "n_month_to_date_europe_berlin",
        "n_day_to_date_etc_gmtplus5",
        "n_day_to_date_etc_gmt_5",
    )
    assert len({view(window).fingerprint for window in windows}) == 4
    assert view("day to date UTC").fingerprint == view("day to date").fingerprint


def test_events_of_ones_own_prove_windows_with_other_edges() -> None:
    windows = ("1h", "1h offset 25m", "7d offset 1d", "day to date Asia/Kolkata")
    project = Project(name="own", views=(view(*windows),))
    start = START + 30 * MINUTE
    events = [
        {
            "source": "things",
            "id": f"e{number}",
            "key": "a",
            "time": from_micros(start + number * 7 * HOUR),
            "x": 1.0,
        }
        for number in range(12)
    ]
    assert_lawful(project, events)
    found = fold(project, events, {"key": "a"}, from_micros(start + 25 * HOUR + 26 * MINUTE))
    assert (found["n_1h"], found["n_7d_offset_1d"]) == (0, 1)
    assert fold(project, events, {"key": "a"}, from_micros(start + 90 * MINUTE))["n_1h_offset_25m"] == 0
    assert fold(project, events, {"key": "a"}, from_micros(start + 30 * MINUTE))["n_1h_offset_25m"] == 1
