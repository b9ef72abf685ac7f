"""The stream in one process: lost checkpoints, changed declarations, duplicates, retirement, batches."""

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Freshness, Max, Project, Source, Sum
from anabranch.answers.delays import from_measures
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measures
from anabranch.stores.cassandra.removal import needed_since, retire_tiles
from anabranch.stores.cassandra.tables import tiles_table
from anabranch.values.times import DAY, SECOND, floor_to, format_time, now_micros
from jobs.servers.processes import wait_until
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from serving.api.live import Served
from serving.api.promises import ChannelFreshness as Judged
from serving.api.promises import judged
from speed.query import SpeedLayer, checkpoint, scores_topic, starting_offsets
from speed.streams import Streams, start
from tests.support.stores import stores_with
from tests.support.topics import delete

Rows = set[tuple[Any, ...]]


@pytest.fixture
def context(servers: Settings, spark: SparkSession) -> Context:
    made = Context(servers)
    made.spark = spark
    return made


def declare(*, marks: bool = False) -> Project:
    """A source with two views, and with `marks` another one with a view of its own."""
    name = f"again_{uuid.uuid4().hex[:8]}"
    fed = Source(
        name="readings",
        topic=name,
        id="id",
        time="at",
        schema="id STRING, thing STRING, at TIMESTAMP, x BIGINT",
    )
    other = Source(
        name="marks",
        topic=f"{name}-marks",
        id="id",
        time="at",
        schema="id STRING, thing STRING, at TIMESTAMP",
    )
    recent = FeatureView(
        name="recent", source=fed, key="thing", windows=("1h", "1d"), features={"n": Count(), "top": Max("x")}
    )
    ever = FeatureView(name="ever", source=fed, key="thing", features={"total": Sum("x")})
    marked = FeatureView(name="marked", source=other, key="thing", features={"marks": Count()})
    return Project(name=name, views=(recent, ever, marked) if marks else (recent, ever))


def publish(context: Context, topic: str, numbers: Sequence[int]) -> None:
    now = now_micros()
    events = [
        {"id": f"e{i}", "thing": f"t{i % 3}", "at": format_time(now - (1 + i % 300) * SECOND), "x": i}
        for i in numbers
    ]
    context.bus.ensure_topics([topic])
    context.bus.publish(topic, [(None, json.dumps(event).encode()) for event in events])


def short(context: Context) -> SpeedLayer:
    """A layer that drains, and remembers ids for a second, so that a replay need not begin far back."""
    times = replace(context.settings.times, dedup_horizon_seconds=1)
    brief = stores_with(replace(context.settings, times=times), spark=context.spark)
    return replace(context.speed_layer(once=True), stores=brief)


def drain(context: Context, project: Project) -> dict[str, int]:
    """By source how many messages were read."""
    read = {}
    for query in start(short(context), project):
        query.awaitTermination()
        read[query.name.partition(".")[2]] = sum(progress.numInputRows for progress in query.recentProgress)
    return read


def cut_over(context: Context, project: Project) -> int:
    """Make a version current that covers all arrivals up to now, with empty tables; returns its cut."""
    cut = (
        floor_to(now_micros(), context.settings.times.slot_seconds * SECOND)
        + context.settings.times.slot_seconds * SECOND
    )
    assert wait_until(lambda: now_micros() > cut, 30)
    views, before = context.views, context.views.manifest(project.name)
    version = views.new_version(project.name, before.batch_version + 1 if before else 1)
    entry = Manifest(
        project=project.name,
        batch_version=version,
        cut=cut,
        slack=context.settings.times.slack_seconds * SECOND,
        built_at=now_micros(),
        fingerprints={view.name: view.fingerprint for view in project.views},
        tables={
            view.name: views.create_batch_table(project.name, view.name, version) for view in project.views
        },
        rows={view.name: 0 for view in project.views},
    )
    views.swap(entry, before, before)
    return cut


def go_back(context: Context, project: Project) -> None:
    """The version before is current again."""
    manifest = context.views.manifest(project.name)
    assert manifest is not None
    context.views.swap(manifest.previous or manifest, manifest, manifest)


def stored(context: Context, project: Project, since: int) -> Rows:
    """Tiles of slots at or after `since`, of every tier."""
    found: Rows = set()
    for view in project.views:
        for fine in (False, True)[: len(view.tiers)]:
            table = tiles_table(project.name, view, fine=fine)
            rows = context.views.session.execute(f"SELECT key, slot, tile_start, state FROM {table}")
            found |= {
                (table, row.key, row.slot, row.tile_start, row.state) for row in rows if row.slot >= since
            }
    return found


def values(context: Context, project: Project) -> list[dict[str, object]]:
    found = context.answers.features(project, [{"thing": f"t{i}"} for i in range(3)])
    assert [answer.degraded for answer in found] == [None] * 3
    return [dict(answer.values) for answer in found]


def records(context: Context, topic: str) -> list[Any]:
    """All that a topic of one partition holds."""
    consumer, place = (
        KafkaConsumer(bootstrap_servers=context.settings.bus.bootstrap_servers, consumer_timeout_ms=30_000),
        TopicPartition(topic, 0),
    )
    try:
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        return [next(consumer) for _ in range(consumer.end_offsets([place])[place])]
    finally:
        consumer.close(autocommit=False)


def test_a_lost_checkpoint_is_replayed_from_a_slot_boundary_and_gives_the_same_tiles(
    context: Context,
) -> None:
    project = declare(marks=True)
    publish(context, project.name, range(60))
    publish(context, f"{project.name}-marks", range(6))
    assert drain(context, project) == {"readings": 60, "marks": 6}
    before = values(context, project)
    for numbers in (range(60, 80), range(80, 100)):
        cut_over(context, project)
        publish(context, project.name, [*numbers, *numbers[:5]])
    drain(context, project)
    since = needed_since(context.views.manifest(project.name))
    assert since is not None
    kept, answered = stored(context, project, since), values(context, project)
    assert answered != before
    shutil.rmtree(f"{short(context).checkpoints}/{project.name}")
    places = json.loads(starting_offsets(short(context), project, project.sources["readings"]))
    assert places[project.name]["0"] > 0
    read = drain(context, project)
    assert 0 < read["readings"] < 100
    assert (stored(context, project, since), values(context, project)) == (kept, answered)


def test_tiles_and_topics_that_were_deleted_are_read_anew_and_answers_degraded_until_a_later_cut(
    context: Context,
) -> None:
    project = declare()

    def degraded() -> str:
        return str(context.answers.features(project, [{"thing": "t0"}])[0].degraded)

    publish(context, project.name, range(6))
    cut_over(context, project)
    publish(context, project.name, range(6, 12))
    drain(context, project)
    kept = values(context, project)
    context.views.session.execute(f"TRUNCATE {tiles_table(project.name, project.views[0])}")
    assert values(context, project) != kept
    assert drain(context, project)["readings"] >= 6
    found = context.answers.features(project, [{"thing": f"t{i}"} for i in range(3)])
    assert [dict(answer.values) for answer in found] == kept
    assert "tiles were removed from Cassandra and are made again" in degraded()
    delete(context.bus, project.name)
    publish(context, project.name, range(12, 26))
    assert drain(context, project)["readings"] == 14
    assert f"topic '{project.name}' was deleted and made again" in degraded()
    cut_over(context, project)
    assert degraded() == "None"


def test_events_behind_a_cut_that_its_batch_did_not_find_degrade_answers(context: Context) -> None:
    project = declare()
    publish(context, project.name, range(9))
    cut = cut_over(context, project)
    manifest = context.views.manifest(project.name)
    assert manifest is not None
    assert manifest.cut == cut
    held = {"readings": {"0": 6}}
    context.views.swap(replace(manifest, offsets=held), manifest, None)
    running = Streams(short(context), [project])
    running.start()
    assert wait_until(lambda: bool(running.look()) and not running.active, 120)
    degraded = context.answers.features(project, [{"thing": "t0"}])[0].degraded
    assert "events of 'readings' may be missing until a build with a cut after" in str(degraded)
    assert "3 came behind the cut or the watermark" in str(degraded)


def test_a_changed_declaration_starts_again_only_the_source_that_it_concerns(context: Context) -> None:
    project = declare(marks=True)
    publish(context, project.name, range(10))
    publish(context, f"{project.name}-marks", range(10))
    drain(context, project)
    recent, ever, marked = project.views
    changed = replace(
        project, views=(recent, replace(ever, features={"total": Sum("x", where="x > 3")}), marked)
    )
    channel = short(context)
    assert checkpoint(channel, changed, marked.source) == checkpoint(channel, project, marked.source)
    publish(context, f"{project.name}-marks", range(10, 13))
    assert drain(context, changed) == {"readings": 10, "marks": 3}
    assert [found["total"] for found in values(context, changed)] == [6 + 9, 4 + 7, 5 + 8]


def test_of_copies_in_several_partitions_the_first_arrival_wins(context: Context) -> None:
    project = declare()
    context.bus.ensure_topics([project.name], partitions=3)
    producer = KafkaProducer(bootstrap_servers=context.settings.bus.bootstrap_servers)
    now, total = format_time(now_micros() - SECOND), 0
    for i in range(12):
        # The first copy lies in another partition each time, and says another value.
        for place, x in (((i + 1) % 3, 1), (i % 3, 100), ((i + 2) % 3, 10_000)):
            message = json.dumps({"id": f"e{i}", "thing": "t0", "at": now, "x": x}).encode()
            stamp = producer.send(project.name, value=message, partition=place).get(30).timestamp
            assert wait_until(lambda stamp=stamp: now_micros() // 1000 > stamp, 5)  # type: ignore[misc]
        total += 1
    producer.close()
    drain(context, project)
    assert values(context, project)[0]["total"] == total


def test_a_running_stream_retires_tiles_makes_up_for_a_round_and_no_answer_changes_even_after_a_rollback(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = declare()
    publish(context, project.name, range(30))
    drain(context, project)
    cuts: list[int] = []
    for numbers in (range(30, 60), range(60, 90)):
        cuts.append(cut_over(context, project))
        publish(context, project.name, numbers)
    drain(context, project)
    since = needed_since(context.views.manifest(project.name))
    assert since == cuts[0]
    before, kept = values(context, project), stored(context, project, since)
    assert len(stored(context, project, 0)) > len(kept)
    rounds: list[int] = []

    def retire(*arguments: Any) -> int:
        rounds.append(len(rounds))
        if rounds == [0]:
            raise AnabranchError("not now")
        return retire_tiles(*arguments)

    monkeypatch.setattr("speed.retiring.retire_tiles", retire)
    monkeypatch.setattr("speed.retiring._INTERVAL", 0.5)
    running = Streams(replace(short(context), trigger="0 seconds"), [project])
    running.start()
    try:
        assert wait_until(lambda: stored(context, project, 0) == kept, 60)
        assert not any(snapshot.failed for snapshot in running.look())
    finally:
        running.stop()
    assert values(context, project) == before
    assert f"tiles of {project.name} are retired later: not now" in caplog.text
    # The bound has not moved since.
    assert rounds == [0, 1]
    go_back(context, project)
    # The version before needs what arrived since its own cut, and all of it is there.
    assert sum(int(str(found["n_1h"])) for found in values(context, project)) == 60
    assert retire_tiles(context.views, project, since) == 0


def test_freshness_is_kept_while_the_stream_runs_and_missed_when_it_has_stopped(context: Context) -> None:
    project = replace(declare(marks=True), freshness=Freshness(stream="8s"))
    for topic in (project.name, f"{project.name}-marks"):
        publish(context, topic, range(12))
    measures = Measures(context.settings.views)

    def stood(later: int = 0) -> Judged:
        return judged(Served(project=project), measures.latest(project.name), now_micros() + later)["stream"]

    assert stood().state == "unknown"
    drain(context, project)
    running = Streams(replace(short(context), trigger="0 seconds"), [project])
    running.start()
    try:
        # Nothing arrives meanwhile: that is known too, and is no delay.
        assert wait_until(lambda: bool(running.look()) and stood().state == "kept", 60), stood()
        publish(context, project.name, range(12, 24))
        published = now_micros()
        assert wait_until(lambda: running.look()[0].events == 12, 60), stood()
        assert wait_until(lambda: bool(running.look()) and stood().state == "kept", 60), stood()
        assert set(stood().sources) == {"readings", "marks"}
    finally:
        running.stop()
    last = [delay.at for delay in from_measures(measures.latest(project.name), ["readings", "marks"])]
    assert max(last) >= published - 10 * SECOND
    running.look()
    silent = stood(40 * SECOND)
    assert (silent.state, stood(0).state) == ("missed", "kept")
    assert silent.since is not None
    assert min(last) - 8 * SECOND <= silent.since <= max(last) + 8 * SECOND


def test_a_project_that_cannot_be_prepared_is_given_up_and_the_others_are_drained(context: Context) -> None:
    bad, good = declare(marks=True), declare(marks=True)
    unstamped = {"message.timestamp.type": "CreateTime"}
    context.bus.ensure_topics([bad.name, f"anabranch.{bad.name}"], configs=unstamped)
    publish(context, good.name, range(12))
    running = Streams(short(context), [bad, good])
    running.start()
    assert wait_until(lambda: bool(running.look()) and not running.active, 120)
    found = running.look()
    assert {
        (snapshot.project, snapshot.source): snapshot.events for snapshot in found if not snapshot.failed
    } == {
        (good.name, "readings"): 12,
        (good.name, "marks"): 0,
    }
    assert all(
        "is no copy of ours" in str(snapshot.failure) for snapshot in found if snapshot.project == bad.name
    )
    assert [answered["n_1h"] for answered in values(context, good)] == [4, 4, 4]


def shuffles(plan: Any) -> int:
    """Of a physical plan, by the JVM's own object: as text it is cut off."""
    children = plan.children()
    return int(plan.nodeName() == "Exchange") + sum(
        shuffles(children.apply(number)) for number in range(children.size())
    )


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_micro_batch_takes_no_more_than_it_may_is_shuffled_once_a_step_and_its_state_lies_in_rocksdb(
    context: Context, partitions: int
) -> None:
    project = declare()
    publish(context, project.name, range(50))
    layer = replace(short(context), most_offsets=8, partitions=partitions)
    (reading,) = queries = start(layer, project)
    for query in queries:
        query.awaitTermination()
    done = [json.loads(progress.json) for progress in reading.recentProgress]
    rows = [found["numInputRows"] for found in done]
    assert (sum(rows), max(rows)) == (50, 8)
    operators = done[-1]["stateOperators"]
    assert len(operators) == 2
    assert all(found["customMetrics"]["rocksdbBytesCopied"] >= 0 for found in operators)
    # By id, to find copies, and by key, to fold; where all is in one place, the second is not needed.
    assert shuffles(reading._jsq.streamingQuery().lastExecution().executedPlan()) == partitions


def test_a_current_row_says_when_its_answer_is_degraded_and_no_more_when_it_is_not(context: Context) -> None:
    project = declare()
    publish(context, project.name, range(6))
    drain(context, project)
    views, first = context.views, cut_over(context, project)
    manifest = views.manifest(project.name)
    assert manifest is not None
    # As if that version were of the day before, and could not be late.
    views.swap(replace(manifest, cut=first - DAY, slack=0), manifest, manifest)
    for numbers, degraded in ((range(6, 9), True), (range(9, 12), False)):
        publish(context, project.name, numbers)
        drain(context, project)
        row = views.current(project, "t0")
        assert row is not None
        assert ("is too old for window 1h" in str(row["degraded"])) == degraded
        assert (row["degraded"] is None) != degraded
        told = [json.loads(record.value) for record in records(context, scores_topic(project.name))]
        assert [message["degraded"] for message in told if message["key"] == "t0"][-1] == degraded
        cut_over(context, project)
