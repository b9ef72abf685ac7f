"""What an embedded server is: a name, ports, a command, and a condition that says it is ready."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anabranch.errors import AnabranchError
from jobs.wiring.settings import LOOPBACK


class ServerError(AnabranchError):
    """An embedded server cannot be started."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One embedded server. `ports` are by the name of their setting; the first is the one clients use."""

    name: str
    ports: Mapping[str, int]
    home: Path
    command: Sequence[str]
    prepare: Callable[[], None]
    ready: Callable[[], bool]


def class_path(folder: Path) -> str:
    """A folder of jars as Java's class path; raises ServerError when it holds none."""
    if not any(folder.glob("*.jar")):
        raise ServerError(f"no jars in {folder}: run 'make setup'")
    return f"{folder}/*"


def accepts(port: int, host: str = LOOPBACK) -> bool:
    """Whether something accepts connections at this port."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen at this port of loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
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
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if version is None or int(version[1]) < 17:
        first = (told.stderr or told.stdout).partition("\n")[0]
        raise ServerError(
            f"{program} is not Java 17 or later (it says: {first}): install a JDK 17, or set JAVA_HOME to one"
        )
