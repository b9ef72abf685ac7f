"""The embedded servers: Kafka and Cassandra as local processes on loopback, for those who have none of their own.

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

from features.errors import MisuseError
from jobs.processes import ProcessRecord, is_alive, read_record, spawn, stop, tail, wait_until, write_record
from jobs.server import Server, ServerError, check_java, is_free
from jobs.servers_cassandra import cassandra_server
from jobs.servers_kafka import kafka_server
from jobs.settings import LOOPBACK, Settings, java_program
from jobs.show import say

NAMES = ("kafka", "cassandra")
STOP_SECONDS = 30.0
Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What is known of a server: `state` is "running", "stopped" or "yours" (not embedded)."""

    name: str
    state: str
    address: str
    pid: int | None = None
    since: datetime | None = None


def up(settings: Settings, names: Sequence[str] = NAMES, tell: Tell = say) -> list[ServerState]:
    """Start the embedded servers of these names that do not run, together, and wait until each is ready.

    Raises ServerError when one cannot start; those that could keep running. Raises MisuseError for an unknown name.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise MisuseError(f"unknown server {unknown[0]!r}: servers are {', '.join(NAMES)}")
    with _locked(settings):
        started: list[tuple[Server, ProcessRecord]] = []
        try:
            for state in _states(settings, names):
                if state.state != "stopped":
                    tell(f"{state.name}: {_sentence(state)}")
                    continue
                started.append(_start(settings, state.name, tell))
        finally:
            failed = _await(settings, started, tell)
        if failed:
            raise failed[0]
    return _states(settings, names)


def down(settings: Settings, tell: Tell = say) -> list[ServerState]:
    """End the servers that `up` started with this data folder, and no others."""
    with _locked(settings):
        for name in reversed(NAMES):
            file = _record_file(settings, name)
            record = read_record(file)
            if record is not None and is_alive(record):
                stop(record, STOP_SECONDS)
                tell(f"{name}: stopped")
            else:
                tell(f"{name}: was not running")
            file.unlink(missing_ok=True)
    return _states(settings, NAMES)


def status(settings: Settings, tell: Tell = say) -> list[ServerState]:
    """Say which servers run, where and since when."""
    states = _states(settings, NAMES)
    for state in states:
        tell(f"{state.name}: {_sentence(state)}")
    return states


def _states(settings: Settings, names: Sequence[str]) -> list[ServerState]:
    addresses = {"kafka": settings.bus.bootstrap_servers, "cassandra": ",".join(f"{host}:{settings.views.port}" for host in settings.views.hosts)}
    embedded = {"kafka": settings.servers.kafka_embedded, "cassandra": settings.servers.cassandra_embedded}
    found = []
    for name in names:
        record = read_record(_record_file(settings, name))
        if not embedded[name]:
            found.append(ServerState(name=name, state="yours", address=addresses[name]))
        elif record is not None and is_alive(record):
            since = datetime.fromtimestamp(record.since, UTC)
            address = f"{LOOPBACK}:{record.ports[0]}"
            found.append(ServerState(name=name, state="running", address=address, pid=record.pid, since=since))
        else:
            found.append(ServerState(name=name, state="stopped", address=addresses[name]))
    return found


def _sentence(state: ServerState) -> str:
    if state.state == "yours":
        return f"your own at {state.address}; not started or stopped here"
    if state.since is None:
        return f"stopped (would listen on {state.address})"
    return f"running on {state.address} (pid {state.pid}, since {state.since:%Y-%m-%d %H:%M:%S} UTC)"


def _start(settings: Settings, name: str, tell: Tell) -> tuple[Server, ProcessRecord]:
    java = java_program()
    check_java(java)
    server = {"kafka": kafka_server, "cassandra": cassandra_server}[name](settings, java)
    for setting, port in server.ports.items():
        if not is_free(port):
            raise ServerError(f"port {port} of {name} is taken by something else: stop that, or set servers.{setting} (ANABRANCH__SERVERS__{setting.upper()})")
    tell(f"{name}: starting on {LOOPBACK}:{server.port}")
    server.home.mkdir(parents=True, exist_ok=True)
    server.prepare()
    record = spawn(server.command, _log(settings, name), server.home, tuple(server.ports.values()))
    write_record(_record_file(settings, name), record)
    return server, record


def _await(settings: Settings, started: Sequence[tuple[Server, ProcessRecord]], tell: Tell) -> list[ServerError]:
    """Wait for servers that were started together; what failed is ended and told."""
    failed = []
    for server, record in started:
        if wait_until(lambda s=server, r=record: not is_alive(r) or s.ready(), settings.servers.start_limit_seconds) and is_alive(record):  # type: ignore[misc]
            tell(f"{server.name}: ready on {LOOPBACK}:{server.port}")
            continue
        log = _log(settings, server.name)
        why = f"was not ready within {settings.servers.start_limit_seconds} s" if is_alive(record) else "ended while it started"
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
