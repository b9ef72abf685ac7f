"""Online learning with the real bus, store and registry: each label is learnt once, a batch begins anew."""

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Label, Last, Model, Online, Project, Source
from anabranch.folds.learner import Learner
from anabranch.progress import Silent
from anabranch.stores.cassandra.measures import Measures
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, online_rows
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from anabranch.values.times import MINUTE, SECOND, format_time, now_micros
from batch.landing.topics import land
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from batch.training.online import reset_online
from jobs.servers.processes import wait_until
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.online import Learning, label_topic
from speed.streams import Streams
from tests.support.stores import stores_with

PATIENCE = 120.0


@dataclass
class School:
    """A project that learns online, and the events and labels that were published."""

    context: Context
    project: Project
    x: dict[str, int]
    targets: list[tuple[str, int]]

    def publish(self, source: str, events: Sequence[dict[str, Any]]) -> None:
        topic = str(self.project.sources[source].topic)
        self.context.bus.ensure_topics([topic])
        self.context.bus.publish(topic, [(None, json.dumps(event).encode()) for event in events])

    def measure(self, count: int) -> None:
        """A measurement of `count` further things."""
        first, at = len(self.x), format_time(now_micros() - MINUTE)
        fresh = {f"t{i}": (i * 37) % 100 for i in range(first, first + count)}
        self.x.update(fresh)
        self.publish(
            "measurements", [{"id": f"m{who}", "who": who, "at": at, "x": x} for who, x in fresh.items()]
        )

    def label(self, whom: Sequence[str], ago: int = 0) -> None:
        """A label of each, true when its x is large; one of them is sent twice, one message is none."""
        events = []
        for who in whom:
            self.targets.append((who, int(self.x[who] > 50)))
            events.append(
                {
                    "id": f"l{len(self.targets)}",
                    "who": who,
                    "at": format_time(now_micros() - ago),
                    "big": self.targets[-1][1],
                }
            )
        self.publish("labels", [*events, events[0], {"id": "none"}])

    def drain(self) -> dict[str, int]:
        """What `stream --once` reads."""
        running = Streams(self.context.speed_layer(once=True), [self.project])
        running.start()
        assert wait_until(lambda: bool(running.look()) and not running.active, PATIENCE)
        return {snapshot.source: snapshot.events for snapshot in running.look()}

    @property
    def model(self) -> OnlineModel:
        found = OnlineModels(self.context.views).read(self.project)
        assert found is not None
        return found

    def current(self, who: str) -> dict[str, Any]:
        found = self.context.views.current(self.project, who)
        assert found is not None
        return found

    def taught(self, targets: Sequence[tuple[str, int]], begun: Learner | None = None) -> dict[str, Any]:
        """The state of a learner that was told the same, one by one."""
        online = self.project.model.online if self.project.model else None
        assert online is not None
        learner = begun or Learner(online, "class", ("x", "measured"))
        for who, target in targets:
            learner.learn(online_rows(self.project, {"x": [self.x[who]], "measured": [1]})[0], target)
        return learner.described()


@pytest.fixture(scope="module")
def school(servers: Settings, spark: SparkSession) -> School:
    name = f"online_{uuid.uuid4().hex[:8]}"
    fed = Source(
        name="measurements",
        topic=name,
        id="id",
        time="at",
        schema="id STRING, who STRING, at TIMESTAMP, x INT",
    )
    told = Source(
        name="labels",
        topic=f"{name}-labels",
        id="id",
        time="at",
        schema="id STRING, who STRING, at TIMESTAMP, big INT",
    )
    view = FeatureView(name="seen", source=fed, key="who", features={"x": Last("x"), "measured": Count()})
    project = Project(
        name=name,
        views=(view,),
        label=Label(source=told, key="who", target="big > 0"),
        model=Model(online=Online()),
    )
    context = Context(servers)
    context.spark = spark
    found = School(context, project, {}, [])
    inputs = model_inputs(project)
    columns: dict[str, list[Any]] = {"x": [1.0, 90.0, None, 70.0] * 25, "measured": [1.0, 1.0, 1.0, 2.0] * 25}
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    rows = TrainingRows(
        matrix=matrix, target=np.array([0.0, 1.0, 0.0, 1.0] * 25), inputs=inputs, task="class"
    )
    record = TrainingRecord(
        metrics={},
        parameters={},
        lake_versions={},
        example={name: values[:3] for name, values in columns.items()},
    )
    context.models.promote(name, context.models.log(project, record, fit("logistic", rows)))
    found.measure(60)
    found.label([f"t{i}" for i in range(40)])
    found.drain()
    return found


def test_labels_are_learnt_in_the_order_of_arrival_each_once_and_scores_stand_beside_the_champions(
    school: School,
) -> None:
    school.measure(1)
    school.drain()
    model = school.model
    assert (model.learnt, model.approximate, model.offsets) == (40, 0, {0: 42})
    # A drain folds all events first, so each label found its features.
    assert model.learner.described() == school.taught(school.targets)
    assert model.origin == "stream"
    row = school.current("t60")
    assert row["score"] is not None
    expected = model.learner.score(online_rows(school.project, {"x": [school.x["t60"]], "measured": [1]}))[0]
    assert row["online_score"] == pytest.approx(expected)


def test_a_replay_from_the_beginning_changes_nothing(school: School) -> None:
    before = school.model
    shutil.rmtree(f"{school.context.settings.checkpoints}/{school.project.name}/online")
    assert school.drain()["online"] == 42
    assert (school.model.learner.described(), school.model.learnt, school.model.revision) == (
        before.learner.described(),
        before.learnt,
        before.revision,
    )


def test_learning_goes_on_from_the_state_in_the_store_and_is_measured_against_the_champion(
    school: School,
) -> None:
    before = school.model
    school.label([f"t{i}" for i in range(40, 60)])
    school.drain()
    assert school.model.learner.described() == school.taught(school.targets[40:], before.learner)
    assert (school.model.learnt, school.model.offsets) == (60, {0: 64})
    measures = Measures(school.context.settings.views)
    found = {one.name: one.value for one in measures.latest(school.project.name) if one.subject == "online"}
    assert set(found) == {"difference", "flips", "squared_error", "champion_squared_error", "labels"}
    assert found["labels"] == 20
    assert 0 < found["difference"] < 1
    assert measures.history(
        school.project.name, "online", "difference", datetime.now(UTC) - timedelta(hours=1)
    )


def test_a_batch_begins_it_anew_and_labels_that_arrived_since_are_learnt_on_top(school: School) -> None:
    context, project = school.context, school.project
    land(context, project, Silent())
    school.label(["t1", "t2", "t3"])
    school.drain()
    assert school.model.learnt == 63
    begun = reset_online(context, OnlineModels(context.views), project, Silent())
    assert begun is not None
    assert project.model is not None
    assert project.model.online is not None
    passes = project.model.online.passes
    # Five passes over 60 labels, of which one is missing: features are those strictly before each label.
    # The last message was no event: the place is that after the last one that is.
    assert (begun.learner.seen, begun.origin, begun.offsets, begun.learnt) == (
        60 * passes,
        "batch",
        {0: 63},
        0,
    )
    assert (
        Learning(context.speed_layer(once=True), project).up_to(context.bus.ends(str(label_topic(project))))
        == 3
    )
    assert school.model.learner.described() == school.taught(school.targets[60:], begun.learner)
    assert (school.model.origin, school.model.learnt) == ("batch", 3)


def test_of_two_that_write_at_once_one_is_told_to_begin_again(school: School) -> None:
    models, model = OnlineModels(school.context.views), school.model
    assert models.write(school.project, model, model.revision) is not None
    assert models.write(school.project, model, model.revision) is None
    assert models.revision(school.project.name) == model.revision + 1


def test_a_label_of_before_what_was_folded_already_counts_as_approximate(school: School) -> None:
    before = school.model
    school.measure(1)
    # In the tile of that measurement, which is a day: a label of another day would be answered exactly.
    school.label([list(school.x)[-1]], ago=MINUTE + 10 * SECOND)
    school.drain()
    assert (school.model.learnt - before.learnt, school.model.approximate - before.approximate) == (1, 1)


def test_of_copies_of_a_label_in_several_partitions_the_first_arrival_is_learnt(
    servers: Settings, spark: SparkSession
) -> None:
    name = f"copied_{uuid.uuid4().hex[:8]}"
    told = Source(
        name="labels", topic=name, id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, big INT"
    )
    view = FeatureView(name="seen", source=told, key="who", features={"labels": Count()})
    project = Project(
        name=name,
        views=(view,),
        label=Label(source=told, key="who", target="big"),
        model=Model(online=Online()),
    )
    context = Context(servers)
    context.bus.ensure_topics([name], partitions=3)
    producer = KafkaProducer(bootstrap_servers=servers.bus.bootstrap_servers)
    for i in range(12):
        # The first copy lies in another partition each time, and says another value.
        for place, big in (((i + 1) % 3, 1), (i % 3, 2), ((i + 2) % 3, 3)):
            message = json.dumps(
                {"id": f"l{i}", "who": f"t{i}", "at": format_time(now_micros() - SECOND), "big": big}
            ).encode()
            stamp = producer.send(name, value=message, partition=place).get(30).timestamp
            assert wait_until(lambda stamp=stamp: now_micros() // 1000 > stamp, 5)  # type: ignore[misc]
    producer.close()
    examples = Learning(context.speed_layer(once=True), project)._examples({}, context.bus.ends(name))
    assert [(example.key, example.target) for example in examples] == [(f"t{i}", 1.0) for i in range(12)]


def test_a_label_that_is_sent_again_after_it_was_learnt_changes_nothing(school: School) -> None:
    before = school.model
    school.publish(
        "labels",
        [
            {
                "id": f"l{len(school.targets)}",
                "who": school.targets[-1][0],
                "at": format_time(now_micros()),
                "big": 1,
            }
        ],
    )
    school.drain()
    assert school.model.offsets != before.offsets
    assert (school.model.learnt, school.model.learner.described()) == (
        before.learnt,
        before.learner.described(),
    )


def test_copies_of_a_label_in_later_steps_are_left_out_within_the_horizon_by_whoever_learns(
    school: School,
) -> None:
    bus, project, places = school.context.bus, school.project, dict(school.model.offsets)
    layer, topic = school.context.speed_layer(once=True), str(label_topic(school.project))
    steadily = Learning(layer, project)
    name, at = f"copied-{uuid.uuid4().hex[:8]}", format_time(now_micros() - SECOND)
    copy = {"id": name, "who": "t0", "at": at, "big": 1}
    for step, further in enumerate(([], [{**copy, "id": f"{name}-1"}])):
        school.publish("labels", [copy, *further])
        ends = bus.ends(topic)
        # Whoever goes on from what it has read, and whoever comes to it now, leave out the same.
        for learning in (steadily, Learning(layer, project)):
            assert [example.id for example in learning._examples(places, ends)] == [
                f"{name}-{step}" if step else name
            ]
        places = ends
    published = now_micros()
    assert wait_until(lambda: now_micros() - published > 2 * SECOND, 10)
    school.publish("labels", [copy])
    times = replace(layer.times, dedup_horizon_seconds=1)
    brief = replace(
        layer, stores=stores_with(replace(layer.stores.settings, times=times), spark=school.context.spark)
    )
    for learning, expected in ((steadily, []), (Learning(brief, project), [name])):
        assert [example.id for example in learning._examples(places, bus.ends(topic))] == expected
