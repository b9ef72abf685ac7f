"""Known keys: those of which the batch version or the stream since its cut has events, in any view."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from anabranch import Count, FeatureView, Label, Model, Project, Source, Sum
from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.errors import UnavailableError
from anabranch.folds.packing import pack_extras
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.tables import batch_table, tiles_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.registry import Models
from anabranch.testing.states import SLACK, batch_part, states
from anabranch.values.keys import key_text
from anabranch.values.times import DAY, HOUR, MINUTE
from batch.building.versions import rollback
from jobs.wiring.settings import Settings
from tests.support.law import START, Event
from tests.support.stores import stores_with

CUT = START
SCHEMA = "id STRING, plane STRING, airport STRING, time TIMESTAMP, x DOUBLE, n BIGINT"


@dataclass
class Hangar:
    """A project whose views have different keys, and its stores."""

    views: Views
    project: Project
    settings: Settings

    def build(
        self, cut: int, planes: Sequence[str] = (), airports: Sequence[str] = (), ago: int = HOUR, n: int = 1
    ) -> Manifest:
        """A batch version with an event of each, `ago` before its cut; another one stays for a rollback."""
        before = self.views.manifest(self.project.name)
        version = self.views.new_version(self.project.name, before.batch_version + 1 if before else 1)
        tables = {
            view.name: self.views.create_batch_table(self.project.name, view.name, version)
            for view in self.project.views
        }
        for view, keys in zip(self.project.views, (planes, airports), strict=True):
            for key in keys:
                part = batch_part(
                    view, [Event(id="1", key=key, time=cut - ago, arrival=cut - ago, x=1.0, n=n)], cut
                )
                assert len(part.rows)
                table = batch_table(self.project.name, view.name, version)
                statement = f"INSERT INTO {table} (key, states, extras) VALUES (%s, %s, %s)"
                self.views.session.execute(
                    statement, (key, part.rows.astype("<f8").tobytes(), pack_extras(part.extras))
                )
        names = {view.name: view.fingerprint for view in self.project.views}
        entry = Manifest(
            project=self.project.name,
            batch_version=version,
            cut=cut,
            slack=SLACK,
            built_at=cut + version,
            fingerprints=names,
            tables=tables,
            rows={},
        )
        self.views.ensure_tiles(self.project)
        self.views.swap(entry, before, before)
        found = self.views.manifest(self.project.name)
        assert found is not None
        return found

    def stream(self, plane: str, slot: int, n: int = 1) -> None:
        """A wide tile of a plane, as the stream writes it."""
        self.views.ensure_tiles(self.project)
        view = self.project.views[0]
        rows, _ = states(
            view, [[Event(id="1", key=plane, time=slot + MINUTE, arrival=slot + MINUTE, x=1.0, n=n)]]
        )
        table = tiles_table(self.project.name, view)
        self.views.session.execute(
            f"INSERT INTO {table} (key, slot, tile_start, state) VALUES (%s, %s, %s, %s)",
            (plane, slot, slot, rows[0].astype("<f8").tobytes()),
        )

    def known(self, *keys: tuple[str, str]) -> list[bool]:
        """Whether each plane at an airport is known: five ways to ask, which must agree."""
        manifest, asked = self.views.manifest(self.project.name), [named(*key) for key in keys]
        answers = Answers(self.views, parts=Parts(1_000_000))

        async def awaited() -> list[Sequence[Answer]]:
            return [
                await answers.answer(self.project, asked, manifest),
                *[await answers.answer(self.project, [key], manifest) for key in asked],
            ]

        together, *alone = asyncio.run(awaited())
        found = [answer.known for answer in Answers(self.views).features(self.project, asked)]
        assert [answer.known for answer in together] == [answer.known for (answer,) in alone] == found
        assert [answer.known for answer in answers.features(self.project, asked)] == found
        return found


def named(plane: str, airport: str) -> dict[str, object]:
    return {"plane": plane, "airport": airport}


@pytest.fixture
def hangar(servers: Settings) -> Hangar:
    source = Source(name="flights", topic="flights", id="id", time="time", schema=SCHEMA)
    planes = FeatureView(
        name="planes", source=source, key="plane", windows=("1h",), features={"x": Sum("x", where="n > 0")}
    )
    airports = FeatureView(name="airports", source=source, key="airport", features={"all": Count()})
    label = Label(source=source, key=("plane", "airport"), target="n > 0")
    name = f"known_{uuid.uuid4().hex[:8]}"
    project = Project(name=name, views=(planes, airports), label=label, model=Model())
    return Hangar(Views(servers.views), project, servers)


def test_before_the_first_batch_a_key_is_known_by_the_stream_alone(hangar: Hangar) -> None:
    assert hangar.known(("N1", "EWR"), ("N2", "EWR")) == [False, False]  # not even the tables are there
    hangar.stream("N1", CUT)
    assert hangar.known(("N1", "EWR"), ("N2", "EWR")) == [True, False]


def test_a_key_is_known_when_any_of_its_views_has_anything(hangar: Hangar) -> None:
    hangar.build(CUT, planes=["N1"], airports=["EWR"])
    assert hangar.known(("N1", "EWR"), ("N1", "XXX"), ("N9", "EWR"), ("N9", "XXX")) == [
        True,
        True,
        True,
        False,
    ]


def test_events_that_a_filter_leaves_out_or_no_window_reaches_any_more_make_a_key_known(
    hangar: Hangar,
) -> None:
    hangar.build(CUT, planes=["N1"], n=0)
    hangar.stream("N2", CUT, n=0)
    assert hangar.known(("N1", "XXX"), ("N2", "XXX"), ("N3", "XXX")) == [True, True, False]
    for answer in Answers(hangar.views).features(
        hangar.project, [named("N1", "XXX"), named("N2", "XXX")], CUT + 10 * DAY
    ):
        assert (answer.known, dict(answer.values)) == (True, {"x_1h": None, "all": 0})


def test_tiles_of_slots_that_the_batch_covers_make_no_key_known(hangar: Hangar) -> None:
    """The batch has the events of such a tile; if it has none of the key, no window needs them."""
    hangar.stream("N1", CUT - HOUR)
    assert hangar.known(("N1", "XXX")) == [True]
    hangar.build(CUT)
    assert hangar.known(("N1", "XXX")) == [False]
    hangar.stream("N1", CUT)
    assert hangar.known(("N1", "XXX")) == [True]


def test_a_rollback_to_a_version_without_the_key_knows_it_by_the_stream_or_not_at_all(hangar: Hangar) -> None:
    hangar.build(CUT, planes=["old"])
    assert hangar.known(("by file", "XXX")) == [False]  # what a file brought waits for the next build
    hangar.stream("by topic", CUT)
    hangar.build(CUT + HOUR, planes=["old", "by topic", "by file"])
    keys = [(plane, "XXX") for plane in ("old", "by topic", "by file")]
    assert hangar.known(*keys) == [True, True, True]
    stores = stores_with(hangar.settings, views=hangar.views, models=NoModels())
    rollback(stores, hangar.project)
    assert hangar.known(*keys) == [True, True, False]


class NoModels(Models):
    """A registry of a project without versions."""

    def __init__(self) -> None:
        """Nothing to open."""

    def champion(self, project: str) -> str | None:
        return None


def test_without_the_store_nobody_is_called_unknown(hangar: Hangar) -> None:
    manifest = hangar.build(CUT, planes=["N1"])
    answers = Answers(hangar.views, parts=Parts(1_000_000))
    keys = [named("N1", "XXX"), named("N9", "XXX"), named("never asked", "XXX")]
    found = answers.features(hangar.project, keys[:2])
    assert [answer.known for answer in found] == [True, False]
    view = hangar.project.views[0]
    assert answers.parts is not None
    assert (
        hangar.project.name,
        view.name,
        manifest.built_at,
        key_text(view.keys, keys[1]),
    ) in answers.parts  # that there is nothing is kept too
    (last,) = answers.last_known(hangar.project, keys[:1], manifest, "Cassandra is away")
    assert last.known
    assert "Cassandra is away" in (last.degraded or "")
    for key in keys[1:]:  # by now the stream may know it
        with pytest.raises(UnavailableError, match="Cassandra is away"):
            answers.last_known(hangar.project, [key], manifest, "Cassandra is away")
