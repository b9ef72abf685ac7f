"""When a version with views of a new meaning may take over: pure rules over places of the stream."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch import Count, FeatureView, Project, Sum
from anabranch.errors import AnabranchError
from anabranch.kept.writing import written
from anabranch.stores.cassandra.manifest import Gap, Manifest
from anabranch.stores.cassandra.own_events import StreamPlaces
from anabranch.stores.cassandra.session import MissingTableError
from batch.building import takeover
from batch.building.takeover import await_first_tiles, await_tiles
from tests.support.law import source

VIEW = FeatureView(name="things", source=source, key="key", windows=("1h",), features={"n": Count("x")})
OLD = Project(name="shop", views=(VIEW,))
NEW = Project(name="shop", views=(replace(VIEW, features={"n": Sum("x")}),))
CUT = 7


class Told:
    """Progress that keeps its texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Nothing to show."""


class FakeStores:
    """Places by fingerprint; those of the new view grow with each look."""

    def __init__(self, old: dict[int, int], new: list[dict[int, int]], at_cut: int = 0) -> None:
        self.gaps: list[Gap] = []
        self.lacking: list[set[str] | Exception] = []
        self._old, self._new = old, new
        self.views: Any = self
        self.bus: Any = SimpleNamespace(read_as=lambda name: name, offsets_at=lambda *_: {0: at_cut, 1: 0})
        self.settings: Any = SimpleNamespace(times=SimpleNamespace(ahead_seconds=60))

    def ensure_own_events(self) -> None:
        """Nothing to create."""

    def places(self, project: str, view: str) -> StreamPlaces:
        assert project == "shop"
        if view == VIEW.tiles_name:
            return StreamPlaces(done=self._old)
        return StreamPlaces(done=self._new.pop(0) if len(self._new) > 1 else self._new[0])

    def lacking_tiles(self, project: Project, source: str) -> set[str]:
        found = self.lacking.pop(0) if self.lacking else set[str]()
        if isinstance(found, Exception):
            raise found
        return found

    def note_gap(self, project: str, gap: Gap) -> None:
        self.gaps.append(gap)


def manifest(project: Project, accepted: str | None = None) -> Manifest:
    return Manifest(
        project="shop",
        batch_version=1,
        cut=CUT,
        slack=0,
        built_at=0,
        fingerprints={view.name: view.fingerprint for view in project.own_views},
        tables={},
        rows={},
        accepted=accepted,
        declaration=written(project),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_PAUSE", 0.001)
    monkeypatch.setattr(takeover, "_PATIENCE", 0.02)
    monkeypatch.setattr(takeover, "_FIRST", 0.02)


@pytest.mark.parametrize(
    ("old", "new", "at_cut", "before", "project"),
    [
        ({}, [{}], 0, OLD, NEW),  # no stream ever ran
        ({0: 5}, [{}], 5, OLD, NEW),  # nothing that was read lies behind the cut
        ({0: 5}, [{}], 0, OLD, OLD),  # the views mean the same
        ({0: 5}, [{}], 0, None, NEW),  # nothing serves
        ({0: 5, 1: 2}, [{0: 5, 1: 3}], 0, OLD, NEW),  # it is further
    ],
)
def test_nothing_is_waited_for_where_no_answer_would_lack_anything(
    old: dict[int, int], new: list[dict[int, int]], at_cut: int, before: Project | None, project: Project
) -> None:
    stores: Any = FakeStores(old, new, at_cut)
    told: Any = Told()
    known = None if before is None else manifest(before)
    await_first_tiles(stores, project, known, CUT, told)
    await_tiles(stores, project, known, manifest(project), told)
    assert told.texts == stores.gaps == []


def test_a_build_waits_until_the_new_views_are_as_far_in_every_partition() -> None:
    stores: Any = FakeStores({0: 5, 1: 2}, [{0: 1}, {0: 5}, {0: 5}, {0: 5, 1: 1}, {0: 5, 1: 2}])
    told: Any = Told()
    await_tiles(stores, NEW, manifest(OLD), manifest(NEW), told)
    assert set(told.texts) == {"waiting for the stream to fill the tiles of view things"}
    assert stores.gaps == []


def test_a_stream_that_stands_still_ends_the_build_and_says_what_to_do() -> None:
    told: Any = Told()
    standing: list[dict[int, int]] = [{0: 4}, {}]
    for new in standing:
        stores: Any = FakeStores({0: 5}, [new])
        with pytest.raises(AnabranchError, match=r"view 'things' of 'shop' .*Run 'anabranch stream shop'"):
            await_tiles(stores, NEW, manifest(OLD), manifest(NEW), told)
    begun: Any = FakeStores({0: 5}, [{0: 1}])
    await_first_tiles(begun, NEW, manifest(OLD), CUT, told)  # it may still come to be as far
    never: Any = FakeStores({0: 5}, [{}])
    with pytest.raises(AnabranchError, match="has not filled its tiles"):
        await_first_tiles(never, NEW, manifest(OLD), CUT, told)


def test_a_version_that_is_accepted_all_the_same_notes_what_its_answers_may_lack() -> None:
    stores: Any = FakeStores({0: 5}, [{0: 4}])
    told: Any = Told()
    await_tiles(stores, NEW, manifest(OLD), manifest(NEW, accepted="I know"), told)
    (gap,) = stores.gaps
    assert (gap.source, "took over before the stream had filled its tiles" in gap.why) == ("things", True)


def test_places_of_a_declaration_that_was_there_before_and_whose_tables_were_dropped_do_not_count() -> None:
    stores: Any = FakeStores({0: 5}, [{0: 5}])
    stores.lacking = [*[MissingTableError("no table")] * 2, *[{NEW.views[0].tiles_name}] * 2]
    told: Any = Told()
    await_tiles(stores, NEW, manifest(OLD), manifest(NEW), told)
    assert (stores.lacking, len(told.texts)) == ([], 1)
