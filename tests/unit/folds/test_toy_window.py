"""A window kind that is added from outside obeys the law in answers, grains and training sets."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Last, MostFrequent, Rate, Sum
from anabranch.declare.windows import register_window
from anabranch.folds.grains import fold
from anabranch.folds.merge import BatchPart, merge, merge_all
from anabranch.folds.training_sets import features_before
from anabranch.values.times import DAY, HOUR, MINUTE
from tests.support import oracle
from tests.support.law import SLACK, SLOT, START, events_strategy, make_view, source, tiles
from tests.support.oracle import Event
from tests.support.toys import TodayWindow, midnight
from tests.unit.folds.test_grains import as_grains, coarsened, grains_of
from tests.unit.folds.test_law import as_run, assert_lawful, at_position, known

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
    cut = START + cut_slots * SLOT
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    for shown in VIEWS:
        together = merge_all(shown, [known(shown, arrived, key, cut) for key in "ba"], at)
        for key, merged in zip("ba", together, strict=True):
            assert merged.degraded is None
            assert_lawful(shown, arrived, oracle.answer(shown, arrived, key, at), dict(merged.values))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    cuts=st.lists(st.integers(0, 12 * 24), min_size=1, max_size=4, unique=True).map(sorted),
    late=st.integers(0, SLACK // MINUTE),
    compacting=st.booleans(),
)
def test_grains_of_several_builds_serve_a_new_window(
    events: list[Event], cuts: list[int], late: int, compacting: bool
) -> None:
    edges = [0, *[START + cut * SLOT for cut in cuts]]
    cut = edges[-1]
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    mine = [event for event in oracle.distinct(arrived) if event.key == "a"]
    for shown in VIEWS:
        kept = [
            grain
            for since, until in pairwise(edges)
            for grain in grains_of(shown, [one for one in mine if since <= one.arrival < until], until)
        ]
        grains = as_grains(shown, kept)
        found = fold(shown, coarsened(shown, grains, cut) if compacting else grains, cut, SLACK)
        late_ones = tiles(shown, [event for event in mine if event.arrival >= cut])
        answer = merge(shown, BatchPart(cut, SLACK, found.rows, found.extras), late_ones, at)
        assert answer.degraded is None
        assert_lawful(shown, arrived, oracle.answer(shown, arrived, "a", at), dict(answer.values))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    minutes=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 10 * 24 * 60)), min_size=1, max_size=10
    ),
)
def test_training_rows_in_a_new_window_equal_the_fold(
    events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    ordered = sorted(oracle.distinct(events), key=lambda event: (event.key, event.time))
    queries = [(key, START + minute * MINUTE) for key, minute in minutes]
    for shown in VIEWS:
        columns = features_before(shown, as_run(shown, ordered, queries))
        for position, (key, time) in enumerate(queries):
            expected = oracle.answer(shown, events, key, time)
            assert_lawful(shown, events, expected, at_position(columns, position))


@pytest.mark.parametrize("hours", [1, 23, 25, 49])
def test_an_old_batch_is_too_old_from_the_midnight_after_its_slack(hours: int) -> None:
    shown, at = view("today"), START // DAY * DAY + hours * HOUR + 1
    cut = START // DAY * DAY - 1 * HOUR
    part = BatchPart(cut, SLACK, np.empty((0, 2 + shown.layout.width)))
    assert (merge(shown, part, None, at).degraded is None) == (hours < 24)
