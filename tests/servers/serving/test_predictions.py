"""Predictions from answers to the lake: each lands once; those that wait for the broker are counted."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Label, Model, Project, Source
from anabranch.answers.predict import Prediction
from anabranch.answers.requests import Asked
from anabranch.events.predictions import NAME, predictions_source
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.values.times import from_micros, now_micros, parse_time
from batch.landing.topics import land
from jobs.servers import embedded
from jobs.servers.processes import wait_until
from jobs.wiring.settings import Settings
from serving.api.metrics import ServingMetrics
from serving.api.prediction_log import Predictions
from tests.support.stores import stores

pytestmark = pytest.mark.usefixtures("servers")
AT = parse_time("2026-05-01T10:00:00Z")
SCHEMA = "id STRING, shop STRING, town STRING, at TIMESTAMP, late BOOLEAN"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def declare(*keys: str) -> Project:
    source = Source(name="sales", topic=f"sales-{uuid.uuid4().hex[:12]}", id="id", time="at", schema=SCHEMA)
    view = FeatureView(name="sold", source=source, key=keys, features={"n": Count()})
    return Project(
        name=f"shops_{uuid.uuid4().hex[:8]}",
        views=(view,),
        label=Label(source=source, key=keys, target="late"),
        model=Model(),
    )


def answered(score: float, at: int, asked: Asked | None = None) -> Prediction:
    document = {
        "score": score,
        "label": 1,
        "model_version": "3",
        "batch_version": 7,
        "as_of": "2026-05-01T10:00:00Z",
        "degraded": False,
    }
    return Prediction(document, {"n": score * 10}, asked or Asked(None, {"n": score * 10}), at=at)


def counted(metrics: ServingMetrics, name: str) -> float:
    return next(
        float(line.split()[-1]) for line in metrics.text().decode().splitlines() if line.startswith(name)
    )


def test_predictions_land_once_with_their_key_beside_the_sources(
    spark: SparkSession, lake: Lake, bus: Bus
) -> None:
    project = declare("shop", "town")
    predictions = Predictions(bus, ServingMetrics(), 100)
    asked = [
        Asked({"shop": "a", "town": "x"}, {}),
        Asked(None, {"n": 4}),
        Asked({"shop": "b", "town": "y"}, {"n": 5}),
    ]
    for number, one in enumerate(asked):
        predictions.add(project, answered(number / 10, AT + number, one))
    predictions.start()
    predictions.stop(20)
    twice = {
        "prediction_id": "again",
        "at": "2026-05-02T00:00:00Z",
        "asked": {"key": None},
        "used": {},
        "answered": {"score": 1},
        "versions": {},
    }
    bus.publish(f"predictions.{project.name}", [(b"again", json.dumps(twice).encode())] * 2)
    bus.publish(f"predictions.{project.name}", [(None, b"{")])
    landed = land(stores(spark=spark, lake=lake, bus=bus), project, Silent())
    assert (landed[NAME].rows, landed[NAME].quarantined, landed["sales"].rows) == (5, 1, 0)
    assert NAME not in land(stores(spark=spark, lake=lake, bus=bus), project, Silent())
    rows = {row["score"]: row for row in lake.predictions(spark, project).collect()}
    assert {score: row["key"] for score, row in rows.items()} == {
        0.0: "a\x1fx",
        0.1: None,
        0.2: "b\x1fy",
        1.0: None,
    }
    first = rows[0.0]
    assert (
        first["model_version"],
        first["batch_version"],
        first["label"],
        first["degraded"],
        first["used"],
    ) == ("3", 7, 1.0, False, '{"n":0.0}')
    assert json.loads(rows[0.2]["asked"])["features"] == {"n": 5}
    assert [
        row["score"]
        for row in lake.predictions(spark, project, from_micros(AT) + timedelta(hours=1)).collect()
    ] == [1.0]
    assert lake.quarantine(spark, project).count() == 1


def test_no_declaration_can_take_the_name_and_no_feature_sees_them(spark: SparkSession, lake: Lake) -> None:
    project = declare("shop")
    assert NAME not in project.sources
    assert set(lake.distinct_events(spark, project)) == {"sales"}
    with pytest.raises(Exception, match="not a good name"):
        replace(project.sources["sales"], name=predictions_source(project.name).name)
    assert lake.predictions(spark, project).collect() == []


def test_a_project_without_a_model_has_no_predictions_to_land(
    spark: SparkSession, lake: Lake, bus: Bus
) -> None:
    project = declare("shop")
    plain = Project(name=project.name, views=project.views)
    assert set(land(stores(spark=spark, lake=lake, bus=bus), plain, Silent())) == {"sales"}
    bus.ensure_topics([])
    with pytest.raises(Exception, match="is not on the bus"):
        bus.ends(f"predictions.{project.name}")


def test_predictions_wait_for_the_broker_and_those_beyond_the_buffer_are_counted(
    settings: Settings, bus: Bus
) -> None:
    project, metrics = declare("shop"), ServingMetrics()
    predictions = Predictions(bus, metrics, 5)
    predictions.start()
    predictions.add(project, answered(0.0, now_micros()))
    assert wait_until(lambda: counted(metrics, "anabranch_predictions_published_total") == 1, 20)
    embedded.down(settings, ["kafka"])
    try:
        for number in range(1, 9):
            predictions.add(project, answered(number / 10, now_micros()))
        assert counted(metrics, "anabranch_predictions_buffered") == 5
        assert counted(metrics, 'anabranch_predictions_dropped_total{reason="buffer full"}') == 3
    finally:
        embedded.up(settings, ["kafka"])
    assert wait_until(lambda: counted(metrics, "anabranch_predictions_published_total") == 6, 60)
    predictions.stop(20)
    assert counted(metrics, "anabranch_predictions_buffered") == 0
    assert sum(bus.ends(f"predictions.{project.name}").values()) >= 6
