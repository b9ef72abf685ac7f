"""A window kind that is added from outside obeys the law in answers, grains and training sets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Last, MostFrequent, Rate, Sum
from anabranch.declare.windows import register_window
from anabranch.folds.merge import BatchPart, merge
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import DAY, HOUR, MINUTE
from tests.support.law import START, Event, events_strategy, make_view, source
from tests.support.toys import TodayWindow, midnight
from tests.unit.folds.test_grains import CUTS, assert_grains
from tests.unit.folds.test_law import QUERIES, assert_answers, assert_training_rows

register_window(TodayWindow)
oracle.BEGINNINGS["TodayWindow"] = midnight
FEATURES = {"n": Count(), "total": Sum("x"), "last": Last("s"), "rate": Rate(), "common": MostFrequent("s")}


def view(*windows: str) -> FeatureView:
    """A view of a few features over the windows."""
    return FeatureView(name="days", source=source, key="key", windows=windows, features=FEATURES)


VIEWS = (view("today"), view("today_delhi"), view("1h", "today_delhi", "7d"), make_view(("today", "12h")))


def test_a_new_window_is_declared_by_its_text() -> None:
    shown = view("1h", "today", "today_delhi")
    assert [column.name for column in shown.columns][:3] == ["n_1h", "n_today", "n_today_delhi"]
    assert (shown.tile, shown.tiers) == (5 * MINUTE, (HOUR, 5 * MINUTE))
    assert view("today").tiers == (DAY,)
    assert view("today_delhi").tiers == (HOUR, 30 * MINUTE)
    assert view("today").fingerprint != view("today_delhi").fingerprint


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), cut_slots=st.integers(0, 12 * 24), late=st.integers(0, SLACK // MINUTE))
def test_answers_in_a_new_window_equal_the_fold(events: list[Event], cut_slots: int, late: int) -> None:
    assert_answers(VIEWS, events, START + cut_slots * SLOT, late)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), cuts=CUTS, late=st.integers(0, SLACK // MINUTE), compacting=st.booleans())
def test_grains_of_several_builds_serve_a_new_window(
    events: list[Event], cuts: list[int], late: int, compacting: bool
) -> None:
    assert_grains(VIEWS, events, cuts, late, compacting)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), minutes=QUERIES)
def test_training_rows_in_a_new_window_equal_the_fold(
    events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    assert_training_rows(VIEWS, events, minutes)


@pytest.mark.parametrize("hours", [1, 23, 25, 49])
def test_an_old_batch_is_too_old_from_the_midnight_after_its_slack(hours: int) -> None:
    shown, at = view("today"), START // DAY * DAY + hours * HOUR + 1
    cut = START // DAY * DAY - 1 * HOUR
    part = BatchPart(cut, SLACK, np.empty((0, 2 + shown.layout.width)))
    assert (merge(shown, part, None, at).degraded is None) == (hours < 24)


def test_a_rate_over_a_window_of_no_length_is_zero() -> None:
    midnight_of_start = START // DAY * DAY
    assert merge(view("today"), None, None, midnight_of_start).values["rate_today"] == 0.0
    assert_training_rows([view("today")], [], [("a", (midnight_of_start + DAY - START) // MINUTE)])
