"""What `anabranch doctor` looks at: programs, jars, versions, ports, memory, servers, leftovers."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from anabranch.declare.loading import list_projects, load_project
from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import is_local
from jobs.servers import embedded
from jobs.servers.processes import is_alive, read_record
from jobs.servers.server import is_free
from jobs.wiring.settings import Settings, java_program

OK, NOTE, WRONG = "ok", "note", "wrong"
_GIB = 2**30
_LEAST_DISK, _LITTLE_DISK = 2 * _GIB, 10 * _GIB
_MOST_SKEW = 1.0
"""Seconds between the clocks of this machine and of Cassandra; slots are of an hour, states of the future of
minutes."""
_SHOWN = ("anabranch", "pyspark", "delta-spark", "mlflow", "numpy", "pyarrow", "granian")
_SYSTEM = "/usr/sbin:/usr/local/sbin"
"""Where programs of the system lie that are not on everybody's path."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: `state` is ``ok``, ``note`` or ``wrong``, `todo` what to do about it."""

    area: str
    state: str
    text: str
    todo: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which they are shown; nothing is started or changed."""
    for look in (_programs, _jars, _versions, _ports, _machine, _servers, _lake, _left_behind, _projects):
        yield from look(settings)


def _programs(_settings: Settings) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(
        area="python", state=OK if good else WRONG, text=python, todo="" if good else "use 3.11 or 3.12"
    )
    java = java_program()
    version = _output([java, "-version"])
    found = re.search(r'version "(\d+)[^"]*"', version)
    if found is None or int(found[1]) < 17:
        what = f"{java} is {found[0]}" if found else f"{java} is not found"
        yield Finding(area="java", state=WRONG, text=what, todo="install a JDK 17, or set JAVA_HOME to one")
    else:
        yield Finding(area="java", state=OK, text=f"{java}, {found[0]}")
    for names, purpose in (
        (("mvn",), "make setup fetches jars with it"),
        (("nginx",), "the gateway and its tests run it"),
        (("openssl",), "tests of the gateway make certificates with it"),
        (("chromium", "chromium-browser", "google-chrome"), "tests of the pages run it"),
    ):
        place = next(
            filter(None, (shutil.which(name) or shutil.which(name, path=_SYSTEM) for name in names)), None
        )
        missing = f"{names[0]} is not found"
        yield (
            Finding(area=names[0], state=OK, text=place)
            if place
            else Finding(
                area=names[0], state=NOTE, text=missing, todo=f"install it if you need it: {purpose}"
            )
        )


def _output(command: list[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout + ended.stderr


def _jars(settings: Settings) -> Iterator[Finding]:
    for name in ("spark", "kafka", "cassandra"):
        count = len(list((settings.jars / name).glob("**/*.jar")))
        yield (
            Finding(area="jars", state=OK, text=f"{name}: {count} in {settings.jars / name}")
            if count
            else Finding(
                area="jars", state=WRONG, text=f"{name}: none in {settings.jars / name}", todo="make setup"
            )
        )
    archive = settings.jars / "spark" / "classes.jsa"
    if not archive.exists():
        yield Finding(
            area="jars",
            state=NOTE,
            text="there is no archive of Spark's classes: sessions start more slowly",
            todo="make setup",
        )


def _versions(_settings: Settings) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    shown = ", ".join(f"{name} {_version(name) or 'missing'}" for name in _SHOWN)
    yield Finding(area="versions", state=OK, text=shown)
    for text in metadata.requires("anabranch") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": "platform"}):
            continue
        found = _version(wanted.name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            yield Finding(
                area="versions",
                state=WRONG,
                text=f"{wanted.name} is {found or 'missing'}, and {wanted.specifier} is needed",
                todo="make setup, or pip install 'anabranch[platform]'",
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ports(settings: Settings) -> Iterator[Finding]:
    for name, processes in embedded.SERVERS.items():
        for make in processes:
            server = make(settings)
            if (
                not server.wanted
                or server.yours is not None
                or embedded.state_of(settings, server).state == "running"
            ):
                continue
            for setting, port in server.ports.items():
                if is_free(port):
                    continue
                yield Finding(
                    area="ports",
                    state=WRONG if name in embedded.NAMES else NOTE,
                    text=f"{port} of {server.name} is taken by {holder(port) or 'another process'}",
                    todo=f"stop that, or set servers.{setting} (ANABRANCH__SERVERS__{setting.upper()})",
                )
    yield Finding(
        area="ports", state=OK, text=f"REST answers on {settings.serving.host}:{settings.serving.port}"
    )


def holder(port: int) -> str | None:
    """The process that listens on a port, as ``java (pid 123)``; None where it cannot be told."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                cells = line.split()
                if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(each.readlink()) in inodes for each in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{name} (pid {folder.name})"
    return None


def _machine(settings: Settings) -> Iterator[Finding]:
    servers = settings.servers
    heaps = sum(map(_bytes, (servers.kafka_heap, servers.cassandra_heap, settings.spark.driver_memory)))
    free = _available()
    if free is not None:
        need = f"Kafka, Cassandra and one Spark session take up to {1.5 * heaps / _GIB:.1f} GiB"
        little = free < 1.5 * heaps and not _running(settings)
        yield Finding(
            area="memory",
            state=WRONG if little else OK,
            text=f"{free / _GIB:.1f} GiB are free; {need}",
            todo="end other programs, or lower servers.*_heap and spark.driver_memory" if little else "",
        )
    settings_folder = next(each for each in (settings.data, *settings.data.parents) if each.exists())
    disk = shutil.disk_usage(settings_folder).free
    state = WRONG if disk < _LEAST_DISK else NOTE if disk < _LITTLE_DISK else OK
    yield Finding(
        area="disk",
        state=state,
        text=f"{disk / _GIB:.1f} GiB are free below {settings.data}",
        todo="" if state == OK else "free some: the lake keeps every event; see 'anabranch upkeep'",
    )


def _available() -> int | None:
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else None
    return None


def _bytes(text: str) -> int:
    return int(text[:-1]) * {"k": 2**10, "m": 2**20, "g": 2**30}[text[-1].lower()]


def _running(settings: Settings) -> bool:
    return any(
        embedded.state_of(settings, make(settings)).state == "running"
        for name in embedded.NAMES
        for make in embedded.SERVERS[name]
    )


def _servers(settings: Settings) -> Iterator[Finding]:
    kafka = _reaches(settings.bus.bootstrap_servers)
    hosts = ",".join(f"{host}:{settings.views.port}" for host in settings.views.hosts)
    cassandra = _reaches(hosts)
    for name, address, ours, reached in (
        ("kafka", settings.bus.bootstrap_servers, settings.kafka_embedded, kafka),
        ("cassandra", hosts, settings.cassandra_embedded, cassandra),
    ):
        todo = "anabranch up" if ours else "see that it runs and that its address is right"
        text = f"answers at {address}" if reached else f"nothing answers at {address}"
        state = OK if reached else NOTE if ours else WRONG
        yield Finding(area=name, state=state, text=text, todo="" if reached else todo)
    tracking = settings.models.tracking_uri
    if tracking.startswith("http"):
        reached = _reaches(re.sub(r"^https?://|/.*$", "", tracking))
        todo = "" if reached else "see that MLflow runs there, or set models.tracking_uri"
        text = f"{'answers' if reached else 'nothing answers'} at {tracking}"
        yield Finding(area="mlflow", state=OK if reached else WRONG, text=text, todo=todo)
    if cassandra:
        yield from _clock(settings)


def _reaches(addresses: str) -> bool:
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition(":")
        with suppress(OSError, ValueError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            return True
    return False


def _clock(settings: Settings) -> Iterator[Finding]:
    """How far Cassandra's clock is from this machine's; Kafka tells its own only with a message."""
    from anabranch.stores.cassandra.session import close_sessions, session_for

    try:
        session = session_for(settings.views)
        before = time.time()
        row = session.execute("SELECT toTimestamp(now()) AS now FROM system.local").one()
        after = time.time()
    except Exception as error:  # noqa: BLE001 - whatever the driver raises is a finding
        text = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding(area="cassandra", state=WRONG, text=text, todo="see its log; check views.username")
        return
    finally:
        close_sessions()
    theirs = row.now.replace(tzinfo=UTC).timestamp()
    skew = theirs - (before + after) / 2
    skew = 0.0 if before - 0.001 <= theirs <= after + 0.001 else skew
    good = abs(skew) <= _MOST_SKEW
    yield Finding(
        area="clock",
        state=OK if good else WRONG,
        text=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC; Cassandra's differs by {abs(skew):.2f} s",
        todo="" if good else "let both follow the same time servers (chrony, systemd-timesyncd)",
    )


def _lake(settings: Settings) -> Iterator[Finding]:
    root = settings.lake.root
    if not is_local(root):
        yield Finding(
            area="lake",
            state=NOTE,
            text=f"{root} is no folder here",
            todo="a load tells whether it is reached",
        )
        return
    folder = Path(root)
    if not folder.exists():
        yield Finding(area="lake", state=OK, text=f"{root} is made by the first load")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        todo = "give this user the right to read and write it, or set paths.lake"
        yield Finding(
            area="lake", state=WRONG, text=f"{root} may not be read or written by this user", todo=todo
        )
        return
    tables = len(list(folder.glob("*/*/_delta_log"))) + len(list(folder.glob("*/*/*/_delta_log")))
    yield Finding(area="lake", state=OK, text=f"{root}: {tables} tables")


def _left_behind(settings: Settings) -> Iterator[Finding]:
    for file in sorted((settings.data / "run").glob("*.json")):
        record = read_record(file)
        if record is not None and not is_alive(record):
            log = settings.data / "logs" / f"{file.stem}.log"
            text = f"{file.stem} ended without 'anabranch down': {log} may say why"
            yield Finding(area="leftovers", state=NOTE, text=text, todo="anabranch up, or anabranch down")


def _projects(settings: Settings) -> Iterator[Finding]:
    declared = list_projects(settings.projects)
    sound = []
    for name in declared:
        try:
            load_project(name, settings.projects)
            sound.append(name)
        except AnabranchError as error:
            yield Finding(area="projects", state=WRONG, text=str(error), todo=f"anabranch check {name}")
    places = ", ".join(map(str, settings.projects))
    yield Finding(area="projects", state=OK, text=f"{', '.join(sound) or 'none'} (in {places})")
