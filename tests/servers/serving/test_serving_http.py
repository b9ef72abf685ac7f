"""The REST server on a real socket; its stores are in memory."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anabranch.declare.loading import load_project
from anabranch.stores.files.api_keys import RIGHTS, ApiKeys
from anabranch.stores.models.connection import mlflow_module
from jobs.servers.processes import wait_until
from tests.conftest import free_ports
from tests.support.serving_fakes import NOW, PROJECTS

PREDICT = "/v1/projects/heart_disease/predict"
JSON = {"content-type": "application/json"}


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    record: Path

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, JSON if headers is None else headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def left_record(self) -> Any:
        """The record that the server wrote when it stopped."""
        return json.loads(self.record.read_text())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with started(tmp_path) as found:
        yield found


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Running]:
    """A server with these settings; stopped at the end."""
    port, record = settings.get("port", free_ports(1)[0]), folder / "record"
    command = [sys.executable, "-m", "tests.support.fake_rest", str(port), str(record), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        found = Running(process, port, record)
        deadline = time.monotonic() + 30
        while not _answers(found):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the server did not start"
        try:
            yield found
        finally:
            process.terminate()
            process.wait(20)


def _answers(found: Running) -> bool:
    try:
        return found.ask("GET", "/healthz")[0] == 200
    except OSError:
        return False


def test_the_address_is_told_once_and_when_the_server_answers(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    settings = json.dumps({"workers": 2})
    command = [sys.executable, "-m", "tests.support.fake_rest", str(port), str(tmp_path / "record"), settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"REST server: http://127.0.0.1:{port}/docs\n"
        found = Running(process, port, tmp_path / "record")
        assert found.ask("POST", PREDICT, json.dumps({"key": "p1"}))[0] == 200
        process.terminate()
        assert process.stdout.read() == ""


def test_workers_stop_when_the_server_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, workers=2) as running:
        running.process.kill()
        assert wait_until(lambda: not _answers(running), 20)
        assert wait_until(running.record.exists, 20)  # as ever: what was buffered is published


def test_answers_over_a_socket(running: Running) -> None:
    status, headers, body = running.ask("POST", PREDICT, json.dumps({"key": "p1"}))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["score"] == pytest.approx(0.06)
    status, headers, body = running.ask("HEAD", "/v1/projects")
    assert (status, body) == (200, b"")
    assert (
        json.loads(running.ask("GET", "/v1/projects/heart_disease/features/a%2Fb%20%E2%82%AC")[2])["key"]
        == "a/b €"
    )
    assert running.ask("GET", "/v1/projects/heart_disease/features/%00")[0] == 200
    for path, status in (("features/%FF", 400), ("features/a?at=2024-05-01", 422)):
        assert running.ask("GET", f"/v1/projects/heart_disease/{path}")[0] == status
    assert running.ask("GET", "/docs")[1]["content-type"].startswith("text/html")


def test_large_bodies_are_refused_whether_announced_or_chunked(running: Running) -> None:
    body = json.dumps({"key": "x" * 20_000}).encode()
    status, headers, text = running.ask("POST", PREDICT, body)
    assert (status, headers["content-type"]) == (413, "application/problem+json"), text
    assert running.ask("POST", PREDICT, iter([body[:9000], body[9000:]]))[0] == 413
    assert running.ask("POST", PREDICT, iter([b'{"key":', b'"p1"}']))[0] == 200
    assert running.ask("POST", PREDICT, b"{}", {})[0] == 415


def test_a_caller_who_still_sends_is_told_why_instead_of_being_cut_off(running: Running) -> None:
    much = b"x" * 8_000_000  # more than the sockets between take in
    assert running.ask("POST", PREDICT, much)[0] == 413
    assert running.ask("POST", PREDICT, iter([much]))[0] == 413


def test_a_thousand_wide_instances_fit_or_the_refusal_names_the_setting(
    running: Running, tmp_path: Path
) -> None:
    features = load_project("heart_disease", (PROJECTS,)).columns
    given = {
        feature.name: 1234.5678901234567 if feature.type.name == "DOUBLE" else 123456 for feature in features
    }
    body = json.dumps(
        {"instances": [{"key": f"patient-{number}", "features": given} for number in range(1000)]}
    ).encode()
    status, _, text = running.ask("POST", PREDICT, body)
    assert (status, json.loads(text)["detail"].rpartition(", ")[2]) == (
        413,
        "or have serving.body_bytes raised",
    )
    (tmp_path / "wide").mkdir()
    with started(tmp_path / "wide", body_bytes=40 * 1000 * len(features)) as wide:
        status, _, text = wide.ask("POST", PREDICT, body)
    assert status == 200, text
    assert len(json.loads(text)["predictions"]) == 1000


def test_stopping_publishes_what_is_buffered_and_loses_no_answer(running: Running) -> None:
    answered: list[int] = []

    def ask() -> None:
        for _ in range(200):
            try:
                answered.append(running.ask("POST", PREDICT, b'{"features": {"age": 45}}')[0])
            except ConnectionError:  # it stopped listening, whichever step of a call that met
                return

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    while len(answered) < 50:
        assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join()
    assert running.process.wait(20) == 0
    assert set(answered) == {200}
    assert running.left_record()["messages"]["predictions.heart_disease"] >= len(answered)


def test_server_stops_in_time_although_a_store_never_answers(tmp_path: Path) -> None:
    with started(tmp_path, stuck=True, store_timeout_seconds=0.2) as running:
        assert running.ask("GET", "/v1/projects/heart_disease/scores/p1")[0] == 503
        running.process.send_signal(signal.SIGTERM)
        output, _ = running.process.communicate(timeout=20)
    assert running.process.returncode == 0
    assert "refused" not in output


def test_metrics_of_several_workers_add_up(tmp_path: Path) -> None:
    with started(tmp_path, workers=2, shared=str(tmp_path / "shared"), refresh_seconds=0.1) as running:
        for _ in range(20):
            assert running.ask("POST", PREDICT, b'{"features": {"age": 45}}')[0] == 200
        deadline = time.monotonic() + 20
        counts: dict[str, float] = {}
        while sum(counts.values()) < 20 or len(counts) < 2:
            assert time.monotonic() < deadline, counts
            text = running.ask("GET", "/metrics")[2].decode()
            found = re.findall(
                r'anabranch_requests_total\{worker="(\d+)",project="heart_disease",'
                r'route="predict",status="200"\} (\S+)',
                text,
            )
            workers = set(re.findall(r'worker="(\d+)"', text))
            counts = dict.fromkeys(workers, 0.0) | {worker: float(count) for worker, count in found}
    assert sum(counts.values()) == 20
    assert text.count("# TYPE anabranch_requests_total counter") == 1


def _waiting_body(port: int, headers: str = "") -> socket.socket:
    """A connection whose request has sent one byte of its body."""
    found = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    found.sendall(f"{head}Content-Length: 9000\r\n\r\n{{".encode())
    return found


def test_bodies_that_never_come_are_refused_and_hold_up_nobody_for_longer(tmp_path: Path) -> None:
    with started(tmp_path, body_seconds=1.5, connections=30) as running:
        few = [_waiting_body(running.port) for _ in range(20)]
        begun = time.monotonic()
        assert running.ask("GET", "/healthz")[0] == 200
        assert time.monotonic() - begun < 1.5
        more = [_waiting_body(running.port) for _ in range(20)]  # more than there are connections
        assert running.ask("POST", PREDICT, b'{"features": {"age": 45}}')[0] == 200
        assert time.monotonic() - begun < 8.0
        answers = [each.recv(1000).decode() for each in few]
        for each in (*few, *more):
            each.close()
    assert {answer.partition("\r\n")[0] for answer in answers} == {"HTTP/1.1 408 Request Timeout"}
    assert "the body did not come within 1.5 s" in answers[0]


def test_a_caller_without_rights_is_refused_before_the_body_comes(tmp_path: Path) -> None:
    with started(tmp_path, auth="on", body_seconds=10) as running:
        begun = time.monotonic()
        with _waiting_body(running.port, "Authorization: Bearer anb_none_none\r\n") as waiting:
            assert waiting.recv(1000).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - begun < 5
        large = running.ask("POST", PREDICT, b"x" * 100_000, {**JSON, "x-api-key": "anb_none_none"})
        assert large[0] == 401  # and can be read by one who has sent more


def test_a_body_that_is_broken_off_leaves_no_trace(tmp_path: Path) -> None:
    with started(tmp_path) as running:
        for _ in range(3):
            _waiting_body(running.port).close()
        with _waiting_body(running.port) as waiting:
            waiting.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        assert running.ask("GET", "/healthz")[0] == 200
        running.process.terminate()
        output, _ = running.process.communicate(timeout=20)
    assert "Traceback" not in output, output


def test_a_request_for_another_host_is_refused(tmp_path: Path) -> None:
    with started(tmp_path, allowed_hosts=["api.example"]) as running:
        for host in (f"localhost:{running.port}", "127.0.0.1", f"[::1]:{running.port}", "API.example:80"):
            assert running.ask("GET", "/healthz", None, {"host": host})[0] == 200, host
        for host in ("evil.example", f"evil.example:{running.port}", "10.0.0.1", "127.0.0.1.evil.example"):
            status, _, text = running.ask("GET", "/v1/projects", None, {"host": host})
            assert (status, b"serving.allowed_hosts" in text) == (421, True), host


def test_a_killed_worker_is_started_again_while_the_other_serves(tmp_path: Path) -> None:
    left = tmp_path / "shared"  # each worker leaves its metrics there, by its process
    with started(tmp_path, workers=2, shared=str(left), refresh_seconds=0.1) as running:

        def workers() -> set[int]:
            return {int(file.stem) for file in left.glob("*.prom")}

        def asked() -> int:
            try:
                return running.ask("POST", PREDICT, b'{"features": {"age": 45}}')[0]
            except OSError:
                return 0  # it stood in the queue of the one that was killed

        deadline = time.monotonic() + 60
        while len(workers()) < 2:
            assert time.monotonic() < deadline
        os.kill(min(workers()), signal.SIGKILL)
        answers = []
        while len(workers()) < 3:
            assert time.monotonic() < deadline, "no worker was started"
            answers.append(asked())
        assert running.process.poll() is None
        # The call that the killed worker held may break; a quick start leaves few others to count.
        assert answers.count(200) >= min(0.9 * len(answers), len(answers) - 1) > 0
        assert [asked() for _ in range(10)] == [200] * 10


def test_mlflows_own_client_scores_rows_as_predict_does(running: Running) -> None:
    """Its missing values come as NaN, and its rows in a frame that pandas has split."""
    mlflow = mlflow_module()
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client: Any = ScoringServerClient("127.0.0.1", running.port)  # type: ignore[no-untyped-call]
    client.wait_server_ready(timeout=10)
    assert client.get_version() == mlflow.__version__
    rows = pd.DataFrame({"patient_id": ["p1", None, "nobody"], "bpm_mean_1h": [1 / 3, 0.1 + 0.2, np.nan]})
    found = client.invoke(rows).get_predictions()
    asked = [{"key": "p1", "features": {"bpm_mean_1h": 1 / 3}}, {"features": {"bpm_mean_1h": 0.1 + 0.2}}]
    _, _, body = running.ask("POST", PREDICT, json.dumps({"instances": asked}))
    assert found["score"].tolist()[:2] == [one["score"] for one in json.loads(body)["predictions"]]
    assert np.isnan(found["score"][2])
    assert "nothing is known of key 'nobody'" in found["error"][2]


def test_port_that_is_taken_is_told_in_one_line(running: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.fake_rest", str(running.port), str(tmp_path / "second")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{running.port}" in done.stderr.splitlines()[-1]


def test_whatever_the_openapi_page_allows_or_forbids_is_answered_as_it_says(tmp_path: Path) -> None:
    """Schemathesis sends what the schemas allow and forbid, with a key, without one and with a wrong one.

    No 5xx, answers as typed, what is forbidden is a 4xx, and whatever is refused changes nothing.
    """
    key = ApiKeys(tmp_path / "keys.json").add("*", NOW, rights=RIGHTS)[1]
    with started(tmp_path, body_bytes=4_000_000, auth="on") as running:
        command = [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"http://127.0.0.1:{running.port}/openapi.json",
        ]
        # Some rules of events fit no schema (a time in the future): a fitting request may be refused.
        command += [
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "10",
            "--exclude-checks",
            "positive_data_acceptance",
        ]
        command += ["--header", f"Authorization: Bearer {key}", "--workers", "1"]
        command += ["--seed", "7", "--no-color", "--generation-database", "none"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    record = running.left_record()
    assert record["changing"] == []
    assert record["refused"] > 100
    assert set(record["messages"]) == {
        "predictions.heart_disease",
        "exams",
        "diagnoses",
        "bracelet-feed",
    }  # what is good was taken
