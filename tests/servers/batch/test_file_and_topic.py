"""One event by both ways in: a file and the topic. It counts once, whichever came first."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.errors import AnabranchError
from anabranch.stores.kafka.bus import ARRIVAL, Bus
from anabranch.values.times import MINUTE, format_time, now_micros
from batch.landing.ingest import ingest
from batch.landing.topics import land
from jobs.flows.building import build_project
from jobs.flows.erasing import erase_key
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.query import remembered_days
from speed.streams import start

READINGS = Source(
    name="readings",
    topic="both-ways",
    id="id",
    time="at",
    schema="id STRING, thing STRING, at TIMESTAMP, x INT",
)
VIEW = FeatureView(
    name="recent", source=READINGS, key="thing", windows=("1d",), features={"n": Count(), "x_sum": Sum("x")}
)
PROJECT = Project(name="both_ways", views=(VIEW,))


@pytest.fixture
def context(settings: Settings, servers: object, spark: SparkSession) -> Context:
    made = Context(settings)
    made.spark = spark
    return made


def reading(number: int) -> dict[str, object]:
    return {
        "id": f"r{number}",
        "thing": "a",
        "at": format_time(now_micros() - (10 + number) * MINUTE),
        "x": 2**number,
    }


def publish(bus: Bus, events: list[dict[str, object]]) -> None:
    bus.ensure_topics([str(READINGS.topic)])
    bus.publish(str(READINGS.topic), [(None, json.dumps(event).encode()) for event in events])


def drain(context: Context) -> None:
    for query in start(context.speed_layer(once=True), PROJECT):
        query.awaitTermination()


def test_an_event_by_file_and_by_topic_counts_once(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_file, twice, by_topic, late_file = (reading(number) for number in range(4))
    steps = Steps()

    def load(name: str, events: list[dict[str, object]]) -> None:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(event) for event in events), encoding="utf-8")
        ingest(context, PROJECT, "readings", [str(path)], steps)

    def answered() -> tuple[object, object]:
        values = context.answers.features(PROJECT, [{"thing": "a"}])[0].values
        return values["n_1d"], values["x_sum_1d"]

    load("first.jsonl", [by_file, twice])
    build_project(context, PROJECT, None, steps)
    publish(context.bus, [twice, by_topic, late_file])
    with monkeypatch.context() as patched:
        patched.setattr(
            "anabranch.stores.lake.lake.LARGE", 0
        )  # as of a table that is too large to be asked as a whole
        assert remembered_days(context.speed_layer(once=True), PROJECT) == 1
        drain(context)
    assert answered() == (
        4,
        1 + 2 + 4 + 8,
    )  # `twice` came by file first: the batch has it, the stream leaves it alone
    load("second.jsonl", [late_file])
    build_project(context, PROJECT, None, steps)
    assert answered() == (4, 1 + 2 + 4 + 8)  # `late_file` came by topic first, before or after the cut


@pytest.mark.drill  # three builds, an erasure: minutes
def test_an_event_by_table_and_by_topic_counts_once_whatever_is_done_to_the_table(
    context: Context, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    both = replace(READINGS, topic="table-and-topic", table=f"delta:{table}")
    project = replace(PROJECT, name="table_and_topic", views=(replace(VIEW, source=both),))
    in_table, twice, by_topic, news, again = (reading(number) for number in range(5))
    said: list[str] = []

    class Told(Steps):
        def step(self, text: str) -> None:
            said.append(text)

    def append(*events: dict[str, object]) -> None:
        rows = context.spark.createDataFrame(list(events), "id STRING, thing STRING, at STRING, x INT")
        rows.withColumn("at", F.col("at").cast("timestamp")).write.format("delta").mode("append").save(
            str(table)
        )

    def publish(*events: dict[str, object]) -> None:
        context.bus.ensure_topics(["table-and-topic"])
        context.bus.publish("table-and-topic", [(None, json.dumps(event).encode()) for event in events])
        for query in start(context.speed_layer(once=True), project):
            query.awaitTermination()

    def answered() -> tuple[object, object, str | None]:
        answer = context.answers.features(project, [{"thing": "a"}])[0]
        return answer.values["n_1d"], answer.values["x_sum_1d"], answer.degraded

    def build() -> None:
        said.clear()
        build_project(context, project, None, Told())

    append(
        in_table, twice, *[{**reading(7), "id": f"o{number}", "thing": f"o{number}"} for number in range(9)]
    )
    build()
    publish(twice, by_topic)
    assert answered() == (3, 1 + 2 + 4, None)  # the batch has `twice` by table, the stream leaves it alone
    append(news)
    build()
    assert any("of 1 new events" in line or "of 2 new events" in line for line in said)
    assert answered() == (4, 1 + 2 + 4 + 8, None)
    publish(news, again)  # the running stream's next micro-batch knows the id that the table brought
    assert answered() == (5, 1 + 2 + 4 + 8 + 16, None)
    DeltaTable.forPath(context.spark, str(table)).delete("id = 'r0'")
    build()
    assert any("of every event" in line and "(DELETE) changed or deleted rows" in line for line in said)
    assert answered()[:2] == (4, 2 + 4 + 8 + 16)
    assert "rows of table" in str(answered()[2])  # until a cut has passed the change
    verified = verify_settled(context, project, None, Steps())
    assert (verified.mismatches, verified.keys) == (0, 10)
    with pytest.raises(AnabranchError, match=r"rows of the key are in table delta:\S+, which Anabranch only"):
        erase_key(context, project, {"thing": "a"}, Steps())
    DeltaTable.forPath(context.spark, str(table)).delete("thing = 'a'")
    erased = erase_key(context, project, {"thing": "a"}, Steps())
    assert erased.erased.rows["events/readings"] == 4
    assert context.lake.events(context.spark, project, both).where("thing = 'a'").isEmpty()


def test_messages_that_producers_stamped_count_with_the_next_build_and_hide_no_later_event(
    context: Context, tmp_path: Path
) -> None:
    project = replace(
        PROJECT, name="stamped", views=(replace(VIEW, source=replace(READINGS, topic="stamped")),)
    )
    settings, bus, layer = context.settings, context.bus, context.speed_layer(once=True)

    def publish(*numbers: int, stamp: int | None = None) -> None:
        producer = KafkaProducer(bootstrap_servers=settings.bus.bootstrap_servers)
        for number in numbers:
            producer.send("stamped", value=json.dumps(reading(number)).encode(), timestamp_ms=stamp)
        producer.close()

    def answered() -> object:
        for query in start(layer, project):
            query.awaitTermination()
        return context.answers.features(project, [{"thing": "a"}])[0].values["x_sum_1d"]

    anyhow = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**62)}
    bus.ensure_topics(["stamped"], configs=anyhow)
    publish(0, stamp=now_micros() // 1000 + 400 * 86_400_000)
    publish(1, stamp=now_micros() // 1000 - 300_000)
    assert bus.relayed(["stamped"]) == ["stamped"]
    with bus._admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "stamped", ARRIVAL)])
    publish(2, 3)
    assert answered() == 4 + 8
    publish(4)
    assert answered() == 4 + 8 + 16
    land(context, project, Steps())
    build_project(context, project, None, Steps())
    publish(0, 5)
    assert answered() == 1 + 2 + 4 + 8 + 16 + 32
