"""The REST server as a process over the real Cassandra, Kafka and MLflow; what a build and a training would
publish is put there by hand.
"""

import http.client
import json
import multiprocessing
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import pytest
from kafka import KafkaConsumer

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.folds.packing import pack_extras
from anabranch.settings import ModelsSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from anabranch.testing.states import SLACK, batch_part
from anabranch.values.times import HOUR, floor_to, format_time, now_micros
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.cli.main import main
from jobs.servers.processes import read_record, wait_until
from jobs.wiring.serve import serve
from jobs.wiring.settings import Settings
from serving.server import look
from tests.conftest import free_ports
from tests.support.hanging import hanging
from tests.support.law import SCHEMA, Event

T = TypeVar("T")
DECLARATION = """
from anabranch import Count, FeatureView, Label, Model, Project, Source, Sum

things = Source(name="things", topic="{name}-things", id="id", time="time", schema="{schema}")
view = FeatureView(name="seen", source=things, key="who",
    features={{"x_sum": Sum("x"), "x_count": Count("x")}})
project = Project(name="{name}", views=(view,), label=Label(source=things, key="who", target="n > 0"),
    model=Model())
"""


@dataclass
class Rest:
    """A running server and the stores below it."""

    settings: Settings
    project: Project
    views: Views
    models: Models

    def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """Status and document of an answer; a body of bytes is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.serving.port, timeout=20)
        try:
            text = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(
                method,
                path.format(p=f"/v1/projects/{self.project.name}"),
                text,
                {"content-type": content_type},
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def until(seconds: float, look: Callable[[], T | None], what: str) -> T:
    """What `look` finds, looked for until it finds something."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"


def train(models: Models, project: Project, version: str, *, promoted: bool = True) -> None:
    """Log a small model, and promote it."""
    columns: dict[str, list[Any]] = {
        "x_sum": [1.0, 50.0, None, 70.0] * 25,
        "x_count": [1.0, 2.0, 3.0, 4.0] * 25,
    }
    inputs = model_inputs(project)
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    rows = TrainingRows(
        matrix=matrix, target=np.array([0.0, 1.0, 0.0, 1.0] * 25), inputs=inputs, task="class"
    )
    example = {name: values[:3] for name, values in columns.items()}
    record = TrainingRecord(metrics={"roc_auc": 1.0}, parameters={}, lake_versions={}, example=example)
    assert models.log(project, record, fit("xgboost", rows)) == version
    if promoted:
        models.promote(project.name, version)


def build(views: Views, project: Project, cut: int, model_version: str | None = None) -> int:
    """Publish one key's batch states up to the cut, as a build under a champion does; returns the version."""
    (view,) = project.views
    before = views.manifest(project.name)
    version = views.new_version(project.name, before.batch_version + 1 if before else 1)
    table = views.create_batch_table(project.name, view.name, version)
    events = [
        Event(id=str(i), key="k1", time=cut - i * HOUR, arrival=cut - i * HOUR, x=float(i)) for i in (1, 2, 3)
    ]
    part = batch_part(view, events, cut)
    statement = f"INSERT INTO {table} (key, states, extras) VALUES (%s, %s, %s)"
    views.session.execute(statement, ("k1", part.rows.astype("<f8").tobytes(), pack_extras(part.extras)))
    entry = Manifest(
        project=project.name,
        batch_version=version,
        cut=cut,
        slack=SLACK,
        built_at=now_micros(),
        fingerprints={view.name: view.fingerprint},
        tables={view.name: table},
        rows={view.name: 1},
        model_version=model_version,
    )
    views.ensure_tiles(project)
    views.swap(entry, before, before)
    return version


@pytest.fixture(scope="module")
def rest(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    with running(
        servers, tmp_path_factory.mktemp("rest"), shadow_buffer=100_000
    ) as found:  # room for all that is asked while a test waits
        yield found


@contextmanager
def running(settings: Settings, folder: Path, **serving: Any) -> Iterator[Rest]:
    """A server over a project of its own, with these settings; it ends in peace."""
    name = f"rest_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(
        DECLARATION.format(name=name, schema=SCHEMA.replace("key STRING", "who STRING"))
    )
    registry = ModelsSettings(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts")
    )
    ours = replace(
        settings,
        projects=(folder,),
        models=registry,
        serving=replace(settings.serving, port=free_ports(1)[0], **serving),
    )
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(ours,))
    process.start()
    found = Rest(ours, load_project(name, ours.projects), Views(ours.views), Models(registry))
    assert wait_until(lambda: look(ours.serving, "/healthz") == 200, 60), "the server did not start"
    yield found
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


def test_river_of_answers(rest: Rest) -> None:
    """From a server with nothing below it to merged answers, one thing coming after the other."""
    given = {"features": {"x_sum": 50.0, "x_count": 2}}

    status, problem = until(
        60, lambda: _with(rest.ask("POST", "{p}/predict", given), "anabranch train"), "the advice to train"
    )
    assert (status, problem["title"]) == (503, "Service Unavailable")
    status, ready = rest.ask("GET", "/readyz")
    assert (status, ready["store"], ready["bus"], ready["model"]) == (200, "ok", "ok", "ok")
    assert "anabranch train" in ready["projects"][rest.project.name]

    train(rest.models, rest.project, "1")
    status, answer = until(30, lambda: _good(rest.ask("POST", "{p}/predict", given)), "the model")
    assert (answer["model_version"], answer["label"], answer["batch_version"], answer["degraded"]) == (
        "1",
        1,
        None,
        False,
    )
    assert answer["score"] == pytest.approx(
        rest.models.scorer(rest.project.name, "1").score({"x_sum": [50.0], "x_count": [2]})[0]
    )
    assert rest.ask("GET", "/readyz")[0] == 200

    cut = floor_to(now_micros(), HOUR)
    version = build(rest.views, rest.project, cut)
    answer = until(10, lambda: _of_version(rest.ask("GET", "{p}/features/k1"), version), "the batch version")
    assert answer["features"] == {"x_sum": 6.0, "x_count": 3}
    assert answer["degraded"] is False
    fresh = until(10, lambda: _built(rest, version), "the new freshness")
    assert fresh["cut"] == format_time(cut)

    status, answer = rest.ask("POST", "{p}/predict", {"key": "k1"})
    expected = rest.models.scorer(rest.project.name, "1").score({"x_sum": [6.0], "x_count": [3]})[0]
    assert (status, answer["score"], answer["batch_version"]) == (200, pytest.approx(expected), version)
    nobody = rest.ask("GET", "{p}/features/never")[1]
    assert (nobody["features"]["x_sum"], nobody["known"]) == (None, False)
    status, problem = rest.ask("POST", "{p}/predict", {"key": "never"})
    assert (status, problem["type"], problem["field"]) == (404, "urn:anabranch:problem:unknown-key", "key")
    assert (
        rest.ask("POST", "{p}/predict", {"key": "never", "features": {"x_count": 3}})[1]["batch_version"]
        == version
    )
    status, several = rest.ask("POST", "{p}/predict", {"keys": ["k1", "never", *["k1"] * 300, "k1"]})
    scores = [several["predictions"][position]["score"] for position in (0, -1)]
    assert status == 200
    assert scores == pytest.approx(
        [answer["score"]] * 2, abs=1e-6
    )  # many rows are scored by the native model
    assert several["predictions"][1] == {"key": "never", "error": {**problem, "field": "keys[1]"}}
    for attempt in (
        "' OR '1'='1",
        "k1'; DROP TABLE manifest; --",
        "../../etc/passwd",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "k1\u0000",
        "%27%20--",
    ):
        found = rest.ask("POST", "{p}/predict", {"key": attempt})
        assert (found[0], found[1]["type"], found[1]["field"]) == (
            404,
            "urn:anabranch:problem:unknown-key",
            "key",
        )
        assert rest.ask("GET", f"{{p}}/features/{quote(attempt, safe='')}")[1]["features"] == {
            "x_sum": None,
            "x_count": 0,
        }
    assert rest.views.manifest(rest.project.name) is not None

    started = time.monotonic()
    train(rest.models, rest.project, "2")
    promoted = time.monotonic()
    until(
        30,
        lambda: (rest.ask("POST", "{p}/predict", given)[1]["model_version"] == "2") or None,
        "the promoted model",
    )
    assert time.monotonic() - promoted < 3 + (promoted - started)


def test_events_reach_their_topic_and_predictions_theirs(rest: Rest) -> None:
    event = {"id": "e1", "who": "k9", "time": "2024-05-01T12:00:00Z", "x": 1.5}
    assert rest.ask("POST", "{p}/events/things", [event]) == (202, {"accepted": 1})
    status, problem = rest.ask("POST", "{p}/events/things", [event, {**event, "x": "much"}])
    assert (status, problem["field"]) == (422, "[1].x")
    assert _messages(rest, f"{rest.project.name}-things") == [event]
    until(30, lambda: _good(rest.ask("POST", "{p}/predict", {"features": {"x_count": 7}})), "the model")
    sent = until(
        20,
        lambda: (
            [
                r
                for r in _messages(rest, f"predictions.{rest.project.name}")
                if r["asked"]["features"] == {"x_count": 7}
            ]
            or None
        ),
        "the prediction",
    )
    assert sent[0]["answered"]["model_version"] == sent[0]["versions"]["model"]


def test_bad_input_is_a_4xx_with_a_reason_and_changes_nothing(rest: Rest) -> None:
    """Over the real stores: nothing that is refused is published, scored for somebody or kept."""
    good = {"id": "e2", "who": "k1", "time": "2024-05-01T12:00:00Z", "x": 1.0}
    asked: list[tuple[str, Any, int, str | None]] = [
        ("predict", {"features": {"x_sum": "50"}}, 422, "features.x_sum"),
        ("predict", {"features": {"x_count": 1.5}}, 422, "features.x_count"),
        ("predict", {"features": {"y_sum": 1.0}}, 422, "features.y_sum"),
        ("predict", b'{"features": {"x_sum": NaN}}', 422, "features.x_sum"),
        ("predict", b'{"features": {"x_sum": -Infinity}}', 422, "features.x_sum"),
        ("predict", b'{"features": {"x_sum": 1e999}}', 422, "features.x_sum"),
        ("predict", b"{", 400, None),
        ("predict", {"key": "nobody"}, 404, "key"),
        ("predict", {"key": "k1' OR '1'='1"}, 404, "key"),
        ("predict", {"key": {"who": "k1", "or": 1}}, 422, "key.or"),
        ("predict", {"key": {"who": {"$gt": ""}}}, 422, "key.who"),
        ("predict", {"keys": ["k1", {"$ne": None}]}, 422, "keys[1].$ne"),
        ("predict", {"keys": ["k1"] * 1001}, 422, "keys"),
        ("events/things", [good, {**good, "x": "much"}], 422, "[1].x"),
        ("events/things", [good, {**good, "who": None}], 422, "[1].who"),
        ("events/things", [good, {**good, "time": "9999-01-01"}], 422, "[1].time"),
        (
            "events/things",
            b'[{"id": "e3", "who": "k1", "time": "2024-05-01T12:00:00Z", "x": Infinity}]',
            422,
            "[0].x",
        ),
        ("events/nothing", good, 404, None),
    ]
    state = _state(rest, 1)
    for path, body, status, field in asked:
        found, problem = rest.ask("POST", f"{{p}}/{path}", body)
        assert (found, problem["status"], problem.get("field")) == (status, status, field), (
            path,
            body if len(str(body)) < 200 else path,
            problem,
        )
        assert problem["type"].startswith("urn:anabranch:problem:")
        assert problem["detail"]
    for path, body in (("predict", {"features": {"x_count": 1}}), ("events/things", good)):
        assert rest.ask("POST", f"{{p}}/{path}", body, "text/plain")[0] == 415
        assert rest.ask("POST", f"/v1/projects/nobody/{path}", body)[0] == 404
        assert rest.ask("PUT", f"{{p}}/{path}", body)[0] == 405
    after = _state(rest, 2)
    assert after == {**state, "predictions": state["predictions"] + 1}  # the one that closes the list


def _state(rest: Rest, number: int) -> dict[str, Any]:
    """All that requests could change, once a last prediction of now has come to its topic: they come in
    their order.
    """
    mark = {"x_count": 1_000_000 + number}
    until(30, lambda: _good(rest.ask("POST", "{p}/predict", {"features": mark})), "the model")
    topic = f"predictions.{rest.project.name}"

    def marked() -> list[Any] | None:
        found = _messages(rest, topic)
        return found if any(one["asked"]["features"] == mark for one in found) else None

    predictions = len(until(20, marked, "the mark"))
    tables = rest.views.session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
        (rest.views.settings.keyspace,),
    )
    return {
        "predictions": predictions,
        "events": _messages(rest, f"{rest.project.name}-things"),
        "manifest": rest.views.manifest(rest.project.name),
        "tables": sorted(row.table_name for row in tables if row.table_name.startswith(rest.project.name)),
    }


@pytest.fixture
def verb(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """A command of the command line over the same stores; what it says as JSON."""
    views = rest.settings.views
    told = {
        "ANABRANCH_PROJECTS": str(rest.settings.projects[0]),
        "ANABRANCH__MODELS__TRACKING_URI": rest.models.settings.tracking_uri,
        "ANABRANCH__VIEWS__HOSTS": views.hosts[0], "ANABRANCH__VIEWS__PORT": str(views.port),
        "ANABRANCH__VIEWS__KEYSPACE": views.keyspace,
        "ANABRANCH__BUS__BOOTSTRAP_SERVERS": rest.settings.bus.bootstrap_servers,
    }  # fmt: skip
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)

    def run(*words: str) -> Any:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_a_rollback_of_the_model_alone_is_served_within_seconds(rest: Rest, verb: Callable[..., Any]) -> None:
    before = until(30, lambda: _good(rest.ask("POST", "{p}/predict", {"key": "k1"})), "the model")[1]
    assert before["model_version"] == "2"

    def rolled_back() -> Any:
        said = verb("rollback", rest.project.name, "--model")
        assert said["devices_told"] is True
        return until(
            4,
            lambda: _by_model(rest.ask("POST", "{p}/predict", {"key": "k1"}), said["champion"]),
            "the model before",
        )

    back, forward = rolled_back(), rolled_back()
    assert (back["model_version"], forward["model_version"]) == ("1", "2")
    assert back["batch_version"] == forward["batch_version"] == before["batch_version"]


def test_a_shadow_and_a_canary_are_seen_within_seconds_and_reported(
    rest: Rest, verb: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name, keys = rest.project.name, [f"t{number}" for number in range(200)]

    def answering() -> set[str]:
        asked = [
            {"key": key, "features": {"x_count": 1}} for key in keys
        ]  # nobody knows these keys: only with a feature they are scored
        return {
            one["model_version"]
            for one in rest.ask("POST", "{p}/predict", {"instances": asked})[1]["predictions"]
        }

    def trial() -> Any:
        return rest.ask("GET", "{p}")[1]["model"]["trial"]

    assert verb("promote", name, "1", "--shadow")["trial"] == "shadow"
    until(4, lambda: trial() == {"kind": "shadow", "version": "1", "share": 1.0} or None, "the shadow")
    assert answering() == {"2"}
    assert verb("promote", name, "1", "--canary", "30%")["share"] == 0.3
    until(4, lambda: answering() == {"1", "2"} or None, "the canary")

    def reported() -> Any:
        found = {one["kind"]: one for one in verb("models", name, "--compare")["compared"]}
        return found if set(found) == {"shadow", "canary"} else None

    found = until(30, reported, "both comparisons")
    assert (
        found["shadow"]["rows"] % 200 == 0
    )  # whole requests: it was the shadow of some more before it was seen as canary
    assert (found["canary"]["version"], found["canary"]["champion"]) == ("1", "2")
    assert all(
        0 <= one["flips"] <= 1 and one["p99_apart"] < 1e-6 for one in found.values()
    )  # trained on the same rows
    assert any("canary 30%" in one["aliases"] for one in verb("models", name)["models"])
    assert main(["promote", name, "2", "--canary", "10%"]) == 2
    assert "it is the champion" in capsys.readouterr().err
    assert verb("promote", name, "2")["devices_told"] is True
    until(4, lambda: (trial() is None and answering() == {"2"}) or None, "the end of the trial")


def test_cassandra_that_stands_still_leaves_degraded_answers_of_known_keys(rest: Rest) -> None:
    until(30, lambda: _fresh(rest.ask("POST", "{p}/predict", {"key": "k1"})), "an answer")
    assert rest.ask("POST", "{p}/predict", {"key": "asked before"})[0] == 404
    record = read_record(rest.settings.data / "run" / "cassandra.json")
    assert record is not None
    with hanging(record.pid):
        status, answer = rest.ask("POST", "{p}/predict", {"key": "k1"})
        assert (status, answer["degraded"]) == (200, True)
        assert "are missing, for Cassandra" in answer["degraded_reason"]
        assert rest.ask("POST", "{p}/predict", {"key": "never seen before"})[0] == 503
        assert (
            rest.ask("POST", "{p}/predict", {"key": "asked before"})[0] == 503
        )  # by now the stream may know it
        for _ in range(4):
            rest.ask("POST", "{p}/predict", {"key": "k1"})
        started = time.monotonic()
        assert rest.ask("POST", "{p}/predict", {"key": "k1"})[1]["degraded"] is True
        assert time.monotonic() - started < 1.0  # the breaker is open: nobody waits for the store
        assert rest.ask("GET", "/readyz")[0] == 503
        assert rest.ask("GET", "/healthz")[0] == 200
    until(
        30, lambda: _fresh(rest.ask("POST", "{p}/predict", {"key": "k1"})), "an answer that is not degraded"
    )


def _fresh(answer: tuple[int, Any]) -> bool | None:
    return (answer[0] == 200 and answer[1]["degraded"] is False) or None


def test_current_row_is_read(rest: Rest) -> None:
    status, problem = rest.ask("GET", "{p}/scores/k1")
    assert (status, problem["type"], problem["field"]) == (404, "urn:anabranch:problem:unknown-key", "key")
    rest.views.ensure_current(rest.project)
    as_of = now_micros()
    row = {
        "key": "k1",
        "score": 0.25,
        "label": 0,
        "model_version": "1",
        "batch_version": 1,
        "layer": "speed",
        "x_sum": 6.0,
        "x_count": 3,
    }
    rest.views.write_current(rest.project.name, [row], as_of)
    answer = until(10, lambda: _good(rest.ask("GET", "{p}/scores/k1"), "score"), "the row")[1]
    assert (answer["score"], answer["layer"], answer["features"]) == (
        0.25,
        "speed",
        {"x_sum": 6.0, "x_count": 3},
    )


def _messages(rest: Rest, topic: str) -> list[Any]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=rest.settings.bus.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=2000,
    )
    try:
        return [json.loads(message.value) for message in consumer]
    finally:
        consumer.close()


def _with(answer: tuple[int, Any], text: str) -> tuple[int, Any] | None:
    return answer if text in json.dumps(answer[1]) else None


def _good(answer: tuple[int, Any], member: str | None = None) -> tuple[int, Any] | None:
    return answer if answer[0] == 200 and (member is None or answer[1][member] is not None) else None


def _of_version(answer: tuple[int, Any], version: int) -> Any:
    return answer[1] if answer[0] == 200 and answer[1]["batch_version"] == version else None


def _by_model(answer: tuple[int, Any], version: str) -> Any:
    return answer[1] if answer[0] == 200 and answer[1]["model_version"] == version else None


def _built(rest: Rest, version: int) -> Any:
    freshness = rest.ask("GET", "{p}")[1]["freshness"]
    return freshness if freshness["batch_version"] == version else None
