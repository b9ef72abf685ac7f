"""How the REST server behaves; filled by jobs/wiring/settings.py."""

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anabranch.settings import Expected, NamesOrNone, NotConfigurable, Port, Positive, Seconds, Share, Whole

OptionalAddress = Annotated[
    str, Field(pattern=r"^(https?://[^\s/@]+(/\S*)?)?$"), Expected("an http:// or https:// address")
]


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Address and limits of the REST server. It listens on loopback unless you open it."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8100
    """Port to listen on."""
    place: str = ""
    """`host:port` at which gateways reach the server; empty: where it listens, or this machine's name."""
    workers: Positive = 1
    """Worker processes that share the port."""
    auth: Literal["off", "on"] = "off"
    """`on`: an API key (`anabranch keys add P`) or a token for all but the probes; `off`: loopback only."""
    open: bool = False
    """Listen beyond loopback although `auth` is off: everybody may call."""
    jwt_public_keys: NamesOrNone = ()
    """PEM files of the issuer's public keys; several while it changes them."""
    jwt_issuer: str = ""
    """The `iss` that a token must have."""
    jwt_audience: str = ""
    """The `aud` that a token must have."""
    store_threads: Positive = 2
    """Threads that wait for the stores outside the answer path: current rows and readiness."""
    store_timeout_seconds: Seconds = 2.0
    """A store that has not answered by then counts as down."""
    cache: Literal["memory", "ignite"] = "memory"
    """`ignite`: workers and servers share the batch parts they read, through the node at `ignite_address`."""
    ignite_address: str = ""
    """`host:port` of your Ignite node; empty: the embedded one."""
    cache_bytes: Whole = 134_217_728
    """Memory of a worker for batch parts it has read; 0 reads them for every answer."""
    breaker_failures: Positive = 5
    """After so many failures in a row a store is left alone for `breaker_seconds`."""
    breaker_seconds: Seconds = 1.0
    """How long a store that failed is left alone."""
    bus_threads: Positive = 4
    """Threads that wait for the bus."""
    bus_timeout_seconds: Seconds = 15.0
    """Events that are not published by then are refused; sent again, they keep their ids and count once."""
    refresh_seconds: Seconds = 1.0
    """How often declarations, champions and manifests are read; a change shows within two of these."""
    allowed_hosts: NamesOrNone = ()
    """Names that callers may reach the server by, besides `host` and those of loopback; `*`: any name."""
    connections: Positive = 4096
    """Connections that a worker holds at once; further ones wait until one is closed."""
    answers_at_once: Positive = 128
    """Predictions, features and scores that a worker answers at once; further calls get 503 at once."""
    answers_in_seconds: Seconds = 0.03
    """While calls take longer than this, the store's time aside, fewer are answered at once, down to 32."""
    ready_seconds: Seconds = 1.0
    """How long the answers of store and bus to `/readyz` are kept."""
    body_seconds: Seconds = 10.0
    """A request body that has not come whole by then is refused."""
    body_bytes: Positive = 1_048_576
    """The largest request body; 1,000 instances need about 40 bytes a feature."""
    prediction_buffer: Positive = 10_000
    """Predictions that wait to be published; more than these are dropped and counted, never waited for."""
    prediction_buffer_bytes: Positive = 67_108_864
    """Bytes of the predictions that wait to be published; more are dropped as well."""
    shadow_buffer: Positive = 1_000
    """Answers that wait to be compared with a version on trial; more than these are counted, not compared."""
    prometheus: OptionalAddress = ""
    """Address of Prometheus, whose counts of 30 days error budgets are made of; empty: the server's own."""
    shared: Annotated[Path | None, NotConfigurable()] = None
    """Where workers leave their metrics for each other; needed when there are several."""
    tracing: str = "off"
    """Where spans of OpenTelemetry go: `off`, `console`, `file:PATH`, or a collector's URL (OTLP, HTTP)."""
    tracing_share: Share = 1.0
    """Share of the requests that are traced, of those whose caller has not decided it by a `traceparent`."""
    tracing_values: bool = False
    """Whether spans have the keys and features of requests."""
    drain_seconds: Seconds = 5.0
    """How long a stopping server tries to publish buffered predictions."""


def place_of(serving: ServingSettings) -> str:
    """Where gateways reach the server."""
    everywhere = serving.host in ("0.0.0.0", "::")  # noqa: S104 - where it listens is the user's choice
    return serving.place or network_place(socket.getfqdn() if everywhere else serving.host, serving.port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_place(host: str, port: int) -> str:
    """Host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
