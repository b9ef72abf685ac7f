"""Builds killed, overtaken or refused: the version that serves stays, and the next build is right.

Tests that only go on from a version that serves share one river, and each leaves it with an exact one.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from anabranch import Project
from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError
from anabranch.stores.lake.increments import builds_there, read_increments, states_there, write_increment
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from anabranch.values.times import DAY, HOUR, format_time, now_micros
from batch.building.publication import Built
from batch.landing.ingest import ingest
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.flows.building import build_project, rollback_project
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from speed.streams import start
from tests.servers.batch.test_builds import wait_for_a_cut
from tests.support.commands import environment_of
from tests.support.drill import LONG, recovery

DECLARATION = '''
"""Things that are counted."""
from anabranch import Count, FeatureView, Label, Last, Mean, Model, Project, Source

SCHEMA = "id STRING, thing STRING, at TIMESTAMP, x DOUBLE"
things = Source(name="things", topic="{name}", id="id", time="at", schema=SCHEMA)
features = {{"n": Count(), "mean": Mean("x")}}
recent = FeatureView(name="recent", source=things, key="thing", windows=("1d",), features=features)
ever = FeatureView(name="ever", source=things, key="thing", features={{"all": Count(), "last": Last("x")}})
label = Label(source=things, key="thing", target="x > 0")
project = Project(name="{name}", views=(recent, ever), label=label, model=Model(metric="roc_auc"))
'''
# What the command says when it is about to do it, and so in the middle of what comes before and after.
POINTS: tuple[str, ...] = (
    "draining",
    "view recent: grains",
    "view recent: publishing",
    "validating version",
    "current rows of every key",
)
BESIDE: tuple[str, ...] = ("keys of", "view recent: grains", "making version")
if not LONG:
    POINTS, BESIDE = POINTS[-3::2], BESIDE[:1]


@dataclass
class River:
    """A project of its own, declared in a folder that commands see too."""

    context: Context
    project: Project
    folder: Path
    published: int = 0
    sent: list[Mapping[str, Any]] = field(default_factory=list)

    def publish(self, count: int, things: int = 4, x: float = 1.0) -> None:
        events = self._events(count, things, x)
        self.context.bus.ensure_topics([self.project.name])
        self.context.bus.publish(self.project.name, [(None, json.dumps(event).encode()) for event in events])

    def load(self, count: int, things: int, x: float = 1.0) -> None:
        path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        path.write_text("\n".join(map(json.dumps, self._events(count, things, x))), encoding="utf-8")
        ingest(self.context, self.project, "things", [str(path)], Steps())

    def _events(self, count: int, things: int, x: float) -> Sequence[Mapping[str, object]]:
        first, self.published = self.published, self.published + count
        now = now_micros()
        numbers = range(first, first + count)
        events = [
            {
                "id": f"e{i}",
                "thing": f"t{i % things}",
                "at": format_time(now - HOUR + i * 1000),
                "x": x * (1 + i % 7),
            }
            for i in numbers
        ]
        self.sent += events
        return events

    def build(self, progress: Steps | None = None, **more: Any) -> Built:
        wait_for_a_cut(self.context.settings)
        return build_project(self.context, self.project, None, progress or Steps(), **more)

    def version(self) -> int:
        manifest = self.context.views.manifest(self.project.name)
        assert manifest is not None
        return manifest.batch_version

    @property
    def expected(self) -> int:
        """How many of the events published so far are of t0, the first of four things."""
        return -(-self.published // 4)

    def values(self, thing: str = "t0") -> dict[str, object]:
        """What is answered now, of which each value is exact."""
        (answer,) = self.context.answers.features(self.project, [{"thing": thing}])
        assert answer.degraded is None
        return dict(answer.values)

    def batch_tables(self) -> set[str]:
        views = self.context.views
        found = views.session.execute(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (views.settings.keyspace,)
        )
        return {
            row.table_name
            for row in found
            if row.table_name.startswith(f"{self.project.name}__") and "__b1" in row.table_name
        }

    def assert_clean(self) -> None:
        """Nothing of a build that did not finish is left."""
        manifest = self.context.views.manifest(self.project.name)
        assert manifest is not None
        versions = [manifest, *([manifest.previous] if manifest.previous else [])]
        assert self.batch_tables() == {table for version in versions for table in version.tables.values()}
        for name in states_there(self.context.spark, self.context.lake, self.project.name):
            listed = {build for version in versions for build in version.increments.get(name, [])}
            assert builds_there(self.context.spark, self.context.lake, self.project.name, name) == listed

    def drain(self) -> None:
        """Run the stream until it has read everything."""
        for query in start(self.context.speed_layer(once=True), self.project):
            query.awaitTermination()

    def assert_exact(self, *, verified: bool = LONG) -> int:
        """All values that are served, also the stream's, are the fold of what was sent, and those of the lake
        if it is `verified`; returns the number of keys.
        """
        self.drain()
        things: dict[str, list[float]] = {}
        for event in sorted(self.sent, key=lambda event: str(event["at"])):
            things.setdefault(str(event["thing"]), []).append(event["x"])
        answers = self.context.answers.features(self.project, [{"thing": thing} for thing in things])
        for xs, answer in zip(things.values(), answers, strict=True):
            assert answer.degraded is None
            mean = sum(xs) / len(xs)
            assert answer.values == pytest.approx(
                {"n_1d": len(xs), "mean_1d": mean, "all": len(xs), "last": xs[-1]}
            )
        if verified:
            found = verify_settled(self.context, self.project, None, Steps())
            assert found.keys == len(things)
            assert not found.mismatches, found.features
        return len(things)

    def killed_at(self, point: str) -> None:
        """Run the real command and kill it, and its JVM, when it says the words."""
        environment = {
            **os.environ,
            **environment_of(self.context.settings),
            "ANABRANCH_PROJECTS": str(self.folder),
        }
        command = [sys.executable, "-m", "jobs.cli", "build", self.project.name]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if point in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL, "".join(said)
        process.stderr.close()


def make_river(servers: Settings, folder: Path) -> River:
    name = f"killed_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(DECLARATION.format(name=name), encoding="utf-8")
    return River(Context(servers), load_project(name, (folder,)), folder)


@pytest.fixture(scope="module")
def river(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> River:
    """A river with a version that serves."""
    found = make_river(servers, tmp_path_factory.mktemp("river"))
    found.publish(40)
    found.build()
    return found


@pytest.fixture
def fresh(servers: Settings, spark: SparkSession, tmp_path: Path) -> River:
    """A river without an event."""
    return make_river(servers, tmp_path)


class CutError(Exception):
    """What ends a build in its middle, as the test wants it."""


def cut() -> None:
    raise CutError


class During(Steps):
    """Progress that does something when a line is told, once."""

    def __init__(self, line: str, work: Callable[[], object]) -> None:
        super().__init__()
        self.line, self.work = line, work

    def step(self, text: str) -> None:
        if self.line and self.line in text:
            self.line = ""
            self.work()


def test_builds_killed_anywhere_leave_what_serves_and_the_next_one_is_right(river: River) -> None:
    first, before = river.version(), river.values()
    river.publish(30)
    for point in POINTS[:-1]:
        river.killed_at(point)
        assert river.version() == first, point
        assert river.values() == before, point
    if LONG:
        river.killed_at(POINTS[-1])
    else:  # the version is current, so an error there undoes nothing, no more than a kill does
        with pytest.raises(CutError):
            river.build(During(POINTS[-1], cut))
    second = river.version()
    assert second > first
    assert river.values()["all"] == river.expected
    with recovery(
        "a build is killed", f"{len(POINTS)} times, at {', '.join(POINTS)}; the build repeated"
    ) as found:
        built = river.build()
        assert built.current_rows == 4
        row = river.context.views.current(river.project, "t0")
        assert row is not None
        assert (row["all"], row["batch_version"]) == (river.expected, built.manifest.batch_version)
        river.assert_clean()
        found.compared = river.assert_exact()


@pytest.mark.parametrize("point", BESIDE)
def test_of_two_builds_at_once_one_wins_and_the_other_says_so(river: River, point: str) -> None:
    river.publish(20)
    winner: list[Built] = []
    with pytest.raises(
        AnabranchError,
        match=r"finished first: batch version \d+ became current while this one ran.*run it again",
    ) as caught:
        river.build(During(point, lambda: winner.append(river.build())))
    assert str(winner[0].manifest.batch_version) in str(caught.value)
    with recovery(
        "two builds at once", f"the second begins when the first says {point!r}, and wins"
    ) as found:
        assert river.version() == winner[0].manifest.batch_version
        river.assert_clean()
        found.compared = river.assert_exact()


def test_a_build_that_shifts_a_feature_or_loses_most_keys_is_refused_until_it_is_accepted(
    fresh: River,
) -> None:
    fresh.load(1200, 400)
    first = fresh.build().manifest.batch_version
    before = fresh.values()
    fresh.load(400, 400, x=1000.0)
    with pytest.raises(
        AnabranchError,
        match=r"feature last is distributed otherwise: median .* where it was .*distance .*0.50.*--accept",
    ):
        fresh.build()
    assert (fresh.version(), fresh.values()) == (first, before)
    fresh.assert_clean()
    accepted = fresh.build(accept="x is in grams now").manifest
    assert accepted.accepted == "x is in grams now"
    assert fresh.version() == accepted.batch_version
    served = fresh.build().manifest
    assert served.accepted is None
    (source,) = fresh.project.sources.values()
    DeltaTable.forPath(fresh.context.spark, fresh.context.lake.path(fresh.project, source)).delete(
        "CAST(substr(id, 2) AS INT) >= 40"
    )
    with pytest.raises(
        AnabranchError, match=r"view 'ever' has 40 keys where it had 400, 90% fewer \(limit 50%\)"
    ):
        fresh.build()
    assert fresh.version() == served.batch_version
    assert fresh.values("t399")["all"] == 4


def test_a_build_whose_states_are_not_what_the_lake_says_is_refused(river: River) -> None:
    manifest = river.context.views.manifest(river.project.name)
    assert manifest is not None
    name, before = river.project.views[1].fingerprint, [river.values(f"t{i}")["all"] for i in range(4)]
    spark, lake, builds = river.context.spark, river.context.lake, manifest.increments[name]
    twice = read_increments(spark, lake, river.project.name, name, builds).localCheckpoint()
    write_increment(lake, river.project.name, name, twice, builds[-1])
    river.publish(4)  # one of each thing
    wrong = [
        f"t{i} is {2 * int(str(n)) + 1}, but the lake says {int(str(n)) + 1}" for i, n in enumerate(before)
    ]
    with pytest.raises(AnabranchError, match=f"feature all of ({'|'.join(wrong)})"):
        river.build()
    river.build(full=True)
    river.assert_exact()


def test_validation_asks_all_of_the_lake_before_it_calls_a_feature_wrong(fresh: River) -> None:
    views = tuple(view for view in fresh.project.views if view.name == "recent")
    fresh.project = replace(fresh.project, views=views)
    old = {"id": "seen", "thing": "t0", "at": format_time(now_micros() - 3 * DAY), "x": 1.0}
    fresh.context.bus.ensure_topics([fresh.project.name])
    # The first to come is outside of the window, so the second, which is inside, is no event.
    for event in (old, {**old, "at": format_time(now_micros() - HOUR)}):
        fresh.context.bus.publish(fresh.project.name, [(None, json.dumps(event).encode())])
    fresh.publish(8)
    fresh.build()
    assert fresh.values()["n_1d"] == 2


def train(river: River, version: str) -> None:
    """Log and promote a small model."""
    inputs = model_inputs(river.project)
    columns: dict[str, list[Any]] = {given.name: [1.0, 50.0, None, 70.0] * 25 for given in inputs}
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    rows = TrainingRows(
        matrix=matrix, target=np.array([0.0, 1.0, 0.0, 1.0] * 25), inputs=inputs, task="class"
    )
    example = {name: values[:3] for name, values in columns.items()}
    record = TrainingRecord(metrics={"roc_auc": 1.0}, parameters={}, lake_versions={}, example=example)
    assert river.context.models.log(river.project, record, fit("xgboost", rows)) == version
    river.context.models.promote(river.project.name, version)


def test_a_rollback_brings_back_views_and_model_and_a_second_one_is_the_way_forward(river: River) -> None:
    models, name = river.context.models, river.project.name

    def answered() -> list[dict[str, object]]:
        return [river.values(f"t{number}") for number in range(4)]

    train(river, "1")
    river.publish(40)
    first = river.build().manifest
    train(river, "2")
    river.publish(20)
    second = river.build().manifest
    train(river, "3")
    river.drain()
    exact = answered()
    assert rollback_project(river.context, river.project, Steps()).batch_version == first.batch_version
    row = river.context.views.current(river.project, "t0") or {}
    assert (models.champion(name), row["batch_version"], row["model_version"]) == (
        "1",
        first.batch_version,
        "1",
    )
    assert answered() == [pytest.approx(values) for values in exact]
    river.publish(10)
    river.assert_exact()
    exact = answered()
    assert rollback_project(river.context, river.project, Steps()).batch_version == second.batch_version
    assert models.champion(name) == "3"
    assert answered() == [pytest.approx(values) for values in exact]
    rollback_project(river.context, river.project, Steps())
    river.build()
    river.assert_clean()
    river.assert_exact(verified=True)
