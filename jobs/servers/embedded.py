"""The embedded servers as local processes on loopback, for those who have none of their own: Kafka and Cassandra, and, when
asked for, HDFS and a Spark cluster, which are several processes each, Ignite, and the gateway before REST servers, which may listen elsewhere.

data/run/<name>.json   pid, start time and ports of what `up` started; `down` ends that and nothing else
data/logs/<name>.log   what the server said
data/<name>/           its data and its generated configuration
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from anabranch.errors import MisuseError
from jobs.servers.cassandra import cassandra_server
from jobs.servers.hdfs import data_node, name_node
from jobs.servers.ignite import ignite_server
from jobs.servers.kafka import kafka_server
from jobs.servers.nginx import gateway
from jobs.servers.processes import (
    ProcessRecord,
    is_alive,
    read_record,
    spawn,
    stop,
    tail,
    wait_until,
    write_record,
)
from jobs.servers.server import Server, ServerError, check_java, is_free
from jobs.servers.spark import master, worker
from jobs.show import say
from jobs.wiring.settings import LOOPBACK, Settings, java_program
from serving.settings import network_place

NAMES = ("kafka", "cassandra")
"""What `up` starts when nothing else is said."""
MADE_OF = {
    "kafka": ("kafka",),
    "cassandra": ("cassandra",),
    "hdfs": ("hdfs-namenode", "hdfs-datanode"),
    "spark": ("spark-master", "spark-worker-1", "spark-worker-2"),
    "ignite": ("ignite",),
    "nginx": ("nginx",),
}
"""The processes of each server, in the order in which they are started."""
STOP_SECONDS = 30.0
Tell = Callable[[str], object]
_MAKERS: dict[str, Callable[[Settings, str], Server]] = {
    "kafka": kafka_server,
    "cassandra": cassandra_server,
    "hdfs-namenode": name_node,
    "hdfs-datanode": data_node,
    "spark-master": master,
    "spark-worker-1": lambda settings, java: worker(settings, java, 1),
    "spark-worker-2": lambda settings, java: worker(settings, java, 2),
    "ignite": ignite_server,
    "nginx": gateway,
}
_SCHEMES = {"hdfs-namenode": "hdfs://", "spark-master": "spark://"}


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What is known of a server's process: `state` is "running", "stopped" or "yours" (not embedded)."""

    name: str
    state: str
    address: str
    pid: int | None = None
    since: datetime | None = None


def up(settings: Settings, names: Sequence[str] = NAMES, tell: Tell = say) -> list[ServerState]:
    """Start the embedded servers of these names that do not run, together, and wait until each is ready.

    Raises ServerError when one cannot start; those that could keep running. Raises MisuseError for an unknown name.
    """
    unknown = [name for name in names if name not in MADE_OF]
    if unknown:
        raise MisuseError(f"unknown server {unknown[0]!r}: servers are {', '.join(MADE_OF)}")
    processes = [process for name in dict.fromkeys(names) for process in MADE_OF[name]]
    with _locked(settings):
        started: list[tuple[Server, ProcessRecord]] = []
        try:
            for state in _states(settings, processes):
                if state.state != "stopped":
                    tell(f"{state.name}: {_sentence(state)}")
                    continue
                started.append(_start(settings, state.name, tell))
        finally:
            failed = _await(settings, started, tell)
        if failed:
            raise failed[0]
    return _states(settings, processes)


def down(settings: Settings, names: Sequence[str] = tuple(MADE_OF), tell: Tell = say) -> list[ServerState]:
    """End the servers of these names that `up` started with this data folder, and no others."""
    known = [process for process in _known(settings) if any(process in MADE_OF[name] for name in names)]
    with _locked(settings):
        for name in reversed(known):
            file = _record_file(settings, name)
            record = read_record(file)
            if record is not None and is_alive(record):
                stop(record, STOP_SECONDS)
                tell(f"{name}: stopped")
            else:
                tell(f"{name}: was not running")
            file.unlink(missing_ok=True)
    return _states(settings, known)


def status(settings: Settings, tell: Tell = say) -> list[ServerState]:
    """Say which servers run, where and since when; of those that are started only when asked for, what was started."""
    states = _states(settings, _known(settings))
    for state in states:
        tell(f"{state.name}: {_sentence(state)}")
    return states


def _known(settings: Settings) -> list[str]:
    """The processes of the usual servers, and of the others those that `up` started and nobody took down."""
    return [
        process
        for name, made_of in MADE_OF.items()
        for process in made_of
        if name in NAMES or _record_file(settings, process).exists()
    ]


def _states(settings: Settings, processes: Sequence[str]) -> list[ServerState]:
    yours = {
        "kafka": None if settings.kafka_embedded else settings.bus.bootstrap_servers,
        "cassandra": None
        if settings.cassandra_embedded
        else ",".join(f"{host}:{settings.views.port}" for host in settings.views.hosts),
    }
    found = []
    for name in processes:
        record, own = read_record(_record_file(settings, name)), yours.get(name)
        if own is not None:
            found.append(ServerState(name=name, state="yours", address=own))
        elif record is not None and is_alive(record):
            since = datetime.fromtimestamp(record.since, UTC)
            found.append(
                ServerState(
                    name=name,
                    state="running",
                    address=_address(settings, name, record.ports),
                    pid=record.pid,
                    since=since,
                )
            )
        else:
            found.append(ServerState(name=name, state="stopped", address=_address(settings, name, ())))
    return found


def _address(settings: Settings, name: str, ports: Sequence[int]) -> str:
    """Where clients find a process that was started with these ports; by the settings when there are none."""
    servers = settings.servers
    usual = {
        "kafka": servers.kafka_port,
        "cassandra": servers.cassandra_port,
        "hdfs-namenode": servers.hdfs_port,
        "hdfs-datanode": servers.hdfs_data_port,
        "spark-master": servers.spark_port,
        "ignite": servers.ignite_port,
        "nginx": servers.nginx_port,
    }
    if name not in usual:
        return f"spark://{LOOPBACK}:{servers.spark_port}"  # a worker listens for its master only
    host = servers.nginx_host if name == "nginx" else LOOPBACK
    return f"{_SCHEMES.get(name, '')}{network_place(host, ports[0] if ports else usual[name])}"


def _sentence(state: ServerState) -> str:
    if state.state == "yours":
        return f"your own at {state.address}; not started or stopped here"
    if state.since is None:
        return f"stopped (would listen on {state.address})"
    return f"running on {state.address} (pid {state.pid}, since {state.since:%Y-%m-%d %H:%M:%S} UTC)"


def _start(settings: Settings, name: str, tell: Tell) -> tuple[Server, ProcessRecord]:
    java = java_program()
    check_java(java)
    server = _MAKERS[name](settings, java)
    for setting, port in server.ports.items():
        if not is_free(port):
            raise ServerError(
                f"port {port} of {name} is taken by something else: stop that, or set servers.{setting} (ANABRANCH__SERVERS__{setting.upper()})"
            )
    tell(f"{name}: starting on {_address(settings, name, tuple(server.ports.values()))}")
    server.home.mkdir(parents=True, exist_ok=True)
    server.prepare()
    record = spawn(server.command, _log(settings, name), server.home, tuple(server.ports.values()))
    write_record(_record_file(settings, name), record)
    return server, record


def _await(
    settings: Settings, started: Sequence[tuple[Server, ProcessRecord]], tell: Tell
) -> list[ServerError]:
    """Wait for servers that were started together; what failed is ended and told."""
    failed = []
    for server, record in started:
        if wait_until(
            lambda s=server, r=record: not is_alive(r) or s.ready(),  # type: ignore[misc]
            settings.servers.start_limit_seconds,
        ) and is_alive(record):
            tell(f"{server.name}: ready on {_address(settings, server.name, record.ports)}")
            continue
        log = _log(settings, server.name)
        why = (
            f"was not ready within {settings.servers.start_limit_seconds} s"
            if is_alive(record)
            else "ended while it started"
        )
        stop(record, STOP_SECONDS)
        _record_file(settings, server.name).unlink(missing_ok=True)
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


def _record_file(settings: Settings, name: str) -> Path:
    return settings.data / "run" / f"{name}.json"


def _log(settings: Settings, name: str) -> Path:
    return settings.data / "logs" / f"{name}.log"
