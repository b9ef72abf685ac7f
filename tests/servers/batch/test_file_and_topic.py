"""One event by both ways in: a file and the topic. It counts once, whichever came first."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import MINUTE, format_time, now_micros
from batch.landing.ingest import ingest
from jobs.flows.building import build_project
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
