"""The server process: granian in the foreground, one application a worker, until SIGTERM or Ctrl-C."""

import http.client
import logging
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from anabranch.errors import MisuseError, UnavailableError
from serving.app import Application
from serving.registration import Leaving
from serving.settings import ServingSettings, is_loopback, network_place

log = logging.getLogger(__name__)
_OTHER_FILES = 512
"""Files that a worker has open besides its connections."""
_ASK_SECONDS = 2.0
_TOLD_SECONDS = 1.0
"""How long the end of a process that nobody sees running any more may go untold."""


def run(
    serving: ServingSettings,
    load: Callable[[Leaving], Application],
    tell: Callable[[str], object] = log.info,
) -> None:
    """Run workers that each `load` an application; `tell` is called with the address.

    Raises UnavailableError when the port is taken, MisuseError when others can reach it without credentials.
    """
    if not is_loopback(serving.host) and serving.auth == "off":
        if not serving.open:
            raise MisuseError(
                f"serving.host {serving.host} can be reached by others, and serving.auth is off: "
                "set serving.auth = \"on\" and make keys ('anabranch keys add PROJECT'), "
                "or set serving.open = true to let everybody ask"
            )
        log.warning(
            "the REST server listens on %s, and everybody who reaches it may ask everything", serving.host
        )
    _check_port(serving)
    connections = _affordable(serving.connections)
    leaving = Leaving()
    server = _Server(
        "anabranch",
        address=serving.host,
        port=serving.port,
        interface=Interfaces.RSGI,
        workers=serving.workers,
        websockets=False,
        http=HTTPModes.http1,  # one request a connection at a time, so that bounded connections bound work
        backlog=max(1024, connections),
        backpressure=connections,
        # A worker that is killed is started again; one that ends again at once ends the server.
        respawn_failed_workers=True,
        log_level=LogLevels.warning,
        # A worker answers its requests and publishes its buffer before it ends.
        workers_kill_timeout=int(serving.bus_timeout_seconds + serving.drain_seconds) + 5,
    )
    tell_address = partial(tell, f"REST server: {address(serving)}/docs")
    server.signal_handler_interrupt = partial(_leave_first, leaving, server.signal_handler_interrupt)
    loader = _Loader(partial(load, leaving), multiprocessing.Value("i", serving.workers), tell_address)
    # No thread may run here: workers are forks, and a module that it was importing would stay torn in them.
    server.serve(target_loader=loader, wrap_loader=False)


class _Server(Granian):  # type: ignore[misc,valid-type] # a name of one class or another
    """Granian, which takes a worker that has just ended for one that does not stop.

    A thread waits for the same process and may not have told yet that it ended. Granian allows it 1 ms.
    """

    def _spawn_worker(self, *given: Any, **named: Any) -> Any:
        worker = super()._spawn_worker(*given, **named)
        worker.join = partial(_join, worker.inner)
        return worker


def _join(process: multiprocessing.Process, timeout: float | None = None) -> None:
    process.join(timeout)
    until = time.monotonic() + _TOLD_SECONDS
    while process.is_alive() and time.monotonic() < until:
        time.sleep(_TOLD_SECONDS / 100)


def _leave_first(leaving: Leaving, stop: Callable[..., object], *given: object) -> None:
    """Let the workers leave at the signal to stop, then stop; a second signal stops at once."""
    if not leaving.begun.is_set():
        leaving.begin()
    stop(*given)


@dataclass(frozen=True)
class _Loader:
    """Loads a worker's application. A value, as workers that are not forks get it by pickle."""

    load: Callable[[], Application]
    loading: Any
    """The number of workers that are not ready yet, shared by all."""
    tell: Callable[[], object]

    def __call__(self) -> Application:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
        application = self.load()
        application.ready = self.ready
        return application

    def ready(self) -> None:
        """Tell the address when the last worker is ready to answer."""
        with self.loading.get_lock():
            self.loading.value -= 1
            if self.loading.value == 0:
                self.tell()


def _end_with_parent() -> None:
    """Stop this worker when the server is killed: it would keep the port and answer by what it has loaded."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        log.warning("the server of this worker was killed: it stops")
        os.kill(os.getpid(), signal.SIGTERM)


def look(serving: ServingSettings, path: str) -> int | None:
    """The status of a server's answer to a GET of `path`; None when nothing answers there."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens is the user's choice
    place = network_place(everywhere.get(serving.host, serving.host), serving.port)
    try:
        with urllib.request.urlopen(f"http://{place}{path}", timeout=_ASK_SECONDS) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def address(serving: ServingSettings) -> str:
    """The URL that the server answers at."""
    return f"http://{network_place(serving.host, serving.port)}"


def _affordable(connections: int) -> int:
    """So many connections, or as many as this user may have files open; that limit is raised if it can be."""
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning(
            "a worker holds %d connections: this user may open no more than %d files", most // 2, most
        )
    return connections if most == wanted else max(most // 2, 1)


def _check_port(serving: ServingSettings) -> None:
    """Granian shares its port between workers, so a second server would start silently."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serving.host, serving.port))
        except OSError as error:
            where = f"{serving.host}:{serving.port}"
            raise UnavailableError(
                f"the REST server cannot listen on {where} ({error.strerror}): "
                "stop the process that does, or set another serving.port"
            ) from error
