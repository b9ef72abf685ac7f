"""Threads that wait for stores, so that the event loop never does, and the breakers before them."""

from concurrent.futures import Executor
from dataclasses import dataclass

from anabranch.stores.breaker import Breaker


@dataclass(frozen=True)
class Pools:
    """One pool a store, so that a bus that is down does not delay reads."""

    store: Executor
    bus: Executor


@dataclass(frozen=True)
class Breakers:
    """One circuit breaker a store."""

    store: Breaker
    bus: Breaker
