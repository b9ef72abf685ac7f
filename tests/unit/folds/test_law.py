"""The law in pure Python: answer(key, t) equals a naive fold over the distinct events that have arrived."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import AGGREGATES, FeatureView
from anabranch.folds.merge import Known, merge, merge_all, with_events
from anabranch.folds.training_sets import SortedRun, as_known, features_before, sights_before
from anabranch.states.blocks import Values
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT, batch_part, lift, tiles
from anabranch.values.times import DAY, HOUR, MINUTE
from tests.support.law import (
    SHIFTED,
    START,
    Event,
    events_strategy,
    make_view,
    scale_of,
    shifted_views,
    source,
)

VIEW = make_view()
LIFELONG = make_view(())
VIEWS = (VIEW, LIFELONG)


def assert_lawful(
    view: FeatureView, events: Sequence[Event], expected: dict[str, object], found: dict[str, object]
) -> None:
    """Every feature equal, floats to the stated rounding."""
    for column in view.columns:
        scale = scale_of(view.features[column.feature], events)
        assert oracle.close(expected[column.name], found[column.name], scale), (
            column.name,
            expected[column.name],
            found[column.name],
        )


def known(view: FeatureView, events: Sequence[Event], key: str, cut: int | None) -> Known:
    """Batch part and tiles of a key."""
    mine = [event for event in oracle.distinct(events) if event.key == key]
    batch = None if cut is None else batch_part(view, [event for event in mine if event.arrival < cut], cut)
    return batch, tiles(view, [event for event in mine if cut is None or event.arrival >= cut])


def served(
    view: FeatureView, events: Sequence[Event], key: str, cut: int | None, at: int
) -> dict[str, object]:
    """The answer by way of batch part and tiles."""
    merged = merge(view, *known(view, events, key, cut), at)
    assert merged.degraded is None, merged.degraded
    return dict(merged.values)


def assert_answers(
    views: Sequence[FeatureView], events: Sequence[Event], cut: int, late: int, keys: str = "ba"
) -> None:
    """Answers of keys that are merged together, `late` minutes after the cut, equal the fold."""
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    for view in views:
        together = merge_all(view, [known(view, arrived, key, cut) for key in keys], at)
        for key, merged in zip(keys, together, strict=True):
            assert merged.degraded is None
            assert_lawful(view, arrived, oracle.answer(view, arrived, key, at), dict(merged.values))


def assert_training_rows(
    views: Sequence[FeatureView], events: Sequence[Event], minutes: Sequence[tuple[str, int]]
) -> None:
    """Training rows of keys at minutes equal the fold strictly before their time."""
    ordered = sorted(oracle.distinct(events), key=lambda event: (event.key, event.time))
    queries = [(key, START + minute * MINUTE) for key, minute in minutes]
    for view in views:
        columns = features_before(view, as_run(view, ordered, queries))
        for position, (key, time) in enumerate(queries):
            found = at_position(columns, position)
            assert_lawful(view, events, oracle.answer(view, events, key, time), found)


QUERIES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10 * 24 * 60)), min_size=1, max_size=10)
"""Keys and minutes at which training rows are asked for."""


def test_every_exported_aggregate_has_an_oracle() -> None:
    assert {kind.__name__ for kind in AGGREGATES} - {*oracle.FOLDS, "Top"} == set()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    cut_slots=st.integers(0, 12 * 24),
    late=st.integers(0, SLACK // MINUTE),
    order=st.randoms(),
)
def test_answer_equals_the_fold_for_any_events_cut_and_order(
    events: list[Event], cut_slots: int, late: int, order: object
) -> None:
    shuffled = list(events)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert_answers(VIEWS, shuffled, START + cut_slots * SLOT, late, keys="bzca")


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy())
def test_tiles_alone_answer_before_the_first_batch(events: list[Event]) -> None:
    at = START + 12 * DAY
    for view in VIEWS:
        assert_lawful(view, events, oracle.answer(view, events, "a", at), served(view, events, "a", None, at))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), minutes=QUERIES)
def test_training_rows_equal_the_fold_strictly_before_their_time(
    events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    assert_training_rows(VIEWS, events, minutes)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), minutes=QUERIES)
def test_training_rows_as_known_see_only_what_had_arrived(
    events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    for view in VIEWS:
        assert_known_rows(view, events, minutes)


def assert_known_rows(view: FeatureView, events: Sequence[Event], minutes: Sequence[tuple[str, int]]) -> None:
    """Training rows as known equal the fold over what had arrived strictly before their time."""
    ordered = sorted(oracle.distinct(events), key=lambda event: (event.key, event.time))
    queries = sorted((key, START + minute * MINUTE) for key, minute in minutes)
    columns = features_before(view, with_arrivals(as_run(view, ordered, queries), ordered))
    for position, (key, time) in enumerate(queries):
        # What an answer at that time could know: of copies, too, the first that had arrived by then.
        known = [event for event in events if event.arrival < time]
        assert_lawful(view, events, oracle.answer(view, known, key, time), at_position(columns, position))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    view=shifted_views(),
    events=events_strategy(),
    cut_slots=st.none() | st.integers(0, 18 * 24),
    late=st.integers(0, 2 * SLACK // MINUTE),
)
def test_answers_in_windows_of_any_width_and_offset_equal_the_fold(
    view: FeatureView, events: list[Event], cut_slots: int | None, late: int
) -> None:
    cut = None if cut_slots is None else START + cut_slots * SLOT
    at = (START + 12 * DAY if cut is None else cut) + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    together = merge_all(view, [known(view, arrived, key, cut) for key in "ab"], at)
    for key, merged in zip("ab", together, strict=True):
        if merged.degraded is None or cut is None or late <= SLACK // MINUTE:
            assert merged.degraded is None
            assert_lawful(view, arrived, oracle.answer(view, arrived, key, at), dict(merged.values))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(view=shifted_views(), events=events_strategy(), minutes=QUERIES)
def test_training_rows_in_windows_of_any_width_and_offset_equal_the_fold(
    view: FeatureView, events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    assert_training_rows([view], events, minutes)
    assert_known_rows(view, events, minutes)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(view=shifted_views(), events=events_strategy(), order=st.randoms(use_true_random=False))
def test_training_rows_with_own_events_equal_the_answers_to_questions_that_bring_them(
    view: FeatureView, events: list[Event], order: Random
) -> None:
    # Other events of the very time of an own event, before and after it in the run, do not count.
    picked = order.sample(events, min(3, len(events)))
    twins = [replace(event, id=f"twin {event.id}", n=3) for event in picked[:2]]
    deliveries = [*events, *twins]
    ordered = oracle.distinct(deliveries)
    order.shuffle(ordered)
    ordered.sort(key=lambda event: (event.key, event.time))
    names = {event.id for event in picked}
    asked = [(event, place) for place, event in enumerate(ordered) if event.id in names]
    asked = sorted([*asked, *((event, -1) for event in ordered[:1])], key=_place)  # one row names no event
    for each in (*VIEWS, view):
        queries = [(event.key, event.time) for event, _ in asked]
        run = as_run(each, ordered, queries)
        own = np.array([place for _, place in asked], dtype=np.int64)
        columns = features_before(each, replace(run, own=own))
        seen = sights_before(each, with_arrivals(replace(run, own=own), ordered))
        as_it_was = as_known(seen)
        for position, (event, place) in enumerate(asked):
            name = event.id if place >= 0 else None
            expected = oracle.answer_with_own(each, deliveries, event.key, event.time, name)
            assert_lawful(each, deliveries, expected, at_position(columns, position))
            earlier = [other for other in ordered if other.key == event.key and other.time < event.time]
            mine = [event] if place >= 0 else []
            rows, times = [dict(one.__dict__) for one in mine], [one.time for one in mine]
            states = known(each, earlier, event.key, None)
            if mine:
                states = with_events(each, states, rows, times)
            answered = merge(each, *states, event.time + 1)
            assert_lawful(each, deliveries, dict(answered.values), at_position(columns, position))
            # Of what had arrived: the own event counts whenever it arrived.
            had = [other for other in deliveries if other.arrival < event.time]
            had = [other for other in had if other.id != name] + mine
            expected = oracle.answer_with_own(each, had, event.key, event.time, name)
            assert_lawful(each, deliveries, expected, at_position(as_it_was, position))
            late = [other for other in earlier if other.arrival >= event.time]
            if each is LIFELONG:
                assert seen.late[position] == len(late)
                counted = seen.end[position] - seen.first[position] + (seen.own[position] >= 0)
                assert counted == len(earlier) + len(mine)


def _place(asked: tuple[Event, int]) -> tuple[str, int, int]:
    event, place = asked
    return event.key, event.time, place


def test_an_event_of_another_time_than_the_label_s_is_no_own_event_of_it() -> None:
    # A lender's lake may hold another copy of the event first: as any event it counts once, strictly before.
    ordered = [Event(id=f"e{i}", key="a", time=START + i * MINUTE, arrival=START, x=1.0) for i in range(3)]
    run = as_run(VIEW, ordered, [("a", START + MINUTE), ("a", START + MINUTE)])
    columns = features_before(VIEW, replace(run, own=np.array([0, 2], dtype=np.int64)))
    for position in range(2):
        expected = oracle.answer_with_own(VIEW, ordered, "a", START + MINUTE, None)
        assert expected["count_x_1h"] == 1
        assert_lawful(VIEW, ordered, expected, at_position(columns, position))


def test_many_late_events_of_one_key_are_left_out_a_bounded_number_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anabranch.folds.arrivals.MOST", 7)
    loaded = START + 5 * DAY  # half of the history was loaded at once, and arrived in no order after that
    ordered = [
        Event(
            id=f"e{i}", key="a", time=START + i * 3 * HOUR, x=float(i), n=i % 5, s="abc"[i % 3],
            arrival=loaded if i < 40 else START + i * 3 * HOUR + i * 37 % 11 * HOUR,
        )
        for i in range(80)
    ]  # fmt: skip
    queries = [("a", START + i * 5 * HOUR) for i in range(50)]
    features = {name: VIEW.features[name] for name in SOME}
    for windows in (("12h",), ()):
        view = FeatureView(name="some", source=source, key="key", windows=windows, features=features)
        run = with_arrivals(as_run(view, ordered, queries), ordered)
        sight, columns = sights_before(view, run), features_before(view, run)
        for position, (key, time) in enumerate(queries):
            known = [event for event in ordered if event.arrival < time]
            found = at_position(columns, position)
            assert_lawful(view, ordered, oracle.answer(view, known, key, time), found)
            earliest = time - 12 * HOUR if windows else 0
            late = [event for event in ordered if earliest <= event.time < time <= event.arrival]
            assert sight.late[position] == len(late)
        assert sight.late.max() > (2 if windows else 30)
        some = np.arange(len(queries)) % 3 == 0
        sampled = sights_before(view, run, some)
        assert sampled.late.tolist() == np.where(some, sight.late, 0).tolist()
        assert set(sampled.places.tolist()) == set(sight.places.tolist()) & set(np.flatnonzero(some).tolist())


SOME = (
    "sum_x",
    "last_s",
    "distinct_s",
    "approxpercentile_x",
    "mostfrequent_n",
    "approxdistinct_n",
    "variance_x",
)


def with_arrivals(run: SortedRun, ordered: Sequence[Event]) -> SortedRun:
    """The run with the arrivals of its events."""
    return replace(run, arrival=np.array([event.arrival for event in ordered], dtype=np.int64))


def as_run(view: FeatureView, ordered: Sequence[Event], queries: Sequence[tuple[str, int]]) -> SortedRun:
    """Events sorted by key and time, and queries, as the fold takes them."""
    return SortedRun(
        np.array(["abc".index(event.key) for event in ordered], dtype=np.int64),
        np.array([event.time for event in ordered], dtype=np.int64),
        lift(view, ordered),
        np.array(["abc".index(key) for key, _ in queries], dtype=np.int64),
        np.array([time for _, time in queries], dtype=np.int64),
    )


def at_position(columns: Mapping[str, Values], position: int) -> dict[str, object]:
    """One row of the folded columns, as plain values."""
    found = {
        name: values.values[position] if values.valid[position] else None for name, values in columns.items()
    }
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=events_strategy(),
    cut_slots=st.integers(0, 9 * 24),
    late=st.integers(0, SLACK // MINUTE),
    count=st.integers(1, 3),
)
def test_an_answer_with_its_own_events_equals_the_answer_after_they_arrived(
    events: list[Event], cut_slots: int, late: int, count: int
) -> None:
    cut = START + cut_slots * SLOT
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    # Any events of the key that did not arrive before, whatever their time: late ones too.
    news = [event for event in events if event.arrival >= at and event.time < at] or [
        replace(event, id=f"own {event.id}", arrival=at) for event in arrived if event.time < at
    ]
    for key in "ab":
        own = oracle.distinct([event for event in news if event.key == key])[:count]
        own = [event for event in own if event.id not in {other.id for other in arrived}]
        for view in (*VIEWS, SHIFTED):
            rows, times = [dict(event.__dict__) for event in own], [event.time for event in own]
            with_own = with_events(view, known(view, arrived, key, cut), rows, times)
            merged = merge(view, *with_own, at)
            assert merged.degraded is None, merged.degraded
            after = [*arrived, *(replace(event, arrival=at) for event in own)]
            assert_lawful(view, after, oracle.answer(view, after, key, at), dict(merged.values))


def test_late_event_is_exact_before_the_next_batch() -> None:
    cut = START + DAY
    late = Event(id="late", key="a", time=cut - 3 * HOUR, arrival=cut + HOUR, x=5.0, n=1)
    early = Event(id="first", key="a", time=cut - 2 * HOUR, arrival=cut - HOUR, x=7.0, n=1)
    found = served(VIEW, [late, early], "a", cut, cut + 2 * HOUR)
    assert found["sum_x_12h"] == 12.0
    assert found["count_n_12h"] == 2


def test_event_ahead_of_its_arrival_waits_for_its_time() -> None:
    event = Event(id="ahead", key="a", time=START + 2 * MINUTE, arrival=START + MINUTE, x=1.0)
    assert served(VIEW, [event], "a", START, START + 2 * MINUTE)["count_x_1h"] == 0
    assert served(VIEW, [event], "a", START, START + 2 * MINUTE + 1)["count_x_1h"] == 1


@pytest.mark.parametrize(
    ("at", "reason"), [(START - 1, "before the batch's cut"), (START + SLACK + 2 * HOUR, "too old")]
)
def test_an_answer_the_batch_cannot_give_says_so(at: int, reason: str) -> None:
    part = batch_part(VIEW, [Event(id="e", key="a", time=START - HOUR, arrival=START - HOUR, x=1.0)], START)
    assert reason in str(merge(VIEW, part, None, at).degraded)


def test_keys_never_seen_have_empty_values() -> None:
    values = {**merge(VIEW, None, None, START).values, **merge(LIFELONG, None, None, START).values}
    assert values["count_x_1h"] == 0
    assert values["sum_x_1h"] is None
    assert values["last_s"] is None
    assert values["lastk_s"] == []
