"""The embedded servers as local processes, for those who have none of their own.

Kafka and Cassandra are started by default; HDFS and a Spark cluster (several processes each), Ignite, the
schema registry, PostgreSQL, Airflow, Prometheus with Alertmanager, and the gateway on demand. All listen on
loopback alone, but for the gateway, which listens where the settings say.

data/run/<name>.json   pid, start time and ports of what `up` started; `down` ends that and nothing else
data/logs/<name>.log   the server's output
data/<name>/           its data and its generated configuration
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from anabranch.errors import MisuseError
from anabranch.values.names import listed
from jobs.servers.airflow import airflow_api, airflow_dag_processor, airflow_scheduler, airflow_triggerer
from jobs.servers.cassandra import cassandra_server
from jobs.servers.hdfs import hdfs_data_node, hdfs_name_node
from jobs.servers.ignite import ignite_server
from jobs.servers.kafka import kafka_server
from jobs.servers.nginx import nginx_server
from jobs.servers.postgres import postgres_server
from jobs.servers.processes import (
    ProcessRecord,
    is_alive,
    processor_time,
    read_record,
    spawn,
    stop,
    tail,
    wait_until,
    write_record,
)
from jobs.servers.prometheus import alertmanager_server, exporter_server, prometheus_server
from jobs.servers.registry import registry_server
from jobs.servers.server import Server, ServerError, is_free
from jobs.servers.spark import spark_master, spark_worker
from jobs.show import say
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings
from serving.settings import is_loopback

SERVERS: dict[str, tuple[Callable[[Settings], Server], ...]] = {
    "kafka": tuple(partial(kafka_server, number=number) for number in (1, 2, 3)),
    "cassandra": tuple(partial(cassandra_server, number=number) for number in (1, 2, 3)),
    "hdfs": (hdfs_name_node, hdfs_data_node),
    "spark": (spark_master, partial(spark_worker, number=1), partial(spark_worker, number=2)),
    "ignite": (ignite_server,),
    "nginx": (nginx_server,),
    "registry": (registry_server,),
    "postgres": (postgres_server,),
    "airflow": (airflow_api, airflow_scheduler, airflow_dag_processor, airflow_triggerer),
    "prometheus": (exporter_server, alertmanager_server, prometheus_server),
}
"""The processes of each server, in the order in which they are started."""
NEEDS = {"airflow": "postgres"}
"""Servers that are started before another."""
NAMES = ("kafka", "cassandra")
"""The servers that `up` starts by default."""
STOP_SECONDS = 30.0
Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """A server's process: `state` is "running", "stopped" or "yours" (not embedded)."""

    name: str
    state: str
    address: str
    pid: int | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        if self.state == "yours":
            return f"{self.name}: your own at {self.address}; not started or stopped here"
        if self.since is None:
            return f"{self.name}: stopped (would listen on {self.address})"
        since = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.name}: running on {self.address} (pid {self.pid}, since {since})"


def up(settings: Settings, names: Sequence[str] = NAMES, tell: Tell = say) -> list[ServerState]:
    """Start those servers that do not run, together, and wait until each is ready.

    Raises ServerError when one cannot start; the others keep running. Raises MisuseError for an unknown name.
    """
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        raise MisuseError(f"unknown server {unknown[0]!r}: {listed(unknown[0], SERVERS, 'servers are')}")
    chosen = dict.fromkeys(each for name in names for each in (NEEDS.get(name, name), name))
    made = [make(settings) for name in chosen for make in SERVERS[name]]
    processes = [server for server in made if server.wanted]
    with _locked(settings):
        started: list[tuple[Server, ProcessRecord]] = []
        try:
            for server in processes:
                state = state_of(settings, server)
                if state.state == "stopped":
                    started.append((server, _start(settings, server, tell)))
                else:
                    tell(str(state))
        finally:
            failed = _await(settings, started, tell)
        if failed:
            raise failed[0]
    return [state_of(settings, server) for server in processes]


def down(settings: Settings, names: Sequence[str] = tuple(SERVERS), tell: Tell = say) -> list[ServerState]:
    """End those servers that `up` started with this data folder, and no others."""
    known = _known(settings, names)
    with _locked(settings):
        for server in reversed(known):
            file = _record_file(settings, server)
            record = read_record(file)
            if record is not None and is_alive(record):
                stop(record, STOP_SECONDS, server.stop_signal)
                tell(f"{server.name}: stopped")
            else:
                tell(f"{server.name}: was not running")
            file.unlink(missing_ok=True)
    return [state_of(settings, server) for server in known]


def status(settings: Settings, tell: Tell = say) -> list[ServerState]:
    """Tell which of the default servers, and of the others that were started, run, where and since when."""
    states = [state_of(settings, server) for server in _known(settings, tuple(SERVERS))]
    for state in states:
        tell(str(state))
    return states


def processor_seconds(settings: Settings, name: str) -> float:
    """Processor seconds that the running processes of a server have used since they started."""
    records = [read_record(_record_file(settings, make(settings))) for make in SERVERS[name]]
    return sum(processor_time(record) for record in records if record is not None and is_alive(record))


def _known(settings: Settings, names: Sequence[str]) -> list[Server]:
    """The processes of the default servers, and those of others that `up` started and `down` did not end."""
    return [
        server
        for name in SERVERS
        if name in names
        for server in (make(settings) for make in SERVERS[name])
        if (name in NAMES and server.wanted) or _record_file(settings, server).exists()
    ]


def state_of(settings: Settings, server: Server) -> ServerState:
    """Whether a process of an embedded server runs, where and since when."""
    if server.yours is not None:
        return ServerState(name=server.name, state="yours", address=server.yours)
    record = read_record(_record_file(settings, server))
    if record is None or not is_alive(record):
        return ServerState(name=server.name, state="stopped", address=server.address())
    since = datetime.fromtimestamp(record.since, UTC)
    address = server.address(record.ports)
    return ServerState(name=server.name, state="running", address=address, pid=record.pid, since=since)


def _start(settings: Settings, server: Server, tell: Tell) -> ProcessRecord:
    for setting, port in server.ports.items():
        if not is_free(port, server.host if is_loopback(server.host) else LOOPBACK):
            raise ServerError(
                f"port {port} of {server.name} is taken by something else: stop that, "
                f"or set servers.{setting} (ANABRANCH__SERVERS__{setting.upper()})"
            )
    command, ports = server.command(), tuple(server.ports.values())
    tell(f"{server.name}: starting on {server.address()}")
    server.home.mkdir(parents=True, exist_ok=True)
    server.prepare()
    record = spawn(command, _log(settings, server), server.home, ports)
    write_record(_record_file(settings, server), record)
    return record


def _await(
    settings: Settings, started: Sequence[tuple[Server, ProcessRecord]], tell: Tell
) -> list[ServerError]:
    """Wait for servers that were started together; those that fail are ended and returned as errors."""
    failed, limit = [], settings.servers.start_limit_seconds
    for server, record in started:
        ended_or_ready = wait_until(
            lambda s=server, r=record: not is_alive(r) or s.ready(),  # type: ignore[misc]
            limit,
        )
        if ended_or_ready and is_alive(record):
            tell(f"{server.name}: ready on {server.address(record.ports)}")
            continue
        why = f"was not ready within {limit} s" if is_alive(record) else "ended while it started"
        stop(record, STOP_SECONDS, server.stop_signal)
        _record_file(settings, server).unlink(missing_ok=True)
        log = _log(settings, server)
        failed.append(ServerError(f"{server.name} {why}; the end of {log}:\n{tail(log) or '(empty)'}"))
    return failed


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time for a data folder."""
    file = settings.data / "run" / "lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record_file(settings: Settings, server: Server) -> Path:
    return settings.data / "run" / f"{server.name}.json"


def _log(settings: Settings, server: Server) -> Path:
    return settings.data / "logs" / f"{server.name}.log"
