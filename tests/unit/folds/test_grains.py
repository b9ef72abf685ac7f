"""Grains: what builds keep at any cuts, put together, is what one build over all events would publish."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Aggregate, Count, DecayedSum, Distinct, FeatureView, LastK, Sum
from anabranch.folds.grains import LIFELONG, Grains, fold, largest_key, merged, steps
from anabranch.folds.merge import BatchPart, merge
from anabranch.folds.packing import LARGEST
from anabranch.states.sums import ExactTotal
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT, states, tiles
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to
from tests.support.law import START, Event, events_strategy, make_view, shifted_views, source, start_of
from tests.unit.folds.test_law import LIFELONG as LIFELONG_VIEW
from tests.unit.folds.test_law import VIEW, assert_lawful

MIXED = FeatureView(
    name="mixed",
    source=source,
    key="key",
    windows=("1h", "7d", "lifetime"),
    features={"n": Count(), "total": Sum("x")},
)
VIEWS = (VIEW, LIFELONG_VIEW, MIXED)


def grains_of(view: FeatureView, events: Sequence[Event], cut: int) -> list[tuple[int, list[Event]]]:
    """Events of one key by the start of their grain."""
    found: dict[int, list[Event]] = {}
    for event in events:
        start = start_of(view, cut, event.time)
        if start is not None:
            found.setdefault(start, []).append(event)
    return list(found.items())


def as_grains(view: FeatureView, found: Sequence[tuple[int, list[Event]]]) -> Grains:
    """Grains of one key, sorted."""
    ordered = sorted(found, key=lambda one: one[0])
    rows, extras = states(view, [events for _, events in ordered])
    return Grains(
        np.zeros(len(ordered), dtype=np.int64),
        np.array([start for start, _ in ordered], dtype=np.int64),
        rows,
        extras,
    )


def coarsened(view: FeatureView, grains: Grains, cut: int) -> Grains:
    """As one build at the cut would keep them."""
    starts = [start_of(view, cut, start) for start in grains.start.tolist()]
    order = sorted((i for i, start in enumerate(starts) if start is not None), key=lambda i: starts[i] or 0)
    picked = np.array(order, dtype=np.int64)
    return merged(
        view,
        Grains(
            grains.key[picked],
            np.array([starts[i] for i in order], dtype=np.int64),
            grains.rows[picked],
            [grains.extras[i] for i in order],
        ),
    )


def assert_grains(
    views: Sequence[FeatureView], events: Sequence[Event], cuts: Sequence[int], late: int, compacting: bool
) -> None:
    """Grains of builds at `cuts` (slots) answer as the fold, `late` minutes after the last."""
    edges = [0, *[START + cut * SLOT for cut in cuts]]
    cut = edges[-1]
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    mine = [event for event in oracle.distinct(arrived) if event.key == "a"]
    for view in views:
        kept: list[tuple[int, list[Event]]] = []
        for since, until in pairwise(edges):
            kept += grains_of(view, [event for event in mine if since <= event.arrival < until], until)
        grains = as_grains(view, kept)
        found = fold(view, coarsened(view, grains, cut) if compacting else grains, cut, SLACK)
        answer = merge(
            view,
            BatchPart(cut, SLACK, found.rows, found.extras),
            tiles(view, [event for event in mine if event.arrival >= cut]),
            at,
        )
        assert answer.degraded is None
        assert_lawful(view, arrived, oracle.answer(view, arrived, "a", at), dict(answer.values))


CUTS = st.lists(st.integers(0, 12 * 24), min_size=1, max_size=4, unique=True).map(sorted)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    cuts=CUTS,
    late=st.integers(0, SLACK // MINUTE),
    compacting=st.booleans(),
)
def test_grains_of_several_builds_answer_as_the_fold(
    events: list[Event], cuts: list[int], late: int, compacting: bool
) -> None:
    assert_grains(VIEWS, events, cuts, late, compacting)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    view=shifted_views(),
    events=events_strategy(),
    cuts=CUTS,
    late=st.integers(0, SLACK // MINUTE),
    compacting=st.booleans(),
)
def test_grains_serve_windows_of_any_width_and_offset(
    view: FeatureView, events: list[Event], cuts: list[int], late: int, compacting: bool
) -> None:
    assert_grains([view], events, cuts, late, compacting)


@settings(max_examples=200, deadline=None)
@given(time=st.integers(START - 9 * DAY, START + DAY), slots=st.integers(0, 240), more=st.integers(0, 240))
def test_a_grain_lies_inside_or_outside_of_every_later_window(time: int, slots: int, more: int) -> None:
    cut = START + (slots - 120) * SLOT
    later = cut + more * SLOT
    for view in VIEWS:
        start = start_of(view, cut, time)
        for span in view.spans:
            tail = span.tail(later)
            if tail is not None:
                assert (start is not None and start >= tail) == (time >= tail)
                assert start is None or start < tail or floor_to(start, span.hop) == floor_to(time, span.hop)


def test_the_span_of_grains_is_what_all_windows_that_reach_back_share() -> None:
    cut = START + 7 * MINUTE
    assert steps(VIEW, cut) == [
        (cut - HOUR - 2 * MINUTE, 5 * MINUTE),
        (START - 12 * HOUR, HOUR),
        (START - 7 * DAY, HOUR),
    ]
    assert start_of(VIEW, cut, START - 8 * DAY) is None
    assert start_of(MIXED, cut, START - 8 * DAY) == LIFELONG
    assert start_of(MIXED, cut, cut) == cut


def test_states_that_fade_keep_their_weight_over_many_builds() -> None:
    view = FeatureView(
        name="fading", source=source, key="key", features={"recent": DecayedSum("x", half_life="6h")}
    )
    event = Event(id="1", key="a", time=START, arrival=START, x=1.0)
    cuts = [START + slot * SLOT for slot in (1, 2, 24)]
    grains = as_grains(view, grains_of(view, [event], cuts[0]))
    for cut in cuts:
        grains = coarsened(view, grains, cut)
    part = fold(view, grains, cuts[-1], SLACK)
    assert merge(view, BatchPart(cuts[-1], SLACK, part.rows), None, cuts[-1]).values[
        "recent"
    ] == pytest.approx(2.0**-4)


def test_exact_sums_stay_exact_however_often_they_are_merged() -> None:
    block = ExactTotal(next(iter(make_view().layout.elements)))
    rows, total = np.zeros((1, 3)), 0
    for number in (2**62, -(2**62), 2**53 + 1, -1, 2**40 - 1) * 200:
        limb = np.array([[-1.0 if number < 0 else 0.0, number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF]])
        rows, total = block.settled(rows + limb), total + number
        assert (rows[:, 1:] >= 0).all()
        assert (rows[:, 1:] < 2**32).all()
    assert block.whole(rows) == [total]


def test_the_largest_key_is_known_from_the_declaration() -> None:
    # Whole numbers are short; short texts in 72 hops fit, lists of long ones do not.
    features: dict[str, Aggregate] = {"n": Distinct("n")}
    few = FeatureView(name="few", source=source, key="key", windows=("1d", "7d"), features=features)
    texts = replace(few, features={"s": Distinct("s"), "last": LastK("s", 5)})
    assert largest_key(few, 2 * DAY) < LARGEST < largest_key(texts, 2 * DAY)
    assert largest_key(replace(few, features={"n": Count()}), 2 * DAY) < 10_000
    assert largest_key(replace(texts, windows=()), 2 * DAY) < LARGEST
