"""Threads that wait for stores, so that the event loop never does."""

from concurrent.futures import Executor
from dataclasses import dataclass


@dataclass(frozen=True)
class Pools:
    """One for the store and one for the bus, so that a bus that is away does not hold up reads."""

    store: Executor
    bus: Executor
