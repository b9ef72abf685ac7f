"""Scores by message, with the real bus, store and registry: answered as by REST, by the model in force.

One running stream lives through the tests, in their order.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.events.predictions import predictions_topic
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.roles import VersionTrial
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from anabranch.values.times import SECOND, format_time, now_micros
from batch.release.trials import compared as compared_since
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.servers.processes import wait_until
from jobs.wiring.context import Context
from jobs.wiring.serve import build as build_server
from jobs.wiring.settings import Settings
from serving.http.messages import HttpRequest
from speed.query import scores_topic
from speed.requests import requests_topic
from speed.streams import Streams

PATIENCE = 120.0


DECLARATION = '''
"""Visits that are scored."""
from anabranch import Count, FeatureView, Label, Last, Model, Project, Source, Sum

SCHEMA = "id STRING, who STRING, at TIMESTAMP, pages INT, town STRING"
visits = Source(name="visits", topic="{name}", id="id", time="at", schema=SCHEMA)
features = {{"pages": Sum("pages"), "town": Last("town"), "visits": Count()}}
seen = FeatureView(name="seen", source=visits, key="who", features=features)
label = Label(source=visits, key="who", target="pages > 2")
project = Project(name="{name}", views=(seen,), label=label, model=Model())
'''


@dataclass
class Desk:
    """The project, its stream, and what came back on the topic of scores."""

    context: Context
    project: Project
    sent: int = 0
    stream: Streams | None = None

    def learn(self, trainer: str) -> str:
        """Log a small model."""
        columns: dict[str, list[Any]] = {
            "pages": [1, 9, None, 4] * 25,
            "town": ["Oslo", "Bergen", None, "Oslo"] * 25,
            "visits": [0, 3, 1, 2] * 25,
        }
        inputs = tuple(given.learnt(columns[given.name]) for given in model_inputs(self.project))
        matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
        rows = TrainingRows(
            matrix=matrix, target=np.array([0.0, 1.0, 0.0, 1.0] * 25), inputs=inputs, task="class"
        )
        example = {name: values[:3] for name, values in columns.items()}
        record = TrainingRecord(metrics={"roc_auc": 1.0}, parameters={}, lake_versions={}, example=example)
        return self.context.models.log(self.project, record, fit(trainer, rows))

    def visit(self, *whom: str) -> None:
        """Publish a visit of each."""
        events = []
        for who in whom:
            self.sent += 1
            events.append(
                {
                    "id": f"v{self.sent}",
                    "who": who,
                    "at": format_time(now_micros() - SECOND),
                    "pages": 5,
                    "town": "Oslo",
                }
            )
        self.context.bus.ensure_topics([self.project.name])
        self.context.bus.publish(self.project.name, [(None, json.dumps(event).encode()) for event in events])

    def ask(self, *requests: dict[str, Any] | bytes | None) -> None:
        """Publish requests, or raw values."""
        values = [
            json.dumps(request).encode() if isinstance(request, dict) else request for request in requests
        ]
        self.context.bus.ensure_topics([requests_topic(self.project.name)])
        messages: Any = [(b"k", value) for value in values]  # a message may also have no value
        self.context.bus.publish(requests_topic(self.project.name), messages)

    def messages(self, topic: str) -> list[dict[str, Any]]:
        """All that a topic holds."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.context.settings.bus.bootstrap_servers, consumer_timeout_ms=30_000
        )
        try:
            place = TopicPartition(topic, 0)
            consumer.assign([place])
            consumer.seek_to_beginning(place)
            return [json.loads(next(consumer).value) for _ in range(consumer.end_offsets([place])[place])]
        finally:
            consumer.close(autocommit=False)

    def answers(self) -> list[dict[str, Any]]:
        return [
            message for message in self.messages(scores_topic(self.project.name)) if "request_id" in message
        ]

    def answer(self, identity: str) -> dict[str, Any]:
        """The answer to a request, waited for."""
        return self.wait(
            lambda: next((each for each in self.answers() if each["request_id"] == identity), None),
            f"an answer to {identity}",
        )

    @staticmethod
    def wait(look: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
        """What `look` finds, looked for until it finds something."""
        found: list[dict[str, Any]] = []

        def looked() -> bool:
            one = look()
            found.extend([] if one is None else [one])
            return bool(found)

        assert wait_until(looked, PATIENCE), f"{what} did not come"
        return found[0]

    def scored(self, who: str, version: str) -> dict[str, Any]:
        """Waits for the current row of a key by a version of the model, and for the message about it."""

        def look() -> dict[str, Any] | None:
            row = self.context.views.current(self.project, who)
            told = any(
                message.get("key") == who and message["model_version"] == version
                for message in self.messages(scores_topic(self.project.name))
            )
            return row if row is not None and row["model_version"] == version and told else None

        return self.wait(look, f"a score of {who} by version {version}")

    def rest(self, bodies: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
        """What REST answers to the same, from the same stores."""
        server = build_server(self.context.settings)
        server.live.refresh()
        path = f"/v1/projects/{self.project.name}/predict"

        async def ask() -> list[tuple[int, dict[str, Any]]]:
            replies = [
                await server.handle(HttpRequest("POST", path, body=json.dumps(body).encode()))
                for body in bodies
            ]
            return [(reply.status, json.loads(reply.body)) for reply in replies]

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def desk(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder, name = tmp_path_factory.mktemp("projects"), f"asked_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(DECLARATION.format(name=name), encoding="utf-8")
    context = Context(replace(servers, projects=(folder,)))
    context.spark = spark
    return Desk(context, context.project(name))


@pytest.fixture(scope="module")
def live(desk: Desk) -> Iterator[Desk]:
    """The stream runs meanwhile."""
    desk.stream = Streams(desk.context.speed_layer(once=False), [desk.project])
    assert desk.stream.start() == [f"{desk.project.name}.visits", f"{desk.project.name}.score-requests"]
    yield desk
    desk.stream.stop()


def test_a_request_without_a_champion_is_answered_with_the_reason(live: Desk) -> None:
    live.ask({"request_id": "early", "key": "ann"})
    found = live.answer("early")
    assert found["error"]["type"] == "urn:anabranch:problem:no-model"
    assert (
        found["error"]["detail"]
        == f"{live.project.name} has no champion: run 'anabranch train {live.project.name}'"
    )


def test_the_champion_is_reloaded_at_promotion_and_rollback_without_a_restart(live: Desk) -> None:
    first, second = live.learn("xgboost"), live.learn("logistic")
    models, name = live.context.models, live.project.name
    scores = {}
    for step, (change, version) in enumerate([(first, first), (second, second), (None, first)]):
        models.promote(name, change) if change is not None else models.rollback(name)
        # Each micro-batch writes current rows and publishes scores by the model that is then in force.
        live.visit("ann")
        row = live.scored("ann", version)
        live.ask({"request_id": f"by{step}", "key": "ann"})
        found = live.answer(f"by{step}")
        assert (found["model_version"], found["score"], found["label"]) == (
            version,
            row["score"],
            row["label"],
        )
        assert (row["layer"], row["visits"], row["batch_version"]) == ("speed", step + 1, None)
        scores[step] = found["score"]
    assert scores[0] != scores[1]


def test_a_version_on_trial_is_compared_and_as_canary_answers(live: Desk) -> None:
    models, name, began = live.context.models, live.project.name, datetime.now(tz=UTC) - timedelta(minutes=1)
    champion = models.champion(name)
    assert champion is not None
    (other,) = [each.version for each in models.list(name) if each.version != champion]
    for kind, version in (("shadow", champion), ("canary", other)):
        models.try_out(name, VersionTrial(kind=kind, version=other, since=began.isoformat()))
        live.ask({"request_id": kind, "key": "ann"}, {"request_id": f"{kind} unknown", "key": "nobody"})
        assert live.answer(kind)["model_version"] == version
        assert "error" in live.answer(f"{kind} unknown")
    compared = {
        (one.kind, one.version, one.champion): one
        for one in compared_since(live.context.measures, name, began)
    }
    assert set(compared) == {("shadow", other, champion), ("canary", other, champion)}
    assert [one.rows for one in compared.values()] == [1, 1]
    assert {one.mean_apart > 0 for one in compared.values()} == {True}
    models.promote(name, champion)  # ends the trial


def test_a_request_is_answered_as_rest_answers_it(live: Desk) -> None:
    live.visit("bob", "bob")
    live.scored("bob", live.context.models.champion(live.project.name) or "")
    whole = {"pages": 3, "town": "Bergen", "visits": 2}
    bodies: list[dict[str, Any]] = [
        {"key": "ann"},
        {"key": {"who": "bob"}},
        {"key": "bob", "features": {"pages": 1, "town": None}},
        {"key": "bob", "features": whole},
        {"features": whole},
        {"features": {"town": "Rome"}},
        {"key": "never seen"},
        {"key": "never seen", "features": {"town": "Oslo"}},
        {"key": "never seen", "features": {"town": None}},
        {"key": "ann", "features": {"age": 3}},
        {"key": "ann", "features": {"pages": "3"}},
        {"key": {"name": "ann"}},
        {"key": ""},
        {"features": []},
        {},
    ]
    live.ask(*[{"request_id": f"rest{number}", **body} for number, body in enumerate(bodies)])
    for number, (status, said) in enumerate(live.rest(bodies)):
        found = live.answer(f"rest{number}")
        if status != 200:
            assert found["error"] == said, bodies[number]
            continue
        assert "error" not in found
        assert {name: found[name] for name in said if name != "as_of"} == {
            name: value for name, value in said.items() if name != "as_of"
        }, bodies[number]
    assert "key" not in live.answer("rest4")
    assert live.answer("rest1")["key"] == "bob"
    unknown = live.answer("rest6")["error"]
    assert (unknown["type"], unknown["status"], unknown["field"]) == (
        "urn:anabranch:problem:unknown-key",
        404,
        "key",
    )
    assert (
        f"nothing is known of key 'never seen': {live.project.name} has no event of it" in unknown["detail"]
    )
    assert (live.answer("rest8")["error"], "score" in live.answer("rest7")) == (unknown, True)


def test_an_unreadable_message_is_answered_with_its_place_and_later_ones_as_ever(live: Desk) -> None:
    before = len(live.answers())
    bad: list[bytes | None] = [
        b"{",
        b"\xff\xfe",
        None,
        b"[]",
        b'{"key": "ann"}',
        b'{"request_id": "nan", "features": {"pages": NaN}}',
    ]
    live.ask(*bad, {"request_id": "after", "key": "ann"})
    live.answer("after")
    found = live.answers()[before:]
    assert [each["request_id"] for each in found] == [None, None, None, None, None, "nan", "after"]
    assert [each["error"]["type"].rpartition(":")[2] for each in found[:-1]] == [
        "bad-json",
        "bad-json",
        "bad-json",
        "wrong-value",
        "wrong-value",
        "wrong-value",
    ]
    assert [each["offset"] - found[0]["offset"] for each in found[:-1]] == list(range(6))
    assert {(each["topic"], each["partition"]) for each in found[:-1]} == {
        (requests_topic(live.project.name), 0)
    }
    assert found[5]["error"]["field"] == "features.pages"


def test_every_score_is_a_prediction_too(live: Desk) -> None:
    answered = [each for each in live.answers() if "error" not in each]
    predictions = live.messages(predictions_topic(live.project.name))
    assert len({each["prediction_id"] for each in predictions}) == len(predictions) == len(answered)
    assert [each["answered"]["score"] for each in predictions] == [each["score"] for each in answered]


def test_stream_once_answers_the_waiting_requests_and_ends(live: Desk) -> None:
    assert live.stream is not None
    assert {snapshot.source: snapshot.restarts for snapshot in live.stream.look()} == {
        "visits": 0,
        "score-requests": 0,
    }
    live.stream.stop()
    before = len(live.answers())
    live.ask(
        *[
            {"request_id": f"once{number}", "key": f"k{number}" if number % 3 else "ann"}
            for number in range(300)
        ]
    )
    draining = Streams(live.context.speed_layer(once=True), [live.project])
    draining.start()
    assert wait_until(lambda: bool(draining.look()) and not draining.active, PATIENCE)
    read = {snapshot.source: (snapshot.events, snapshot.unit) for snapshot in draining.look()}
    assert read == {"visits": (0, "events"), "score-requests": (300, "requests")}
    found = live.answers()[before:]
    assert [each["request_id"] for each in found] == [f"once{number}" for number in range(300)]
    # Nobody but ann ever came: each of the others is told so in its own place.
    assert [each.get("error", {}).get("type") for each in found] == [
        "urn:anabranch:problem:unknown-key" if number % 3 else None for number in range(300)
    ]
    assert len({each["score"] for each in found if "score" in each}) == 1
