"""How the server behaves; read from conf and the environment by jobs/wiring/settings.py alone."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Address and limits of the REST server. The default address is loopback: nothing is open unless you open it."""

    host: str = "127.0.0.1"
    port: int = 8100
    workers: int = 1
    auth: str = "off"
    """``on``: an API key or a token for everything but the probes. ``off`` is for loopback."""
    open: bool = False
    """Listen where others can reach it although `auth` is off."""
    jwt_public_keys: tuple[str, ...] = ()
    """PEM files of the issuer's public keys; several while it changes them."""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    store_threads: int = 2
    """Threads that wait for the stores where an answer is not awaited: current rows and readiness."""
    store_timeout_seconds: float = 2.0
    """A store that has not answered by then counts as down."""
    cache: str = "memory"
    """``ignite``: batch parts that were read are shared between workers and servers too, through the node at `ignite_address`."""
    ignite_address: str = ""
    cache_bytes: int = 134_217_728
    """Memory of a worker for batch parts that were read; 0 reads them for every answer."""
    breaker_failures: int = 5
    """After so many failures in a row a store is left alone for `breaker_seconds`, then tried by one request."""
    breaker_seconds: float = 1.0
    """How long a store that failed is left alone."""
    bus_threads: int = 4
    """Threads that wait for the bus."""
    bus_timeout_seconds: float = 15.0
    """Events that are not published by then are refused; sent again, they keep their ids and count once."""
    refresh_seconds: float = 1.0
    """How often declarations, champions and manifests are looked at; a change shows within two of these."""
    body_bytes: int = 1_048_576
    """The largest request body."""
    prediction_buffer: int = 10_000
    """Predictions that wait to be published; more than these are dropped and counted, never waited for."""
    shadow_buffer: int = 1_000
    """Answers that wait to be compared with a version that is tried; more than these are not compared, and counted."""
    shared: Path | None = None
    """Where workers leave their metrics for each other; needed when there are several."""
    drain_seconds: float = 5.0
    """How long a stopping server tries to publish what is buffered."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_place(host: str, port: int) -> str:
    """Host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
