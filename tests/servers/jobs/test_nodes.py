"""Three nodes of Cassandra and of Kafka: one is killed under load, and no answer and no event is lost.

For `make drill`: six servers start for it.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import pytest
from cassandra import ConsistencyLevel, DriverException
from cassandra.cluster import EXEC_PROFILE_DEFAULT as DEFAULT
from cassandra.cluster import Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import WhiteListRoundRobinPolicy
from kafka import KafkaAdminClient
from pyspark.sql import SparkSession

from anabranch.stores.cassandra.session import close_sessions, session_for
from jobs.flows.building import build_project
from jobs.servers import embedded
from jobs.servers.processes import is_alive, read_record, wait_until
from jobs.show import Steps
from jobs.wiring.settings import ROOT, Settings, load_settings
from tests.conftest import free_ports
from tests.support.drill import LONG, recovery
from tests.support.stream_rig import PATIENCE, Rig

pytestmark = pytest.mark.drill
THINGS = [f"t{number}" for number in range(5)]
AWAY_SECONDS = 30.0 if LONG else 10.0


@dataclass
class Asked:
    """What came of the calls of one stretch: problems, and how long each call took."""

    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    names = ("kafka_port", "kafka_controller_port", "cassandra_port", "cassandra_storage_port")
    settings = load_settings(
        {},
        {
            "paths.data": str(tmp_path_factory.mktemp("ring")),
            "paths.jars": str(ROOT / ".anabranch" / "jars"),
            "time.slot": "2s",
            "servers.nodes": 3,
            "servers.cassandra_heap": "512m",
            "servers.start_limit": "5m",
            **dict(zip((f"servers.{name}" for name in names), free_ports(len(names)), strict=True)),
        },
    )
    try:
        embedded.up(settings)
        yield settings
    finally:
        close_sessions()
        embedded.down(settings)


@pytest.fixture(scope="module")
def rig(ring: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = Rig(ring, tmp_path_factory.mktemp("rig"))
    found.context.spark = spark
    found.publish(found.events(50))
    found.start()
    found.assert_exact()
    build_project(found.context, found.project, None, Steps())
    yield found
    found.stop()


@pytest.fixture(scope="module")
def rest(rig: Rig) -> Iterator[int]:
    """The port of a REST server."""
    (port,) = free_ports(1)
    process = rig.command("serve", "--port", str(port))
    try:
        assert wait_until(lambda: _get(port, "/readyz")[0] == 200, PATIENCE), rig.said()
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_every_table_and_topic_is_kept_by_three_nodes(ring: Settings, rig: Rig) -> None:
    session: Session = session_for(ring.views)
    (row,) = session.execute(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (ring.views.keyspace,)
    )
    assert row.replication["replication_factor"] == "3"
    (topic,) = _topics(ring, rig.name)
    assert {len(part["replica_nodes"]) for part in topic["partitions"]} == {3}


@pytest.mark.parametrize("name", ["cassandra-2", "cassandra"])
def test_a_node_of_cassandra_is_killed_and_no_answer_is_lost(
    ring: Settings, rig: Rig, rest: int, name: str
) -> None:
    with _load(rig, rest) as asked:
        time.sleep(3)
        _kill(ring, name)
        time.sleep(AWAY_SECONDS)
    assert not asked.problems, (asked.problems[:5], len(asked.problems))
    assert len(asked.seconds) > 10 * AWAY_SECONDS
    longest = f"{len(asked.seconds):,} answers meanwhile, none lost, the longest {max(asked.seconds):.2f} s"
    with recovery(f"{name}, one of three nodes of Cassandra, is killed", longest) as found:
        found.compared = rig.assert_exact() + rig.assert_verified()
    embedded.up(ring, ("cassandra",))
    # The next one is killed when the others know that this one is back.
    assert wait_until(lambda: all(_sees_all(ring, host) for host in ring.views.hosts), PATIENCE)


def test_the_broker_that_leads_a_topic_is_killed_and_no_event_is_lost(
    ring: Settings, rig: Rig, rest: int
) -> None:
    (topic,) = _topics(ring, rig.name)
    leader = topic["partitions"][0]["leader_id"]
    name = "kafka" if leader == 1 else f"kafka-{leader}"
    with _load(rig, rest) as asked:
        time.sleep(3)
        _kill(ring, name)
        time.sleep(AWAY_SECONDS)
    assert not asked.problems, (asked.problems[:5], len(asked.problems))
    (topic,) = _topics(ring, rig.name)
    assert topic["partitions"][0]["leader_id"] != leader
    with recovery("the broker that leads a topic, one of three, is killed", "while events flow") as found:
        found.compared = rig.assert_exact() + rig.assert_verified()
    embedded.up(ring, ("kafka",))


@contextmanager
def _load(rig: Rig, port: int) -> Iterator[Asked]:
    """Publish events and ask for answers as long as the block runs."""
    done, asked = threading.Event(), Asked()

    def publish() -> None:
        while not done.wait(0.2):
            rig.publish(rig.events(5))

    def ask() -> None:
        number = 0
        while not done.wait(0.02):
            number += 1
            began = time.monotonic()
            status, body = _get(port, f"/v1/projects/{rig.name}/features/{THINGS[number % len(THINGS)]}")
            asked.seconds.append(time.monotonic() - began)
            if status != 200 or json.loads(body)["degraded"]:
                asked.problems.append(f"{status} {body[:300]}")

    with ThreadPoolExecutor(3) as others:
        work = [others.submit(each) for each in (publish, ask, ask)]
        try:
            yield asked
        finally:
            done.set()
        for each in work:
            each.result()


def _sees_all(settings: Settings, host: str) -> bool:
    """Whether a read by this node has an answer of all three."""
    views = settings.views
    everyone = ExecutionProfile(WhiteListRoundRobinPolicy([host]), consistency_level=ConsistencyLevel.ALL)
    cluster = Cluster([host], port=views.port, protocol_version=5, execution_profiles={DEFAULT: everyone})
    try:
        session = cluster.connect()
        (table, *_) = cluster.metadata.keyspaces[views.keyspace].tables
        session.execute(f'SELECT * FROM {views.keyspace}."{table}" LIMIT 1')
    except (DriverException, NoHostAvailable):
        return False
    finally:
        cluster.shutdown()
    return True


def _get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def _kill(settings: Settings, name: str) -> None:
    """Kill one node as a power cut would."""
    record = read_record(settings.data / "run" / f"{name}.json")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(record), 30)


def _topics(settings: Settings, name: str) -> list[dict[str, Any]]:
    admin = KafkaAdminClient(bootstrap_servers=settings.bus.bootstrap_servers)
    try:
        found: list[dict[str, Any]] = admin.describe_topics([name])
        return found
    finally:
        admin.close()
