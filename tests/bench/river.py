"""What benchmarks of the river share: real servers in a folder of their own, and `anabranch` verbs as outside
processes.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.servers import embedded as servers
from jobs.servers.processes import tail
from jobs.wiring.settings import ROOT, Settings, load_settings
from tests.conftest import free_ports

PROJECTS = Path(__file__).parent / "projects"


@dataclass(frozen=True, kw_only=True)
class River:
    """Settings of the running servers, and the same as environment of an outside process."""

    settings: Settings
    environment: Mapping[str, str]

    def verb(self, *words: str, log: Path, **more: str) -> "subprocess.Popen[bytes]":
        """Start `anabranch` with `words`; what it says goes to `log`."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *words],
                cwd=ROOT,
                env={**self.environment, **more},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @contextmanager
    def streaming(self, project: str) -> "Iterator[subprocess.Popen[bytes]]":
        """`anabranch stream` of a project, stopped at the end as an operator stops it; the end of
        what it said is told.
        """
        log = Path(self.settings.data) / "stream.log"
        stream = self.verb("--debug", "stream", project, log=log)
        try:
            yield stream
        finally:
            stream.send_signal(signal.SIGTERM)
            stream.wait(120)
            sys.stderr.write(f"{tail(log, 12)}\n")


@contextmanager
def river(**more: object) -> Iterator[River]:
    """Kafka and Cassandra of this run alone; `more` are further settings with `__` for the dot."""
    ports = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="anabranch-bench-") as folder:
        overrides: dict[str, object] = {
            "paths.data": folder,
            "paths.jars": str(ROOT / ".anabranch" / "jars"),
            "servers.kafka_port": ports[0],
            "servers.kafka_controller_port": ports[1],
            "servers.cassandra_port": ports[2],
            "servers.cassandra_storage_port": ports[3],
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        environment = {
            f"ANABRANCH__{name.replace('.', '__').upper()}": str(value) for name, value in overrides.items()
        }
        found = {**os.environ, **environment, "ANABRANCH_PROJECTS": str(PROJECTS), "PYTHONPATH": str(ROOT)}
        settings = load_settings(found)
        try:
            servers.up(settings, tell=lambda _text: None)
            yield River(settings=settings, environment=found)
        finally:
            servers.down(settings, tell=lambda _text: None)
