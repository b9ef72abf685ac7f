"""The server process: granian with one application a worker, in the foreground until SIGTERM or Ctrl-C."""

import logging
import socket
from collections.abc import Callable

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from features.errors import UnavailableError
from serving.app import Application
from serving.settings import ServingSettings

log = logging.getLogger(__name__)


def run(serving: ServingSettings, load: Callable[[], Application], tell: Callable[[str], object] = log.info) -> None:
    """Run workers that each `load` their application; `tell` gets its address.

    Raises UnavailableError when the port is taken.
    """
    _check_port(serving)
    if not _is_loopback(serving.host):
        log.warning("the REST server listens on %s, where others can reach it: it has no authentication yet", serving.host)
    server = Granian(
        "anabranch",
        address=serving.host,
        port=serving.port,
        interface=Interfaces.RSGI,
        workers=serving.workers,
        websockets=False,
        log_level=LogLevels.warning,
        # A worker publishes what it has buffered before it ends; it gets that time and a little more.
        workers_kill_timeout=int(serving.drain_seconds) + 5,
    )
    server.on_startup(lambda: tell(f"REST server: {address(serving)}/docs"))
    server.serve(target_loader=load, wrap_loader=False)  # type: ignore[arg-type] # an object with __rsgi__ will do


def address(serving: ServingSettings) -> str:
    """The URL that the server answers at."""
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    return f"http://{host}:{serving.port}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _check_port(serving: ServingSettings) -> None:
    """Granian shares its port between workers, so that a second server would start without a word."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serving.host, serving.port))
        except OSError as error:
            where = f"{serving.host}:{serving.port}"
            raise UnavailableError(
                f"the REST server cannot listen on {where} ({error.strerror}): stop what does, or set another port with serving.port"
            ) from error
