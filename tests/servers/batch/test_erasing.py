"""Erasing a key over real Kafka, Cassandra and a lake: all of it goes for good, and nothing of other keys."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Label, Model, Project, Source, Sum
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.predictions import NAME, predictions_topic
from anabranch.values.times import MINUTE, format_time, now_micros
from batch.building.publication import latest_cut
from batch.landing.ingest import ingest
from batch.upkeep.erasing import Erasure, entity
from jobs.flows.building import build_project, rollback_project
from jobs.flows.erasing import FinishedErasure, erase_key
from jobs.flows.tracing import why_key
from jobs.flows.verifying import verify_settled
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import start

STEPS = Steps()
TRIP = {"thing": "t1"}


class Trips:
    """Things that are seen at places."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.context, self.folder = context, folder
        self.name = f"erasing_{uuid.uuid4().hex[:8]}"
        seen = Source(
            name="seen",
            topic=self.name,
            id="id",
            time="at",
            schema="id STRING, thing STRING, place STRING, at TIMESTAMP, x BIGINT",
        )
        views = [self.view(seen, key) for key in (("thing",), ("place",), ("thing", "place"))]
        label = Label(source=seen, key=("thing", "place"), target="x > 10")
        self.project = Project(
            name=self.name, views=tuple(views), label=label, model=Model(trainer="logistic")
        )
        self.events: list[dict[str, object]] = []
        self.count = 0

    @staticmethod
    def view(seen: Source, key: tuple[str, ...]) -> FeatureView:
        name = "_".join(key)
        return FeatureView(
            name=name,
            source=seen,
            key=key,
            windows=("1d", "lifetime"),
            features={f"{name}_n": Count(), f"{name}_x": Sum("x")},
        )

    def some(self, *pairs: tuple[str, str]) -> list[dict[str, object]]:
        first, self.count = self.count, self.count + len(pairs)
        made = [
            {
                "id": f"e{first + i}",
                "thing": thing,
                "place": place,
                "at": format_time(now_micros() - (90 - first - i) * MINUTE),
                "x": 2 ** (first + i),
            }
            for i, (thing, place) in enumerate(pairs)
        ]
        self.events += made
        return made

    def load(self, events: Sequence[object]) -> None:
        path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
        path.write_text("\n".join(lines), encoding="utf-8")
        ingest(self.context, self.project, "seen", [str(path)], STEPS)

    def publish(self, topic: str, events: Sequence[object]) -> None:
        self.context.bus.ensure_topics([topic])
        self.context.bus.publish(topic, [(None, json.dumps(event).encode()) for event in events])

    def drain(self, suffix: str = "") -> None:
        """The stream to the end; from a checkpoint of another name it reads again what it has read."""
        layer = self.context.speed_layer(once=True)
        for query in start(replace(layer, checkpoints=f"{layer.checkpoints}{suffix}"), self.project):
            query.awaitTermination()

    def differences(self) -> dict[str, object]:
        """Answers of every pair that are not the fold of the events that are left."""
        found: dict[str, object] = {}
        for thing in ("t1", "t2", "t12"):
            for place in ("p1", "p2"):
                values = self.context.answers.features(self.project, [{"thing": thing, "place": place}])[
                    0
                ].values
                for view in self.project.views:
                    key = {"thing": thing, "place": place}
                    xs = [
                        2 ** int(str(event["id"])[1:])
                        for event in self.events
                        if all(event[name] == key[name] for name in view.keys)
                    ]
                    mine = (values[f"{view.name}_n_1d"], values[f"{view.name}_x_lifetime"])
                    if mine != (len(xs), sum(xs) if xs else None):
                        found[f"{thing} {place} {view.name}"] = (mine, xs)
        return found

    def erase(self) -> FinishedErasure:
        done = erase_key(self.context, self.project, dict(TRIP), STEPS)
        self.events = [event for event in self.events if event["thing"] != "t1"]
        return done

    def traced(self) -> dict[str, set[str]]:
        """The ids of the events by view that an answer for thing t1 at place p1 is traced to."""
        found = why_key(self.context, self.project, {"thing": "t1", "place": "p1"}, None, 1_000)
        return {view["view"]: {event["id"] for event in view["events"]} for view in found["views"]}

    def served(self) -> set[str]:
        """Every key in every table of the project."""
        session = self.context.views.session
        tables = [
            name
            for name in session.cluster.metadata.keyspaces[self.context.views.settings.keyspace].tables
            if name.startswith(self.name)
        ]
        assert len(tables) > 6
        return {row.key for table in tables for row in session.execute(f"SELECT key FROM {table}")}

    def on_disk(self) -> str:
        """The texts of every Parquet file below the project's part of the lake, of whatever version."""
        files = list(
            Path(self.context.settings.lake.root.removeprefix("file://"), self.name).rglob("*.parquet")
        )
        tables = [pq.ParquetFile(file).read() for file in files if "_delta_log" not in file.parts]
        assert tables
        return json.dumps([table.to_pylist() for table in tables], default=str)


@pytest.fixture
def trips(settings: Settings, servers: object, spark: SparkSession, tmp_path: Path) -> Trips:
    context = Context(settings)
    context.spark = spark
    return Trips(context, tmp_path)


def test_a_key_is_erased_everywhere_and_stays_away(trips: Trips) -> None:
    context, project, times = trips.context, trips.project, trips.context.settings.times
    trips.load(
        [
            *trips.some(("t1", "p1"), ("t2", "p1"), ("t12", "p2"), ("t1", "p2")),
            {"id": "b1", "thing": "t1"},
            r'{"id": "b2", "thing": "\u0074\u0031"}',
            {"id": "b12", "thing": "t12"},
            r'{"id": "b13", "thing": "\u0074\u0031\u0032"}',
        ]
    )
    build_project(context, project, None, STEPS)
    trips.publish(trips.name, trips.some(("t1", "p1"), ("t2", "p1"), ("t2", "p2")))
    now, pairs = format_time(now_micros()), [{"thing": thing, "place": "p1"} for thing in ("t1", "t2")]
    asked = [
        {
            "prediction_id": f"p-{pair['thing']}",
            "at": now,
            "asked": json.dumps({"key": pair}),
            "answered": "{}",
        }
        for pair in pairs
    ]
    trips.publish(predictions_topic(trips.name), asked)
    trips.drain()
    assert not trips.differences()
    assert {"t1", "t1\x1fp1", "t1\x1fp2", "t12"} <= trips.served()
    traced = {"thing": {"e0", "e3", "e4"}, "place": {"e0", "e1", "e4", "e5"}, "thing_place": {"e0", "e4"}}
    assert trips.traced() == traced
    before = context.lake.versions(context.spark, project)["seen"]
    counted = Erasure(context, project, TRIP, STEPS).count()
    assert counted.rows["events/seen"] == 2  # the third has not landed yet
    assert not trips.differences()

    done = trips.erase()
    assert trips.traced() == {"thing": set(), "place": {"e1", "e5"}, "thing_place": set()}
    rows = dict(done.erased.rows)
    assert (rows["events/seen"], rows[f"events/{NAME}"], rows["quarantine/seen"]) == (3, 1, 2)
    assert done.erased.files
    with pytest.raises(AnabranchError, match=f"version {before} of .* ended when a key was erased"):
        context.lake.events(context.spark, project, project.sources["seen"], version=before)
    assert not {key for key in trips.served() if "t1" in key.split("\x1f")}
    left = trips.on_disk()
    assert '"t1' not in left.replace("t12", "")
    assert "t12" in left
    manifest = context.views.manifest(project.name)
    assert manifest is not None
    assert manifest.batch_version == done.batch_version

    rollback_project(context, project, STEPS)
    assert not {key for key in trips.served() if "t1" in key.split("\x1f")}

    # What has arrived of the open slot is in tiles of the place until a build covers it.
    assert wait_until(lambda: latest_cut(times, now_micros()) >= done.until, 30)
    build_project(context, project, None, STEPS)
    assert not trips.differences()
    found = verify_settled(context, project, None, STEPS)
    assert (found.mismatches, found.degraded) == (0, 0), found

    # Events after an erasure count as any other; a stream without its checkpoint reads erased ones again.
    trips.publish(trips.name, trips.some(("t1", "p2")))
    trips.drain("-again")
    assert not trips.differences()


def test_only_keys_of_the_project_can_be_erased(trips: Trips) -> None:
    assert entity(trips.project, ["place=p1"]) == {"place": "p1"}
    assert entity(trips.project, ["place=p1", "thing=t1"]) == {"place": "p1", "thing": "t1"}
    for words in (["t1"], ["x=1"], ["thing=t1", "x=1"]):
        with pytest.raises(MisuseError, match="thing=VALUE"):
            entity(trips.project, words)
