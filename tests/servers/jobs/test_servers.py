"""The embedded servers: real processes, real clients, and nothing ended that `up` did not start."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from cassandra.cluster import Cluster
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from pyspark.sql import SparkSession

from anabranch.errors import MisuseError
from jobs.servers import embedded
from jobs.servers.processes import ProcessRecord, is_alive, read_record, spawn, stop, wait_until, write_record
from jobs.servers.server import Server, ServerError, accepts, check_java
from jobs.wiring.settings import ROOT, Settings, load_settings
from tests.conftest import free_ports
from tests.support.sockets import listening


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Settings]:
    """Settings of servers that run for one test only."""
    ports = dict(
        zip(
            ("kafka_port", "kafka_controller_port", "cassandra_port", "cassandra_storage_port"),
            free_ports(4),
            strict=True,
        )
    )
    overrides = {
        "paths.data": str(tmp_path),
        "paths.jars": str(ROOT / ".anabranch" / "jars"),
        **{f"servers.{key}": port for key, port in ports.items()},
    }
    found = load_settings({}, overrides)
    yield found
    embedded.down(found)


def test_kafka_takes_records_and_stamps_them_with_its_own_time(servers: Settings) -> None:
    address = servers.bus.bootstrap_servers
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name="servers-test", num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address)
    sent = producer.send("servers-test", b"one", timestamp_ms=1000).get(timeout=30)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=address, consumer_timeout_ms=30_000)
    consumer.assign([TopicPartition("servers-test", 0)])
    consumer.seek_to_beginning()
    record = next(consumer)
    consumer.close(autocommit=False)
    assert (record.value, record.offset) == (b"one", sent.offset)
    assert record.timestamp > 1_600_000_000_000  # the time of arrival, not the 1000 that was sent


def test_a_mistyped_topic_is_not_created(servers: Settings) -> None:
    consumer = KafkaConsumer(bootstrap_servers=servers.bus.bootstrap_servers)
    assert consumer.partitions_for_topic("mistyped") in (None, set())
    assert "mistyped" not in consumer.topics()
    consumer.close(autocommit=False)


def test_cassandra_keeps_rows(servers: Settings) -> None:
    cluster = Cluster(list(servers.views.hosts), port=servers.views.port, protocol_version=5)
    session = cluster.connect()
    session.execute(
        "CREATE KEYSPACE IF NOT EXISTS servers_test "
        "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    session.execute("CREATE TABLE IF NOT EXISTS servers_test.kept (key text PRIMARY KEY, value int)")
    session.execute("INSERT INTO servers_test.kept (key, value) VALUES (%s, %s)", ("a", 7))
    assert session.execute("SELECT value FROM servers_test.kept WHERE key = 'a'").one().value == 7
    assert cluster.metadata.all_hosts()[0].datacenter == servers.views.local_datacenter
    cluster.shutdown()


def test_spark_writes_delta_and_reads_kafka(servers: Settings, spark: SparkSession, tmp_path: Path) -> None:
    address = servers.bus.bootstrap_servers
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name="spark-test", num_partitions=2, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=address)
    for number in range(10):
        producer.send("spark-test", str(number).encode()).get(timeout=30)
    producer.close()
    table = str(tmp_path / "table")
    read = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", address)
        .option("subscribe", "spark-test")
        .load()
    )
    read.selectExpr("CAST(value AS STRING) AS value").write.format("delta").save(table)
    assert {row.value for row in spark.read.format("delta").load(table).collect()} == {
        str(number) for number in range(10)
    }


def test_every_port_of_the_servers_is_on_loopback(
    servers: Settings, hdfs: Settings, spark_cluster: str, ignite: Settings, schema_registry: Settings
) -> None:
    elsewhere = (
        "nginx",
        "postgres",
        "airflow",
        "prometheus",
    )  # test_gateway.py, test_postgres.py, test_monitoring.py
    servers_up = [
        server
        for name, made_of in embedded.SERVERS.items()
        for server in (make(servers) for make in made_of)
        if name not in elsewhere and server.wanted
    ]
    for server in servers_up:
        record = read_record(servers.data / "run" / f"{server.name}.json")
        assert record is not None
        assert all(accepts(port) for port in record.ports)
        found = listening(record.pid)
        assert found
        assert set(found) <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_running_command_prints_its_stacks_on_a_signal_and_stops_on_another() -> None:
    script = (
        "import os, signal; from jobs.servers.processes import stop_event; stopping = stop_event(); "
        "os.kill(os.getpid(), {}); print(stopping.is_set())"
    )
    asked, stopped = (
        subprocess.run(
            [sys.executable, "-c", script.format(int(number))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for number in (signal.SIGUSR1, signal.SIGTERM)
    )
    assert "most recent call first" in asked.stderr
    assert (asked.stdout.strip(), stopped.stdout.strip(), stopped.stderr) == ("False", "True", "")


def test_a_process_is_alive_until_its_last_thread_has_ended(tmp_path: Path) -> None:
    rest = "threading.Thread(target=time.sleep, args=(60,)).start(); ctypes.CDLL(None).pthread_exit(None)"
    record = spawn(
        [sys.executable, "-c", f"import ctypes, threading, time; {rest}"], tmp_path / "log", tmp_path, ()
    )
    try:
        assert wait_until(
            lambda: Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", 20
        )
        assert is_alive(record)
    finally:
        stop(record, 10)
    assert not is_alive(record)


def test_up_starts_nothing_that_already_runs(servers: Settings) -> None:
    told: list[str] = []
    before = [state.pid for state in embedded.status(servers, told.append)]
    after = [state.pid for state in embedded.up(servers, tell=told.append)]
    assert before[:2] == after
    assert len(told) == len(before) + 2
    assert all("running on " in line for line in told)


def test_servers_outlive_the_command_that_started_them_and_down_ends_them(apart: Settings) -> None:
    script = (
        "import json, sys; from jobs.servers import embedded; "
        "from jobs.wiring.settings import load_settings; "
        "embedded.up(load_settings({}, json.loads(sys.argv[1])), ['kafka'])"
    )
    overrides = {"paths.data": str(apart.data), "paths.jars": str(apart.jars)}
    overrides |= {
        f"servers.{key}": str(getattr(apart.servers, key)) for key in ("kafka_port", "kafka_controller_port")
    }
    subprocess.run([sys.executable, "-c", script, json.dumps(overrides)], cwd=ROOT, check=True, timeout=120)
    kafka, cassandra = embedded.status(apart)
    assert (kafka.state, cassandra.state) == ("running", "stopped")
    assert kafka.pid is not None
    assert os.getsid(kafka.pid) == kafka.pid
    assert [state.state for state in embedded.down(apart)] == ["stopped", "stopped"]
    assert not accepts(apart.servers.kafka_port)


def test_a_port_taken_by_something_else_is_named_with_its_setting(apart: Settings) -> None:
    with (
        socket.create_server(("127.0.0.1", apart.servers.cassandra_port)),
        pytest.raises(ServerError) as caught,
    ):
        embedded.up(apart, ["cassandra"])
    assert f"port {apart.servers.cassandra_port} of cassandra is taken" in str(caught.value)
    assert "ANABRANCH__SERVERS__CASSANDRA_PORT" in str(caught.value)
    assert [state.state for state in embedded.status(apart)] == ["stopped", "stopped"]


def test_a_server_that_ends_while_it_starts_shows_the_end_of_its_log(apart: Settings) -> None:
    broken = replace(apart, servers=replace(apart.servers, cassandra_heap="1m"))
    with pytest.raises(
        ServerError, match=r"(?s)cassandra ended while it started.*cassandra\.log.*(heap|memory)"
    ):
        embedded.up(broken, ["cassandra"])
    assert not (apart.data / "run" / "cassandra.json").exists()


def test_servers_of_your_own_are_neither_started_nor_ended(tmp_path: Path) -> None:
    overrides = {
        "paths.data": str(tmp_path),
        "bus.bootstrap_servers": "kafka.example:9092",
        "views.hosts": "cassandra.example",
    }
    own = load_settings({}, overrides)
    assert [state.state for state in embedded.up(own)] == ["yours", "yours"]
    assert [state.address for state in embedded.down(own)] == ["kafka.example:9092", "cassandra.example:9042"]


def test_a_recycled_pid_is_never_ended(apart: Settings) -> None:
    other = spawn(
        [sys.executable, "-c", "import time; time.sleep(600)"], apart.data / "other.log", apart.data, ()
    )
    try:
        stranger = ProcessRecord(
            pid=other.pid, born="another-boot/1", ports=(apart.servers.kafka_port,), since=0.0
        )
        write_record(apart.data / "run" / "kafka.json", stranger)
        assert embedded.status(apart)[0].state == "stopped"
        embedded.down(apart)
        assert is_alive(other)
    finally:
        stop(other, 10)
    assert not is_alive(other)


def test_a_process_that_ignores_the_first_signal_gets_the_second(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(600)"
    )
    deaf = spawn([sys.executable, "-c", script], tmp_path / "deaf.log", tmp_path, ())
    assert wait_until(lambda: "deaf" in (tmp_path / "deaf.log").read_text(encoding="utf-8"), 30)
    stop(deaf, 0.2)
    assert not is_alive(deaf)


def test_a_damaged_record_counts_as_stopped(apart: Settings) -> None:
    (apart.data / "run").mkdir(parents=True)
    (apart.data / "run" / "kafka.json").write_text('{"pid": ', encoding="utf-8")
    assert embedded.status(apart)[0].state == "stopped"


def test_an_unknown_server_is_misuse(apart: Settings) -> None:
    with pytest.raises(
        MisuseError, match="unknown server 'zookeeper': servers are kafka, cassandra, hdfs, spark"
    ):
        embedded.up(apart, ["zookeeper"])


def test_missing_jars_are_reported_with_make_setup(apart: Settings, tmp_path: Path) -> None:
    for name in ("kafka", "cassandra", "hdfs"):
        with pytest.raises(ServerError, match="run 'make setup'"):
            embedded.up(replace(apart, jars=tmp_path / "none"), [name])


def test_missing_and_old_java_are_distinguished(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="java is not found"):
        check_java(str(tmp_path / "java"))
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(ServerError, match=r"not Java 17 or later.*11\.0\.2"):
        check_java(str(old))


def toy_server(settings: Settings) -> Server:
    """A server from outside: Python's own, over HTTP."""
    (port,) = free_ports(1)
    home = settings.data / "toy"
    return Server(
        name="toy",
        port=port,
        ports={"toy_port": port},
        home=home,
        command=lambda: [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        prepare=lambda: write_record(home / "toy.json", ProcessRecord(pid=1, born="", ports=(), since=0)),
        ready=lambda: accepts(port),
        scheme="http://",
    )


def test_a_further_server_is_one_function_in_one_table(apart: Settings) -> None:
    embedded.SERVERS["toy"] = (toy_server,)
    try:
        (state,) = embedded.up(apart, ["toy"])
        assert state.state == "running"
        with urlopen(f"{state.address}/toy.json", timeout=5) as page:
            assert json.load(page)["pid"] == 1
        assert [each.name for each in embedded.status(apart)] == ["kafka", "cassandra", "toy"]
        (ended,) = embedded.down(apart, ["toy"])
        assert ended.state == "stopped"
    finally:
        del embedded.SERVERS["toy"]
