"""How far tiles are where several queries write them, by which own events are counted once."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Project, Source
from anabranch.settings import TimeSettings
from anabranch.stores.cassandra.own_events import OwnPlace, StreamPlaces, counted
from speed.feeds import StreamFeed
from speed.gaps import place_of
from speed.places import TilePlaces
from speed.query import SpeedLayer
from speed.retiring import Retirement

SOURCE = Source(
    name="sales", schema="uid STRING, shop STRING, at TIMESTAMP", id="uid", time="at", topic="sales"
)


def view(name: str) -> FeatureView:
    return FeatureView(name=name, source=SOURCE, key="shop", windows=("1h",), features={name: Count()})


class KeptPlaces:
    """The table of places, and views of which tiles are removed."""

    def __init__(self) -> None:
        self.kept: dict[str, StreamPlaces] = {}
        self.dropped: list[tuple[str, list[str]]] = []

    def places(self, _project: str, tiles: str) -> StreamPlaces:
        return self.kept.get(tiles, StreamPlaces())

    def note_places(self, _project: str, tiles: Iterable[str], **places: Mapping[int, int]) -> None:
        for one in tiles:
            before = self.places("", one)
            self.kept[one] = StreamPlaces(**{"began": before.began, "done": before.done, **places})


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.booleans()), max_size=30))
def test_an_own_event_counts_once_while_two_queries_write_the_tiles(
    batches: list[tuple[bool, int, bool]],
) -> None:
    table: Any = KeptPlaces()
    places, ends, tiles = TilePlaces(), {True: 0, False: 0}, 0
    for first, count, again in batches:
        if again:
            places = TilePlaces()  # the process was started again
        ends[first] += count
        places.note_begun(table, "p", ["both", str(first)], {0: ends[first]})
        tiles = max(tiles, ends[first])  # a tile is not replaced by one with fewer events
        places.note_done(table, "p", ["both", str(first)], {0: ends[first]})
        for offset in range(max(ends.values()) + 2):
            at, there = OwnPlace(1, 0, offset, 1), table.places("p", "both")
            assert counted(at, there, there, None) is (offset < tiles)
        assert table.places("p", str(first)).done == {0: ends[first]}


def test_an_event_of_a_batch_under_way_is_neither_there_nor_missing() -> None:
    table: Any = KeptPlaces()
    places = TilePlaces()
    places.note_begun(table, "p", ["both"], {0: 10})
    places.note_done(table, "p", ["both"], {0: 10})
    places.note_begun(table, "p", ["both"], {0: 20, 1: 3})
    places.note_begun(table, "p", ["both"], {0: 12})  # of the query that is behind
    assert table.places("p", "both") == StreamPlaces({0: 20, 1: 3}, {0: 10})
    there = table.places("p", "both")
    assert counted(OwnPlace(1, 0, 15, 1), there, there, None) is None


def test_tiles_that_are_begun_anew_hold_nothing() -> None:
    table: Any = KeptPlaces()
    places = TilePlaces()
    for one in ("a", "b"):
        places.note_done(table, "p", [one], {0: 10})
    places.begin(table, "p", ["a"])
    places.note_done(table, "p", ["a", "b"], {0: 2})
    assert (table.places("p", "a").done, table.places("p", "b").done) == ({0: 2}, {0: 10})


@pytest.mark.parametrize(("lacking", "gaps_noted"), [("both", 1), ("new", 0)])
def test_tiles_that_answers_read_leave_a_gap_whichever_query_makes_them_again(
    monkeypatch: pytest.MonkeyPatch, lacking: str, gaps_noted: int
) -> None:
    serves = Project(name="shops", views=(view("both"),))
    waits = Project(name="shops", views=(view("both"), view("new")))
    tiles = {one.name: one.tiles_name for one in waits.own_views}
    noted: list[Any] = []
    views: Any = KeptPlaces()
    views.lacking_tiles = lambda *_: {tiles[lacking]}
    views.mark_tiles = lambda *_: None
    views.note_gap = lambda _, gap: noted.append(gap)
    bus = SimpleNamespace(read_as=lambda topic: topic)
    stores: Any = SimpleNamespace(
        views=views, bus=bus, spark=None, settings=SimpleNamespace(times=TimeSettings())
    )
    layer = SpeedLayer(stores=stores, checkpoints="/stream")
    for name, found in {"begun": "place", "file_names": ["0"], "starting_offsets": "earliest"}.items():
        monkeypatch.setattr(f"speed.gaps.{name}", lambda *_, found=found: found)
    monkeypatch.setattr("speed.gaps.remove_folder", lambda *_: None)
    monkeypatch.setattr("speed.gaps.standing_feeds", lambda *_: [StreamFeed(serves, SOURCE)])
    views.note_places("shops", tiles.values(), done={0: 7})
    place_of(layer, waits, SOURCE)
    assert len(noted) == gaps_noted
    assert {name for name, one in tiles.items() if not views.places("shops", one).done} == {lacking}


def test_tables_are_retired_by_what_is_fed_when_it_is_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: dict[str, list[Any]] = {"slow": ["one"], "other": ["first"]}
    dropped: list[tuple[str, list[Any]]] = []

    class Dropping:
        def drop_tiles(self, name: str, kept: list[Any]) -> None:
            dropped.append((name, list(kept)))
            if name == "slow":
                fed["other"] = ["first", "second"]  # declared anew meanwhile
            else:
                retirement.stop()

        def manifest(self, _name: str) -> None:
            return None

    monkeypatch.setattr("speed.retiring.needed_since", lambda _: None)
    views: Any = Dropping()
    retirement = Retirement(views, lambda: fed)
    retirement._run()
    assert dropped == [("slow", ["one"]), ("other", ["first", "second"])]
