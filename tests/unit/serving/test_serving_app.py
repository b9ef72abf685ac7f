import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.answers.predict import Prediction
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import MOST_TEXT, Asked
from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import TooLargeError, UnavailableError
from anabranch.events.decoders.avro_schemas import compiled
from anabranch.events.decoders.avro_values import read_value
from anabranch.events.decoders.schemas import NoSchemas
from anabranch.stores.cassandra.measures import Measure
from serving.api.metrics import EVERY_SECONDS, MeasuredValues, ServingMetrics
from serving.http.messages import Bodies, HttpRequest
from serving.settings import ServingSettings
from tests.support.serving_fakes import PROJECTS, Bench, FakeManifest, bench

HEART = "/v1/projects/heart_disease"
EXAM = {"age": 45, "sex": 1, "cp": 3, "trestbps": 112, "chol": 230, "fbs": 0, "restecg": 2, "thalach": 165,
        "exang": 0, "oldpeak": 2.5, "slope": 2, "ca": 1, "thal": 7}  # fmt: skip
READING = {"reading_id": "r1", "patient_id": "p1", "measured_at": "2024-05-01T11:59:00Z", "heart_rate": 81.5}
FLIGHTS = """
from anabranch import Count, FeatureView, Last, LastK, Label, Model, Project, Source

flights = Source(name="flights", topic="flights", id="flight_id", time="at",
                 schema="flight_id BIGINT, tailnum STRING, origin STRING, at TIMESTAMP, "
                        "delay DECIMAL(9,2), day DATE")
plane = FeatureView(name="plane", source=flights, key="tailnum",
                    features={"flown": Count(), "last_delay": Last("delay"), "last_day": Last("day"),
                              "recent": LastK("day", k=3)})
airport = FeatureView(name="airport", source=flights, key="origin", features={"departures": Count()})
landed = Source(name="landed", id="flight_id", time="at",
                schema="flight_id BIGINT, tailnum STRING, origin STRING, at TIMESTAMP, late BOOLEAN")
project = Project(name="delays", views=(plane, airport), model=Model(),
                  label=Label(source=landed, key=("tailnum", "origin"), target="late"))
"""


@pytest.fixture
def heart() -> Bench:
    return bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features)


SALES = """
from anabranch import Count, FeatureView, Project, Source
sales = Source(name="sales", topic="sales", id="id", time="at", schema="id STRING, n BIGINT, at TIMESTAMP",
               format="avro", wire_schema="schemas/sale.avsc")
view = FeatureView(name="by_id", source=sales, key="id", features={"c": Count()})
project = Project(name="sales", views=(view,))
"""


@pytest.fixture
def delays(tmp_path: Path) -> Bench:
    (tmp_path / "delays.py").write_text(FLIGHTS)
    return bench(tmp_path, ("flown", "last_delay", "departures"))


def test_example_request_is_scored_without_any_store(heart: Bench) -> None:
    heart.store.away = True
    status, answer = heart.ask("POST", f"{HEART}/predict", {"features": EXAM})
    assert status == 200
    assert answer == {
        "score": pytest.approx(sum(EXAM.values()) / 1000),
        "label": 1,
        "model_version": "3",
        "batch_version": None,
        "as_of": "2024-05-01T12:00:00Z",
        "degraded": False,
    }


def test_features_of_the_request_win_over_stored_ones(heart: Bench) -> None:
    heart.store.stored[("p1",)] = {"age": 60, "chol": 200}
    status, answer = heart.ask(
        "POST", f"{HEART}/predict", {"key": "p1", "features": {"age": 50, "chol": None}}
    )
    assert (status, answer["score"], answer["batch_version"]) == (200, pytest.approx(0.05), 7)


def test_key_with_every_model_feature_given_reads_no_store(delays: Bench) -> None:
    body = {
        "key": {"tailnum": "N1", "origin": "EWR"},
        "features": {"flown": 1, "last_delay": 2.5, "departures": 3},
    }
    status, answer = delays.ask("POST", "/v1/projects/delays/predict", body)
    assert (status, answer["score"], delays.store.reads) == (200, pytest.approx(0.0065), 0)


def test_number_is_a_key(heart: Bench) -> None:
    heart.store.stored[("7",)] = {"age": 60}
    assert heart.ask("POST", f"{HEART}/predict", {"key": 7})[1]["score"] == pytest.approx(0.06)


def test_degraded_answer_says_why(heart: Bench) -> None:
    heart.store.degraded = "the batch is too old"
    heart.store.stored[("p1",)] = {"age": 60}
    answer = heart.ask("POST", f"{HEART}/predict", {"key": "p1"})[1]
    assert (answer["degraded"], answer["degraded_reason"]) == (True, "the batch is too old")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"", 400, None),
        (b"\xff\xfe", 400, None),
        (b'{"features": {"age": "\\ud800"}}', 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"features": {"age": NaN}}', 422, "features.age"),
        (b'{"features": {"oldpeak": -Infinity}}', 422, "features.oldpeak"),
        (b'{"features": {"oldpeak": 1e999}}', 422, "features.oldpeak"),
        ({"features": {"age": "45"}}, 422, "features.age"),
        ({"features": {"age": True}}, 422, "features.age"),
        ({"features": {"age": 45.5}}, 422, "features.age"),
        ({"features": {"age": 10**30}}, 422, "features.age"),
        ({"features": {"oldpeak": 10**400}}, 422, "features.oldpeak"),
        ({"features": {"oldpeak": [1]}}, 422, "features.oldpeak"),
        ({"features": {"agee": 45}}, 422, "features.agee"),
        ({"features": [1]}, 422, "features"),
        ({"feature": {}}, 422, "feature"),
        ([], 422, "key"),
        (None, 400, None),
        ({}, 422, "key"),
        ({"key": ""}, 422, "key"),
        ({"key": ["p1"]}, 422, "key"),
        ({"key": "a\x1fb"}, 422, "key"),
        ({"key": "x" * 9000}, 422, "key"),
        ({"key": {"patient": "p1"}}, 422, "key.patient"),
        ({"key": {}}, 422, "key.patient_id"),
    ],
)
def test_bad_predict_request_is_a_problem_that_names_the_field(
    heart: Bench, body: Any, status: int, field: str | None
) -> None:
    response = heart.raw("POST", f"{HEART}/predict", body)
    problem = json.loads(response.body)
    assert (response.status, problem.get("field")) == (status, field), problem
    assert dict(response.headers)["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"].startswith("urn:anabranch:problem:")
    assert problem["detail"]
    assert heart.store.reads == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/projects/nobody", 404),
        ("POST", "/v1/projects/nobody/predict", 404),
        ("GET", "/nothing", 404),
        ("GET", f"{HEART}/nothing", 404),
        ("GET", f"{HEART}/features", 404),
        ("GET", f"{HEART}/features/", 404),
        ("POST", f"{HEART}/predict/x", 404),
        ("POST", f"{HEART}/events/nobody", 404),
        ("GET", f"{HEART}/predict", 405),
        ("DELETE", HEART, 405),
        ("POST", f"{HEART}/features/p1", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_wrong_address_or_method_is_a_problem(heart: Bench, method: str, path: str, status: int) -> None:
    found, problem = heart.ask(method, path, {})
    assert (found, problem["status"]) == (status, status)


def test_wrong_content_type_is_415(heart: Bench) -> None:
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded"):
        assert heart.ask("POST", f"{HEART}/predict", {"features": EXAM}, content_type)[0] == 415
        assert heart.ask("POST", f"{HEART}/events/bracelet", READING, content_type)[0] == 415
    assert (
        heart.ask("POST", f"{HEART}/predict", {"features": EXAM}, "application/json; charset=utf-8")[0] == 200
    )


def test_stores_that_are_down_are_503_and_never_500(heart: Bench) -> None:
    heart.store.away = heart.topics.away = True
    asked = [
        ("POST", "predict", {"key": "p1"}),
        ("GET", "features/p1", None),
        ("GET", "scores/p1", None),
        ("POST", "events/bracelet", READING),
    ]
    for method, path, body in asked:
        status, problem = heart.ask(method, f"{HEART}/{path}", body)
        assert status == 503
        assert "anabranch up" in problem["detail"]


def test_slow_store_is_503_in_time(heart: Bench) -> None:
    answers = threading.Event()
    heart.store.check = lambda: answers.wait(30) and None  # type: ignore[assignment, method-assign]
    status, problem = heart.ask("GET", f"{HEART}/scores/p1")
    answers.set()
    assert status == 503
    assert "did not answer within 1 s" in problem["detail"]


def test_without_a_model_predict_says_to_train() -> None:
    fresh = bench(PROJECTS, ())
    fresh.registry.version = None
    fresh.app.live.refresh()
    status, problem = fresh.ask("POST", f"{HEART}/predict", {"features": EXAM})
    assert status == 503
    assert "anabranch train heart_disease" in problem["detail"]
    assert fresh.ask("POST", f"{HEART}/predict", {"features": {"age": "x"}})[0] == 422
    assert fresh.ask("GET", f"{HEART}/features/p1")[0] == 200
    status, ready = fresh.ask("GET", "/readyz")  # it can answer for what there is
    assert (status, ready["model"]) == (200, "ok")
    assert ready["projects"]["heart_disease"] == "no model yet: run 'anabranch train heart_disease'"


UNKNOWN = "urn:anabranch:problem:unknown-key"


def test_key_never_seen_has_empty_features_and_no_score(heart: Bench) -> None:
    status, answer = heart.ask("GET", f"{HEART}/features/never seen/with a slash'; DROP TABLE x")
    assert (status, answer["known"]) == (200, False)
    assert answer["key"] == "never seen/with a slash'; DROP TABLE x"
    assert set(answer["features"].values()) == {None}
    status, problem = heart.ask("GET", f"{HEART}/scores/never")
    assert (status, problem["type"], problem["field"]) == (404, UNKNOWN, "key")
    assert "no current row of key 'never'" in problem["detail"]


def test_unknown_key_is_a_404_that_says_what_to_do(heart: Bench) -> None:
    for sent in ("k'; DROP TABLE x", {"patient_id": "k'; DROP TABLE x"}):
        response = heart.raw("POST", f"{HEART}/predict", {"key": sent})
        problem = json.loads(response.body)
        assert (response.status, dict(response.headers)["content-type"]) == (404, "application/problem+json")
        assert (problem["type"], problem["title"], problem["field"]) == (UNKNOWN, "Not Found", "key")
        assert (
            'nothing is known of key "k\'; DROP TABLE x": heart_disease has no event of it'
            in problem["detail"]
        )
        assert "give features" in problem["detail"]
    assert heart.ask("POST", f"{HEART}/predict", {"key": "x" * 8000})[1]["detail"].startswith(
        "nothing is known of key 'xxx"
    )
    assert 'route="predict",status="404"} 3.0' in heart.raw("GET", "/metrics").body.decode()
    assert _waiting(heart) == 0  # what was not scored is no prediction


def test_key_that_is_known_by_events_which_left_its_features_empty_is_scored(heart: Bench) -> None:
    heart.store.stored[("p1",)] = {}
    assert heart.ask("POST", f"{HEART}/predict", {"key": "p1"})[0] == 200
    answer = heart.ask("GET", f"{HEART}/features/p1")[1]
    assert (answer["known"], set(answer["features"].values())) == (True, {None})


def test_unknown_key_with_a_value_beside_it_is_scored_by_what_was_given(heart: Bench) -> None:
    status, answer = heart.ask("POST", f"{HEART}/predict", {"key": "never", "features": {"age": 50}})
    assert (status, answer["score"], answer["batch_version"]) == (200, pytest.approx(0.05), 7)
    for nothing in (None, {}, {"age": None}, {"age": None, "chol": None}):
        assert (
            heart.ask("POST", f"{HEART}/predict", {"key": "never", "features": nothing})[1]["type"] == UNKNOWN
        )
    assert heart.ask("POST", f"{HEART}/predict", {"features": {"age": None}})[0] == 200


def test_key_that_comes_is_known_and_one_that_goes_is_not(heart: Bench) -> None:
    def predicted() -> int:
        return heart.ask("POST", f"{HEART}/predict", {"key": "p1"})[0]

    found = [predicted()]
    heart.store.stored[("p1",)] = {"age": 60}
    found.append(predicted())
    heart.store.stored.clear()  # as a rollback does, or an erasure
    assert [*found, predicted()] == [404, 200, 404]


def test_current_row_is_shown_as_json(heart: Bench) -> None:
    heart.store.rows["p1"] = {
        "key": "p1",
        "score": 0.25,
        "label": "0",
        "model_version": "3",
        "batch_version": 7,
        "as_of": 1_714_564_800_000_000,
        "age": 45,
    }
    answer = heart.ask("GET", f"{HEART}/scores/p1")[1]
    assert (answer["score"], answer["as_of"], answer["features"]["age"]) == (0.25, "2024-05-01T12:00:00Z", 45)


def test_several_key_columns_come_as_an_object_or_as_pairs_in_the_path(delays: Bench) -> None:
    delays.store.stored[("N,1=2", "EWR")] = {
        "flown": 5,
        "last_day": 19844,
        "last_delay": 1.5,
        "recent": ["2024-05-01", 19845, None],
    }
    answer = delays.ask("GET", "/v1/projects/delays/features/origin=EWR,tailnum=N,1=2")[1]
    assert answer["key"] == {"tailnum": "N,1=2", "origin": "EWR"}
    assert (answer["features"]["flown"], answer["features"]["last_day"]) == (5, "2024-05-01")
    assert answer["features"]["recent"] == ["2024-05-01", "2024-05-02", None]
    body = {"key": {"origin": "EWR", "tailnum": "N,1=2"}}
    assert delays.ask("POST", "/v1/projects/delays/predict", body)[1]["score"] == pytest.approx(0.0065)
    assert delays.ask("GET", "/v1/projects/delays/features/N1")[0] == 422
    assert delays.ask("POST", "/v1/projects/delays/predict", {"key": "N1"})[1]["field"] == "key"
    assert (
        delays.ask("POST", "/v1/projects/delays/predict", {"key": {"tailnum": "N1"}})[1]["field"]
        == "key.origin"
    )


def test_features_of_every_type_are_checked(delays: Bench) -> None:
    good: dict[str, Any] = {
        "last_delay": "12.50",
        "last_day": "2024-05-01",
        "recent": ["2024-05-01", None],
        "departures": 2,
    }
    path = "/v1/projects/delays/predict"
    assert delays.ask("POST", path, {"features": good})[1]["score"] == pytest.approx(0.0145)
    for name, value in (
        ("last_delay", "x"),
        ("last_day", 3),
        ("last_day", "today"),
        ("recent", "2024-05-01"),
        ("recent", ["x"]),
        ("recent", [[]]),
    ):
        assert delays.ask("POST", path, {"features": {**good, name: value}})[1]["field"] == f"features.{name}"


def test_events_are_published_as_they_came(delays: Bench) -> None:
    first = b'{"flight_id": 1, "tailnum": "N1", "at": "2024-05-01T10:00:00", "delay": 1234567.10, "more": 1}'
    body = b"[" + first + b',\n {"flight_id": 2, "origin": "EWR", "at": "2024-05-01"}]'
    answer = {"accepted": 2, "ignored": ["more"]}
    assert delays.ask("POST", "/v1/projects/delays/events/flights", body) == (202, answer)
    keys, texts = zip(*delays.topics.messages["flights"], strict=True)
    assert keys == (b"1", b"2")
    assert texts[0] == first
    assert delays.ask("POST", "/v1/projects/delays/events/landed", {})[0] == 409


def test_events_are_published_in_the_format_of_their_source(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "Sale", "fields": [
        {"name": "id", "type": "string"}, {"name": "n", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}  # fmt: skip
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "sale.avsc").write_text(json.dumps(schema))
    (tmp_path / "sales.py").write_text(SALES)
    sales = bench(tmp_path, ())
    sales.stores.schemas = NoSchemas()
    events = [{"id": 7, "n": "5", "at": "2024-05-01"}, {"id": "b", "n": -1, "at": "2024-05-01T00:00:00.001"}]
    assert sales.ask("POST", "/v1/projects/sales/events/sales", events)[0] == 202
    keys, values = zip(*sales.topics.messages["sales"], strict=True)
    assert keys == (b"7", b"b")
    root = compiled(json.dumps(schema)).root
    assert [read_value(root, value) for value in values] == [
        {"id": "7", "n": 5, "at": "2024-05-01T00:00:00.000Z"},
        {"id": "b", "n": -1, "at": "2024-05-01T00:00:00.001Z"},
    ]
    status, problem = sales.ask(
        "POST", "/v1/projects/sales/events/sales", [*events, {**events[0], "n": 2**40}]
    )
    assert (status, problem["field"]) == (422, "[2].n")
    assert len(sales.topics.messages["sales"]) == 2


def test_fields_that_are_no_columns_are_named_up_to_a_bound(heart: Bench) -> None:
    misspelt = {**READING, "Heart_rate": 60, **{f"more{n}": n for n in range(30)}, "x" * 200: 1}
    status, answer = heart.ask("POST", f"{HEART}/events/bracelet", [READING, misspelt, misspelt])
    assert (status, answer["accepted"], len(answer["ignored"])) == (202, 3, 20)
    assert answer["ignored"][:2] == ["Heart_rate", "more0"]
    status, answer = heart.ask("POST", f"{HEART}/events/bracelet", {**READING, "x" * 200: 1})
    assert answer["ignored"] == ["x" * 100]


@pytest.mark.parametrize(
    ("path", "query", "status", "field"),
    [
        (f"{HEART}/features/a", "at=2024-05-01", 422, "at"),
        (f"{HEART}/features/a", "at", 422, "at"),
        ("/v1/projects", "page=2", 422, "page"),
        ("/readyz", "verbose=1", 422, "verbose"),
        (f"{HEART}/features/a", "", 200, None),
        (f"{HEART}/predict", "x=1", 405, None),
        (f"{HEART}/features/\ufffd", "", 400, None),
        ("/v1/projects/\ufffd", "", 400, None),
    ],
)
def test_what_a_route_does_not_declare_and_what_is_no_utf8_is_refused(
    heart: Bench, path: str, query: str, status: int, field: str | None
) -> None:
    response = asyncio.run(heart.app.handle(HttpRequest("GET", path, query=query)))
    assert (response.status, json.loads(response.body).get("field")) == (status, field)


def test_half_of_a_surrogate_pair_is_called_so(heart: Bench) -> None:
    for path in ("predict", "events/bracelet"):
        status, problem = heart.ask("POST", f"{HEART}/{path}", b'{"key": ["a\\ud83d"]}')
        assert (status, problem["detail"].partition(",")[0]) == (400, "the body has half of a surrogate pair")
        assert "\\ud83d" in problem["detail"]


def test_one_bad_event_keeps_all_from_being_published(heart: Bench) -> None:
    bad = {**READING, "heart_rate": "fast"}
    status, problem = heart.ask("POST", f"{HEART}/events/bracelet", [READING, bad])
    assert (status, problem["field"]) == (422, "[1].heart_rate")
    assert heart.topics.messages == {}
    assert heart.ask("POST", f"{HEART}/events/bracelet", READING) == (202, {"accepted": 1})
    assert heart.ask("POST", f"{HEART}/events/bracelet", []) == (202, {"accepted": 0})


def test_catalogue_tells_schemas_features_and_freshness(heart: Bench) -> None:
    entry = heart.ask("GET", HEART)[1]
    assert heart.ask("GET", "/v1/projects")[1]["projects"] == [entry]
    assert (entry["owner"], entry["keys"]) == ("cardiology", ["patient_id"])
    assert entry["freshness"] == {
        "cut": "2024-05-01T11:00:00Z",
        "built_at": "2024-05-01T11:10:00Z",
        "batch_version": 7,
        "model_version": "3",
        "promised": {"batch": "1d", "stream": "10s"},
        "batch_age_seconds": 3600.0,
        "kept": True,
        "batch": {
            "promised_seconds": 86400.0,
            "seconds": 3600.0,
            "state": "kept",
            "since": "2024-05-01T11:10:00Z",
        },
        "stream": {
            "promised_seconds": 10.0,
            "seconds": None,
            "state": "unknown",
            "since": None,
            "sources": {"exams": None, "bracelet": None},
        },
    }
    assert [(one["name"], one["promised"], one["counted_by"]) for one in entry["objectives"]] == [
        ("availability", "0.999", "server"),
        ("latency", "99% within 50ms", "server"),
        ("quality", "0.95", "server"),
    ]
    assert entry["lineage"]["batch"] == {
        "version": 7,
        "cut": "2024-05-01T11:00:00Z",
        "keys": {"latest_exam": 303},
    }
    assert entry["lineage"]["lake"] == {"exams": 4}
    assert entry["lineage"]["model"] == {"version": "3", "lake": {"exams": 3}, "run": "run"}
    assert entry["model"]["metrics"]["roc_auc"] == 0.875
    assert "anabranch.heart_disease_events_exams" in entry["addresses"]["spark"]
    features = {feature["name"]: feature for feature in entry["features"]}
    assert (features["bpm_mean_1h"]["window"], features["bpm_mean_1h"]["aggregate"]) == (
        "1h",
        "Mean('heart_rate')",
    )
    assert features["fast_7d"]["aggregate"] == "Count(where='heart_rate > 120')"
    assert {source["name"]: source["topic"] for source in entry["sources"]}["bracelet"] == "bracelet-feed"
    addresses = entry["addresses"]
    assert [addresses[name] for name in ("predict", "why", "invocations", "v2_infer", "v2_model")] == [
        f"{HEART}/predict",
        f"{HEART}/why/{{key}}",
        f"{HEART}/invocations",
        "/v2/models/heart_disease/infer",
        "/v2/models/heart_disease",
    ]


def test_readiness_tells_what_is_down(heart: Bench) -> None:
    assert heart.ask("GET", "/readyz")[0] == 200
    heart.store.away = heart.topics.away = True
    status, problem = heart.ask("GET", "/readyz")
    assert status == 503
    assert "Cassandra" in problem["store"]
    assert "Kafka" in problem["bus"]
    assert problem["model"] == "ok"
    assert heart.ask("GET", "/healthz") == (200, {"status": "alive"})


def test_metrics_count_requests(heart: Bench) -> None:
    heart.ask("POST", f"{HEART}/predict", {"features": EXAM})
    heart.ask("POST", f"{HEART}/predict", b"{")
    text = heart.raw("GET", "/metrics").body.decode()
    assert 'anabranch_requests_total{project="heart_disease",route="predict",status="200"} 1.0' in text
    assert 'anabranch_requests_total{project="heart_disease",route="predict",status="400"} 1.0' in text
    assert 'anabranch_model_served{project="heart_disease",version="3"} 1.0' in text


def test_metrics_show_measures_that_were_read_in_the_background() -> None:
    now, reads = [0.0], []

    def read(project: str) -> list[Measure]:
        reads.append(project)
        if len(reads) == 2:
            raise UnavailableError("Cassandra did not answer")
        return [
            Measure(
                project=project,
                subject="features",
                name="psi",
                at=datetime(2026, 5, 1, tzinfo=UTC),
                value=0.25,
                version="3",
                slice="age",
            )
        ]

    measured = MeasuredValues(read, lambda: now[0])
    metrics, gauge = (
        ServingMetrics(measured),
        'anabranch_measure{name="psi",project="heart",slice="age",subject="features",version="3"} 0.25',
    )
    assert gauge not in metrics.text().decode()
    for now[0] in (0.0, 1.0, EVERY_SECONDS - 0.1, EVERY_SECONDS, EVERY_SECONDS + 1):
        measured.look(["heart"])
        assert gauge in metrics.text().decode()
    assert reads == ["heart", "heart"]


@pytest.fixture
def published(heart: Bench) -> Iterator[Bench]:
    heart.app.parts.predictions.start()
    yield heart
    heart.app.parts.predictions.stop(5)


def test_predictions_are_published_and_wait_while_the_broker_is_away(published: Bench) -> None:
    published.topics.away = True
    published.ask("POST", f"{HEART}/predict", {"features": EXAM})
    assert _waiting(published) == 1
    published.topics.away = False
    published.app.parts.predictions.stop(5)
    key, text = published.topics.messages["predictions.heart_disease"][0]
    record = json.loads(text)
    assert record["asked"] == {"key": None, "features": EXAM}
    assert record["versions"] == {"model": "3", "batch": None}
    assert record["answered"]["label"] == 1
    assert key == record["prediction_id"].encode()
    assert _waiting(published) == 0


def test_full_buffer_drops_and_counts_and_still_answers() -> None:
    small = bench(PROJECTS, ("age",), ServingSettings(prediction_buffer=2))
    for _ in range(5):
        assert small.ask("POST", f"{HEART}/predict", {"features": {"age": 45}})[0] == 200
    assert (
        'anabranch_predictions_dropped_total{reason="buffer full"} 3.0'
        in small.raw("GET", "/metrics").body.decode()
    )
    small.app.parts.predictions.stop(0)
    assert (
        'anabranch_predictions_dropped_total{reason="stopped"} 2.0'
        in small.raw("GET", "/metrics").body.decode()
    )


def test_the_buffer_of_predictions_is_bounded_by_bytes_too() -> None:
    small = bench(PROJECTS, ("age",), ServingSettings(prediction_buffer_bytes=1000))
    for _ in range(5):
        assert small.ask("POST", f"{HEART}/predict", {"features": {"age": 45}})[0] == 200
    text = small.raw("GET", "/metrics").body.decode()
    assert 'anabranch_predictions_dropped_total{reason="buffer full"} 3.0' in text
    assert _waiting(small) == 2
    small.app.parts.predictions.start()
    small.app.parts.predictions.stop(5)
    assert small.app.parts.predictions._added == small.app.parts.predictions._removed > 0


def test_predictions_that_a_topic_does_not_take_are_counted_and_do_not_hold_up_others(heart: Bench) -> None:
    other = Project(name="other", views=load_project("heart_disease", (PROJECTS,)).views)
    heart.topics.refusing["predictions.other"] = TooLargeError("message 1 has 2000000 bytes")
    for project in (other, load_project("heart_disease", (PROJECTS,)), other):
        heart.app.parts.predictions.add(
            project, Prediction({"model_version": "3", "batch_version": 1}, {}, Asked(None, {}))
        )
    heart.app.parts.predictions.start()
    heart.app.parts.predictions.stop(5)
    assert list(heart.topics.messages) == ["predictions.heart_disease"]
    assert 'dropped_total{reason="too large"} 2.0' in heart.raw("GET", "/metrics").body.decode()
    assert _waiting(heart) == 0


def test_texts_of_features_whose_record_would_not_fit_a_message_are_refused(delays: Bench) -> None:
    text = "x" * (MOST_TEXT + 1)
    status, answer = delays.ask("POST", "/v1/projects/delays/predict", {"features": {"last_day": text}})
    assert (status, answer["type"]) == (422, "urn:anabranch:problem:wrong-type")
    days = [f"2024-05-01{' ' * 900}"] * (MOST_TEXT // 900 + 1)
    status, answer = delays.ask("POST", "/v1/projects/delays/predict", {"features": {"recent": days}})
    assert (status, answer["type"], answer["field"]) == (
        413,
        "urn:anabranch:problem:too-large",
        "features.recent",
    )


def test_readiness_asks_the_stores_once_in_a_while_however_often_it_is_asked(heart: Bench) -> None:
    calm = heart.changed(settings=ServingSettings(ready_seconds=60))
    asked: list[str] = []

    def manifest(project: str) -> FakeManifest | None:
        asked.append(project)
        return heart.store.served

    heart.store.manifest = manifest  # type: ignore[method-assign]
    for _ in range(5):
        assert calm.ask("GET", "/readyz")[0] == 200
    assert len(asked) == 1


def test_bodies_that_are_being_received_are_bounded_together() -> None:
    bodies = Bodies(limit=100_000, seconds=5, most=150_000)

    class Sent:
        def __init__(self, pieces: int, then: Awaitable[object]) -> None:
            self.pieces, self.then = pieces, then

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(self.pieces):
                yield b"x" * 10_000
            await self.then

    async def both() -> list[Any]:
        released = asyncio.Event()
        scope: Any = SimpleNamespace(headers={})
        first: Any = Sent(10, released.wait())
        second: Any = Sent(10, asyncio.sleep(0))
        waiting = asyncio.ensure_future(bodies.read(scope, first))
        await asyncio.sleep(0.01)
        (refused,) = await asyncio.gather(bodies.read(scope, second), return_exceptions=True)
        released.set()
        again: Any = Sent(10, asyncio.sleep(0))
        return [refused, len(await waiting), len(await bodies.read(scope, again)), bodies.held]

    refused, *rest = asyncio.run(both())
    assert (refused.status, refused.kind, rest) == (503, "busy", [100_000, 100_000, 0])


def test_a_body_in_another_encoding_is_refused() -> None:
    bodies = Bodies(limit=100_000, seconds=5, most=150_000)
    scope: Any = SimpleNamespace(headers={"content-encoding": "gzip"})
    with pytest.raises(ProblemError, match="send the body as it is") as refused:
        asyncio.run(bodies.read(scope, scope))
    assert refused.value.status == 415


def test_readiness_tells_that_messages_could_not_be_published(heart: Bench) -> None:
    assert heart.ask("GET", "/readyz")[1]["bus"] == "ok"
    heart.topics.trouble = "TopicAuthorizationFailedError"
    status, answer = heart.changed().ask("GET", "/readyz")
    assert (status, "did not take messages" in answer["bus"]) == (503, True)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["2024-05-01", "NaN", "1e400", "9999-12-31T23:59:59-14:00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["key", "features", "age", *READING]) | st.text(), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(document=JSON, path=st.sampled_from(["predict", "events/bracelet", "events/exams"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_body_causes_a_500(heart: Bench, document: Any, path: str) -> None:
    status, answer = heart.ask("POST", f"{HEART}/{path}", json.dumps(document).encode())
    assert status in (200, 202, 400, 404, 422), answer
    assert status != 404 or answer["type"] == UNKNOWN


@given(key=st.text(min_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_key_causes_a_500(heart: Bench, key: str) -> None:
    for route, known in (("features", 200), ("scores", 404)):
        status, answer = heart.ask("GET", f"{HEART}/{route}/{key}")
        assert status == (422 if "\x1f" in key else known), answer
    assert heart.ask("POST", f"{HEART}/predict", {"key": key})[0] == (422 if "\x1f" in key else 404)


def _waiting(found: Bench) -> float:
    text = found.raw("GET", "/metrics").body.decode()
    return float(
        next(
            line for line in text.splitlines() if line.startswith("anabranch_predictions_buffered ")
        ).split()[1]
    )


def test_the_server_is_built_without_spark_and_mlflow() -> None:
    """They would cost each worker memory and the server seconds to start."""
    code = """
import sys
from jobs.wiring.serve import build
from jobs.wiring.settings import load_settings
build(load_settings(None, None)).parts.close()
print(sorted({"pyspark", "mlflow"} & set(sys.modules)))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert loaded.stdout == "[]\n"


def test_calls_beyond_what_is_answered_at_once_are_told_to_come_again(heart: Bench) -> None:
    busy = heart.changed(settings=ServingSettings(answers_at_once=2, store_timeout_seconds=1))
    heart.store.stored["p1",] = {"age": 45}
    body = json.dumps({"key": "p1"}).encode()

    async def together() -> list[Any]:
        asked = [busy.app.handle(HttpRequest("POST", f"{HEART}/predict", body)) for _ in range(5)]
        others = busy.app.handle(HttpRequest("GET", "/healthz"))
        found = await asyncio.gather(*asked, others)
        later = await asyncio.gather(
            *(busy.app.handle(HttpRequest("GET", f"{HEART}/features/p1")) for _ in "12")
        )
        return [*found, *later]

    found = asyncio.run(together())
    assert [response.status for response in found] == [200, 200, 503, 503, 503, 200, 200, 200]
    refused = found[2]
    assert dict(refused.headers)["retry-after"] == "1"
    assert json.loads(refused.body)["type"] == "urn:anabranch:problem:busy"
