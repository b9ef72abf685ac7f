"""The gateway: nginx before two real REST servers, one of which is killed under load."""

import http.client
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from anabranch.errors import MisuseError
from jobs.servers import embedded
from jobs.servers.nginx import configuration
from jobs.servers.processes import read_record
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.servers.serving.test_serving_http import JSON, PREDICT, Running, started
from tests.support.sockets import listening

BODY = b'{"features": {"age": 45}}'


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Running]]:
    with ExitStack() as stack:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        yield [stack.enter_context(started(folder)) for folder in folders]


def behind(settings: Settings, folder: Path, replicas: list[Running], **changes: Any) -> Settings:
    (port,) = free_ports(1)
    upstreams = tuple(f"127.0.0.1:{each.port}" for each in replicas)
    return replace(
        settings,
        data=folder / "gateway",
        servers=replace(settings.servers, nginx_port=port, nginx_upstreams=upstreams, **changes),
    )


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path, replicas: list[Running]) -> Iterator[Settings]:
    ours = behind(settings, tmp_path, replicas, nginx_rate=100_000)
    embedded.up(ours, ["nginx"])
    yield ours
    embedded.down(ours, ["nginx"])


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection.request(method, path, body, {**JSON, **headers})
    response = connection.getresponse()
    return response.status, response.read()


def client(gateway: Settings) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", gateway.servers.nginx_port, timeout=20)


def test_killing_a_replica_under_load_loses_no_request(gateway: Settings, replicas: list[Running]) -> None:
    answered: list[int] = []
    enough = threading.Event()

    def call() -> None:
        connection = client(gateway)
        for _ in range(150):
            answered.append(ask(connection, "POST", PREDICT, BODY)[0])
            if len(answered) >= 100:
                enough.set()
        connection.close()

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    assert enough.wait(60)
    killed = replicas[0].process
    for process in (
        *psutil.Process(killed.pid).children(recursive=True),
        killed,
    ):  # its worker too: nothing is drained
        process.kill()
    for caller in callers:
        caller.join()
    assert answered == [200] * (8 * 150)


def test_one_port_with_a_landing_page_and_problems_of_its_own(
    gateway: Settings, replicas: list[Running]
) -> None:
    running = read_record(gateway.data / "run" / "nginx.json")
    assert running is not None
    assert set(listening(running.pid)) == {"127.0.0.1"}
    connection = client(gateway)
    status, page = ask(connection, "GET", "/")
    assert (status, b'href="/v1/projects"' in page) == (200, True)
    assert ask(connection, "GET", "/metrics")[0] == 404
    assert json.loads(ask(connection, "GET", "/v1/projects/heart_disease/features/a%2Fb")[1])["key"] == "a/b"
    for each in replicas:
        each.process.terminate()
        assert each.process.wait(20) == 0
    status, problem = ask(connection, "POST", PREDICT, BODY)
    assert (status, json.loads(problem)["status"]) == (503, 503)


def test_a_caller_who_asks_too_often_is_told(
    settings: Settings, tmp_path: Path, replicas: list[Running]
) -> None:
    ours = behind(settings, tmp_path, replicas, nginx_rate=1)
    embedded.up(ours, ["nginx"])
    try:
        connection = client(ours)
        found = [ask(connection, "POST", PREDICT, BODY) for _ in range(6)]
    finally:
        embedded.down(ours, ["nginx"])
    assert found[0][0] == 200
    assert (
        json.loads(next(body for status, body in found if status == 429))["type"]
        == "urn:anabranch:problem:too-many-requests"
    )


def test_a_new_key_for_each_request_does_not_pass_the_limit_of_an_address(
    settings: Settings, tmp_path: Path, replicas: list[Running]
) -> None:
    ours = behind(settings, tmp_path, replicas, nginx_rate=3, nginx_address_rate=6)
    embedded.up(ours, ["nginx"])
    try:
        connection = client(ours)
        good = [
            ask(connection, "POST", PREDICT, BODY, authorization=f"Bearer ward-{number % 2}")[0]
            for number in range(6)
        ]
        made_up = [
            ask(connection, "POST", PREDICT, BODY, authorization=f"Bearer made-up-{number}")[0]
            for number in range(40)
        ]
    finally:
        embedded.down(ours, ["nginx"])
    assert good == [200] * 6  # two callers behind one address, each within his own limit
    assert made_up.count(429) > 10


def test_tls_is_spoken_with_a_certificate(
    settings: Settings, tmp_path: Path, replicas: list[Running]
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(
        [*command, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    ours = behind(
        settings, tmp_path, replicas, nginx_tls_certificate=str(certificate), nginx_tls_key=str(key)
    )
    embedded.up(ours, ["nginx"])
    try:
        trusting = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", ours.servers.nginx_port, timeout=20, context=trusting
        )
        assert ask(connection, "POST", PREDICT, BODY)[0] == 200
    finally:
        embedded.down(ours, ["nginx"])
    with pytest.raises(MisuseError, match="belong together"):
        configuration(replace(ours, servers=replace(ours.servers, nginx_tls_key="")))
