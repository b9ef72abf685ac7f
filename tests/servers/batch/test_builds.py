"""Builds one after another over real Kafka and Cassandra: new events give what a full build gives."""

import json
import random
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import anabranch.stores.lake.lake
import batch.views
from anabranch import (
    Count,
    DecayedSum,
    Distinct,
    FeatureView,
    Last,
    LastK,
    Max,
    Mean,
    Project,
    Source,
    StdDev,
    Sum,
)
from anabranch.folds.merge import merge
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.tables import current_table, history_table
from anabranch.stores.lake.increments import builds_there
from anabranch.stores.lake.lake import as_stored
from anabranch.stores.lake.staging import commit_files, write_files
from anabranch.values.times import DAY, HOUR, MINUTE, format_time, now_micros
from batch.building.publication import Built, latest_cut
from batch.landing.ingest import ingest
from batch.settings import BuildSettings
from jobs.flows.building import build_project, rollback_project
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import start

# Names that columns of ours have or had, and such as Delta, CQL and SQL take only in disguise.
SCHEMA = (
    "`Event ID` STRING, `A (key)` STRING, event_micros TIMESTAMP, start DOUBLE, slot BIGINT, `it's` STRING"
)


class Told(Steps):
    """Progress whose lines are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)

    def named(self, text: str) -> str:
        """The one line that has the text."""
        (found,) = [line for line in self.lines if text in line]
        return found


@dataclass
class River:
    """A project over one topic and its builds by name."""

    context: Context
    project: Project
    folder: Path
    builds: dict[str, Built] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    values: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    mismatches: dict[str, list[str]] = field(default_factory=dict)
    gone_back_to: int = -1
    rows: dict[str, dict[str, tuple[int, datetime]]] = field(default_factory=dict)
    """After the rollback, by table."""

    def publish(self, events: Sequence[Mapping[str, object]]) -> None:
        self.context.bus.ensure_topics([self.project.name])
        self.context.bus.publish(self.project.name, [(None, json.dumps(event).encode()) for event in events])

    def load(self, events: Sequence[Mapping[str, object]]) -> None:
        path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        path.write_text("\n".join(json.dumps(event) for event in events), encoding="utf-8")
        ingest(self.context, self.project, "things", [str(path)], Steps())

    def build(self, name: str, *, cut: int | None = None, full: bool = False) -> Manifest:
        self.told[name] = Told()
        wait_for_a_cut(self.context.settings)
        self.builds[name] = build_project(self.context, self.project, cut, self.told[name], full=full)
        manifest = self.context.views.manifest(self.project.name)
        assert manifest is not None
        self.values[name] = self.published(manifest)
        return manifest

    def published(self, manifest: Manifest) -> dict[str, dict[str, object]]:
        """Values at the cut of every key in the version's tables, by key and feature."""
        found: dict[str, dict[str, object]] = {}
        for view in self.project.views:
            for row in self.context.views.session.execute(f"SELECT key FROM {manifest.tables[view.name]}"):
                batch, _ = self.context.views.known(
                    self.project.name, view, row.key, replace(manifest, cut=manifest.cut), manifest.cut
                )
                found.setdefault(row.key, {}).update(merge(view, batch, None, manifest.cut).values)
        return found

    def kept(self, table: str) -> dict[str, tuple[int, datetime]]:
        """Of each key the batch version and the time of its row; where a table has several, of the newest."""
        found = self.context.views.session.execute(f"SELECT key, batch_version, as_of FROM {table}")
        return {row.key: (row.batch_version, row.as_of) for row in sorted(found, key=lambda row: row.as_of)}

    def verify(self, name: str) -> None:
        """Drain the stream, then compare everything with the lake."""
        for query in start(self.context.speed_layer(once=True), self.project):
            query.awaitTermination()
        found = verify_settled(self.context, self.project, None, Steps())
        assert found.keys
        self.mismatches[name] = [
            str(feature.example) for feature in found.features.values() if feature.mismatches
        ]


def wait_for_a_cut(settings: Settings) -> None:
    """Until the latest cut lies after everything that was published."""
    wanted = now_micros()
    while latest_cut(settings.times, now_micros()) <= wanted:
        threading.Event().wait(0.05)


def declare() -> Project:
    """Views with windows, a lifetime and states of bytes."""
    name = f"builds_{uuid.uuid4().hex[:8]}"
    fed = Source(name="things", topic=name, id="Event ID", time="event_micros", schema=SCHEMA)
    recent = {
        "n": Count(),
        "total": Sum("slot"),
        "mean": Mean("start"),
        "spread": StdDev("start"),
        "top": Max("start"),
        "few": LastK("`it's`", 2),
        "kinds": Distinct("`it's`"),
    }
    windows = FeatureView(
        name="recent", source=fed, key="A (key)", windows=("1h", "1d", "7d"), features=recent
    )
    lifelong = FeatureView(
        name="lifelong",
        source=fed,
        key="A (key)",
        features={"all": Count(), "faded": DecayedSum("start", half_life="1d"), "last": Last("`it's`")},
    )
    return Project(name=name, views=(windows, lifelong))


def some_events(seed: int, count: int) -> list[dict[str, object]]:
    """Events of five keys over ten days up to now, a few ahead of now."""
    chosen, now = random.Random(seed), now_micros()
    ages = [
        chosen.choice(
            [-2 * MINUTE, chosen.randrange(HOUR), chosen.randrange(DAY), chosen.randrange(10 * DAY)]
        )
        for _ in range(count)
    ]
    return [
        {
            "Event ID": f"{seed}-{i}",
            "A (key)": chosen.choice("abcde"),
            "event_micros": format_time(now - age),
            "start": chosen.uniform(-9, 9),
            "slot": 2**40 + i,
            "it's": chosen.choice("uvw"),
        }
        for i, age in enumerate(ages)
    ]


@pytest.fixture(scope="module")
def river(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> River:
    """The history; each test looks at one piece of it."""
    settings = replace(servers, build=BuildSettings(increments=2))
    found = River(Context(settings), declare(), tmp_path_factory.mktemp("files"))
    one, two, three, four = (some_events(seed, 60) for seed in range(4))
    found.load(one[:30])
    found.publish(one[30:])
    found.build("first")
    found.publish([*two[:40], *one[:20]])  # those loaded by file come again
    found.load([*two[40:], *two[:5], *one[30:35]])  # and some that came by topic, by file
    found.build("second")
    found.build("nothing new", cut=found.builds["second"].manifest.cut)
    found.publish(three)
    found.build("third")
    found.publish(four[:30])
    fourth = found.build("fourth")
    with large_tables():
        found.build("everything", cut=fourth.cut, full=True)
    found.gone_back_to = rollback_project(found.context, found.project, Steps()).batch_version
    found.rows = {
        table: found.kept(table)
        for table in (current_table(found.project.name), history_table(found.project.name))
    }
    found.publish(four[30:])
    found.build("after a rollback")
    found.verify("after a rollback")
    late_file(found, three[0])
    with large_tables():
        found.build("after a late file")
    found.verify("after a late file")
    return found


@contextmanager
def large_tables() -> Iterator[None]:
    """Copies are found as in tables that are too large to be sorted, and workers make the current rows."""
    with patch.object(anabranch.stores.lake.lake, "LARGE", 0), patch.object(batch.views, "FEW_KEYS", 0):
        yield


def late_file(river: River, event: Mapping[str, object]) -> None:
    """An event that came by topic and was counted comes by a file that was on its way longer than that."""
    (source,) = river.project.sources.values()
    spark, lake = river.context.spark, river.context.lake
    there = lake.events(spark, river.project, source).where(F.col("Event ID") == str(event["Event ID"]))
    earlier = there.withColumn("_arrival", F.expr("_arrival - INTERVAL 1 MILLISECOND")).withColumns(
        {
            "_file": F.lit("late"),
            "_topic": F.lit(None).cast("string"),
            "_partition": F.lit(None).cast("int"),
            "start": F.lit(1000.0),
        }
    )
    path = lake.path(river.project, source)
    commit_files(spark, path, write_files(as_stored(earlier), path), {"late": 0})


def close(left: object, right: object) -> bool:
    return (
        left == pytest.approx(right, rel=1e-9)
        if isinstance(left, float) and isinstance(right, float)
        else left == right
    )


def assert_same(left: Mapping[str, Mapping[str, object]], right: Mapping[str, Mapping[str, object]]) -> None:
    assert left.keys() == right.keys()
    for key, values in left.items():
        assert all(close(value, right[key][name]) for name, value in values.items()), (
            key,
            values,
            right[key],
        )


def test_the_first_build_reads_everything_and_later_ones_what_is_new(river: River) -> None:
    assert "of every event (the first build)" in river.told["first"].named("recent: grains")
    for view in ("recent", "lifelong"):
        assert "of 60 new events" in river.told["second"].named(f"{view}: grains")


def test_a_build_of_everything_gives_the_same_as_the_incremental_ones(river: River) -> None:
    assert "of every event (asked for)" in river.told["everything"].named("recent: grains")
    assert "new events" in river.told["fourth"].named("recent: grains")
    assert set(river.values["fourth"]) == set("abcde")
    assert_same(river.values["fourth"], river.values["everything"])


def test_a_view_where_nothing_changed_keeps_its_table(river: River) -> None:
    assert river.builds["nothing new"].manifest.tables == river.builds["second"].manifest.tables
    assert "nothing changed" in river.told["nothing new"].named("view lifelong: nothing")


def test_more_increments_than_allowed_become_one(river: River) -> None:
    name = river.project.views[0].fingerprint
    listed = {
        build: river.builds[build].manifest.increments[name]
        for build in ("first", "second", "third", "fourth")
    }
    versions = {build: river.builds[build].manifest.batch_version for build in listed}
    assert listed["second"] == [versions["first"], versions["second"]]
    assert listed["third"] == [versions["third"]]
    assert listed["fourth"] == [versions["third"], versions["fourth"]]


def test_after_a_rollback_current_rows_and_their_history_end_with_the_version_it_went_back_to(
    river: River,
) -> None:
    current, history = (
        river.rows[current_table(river.project.name)],
        river.rows[history_table(river.project.name)],
    )
    assert current == history
    assert {version for version, _ in current.values()} == {river.gone_back_to}
    assert current.keys() == river.values["everything"].keys()
    assert river.gone_back_to < river.builds["everything"].manifest.batch_version


def test_a_build_after_a_rollback_goes_on_from_the_version_it_went_back_to(river: River) -> None:
    name = river.project.views[0].fingerprint
    back, fourth = river.builds["after a rollback"].manifest, river.builds["fourth"].manifest
    assert back.increments[name] == [back.batch_version] or set(back.increments[name]) > set(
        fourth.increments[name]
    )
    assert "new events" in river.told["after a rollback"].named("recent: grains")
    assert river.mismatches["after a rollback"] == []


def test_an_event_that_turns_out_to_have_come_earlier_makes_a_build_read_everything(river: River) -> None:
    assert "(1 events of 'things' came earlier than their copies that were counted)" in river.told[
        "after a late file"
    ].named("recent: grains")
    assert river.mismatches["after a late file"] == []


def test_increments_that_no_version_needs_are_deleted(river: River) -> None:
    manifest = river.context.views.manifest(river.project.name)
    assert manifest is not None
    assert manifest.previous is not None
    for name, builds in manifest.increments.items():
        assert builds_there(river.context.spark, river.context.lake, river.project.name, name) == {
            *builds,
            *manifest.previous.increments[name],
        }


def test_every_build_makes_the_current_rows_of_every_key(river: River) -> None:
    assert all(built.current_rows == 5 for built in river.builds.values())
    row = river.context.views.current(river.project, "a")
    assert row is not None
    assert row["batch_version"] == river.builds["after a late file"].manifest.batch_version
