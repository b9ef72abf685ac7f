"""Replicas of the REST server, over real stores, that come and go behind the gateway while callers ask."""

import http.client
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import psutil
import pytest

from anabranch.stores.cassandra.replicas import Replicas
from jobs.servers import embedded
from jobs.servers.processes import tail, wait_until
from jobs.wiring.settings import ROOT, Settings
from tests.conftest import free_ports

DECLARATION = """
from anabranch import Count, FeatureView, Project, Source

visits = Source(
    name="visits", topic="{name}", id="id", time="time", schema="id STRING, bed STRING, time TIMESTAMP"
)
beds = FeatureView(name="beds", source=visits, key="bed", windows=("1h",), features={{"n": Count()}})
project = Project(name="{name}", views=(beds,))
"""
CALLERS = 4


@dataclass
class Door:
    """The gateway, and what starts replicas behind it."""

    settings: Settings
    folder: Path
    project: str
    replicas: Replicas
    answered: list[int | str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/v1/projects/{self.project}/features/b1"

    def ask(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.servers.nginx_port, timeout=20)
        connection.request("GET", self.path)
        status = connection.getresponse().status
        connection.close()
        return status

    def wait_for(self, *running: "Process") -> None:
        """Wait until the gateway sends requests to exactly these."""
        places = {f"127.0.0.1:{one.port}" for one in running}
        assert wait_until(lambda: self.replicas.sent_to() == places, 90), (self.replicas.sent_to(), places)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Ask without a pause, on connections that stay open; `answered` gets what came of each."""
        done = threading.Event()

        def call() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.settings.servers.nginx_port, timeout=20)
            while not done.is_set():
                try:
                    connection.request("GET", self.path)
                    response = connection.getresponse()
                    response.read()
                    self.answered.append(response.status)
                except (OSError, http.client.HTTPException) as error:
                    self.answered.append(repr(error))
                    connection.close()

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            yield
        finally:
            done.set()
            for caller in callers:
                caller.join()


@dataclass
class Process:
    """A replica that was started."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def started(cls, door: Door, stack: ExitStack) -> Self:
        (port,) = free_ports(1)
        ours = door.settings.servers
        environment = {
            "ANABRANCH_PROJECTS": str(door.folder / "declared"),
            "ANABRANCH__PATHS__DATA": str(door.folder / f"data-{port}"),
            "ANABRANCH__SERVERS__KAFKA_PORT": str(ours.kafka_port),
            "ANABRANCH__SERVERS__CASSANDRA_PORT": str(ours.cassandra_port),
            "ANABRANCH__VIEWS__KEYSPACE": door.settings.views.keyspace,
        }
        log = door.folder / f"{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", "serve", "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        return cls(port, process, log)


@pytest.fixture
def door(servers: Settings, tmp_path: Path) -> Iterator[Door]:
    name = f"ward_{uuid.uuid4().hex[:8]}"
    (tmp_path / "declared").mkdir()
    (tmp_path / "declared" / f"{name}.py").write_text(DECLARATION.format(name=name), encoding="utf-8")
    (port,) = free_ports(1)
    changed = replace(servers.servers, nginx_port=port, nginx_upstreams=(), nginx_rate=100_000)
    # Replicas of other tests, which know nothing of the project, are in the keyspace of these.
    ours = replace(
        servers,
        data=tmp_path / "gateway",
        servers=replace(changed, nginx_address_rate=100_000),
        views=replace(servers.views, keyspace=name),
    )
    embedded.up(ours, ["nginx"])
    yield Door(ours, tmp_path, name, Replicas(ours.views))
    embedded.down(ours, ["nginx"])


def come_and_go(door: Door, count: int) -> None:
    """One replica, then `count` under load, of which half are stopped together, and one is killed."""
    assert wait_until(lambda: door.ask() == 503, 30)
    with ExitStack() as stack:
        first = Process.started(door, stack)
        assert wait_until(lambda: door.ask() == 200, 90), tail(first.log)
        with door.asked():
            others = [Process.started(door, stack) for _ in range(count - 1)]
            door.wait_for(first, *others)
            leaving, staying = [first, *others[: count // 2 - 1]], others[count // 2 - 1 :]
            for one in leaving:
                one.process.terminate()
            for one in leaving:
                assert one.process.wait(30) == 0, tail(one.log)
            door.wait_for(*staying)
            if len(staying) > 1:
                killed = psutil.Process(staying[0].process.pid)
                for process in (*killed.children(recursive=True), killed):  # its worker too: none can leave
                    process.kill()
                door.wait_for(*staying[1:])
    assert set(door.answered) == {200}
    assert len(door.answered) > 100
    assert wait_until(lambda: door.ask() == 503, 30)


def test_replicas_that_start_and_stop_under_load_lose_no_request(door: Door) -> None:
    come_and_go(door, 4)


@pytest.mark.drill
def test_ten_replicas_that_start_and_stop_under_load_lose_no_request(door: Door) -> None:
    come_and_go(door, 10)
