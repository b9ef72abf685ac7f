"""How a worker of the REST server says that it is up, and leaves before it stops.

A worker that is told to stop first takes its row away and waits until no gateway sends requests to its place.
Only then does it stop to listen, so that a replica can be stopped under load.
"""

import logging
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.replicas import Replica, Replicas

log = logging.getLogger(__name__)
BEAT_SECONDS = 0.5
_LOOK_SECONDS = 0.1
LEAVE_SECONDS = 4.0
"""How long a stopping worker waits for the gateways."""


@dataclass(frozen=True)
class Leaving:
    """What the server and its workers share: whether it is stopping, and how many workers wait for a gateway.

    `told` counts workers that have said that they are up, `left` those that no gateway asks any more.
    """

    begun: Any = field(default_factory=multiprocessing.Event)
    told: Any = field(default_factory=lambda: multiprocessing.Value("i", 0))
    left: Any = field(default_factory=lambda: multiprocessing.Value("i", 0))

    def begin(self) -> None:
        """Let the workers leave, and wait until they have; called once, at the signal to stop."""
        self.begun.set()
        deadline = time.monotonic() + LEAVE_SECONDS + 2 * BEAT_SECONDS
        while self.left.value < self.told.value and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS / 2)


class Registration:
    """Says that a worker at `place` is up, in a thread of its own, from `start` until the server leaves.

    `state` gives whether the worker can answer, and how many calls it answers.
    """

    def __init__(
        self, replicas: Replicas, place: str, state: Callable[[], tuple[bool, int]], leaving: Leaving
    ) -> None:
        self._replicas, self._place, self._state, self._leaving = replicas, place, state, leaving
        self._worker = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._told, self._trouble = False, ""

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="registration", daemon=True).start()

    def _run(self) -> None:
        while not self._leaving.begun.is_set():
            try:
                self._beat()
                self._trouble = ""
            except AnabranchError as error:
                if not self._trouble:
                    log.warning("gateways do not learn of this server: %s", error)
                self._trouble = str(error)
            self._leaving.begun.wait(BEAT_SECONDS)
        if not self._told:
            return
        try:
            self._leave()
        except AnabranchError as error:
            log.warning("gateways do not learn that this server stops: %s", error)
        with self._leaving.left.get_lock():
            self._leaving.left.value += 1

    def _beat(self) -> None:
        if not self._replicas.followed:
            return
        ready, load = self._state()
        self._replicas.tell(self._replica(ready, load))
        if not self._told:
            self._told = True
            with self._leaving.told.get_lock():
                self._leaving.told.value += 1

    def _leave(self) -> None:
        self._replicas.leave(self._replica(ready=False, load=0))
        deadline = time.monotonic() + LEAVE_SECONDS
        while self._place in self._replicas.sent_to() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def _replica(self, ready: bool, load: int) -> Replica:
        return Replica(place=self._place, worker=self._worker, ready=ready, load=load)
