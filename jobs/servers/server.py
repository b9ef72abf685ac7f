"""What an embedded server is: its ports, its command, and a condition that says it is ready."""

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from anabranch.errors import AnabranchError
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import ROOT, java_program
from serving.settings import network_place

CONF = ROOT / "conf"


class ServerError(AnabranchError):
    """An embedded server cannot be started."""


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One process of an embedded server.

    `ports` are those it listens on, by the name of their setting; `port` is the one that clients use.
    `command` and `prepare` are called when it is started: only then must its jars and its program exist.
    `yours` is the address of a server of your own that is set instead of the embedded one. A server that is
    not `wanted` is one that other settings start: `up` leaves it alone, `down` ends it where it runs.
    `stop_signal` is what asks it to end.
    """

    name: str
    port: int
    ports: Mapping[str, int]
    home: Path
    command: Callable[[], Sequence[str]]
    ready: Callable[[], bool]
    prepare: Callable[[], None] = nothing
    host: str = LOOPBACK
    scheme: str = ""
    yours: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    wanted: bool = True

    def address(self, ports: Sequence[int] = ()) -> str:
        """Where clients find it; `ports` are those it was started with, today's settings by default."""
        return f"{self.scheme}{network_place(self.host, ports[0] if ports else self.port)}"


def java(heap: str, jars: str, *options: str) -> list[str]:
    """The beginning of a Java command: memory, options and class path. Raises ServerError without Java 17."""
    program = java_program()
    check_java(program)
    return [program, f"-Xmx{heap}", "-Djava.net.preferIPv4Stack=true", *options, "-cp", jars]


def class_path(folder: Path) -> str:
    """A folder of jars as Java's class path; raises ServerError when it holds none."""
    if not any(folder.glob("*.jar")):
        raise ServerError(f"no jars in {folder}: run 'make setup'")
    return f"{folder}/*"


def write_configuration(template: str, file: Path, **values: object) -> None:
    """Write a file of conf/ with its `$names` replaced."""
    text = Template((CONF / template).read_text(encoding="utf-8")).substitute(values)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def format_storage(command: Sequence[str], what: str) -> None:
    """Run a server's own command that formats its storage; raises ServerError with the end of its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = " ".join((done.stdout + done.stderr).split())
        raise ServerError(f"{what} cannot be formatted: {output[-600:]}")


def accepts(port: int, host: str = LOOPBACK) -> bool:
    """Whether something accepts connections at this port."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port of an address of loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError:
            return False
    return True


def check_java(program: str) -> None:
    """Raise ServerError unless `program` is Java 17 or later."""
    if shutil.which(program) is None:
        raise ServerError(
            f"java is not found ({program}): install a JDK 17 or later, or set JAVA_HOME to one"
        )
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', done.stderr + done.stdout)
    if version is None or int(version[1]) < 17:
        first = (done.stderr or done.stdout).partition("\n")[0]
        raise ServerError(
            f"{program} is not Java 17 or later (it says: {first}): install a JDK 17, or set JAVA_HOME to one"
        )
