"""Predictions on their way to `predictions.<project>`, in a bounded buffer that never delays an answer.

While the broker is down, predictions wait in the buffer, which has a number and bytes; when it is full, new
ones are dropped and counted, as are those that their topic does not take: one never holds up the others.
A batch that failed half-way is sent again, so a prediction can be published twice, with one `prediction_id`.
"""

import itertools
import logging
import threading
import time
import uuid
from collections import deque

from anabranch.answers.predict import Prediction, record
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, TooLargeError, UnavailableError
from anabranch.events.predictions import predictions_topic
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.publisher import Message
from serving.api.metrics import ServingMetrics

log = logging.getLogger(__name__)
_BATCH = 500
_GATHER_SECONDS = 0.1
_PAUSE_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0)


class Predictions:
    """The buffer and the thread that empties it."""

    def __init__(self, bus: Bus, metrics: ServingMetrics, limit: int, most_bytes: int = 67_108_864) -> None:
        self._bus, self._metrics, self._limit, self._most_bytes = bus, metrics, limit, most_bytes
        # Ids are unique by process and number: a random id for each prediction would cost a system call.
        self._origin, self._count = uuid.uuid4().hex, itertools.count(1)
        self._waiting: deque[Message] = deque()
        self._added, self._removed = 0, 0  # bytes, each changed by one thread
        self._known: set[str] = set()
        self._refusing: set[str] = set()
        self._something = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        metrics.buffered.set_function(lambda: len(self._waiting))
        for reason in ("buffer full", "no JSON", "refused", "stopped", "too large"):
            metrics.dropped.labels(reason)

    def add(self, project: Project, prediction: Prediction) -> None:
        """Queue a prediction, or drop and count it when the buffer is full. Never waits."""
        if len(self._waiting) >= self._limit:
            self._metrics.dropped.labels("buffer full").inc()
            return
        name = f"{self._origin}-{next(self._count)}"
        try:
            text = record(project.name, name, prediction)
        except (TypeError, ValueError, NotImplementedError):
            log.exception("prediction %s of project %s has no JSON and is dropped", name, project.name)
            self._metrics.dropped.labels("no JSON").inc()
            return
        if self._added - self._removed + len(text) > self._most_bytes:
            self._metrics.dropped.labels("buffer full").inc()
            return
        self._added += len(text)
        self._waiting.append((predictions_topic(project.name), name.encode(), text))
        if not self._something.is_set():
            self._something.set()

    def start(self) -> None:
        """Begin to publish."""
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Publish what waits, for at most `seconds`; the rest is counted as dropped."""
        self._stopping.set()
        self._something.set()
        if self._thread is not None:
            self._thread.join(seconds)
        if self._waiting:
            log.warning("%d predictions were not published before the server stopped", len(self._waiting))
            self._metrics.dropped.labels("stopped").inc(len(self._waiting))

    def _run(self) -> None:
        failures = 0
        while self._waiting or not self._stopping.is_set():
            self._something.wait()
            self._something.clear()
            try:
                while self._waiting:
                    # A short pause gathers predictions: one message costs as much as hundreds.
                    self._stopping.wait(_GATHER_SECONDS)
                    self._send()
                    failures = 0
            except AnabranchError as error:
                failures += 1
                self._failed(error, failures)
            except Exception:
                failures += 1
                log.exception("publishing predictions failed; they are kept and sent again")
                self._failed(None, failures)

    def _failed(self, error: AnabranchError | None, failures: int) -> None:
        if failures == 1 and error is not None:
            log.warning("predictions are kept in memory (up to %d) and sent later: %s", self._limit, error)
        pause = _PAUSE_SECONDS[min(failures, len(_PAUSE_SECONDS)) - 1]
        if self._stopping.is_set():
            time.sleep(0.1)
        else:
            self._stopping.wait(pause)
        self._something.set()

    def _send(self) -> None:
        """Publish the first predictions of the buffer, which keep their places until the broker has them."""
        waiting = self._waiting
        batch = [waiting[position] for position in range(min(len(waiting), _BATCH))]
        new = {topic for topic, _, _ in batch} - self._known
        if new:
            self._bus.ensure_topics(sorted(new))
            self._known |= new
        refused = self._bus.offer(batch)
        again = [place for place, error in refused.items() if isinstance(error, UnavailableError)]
        for place, (topic, name, text) in enumerate(batch):
            waiting.popleft()
            if place in again:
                waiting.append((topic, name, text))
                continue
            self._removed += len(text)
            if place in refused:
                self._drop(topic, refused[place])
        self._metrics.published.inc(len(batch) - len(refused))
        if again:
            raise refused[again[0]]

    def _drop(self, topic: str, error: AnabranchError) -> None:
        self._metrics.dropped.labels("too large" if isinstance(error, TooLargeError) else "refused").inc()
        if topic not in self._refusing:
            log.warning("a prediction is dropped, as will be others like it: %s", error)
        self._refusing.add(topic)
