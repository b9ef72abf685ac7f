"""Alerts on a real topic: published when they begin and end, with one request for training."""

import json
import uuid
from dataclasses import replace
from typing import Any

from kafka import KafkaConsumer

from anabranch import Count, FeatureView, Label, Model, Project, Source, Watch
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import SECOND, now_micros
from batch.watching.alerts import REQUESTS, ThresholdCheck, alerts_topic, raise_alerts
from jobs.wiring.settings import Settings
from tests.support.stores import stores_with

DRIFT = ThresholdCheck(what="psi", which="age", version="3", value=0.5, threshold=0.2, crossed=True)


def declare(watch: Watch) -> Project:
    source = Source(
        name="exams", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, bad BOOLEAN"
    )
    view = FeatureView(name="seen", source=source, key="who", features={"n": Count()})
    return Project(
        name=f"alerts_{uuid.uuid4().hex[:8]}",
        views=(view,),
        label=Label(source=source, key="who", target="bad"),
        model=Model(),
        watch=watch,
    )


def messages(settings: Settings, topic: str) -> list[Any]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=settings.bus.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=1500,
    )
    try:
        return [json.loads(message.value) for message in consumer]
    finally:
        consumer.close()


def test_an_alert_is_published_when_it_begins_and_ends_and_asks_for_one_training(
    servers: Settings, bus: Bus
) -> None:
    project = declare(Watch(psi_above=0.2, retrain=True))
    stores = stores_with(servers, bus=bus)
    fine = replace(DRIFT, which="chol", value=0.1, crossed=False)
    at = now_micros()
    looks = [
        [DRIFT, fine],
        [replace(DRIFT, value=0.6), fine],
        [replace(DRIFT, value=0.1, crossed=False), fine],
        [DRIFT, fine],
    ]
    news = [
        [one.news for one in raise_alerts(stores, project, at + number * SECOND, found)]
        for number, found in enumerate(looks)
    ]
    assert news == [["raised", ""], ["", ""], ["cleared", ""], ["raised", ""]]
    told = messages(servers, alerts_topic(project.name))
    assert [
        (one["status"], one["what"], one["which"], one["model_version"], one["value"], one["threshold"])
        for one in told
    ] == [
        ("raised", "psi", "age", "3", 0.5, 0.2),
        ("cleared", "psi", "age", "3", 0.1, 0.2),
        ("raised", "psi", "age", "3", 0.5, 0.2),
    ]
    assert f"anabranch watch {project.name}" in told[0]["next"]
    asked = [one for one in messages(servers, REQUESTS) if one["project"] == project.name]
    assert len(asked) == 2
    assert "psi/age/3 is 0.5, beyond 0.2" in asked[0]["reason"]


def test_alerts_of_a_version_that_no_longer_serves_end(servers: Settings, bus: Bus) -> None:
    project = declare(Watch(psi_above=0.2))
    stores = stores_with(servers, bus=bus)
    at = now_micros()
    raise_alerts(stores, project, at, [DRIFT])
    raise_alerts(stores, project, at + SECOND, [replace(DRIFT, version="4", crossed=False)])
    assert {(one.version, one.value) for one in stores.measures.latest(project.name)} == {
        ("3", 0.0),
        ("4", 0.0),
    }


def test_every_kind_of_alert_is_named_and_all_alerts_of_a_look_ask_for_one_training(
    servers: Settings, bus: Bus
) -> None:
    project = declare(Watch(psi_above=0.2, retrain=True))
    stores = stores_with(servers, bus=bus)
    kinds = {"js": "age", "score_psi": "", "skew": "", "flips": "", "log_loss": ""}
    found = [replace(DRIFT, what=what, which=which) for what, which in kinds.items()]
    at = now_micros()
    for number, value in enumerate((0.5, 0.6, 0.7)):
        raise_alerts(stores, project, at + number * SECOND, [replace(one, value=value) for one in found])
    told = {one["what"]: one for one in messages(servers, alerts_topic(project.name))}
    assert len(messages(servers, alerts_topic(project.name))) == len(kinds)
    assert {what: one["which"] for what, one in told.items()} == {
        what: which or None for what, which in kinds.items()
    }
    assert {
        (one["status"], one["value"], one["threshold"], one["model_version"]) for one in told.values()
    } == {("raised", 0.5, 0.2, "3")}
    assert all(
        f" {project.name}" in one["next"] or "build more often" in one["next"] for one in told.values()
    )
    (asked,) = [one for one in messages(servers, REQUESTS) if one["project"] == project.name]
    assert asked["reason"].count("is 0.5, beyond 0.2") == len(kinds)
