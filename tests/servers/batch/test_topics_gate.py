"""Topics at the quality gate: a refused drain lands once when it may; the stream keeps to the same rules."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.events.expectations import Expectation, Suite
from anabranch.events.judging import good_events
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, QualitySettings, TimeSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from batch.landing.loader import LoadSummary
from batch.landing.topics import land, landed_offsets
from batch.quality.gate import QualityGate, RefusedLoadError
from tests.support.stores import stores

pytestmark = pytest.mark.usefixtures("servers")
RULE = Expectation(
    type="expect_column_values_to_be_between", kwargs={"column": "n", "min_value": 0, "max_value": 10}
)


@pytest.fixture
def project() -> Project:
    source = Source(
        name="sales",
        topic=f"sales-{uuid.uuid4().hex[:12]}",
        id="id",
        time="at",
        schema="id STRING, shop STRING, at TIMESTAMP, n INT",
    )
    return Project(
        name="shops", views=(FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()}),)
    )


def run(spark: SparkSession, lake: Lake, bus: Bus, project: Project, **settings: Any) -> LoadSummary:
    suite = Suite(source=project.sources["sales"], expectations=(RULE,))
    gate = QualityGate(
        project=project, settings=QualitySettings(suites="", **settings), suites={"sales": suite}
    )
    return land(stores(spark=spark, lake=lake, bus=bus), project, Silent(), gate)["sales"]


def test_a_refused_topic_waits_and_lands_once_by_the_rules_of_the_stream(
    spark: SparkSession, bus: Bus, project: Project, tmp_path: Path
) -> None:
    lake, source = Lake(LakeSettings(root=str(tmp_path / "lake"))), project.sources["sales"]
    topic = str(source.topic)
    bus.ensure_topics([topic])
    sales = [
        {"id": str(i), "shop": "a", "at": "2024-05-01T10:00:00Z", "n": n}
        for i, n in enumerate([1, 99, -1, 10, None, 11])
    ]
    bus.publish(topic, [(None, json.dumps(sale).encode()) for sale in sales])
    with pytest.raises(
        RefusedLoadError,
        match=rf"^topic {topic}, offsets 0 to 5 is refused: "
        r"3 of 6 rows \(50.0%\) are bad, at most 25% may be",
    ):
        run(spark, lake, bus, project, topic_mode="refuse", refuse_above=0.25)
    # Version 0 is the empty table, made before anything is written beside it.
    assert (
        landed_offsets(stores(spark=spark, lake=lake, bus=bus), project, source),
        lake.versions(spark, project),
        lake.quarantine(spark, project).count(),
    ) == ({}, {"sales": 0}, 0)
    assert lake.events(spark, project, source).isEmpty()
    landed = run(spark, lake, bus, project, refuse_above=0.25)
    assert (landed.rows, landed.quarantined) == (3, 3)
    assert landed.unmet == (
        "3 of 6 rows (50.0%) are bad, at most 25% may be (most often: n: '-1' is not between 0 and 10)",
        "n is not between 0 and 10",
    )
    messages = spark.read.format("kafka").options(**bus.spark_options([topic])).load()
    streamed = good_events(
        project, source, messages, TimeSettings(), Suite(source=source, expectations=(RULE,))
    )
    ids = [
        sorted(row["id"] for row in frame.collect())
        for frame in (lake.events(spark, project, source), streamed)
    ]
    assert ids == [["0", "3", "4"], ["0", "3", "4"]]
