"""The merge at its edges: where windows begin and end, the cut, the slack, and values as plain Python."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from anabranch import (
    Aggregate,
    Count,
    Distinct,
    FeatureView,
    First,
    Last,
    LastK,
    Mean,
    Rate,
    Sum,
    TimeSince,
    Variance,
)
from anabranch.declare.windows import edges, make_window
from anabranch.folds.grains import Grains, fitting
from anabranch.folds.merge import BatchPart, Merged, Tiles, merge, merge_all, with_events
from anabranch.testing.states import SLACK, batch_part, tiles
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, format_time
from tests.support.law import START, Event, source

CUT = START + 3 * HOUR


def view(*windows: str, hop: str | None = None, **features: Aggregate) -> FeatureView:
    """A view over the test source; without features it counts."""
    return FeatureView(
        name="edges", source=source, key="key", windows=windows, hop=hop, features=features or {"n": Count()}
    )


def event(time: int, arrival: int | None = None, x: float = 1.0, s: str | None = None) -> Event:
    """An event of key a that arrived in time."""
    return Event(
        id=str((time, arrival, x)), key="a", time=time, arrival=time if arrival is None else arrival, x=x, s=s
    )


def answer(shown: FeatureView, events: Sequence[Event], at: int, cut: int | None = CUT) -> Merged:
    """The answer with a batch of what arrived before the cut, and tiles of the rest."""
    before = [one for one in events if cut is not None and one.arrival < cut]
    after = [one for one in events if cut is None or one.arrival >= cut]
    return merge(shown, None if cut is None else batch_part(shown, before, cut), tiles(shown, after), at)


def test_an_event_at_the_time_of_the_answer_is_not_in_it() -> None:
    for moment in (CUT, CUT + HOUR):
        events = [event(moment - 1), event(moment)]
        assert answer(view("1d"), [events[0]], moment).values == {"n_1d": 1}
        # One more microsecond, and it is.
        assert answer(view("1d"), events, moment + 1).values == {"n_1d": 2}


def test_an_event_at_the_tail_is_in_the_window_and_one_before_it_is_not() -> None:
    at = CUT + 17 * MINUTE + 3
    tail = floor_to(at - HOUR, 5 * MINUTE)
    assert answer(view("1h"), [event(tail)], at).values == {"n_1h": 1}
    assert answer(view("1h"), [event(tail - 1)], at).values == {"n_1h": 0}


def test_tails_move_a_hop_at_a_time() -> None:
    at = CUT + 20 * MINUTE
    moment = event(at - HOUR - 4 * MINUTE)
    assert answer(view("1h"), [moment], at - 1).values == {"n_1h": 1}
    assert answer(view("1h"), [moment], at).values == {"n_1h": 0}


@pytest.mark.parametrize("late", [0, 1, 5 * MINUTE - 1, 5 * MINUTE, HOUR, SLACK - 1, SLACK])
def test_an_answer_is_exact_from_the_cut_to_the_end_of_the_slack(late: int) -> None:
    shown, at = view("15m", "1h", "12h", "7d", "30d", "lifetime"), CUT + late
    events = [event(CUT - back) for back in range(7 * MINUTE, 40 * DAY, 7 * HOUR + 11 * MINUTE)]
    found = answer(shown, events, at)
    assert found.degraded is None
    for column in shown.columns:
        tail = column.window.tail(at)
        assert found.values[column.name] == sum(tail is None or one.time >= tail for one in events)


@pytest.mark.parametrize("late", [0, 1, 5 * MINUTE, 25 * MINUTE, HOUR, SLACK])
@pytest.mark.parametrize("cut", [CUT, None])
def test_events_enter_a_window_with_an_offset_and_leave_it_by_time_alone(late: int, cut: int | None) -> None:
    shown, at = view("1h offset 25m", "2h offset 1d", "7d", "7d offset 7d", "30d offset 1d"), CUT + late
    times = [*range(CUT - 40 * DAY, CUT, 7 * HOUR + 11 * MINUTE), *range(CUT - 2 * DAY, CUT, 4 * MINUTE)]
    found = answer(shown, [event(time) for time in times], at, cut)
    assert found.degraded is None
    for column in shown.columns:
        tail, head = column.window.tail(at) or 0, column.window.head(at)
        assert head % column.window.hop == 0 or head == at
        assert found.values[column.name] == sum(tail <= time < head for time in times)


def test_a_window_and_the_one_before_it_share_no_event_and_miss_none() -> None:
    shown = view("7d", "7d offset 7d", "14d", hop="1h")
    events = [event(time) for time in range(CUT - 15 * DAY, CUT, 47 * MINUTE)]
    for at in (CUT, CUT + 31 * MINUTE, CUT + SLACK):
        found = answer(shown, events, at).values
        counts = {name: int(str(count)) for name, count in found.items()}
        assert counts["n_7d_offset_7d"] in (214, 215)
        assert counts["n_7d"] + counts["n_7d_offset_7d"] == counts["n_14d"]


def test_a_value_with_an_offset_is_the_one_without_it_at_the_end_of_the_window() -> None:
    plain = view("2h", idle=TimeSince(), rate=Rate(), last=Last("x"), spread=Variance("x"))
    shown = replace(plain, windows=("2h offset 1h",))
    events = [event(CUT - minutes * MINUTE, x=minutes**0.5) for minutes in range(300, 0, -7)]
    at = CUT + 7 * MINUTE
    head = floor_to(at - HOUR, 5 * MINUTE)
    then = answer(plain, [one for one in events if one.time < head], head, cut=None).values
    assert then["idle_2h"] == 7 * 60.0
    expected = {f"{name}_offset_1h": value for name, value in then.items()}
    assert answer(shown, events, at).values == pytest.approx(expected)


@pytest.mark.parametrize("ahead", [0, 1, 7 * MINUTE])
def test_an_event_ahead_of_its_arrival_enters_a_window_with_an_offset_once(ahead: int) -> None:
    shown, edge = view("1h offset 5m"), CUT + HOUR
    early, usual = event(edge + ahead, arrival=edge - 1), event(edge + 8 * MINUTE)
    for at in range(edge, edge + 90 * MINUTE, MINUTE):
        head = floor_to(at - 5 * MINUTE, 5 * MINUTE)
        expected = sum(head - HOUR <= one.time < head for one in (early, usual))
        assert answer(shown, [early, usual], at).values == {"n_1h_offset_5m": expected}


@pytest.mark.parametrize("offset", [0, 1, 7 * MINUTE])
def test_an_event_that_comes_with_a_question_enters_a_window_with_an_offset_once(offset: int) -> None:
    shown, edge = view("1h offset 5m"), CUT + HOUR
    own, usual = event(edge + offset), event(edge + 8 * MINUTE)
    for at in range(edge + 8 * MINUTE + 1, edge + 90 * MINUTE, MINUTE):
        known = batch_part(shown, [], CUT), tiles(shown, [usual])
        head = floor_to(at - 5 * MINUTE, 5 * MINUTE)
        expected = sum(head - HOUR <= one.time < head for one in (own, usual))
        found = merge(shown, *with_events(shown, known, [own.row], [own.time]), at)
        assert found.values == {"n_1h_offset_5m": expected}


def test_a_batch_that_does_not_know_what_enters_a_window_is_too_old() -> None:
    shown, events = view("1h offset 1d"), [event(CUT - HOUR)]
    assert answer(shown, events, CUT + SLACK).degraded is None
    found = answer(shown, events, CUT + SLACK + 5 * MINUTE)
    assert found.degraded == f"the batch of {format_time(CUT)} is too old for window 1h offset 1d"


def test_fine_tiles_are_read_for_every_head_until_the_reads_end() -> None:
    shown = view("1h offset 5m")
    for at in range(CUT, CUT + 2 * HOUR, 30_000_000):
        stretches = edges(shown.spans, HOUR, at, at + MINUTE)
        for moment in range(at, at + MINUTE, 7_000_000):
            assert all(
                any(since <= start < until for since, until in stretches)
                for begin, end in edges(shown.spans, HOUR, moment)
                for start in range(begin, end, 5 * MINUTE)
            )


def test_only_windows_that_the_batch_is_too_old_for_degrade_an_answer() -> None:
    at = CUT + SLACK + HOUR + 1
    events = [event(CUT - HOUR)]
    found = answer(view("12h", "lifetime"), events, at)
    assert found.degraded == f"the batch of {format_time(CUT)} is too old for window 12h"
    assert answer(view("lifetime"), events, CUT + 400 * DAY).degraded is None
    assert answer(view(), events, CUT + 400 * DAY).degraded is None


def test_a_key_without_a_row_is_no_less_degraded_than_others() -> None:
    shown = view("12h")
    empty = BatchPart(CUT, SLACK, np.empty((0, 2 + shown.layout.width)))
    assert merge(shown, empty, None, CUT + SLACK).degraded is None
    assert "too old" in str(merge(shown, empty, None, CUT + SLACK + DAY).degraded)


def test_an_answer_before_the_cut_says_so() -> None:
    found = answer(view("12h"), [event(CUT - HOUR)], CUT - 1)
    assert found.degraded == f"{format_time(CUT - 1)} lies before the batch's cut {format_time(CUT)}"


def test_an_answer_before_events_that_were_folded_into_a_tile_says_so() -> None:
    found = answer(view("12h"), [event(CUT + 30 * MINUTE)], CUT + 20 * MINUTE)
    assert "lies before events that were already folded" in str(found.degraded)


def test_a_late_event_of_a_tile_before_the_cut_adds_to_the_batch() -> None:
    events = [event(CUT - 30 * MINUTE, x=1.0), event(CUT - 29 * MINUTE, arrival=CUT + MINUTE, x=2.0)]
    assert answer(view("1h", x=Sum("x")), events, CUT + 2 * MINUTE).values == {"x_1h": 3.0}
    # Ever so late: the day before yesterday's.
    late = event(CUT - 50 * HOUR, arrival=CUT + MINUTE, x=4.0)
    assert answer(view("1h", "7d", x=Sum("x")), [*events, late], CUT + 2 * MINUTE).values == {
        "x_1h": 3.0,
        "x_7d": 7.0,
    }


def test_an_event_of_the_batch_ahead_of_the_cut_waits_for_its_time() -> None:
    ahead = event(CUT + 2 * MINUTE, arrival=CUT - 1)
    assert answer(view("1h"), [ahead], CUT + 2 * MINUTE).values == {"n_1h": 0}
    assert answer(view("1h"), [ahead], CUT + 2 * MINUTE + 1).values == {"n_1h": 1}


def test_a_key_without_states_has_empty_values() -> None:
    expected: dict[str, object] = {"n": 0, "x": None, "mean": None, "var": None, "s": None, "few": [], "d": 0}
    shown = view(
        n=Count(),
        x=Sum("x"),
        mean=Mean("x"),
        var=Variance("x"),
        s=Last("s"),
        few=LastK("s", 2),
        d=Distinct("s"),
    )
    assert merge(shown, None, None, CUT) == Merged(expected)
    empty = Tiles(np.empty(0, dtype=np.int64), np.empty((0, shown.layout.width)))
    assert merge(shown, BatchPart(CUT, SLACK, np.empty((0, 2 + shown.layout.width))), empty, CUT) == Merged(
        expected
    )


def test_texts_of_batch_and_tiles_are_merged_by_time() -> None:
    events = [
        event(CUT - 2 * HOUR, s="b"),
        event(CUT - HOUR, s="é"),
        event(CUT + MINUTE, s=""),
        event(CUT - 90 * MINUTE, arrival=CUT + MINUTE, s="late"),
    ]
    shown = view(last=Last("s"), first=First("s"), few=LastK("s", 3))
    assert answer(shown, events, CUT + HOUR).values == {"last": "", "first": "b", "few": ["", "é", "late"]}


def test_events_at_one_time_have_one_order_whatever_came_first() -> None:
    events = [event(CUT - HOUR, x=2.0, s="b"), event(CUT - HOUR, arrival=CUT + MINUTE, x=1.0, s="a")]
    shown = view(last=Last("x"), first=First("x"), last_s=Last("s"), first_s=First("s"))
    expected = {"last": 2.0, "first": 1.0, "last_s": "b", "first_s": "a"}
    assert answer(shown, events, CUT + HOUR).values == expected
    swapped = [event(CUT - HOUR, arrival=CUT + MINUTE, x=2.0, s="b"), event(CUT - HOUR, x=1.0, s="a")]
    assert answer(shown, swapped, CUT + HOUR).values == expected


def test_times_before_1970_have_windows_too() -> None:
    cut = -100 * DAY
    events = [event(cut - HOUR), event(cut - 3 * HOUR), event(cut + 30, arrival=cut + 40)]
    assert answer(view("2h", "lifetime"), events, cut + MINUTE, cut).values == {"n_2h": 2, "n_lifetime": 3}


@pytest.mark.parametrize(
    ("text", "hop"), [("15m", None), ("12h", None), ("7d", None), ("365d", None), ("1d", "10m")]
)
def test_collapsed_states_begin_on_a_hop_so_that_hops_fill_the_rest(text: str, hop: str | None) -> None:
    window = make_window(text, hop, "here")
    collapsed = window.collapsed_from(CUT, SLACK)
    assert collapsed is not None
    assert collapsed % window.hop == 0
    assert collapsed >= (window.tail(CUT + SLACK) or 0)


def test_keys_that_are_merged_together_have_their_own_reasons_and_extras() -> None:
    shown = view("1d", n=Count(), kinds=Distinct("s"))
    events = [
        [event(CUT - HOUR, s="a"), event(CUT + HOUR, s="b")],
        [],
        [event(CUT + 3 * HOUR, CUT + HOUR, s="c")],
    ]
    known = [
        (
            batch_part(shown, [one for one in each if one.arrival < CUT], CUT),
            tiles(shown, [one for one in each if one.arrival >= CUT]),
        )
        for each in events
    ]
    at = CUT + 2 * HOUR
    alone = [merge(shown, *each, at) for each in known]
    assert merge_all(shown, known, at) == alone
    assert merge_all(shown, known[::-1], at) == alone[::-1]
    assert [(one.values["n_1d"], one.values["kinds_1d"]) for one in alone] == [(2, 2), (0, 0), (0, 0)]
    stale = merge_all(shown, [*known, (None, known[0][1])], CUT + SLACK + 2 * DAY)
    assert ["too old" in str(one.degraded) for one in stale] == [True, True, True, False]
    assert merge_all(shown, [], at) == []


def test_a_key_whose_state_holds_later_events_is_degraded_by_itself() -> None:
    shown = view("1h")
    states = [tiles(shown, [event(CUT + 10 * MINUTE)]), tiles(shown, [event(CUT + 10 * MINUTE + 2)])]
    moment = CUT + 10 * MINUTE + 1
    found = merge_all(shown, [(None, state) for state in states], moment)
    assert [one.degraded is None for one in found] == [True, False]


def test_batch_parts_of_several_batches_are_not_merged_together() -> None:
    shown = view("1h")
    with pytest.raises(ValueError, match="several batches"):
        merge_all(shown, [(batch_part(shown, [], cut), None) for cut in (CUT, CUT + HOUR)], CUT + 2 * HOUR)


def fitted(shown: FeatureView, largest: int) -> tuple[Merged, Merged]:
    """Answers of a key with twenty long texts and of one with two, after what does not fit is left out."""
    texts = [event(CUT - (20 - number) * HOUR, s=f"{number:03}" * 100) for number in range(20)]
    parts = [batch_part(shown, events, CUT) for events in (texts, texts[:2])]
    key = np.repeat([0, 1], [len(part.rows) for part in parts])
    rows, extras = np.concatenate([part.rows for part in parts]), [*parts[0].extras, *parts[1].extras]
    kept = fitting(Grains(key, np.zeros_like(key), rows, extras), largest)
    places = [np.flatnonzero(kept.key == number) for number in (0, 1)]
    one, other = (
        merge(
            shown,
            BatchPart(CUT, SLACK, kept.rows[own], [kept.extras[place] for place in own.tolist()]),
            None,
            CUT,
        )
        for own in places
    )
    return one, other


def test_a_key_of_more_texts_than_the_store_takes_keeps_its_numbers_and_says_so() -> None:
    shown = view("7d", n=Count(), different=Distinct("s"))
    exact, small = fitted(shown, 2**20)
    assert (exact, small) == (
        Merged({"n_7d": 20, "different_7d": 20}),
        Merged({"n_7d": 2, "different_7d": 2}),
    )
    crowded, beside = fitted(shown, 512)
    assert beside == small
    assert crowded == Merged(
        {"n_7d": 20, "different_7d": None}, crowded.degraded, frozenset({"different_7d"})
    )
    assert "states of this key in view 'edges' are more than the store takes" in str(crowded.degraded)


def test_a_key_of_more_numbers_than_the_store_takes_loses_them_and_says_so() -> None:
    crowded, _ = fitted(view("7d", hop="1h", n=Count(), different=Distinct("s")), 16)
    assert crowded == Merged(
        {"n_7d": None, "different_7d": None}, crowded.degraded, frozenset({"n_7d", "different_7d"})
    )
    assert "more than the store takes" in str(crowded.degraded)


def test_a_tile_that_lost_its_texts_degrades_the_answer() -> None:
    shown = view("7d", n=Count(), last=Last("s"))
    part = tiles(shown, [event(CUT + MINUTE, s="long")])
    lost = replace(part, extras=[[None]], lost=True)
    found = merge(shown, None, lost, CUT + HOUR)
    assert found == Merged({"n_7d": 1, "last_7d": None}, found.degraded, frozenset({"last_7d"}))
    assert "more than the store takes" in str(found.degraded)
    assert merge(shown, None, replace(part, fine=lost), CUT + HOUR).degraded == found.degraded
