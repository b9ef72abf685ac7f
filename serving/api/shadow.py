"""Champion and version on trial compared on the same live requests, after the answer has gone.

A shadow scores what the champion answered; for a canary the champion scores what the canary answered.
Requests wait in a bounded buffer, which never delays or fails an answer: requests that find it full are
counted and not compared. The differences are written as measures every few seconds and shown on /metrics.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from anabranch.answers.predict import Prediction
from anabranch.answers.trials import Differences, LoadedTrial, comparable, other_answer
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.models.versions import Scorer
from serving.api.context import ServingContext
from serving.api.metrics import ServingMetrics

log = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
_REASONS = ("buffer full", "features not read", "failed")


@dataclass(frozen=True, slots=True)
class _Pair:
    project: Project
    champion: Scorer
    trial: LoadedTrial
    prediction: Prediction


class Shadow:
    """The buffer and the thread that compares."""

    def __init__(self, context: ServingContext, metrics: ServingMetrics) -> None:
        self._context, self._metrics, self._limit = context, metrics, context.settings.shadow_buffer
        self._waiting: deque[_Pair] = deque()
        self._tallies: dict[tuple[str, str, str, str], tuple[LoadedTrial, Differences]] = {}
        self._something, self._stopping = threading.Event(), threading.Event()
        for reason in _REASONS:
            metrics.not_compared.labels(reason)

    def add(
        self,
        project: Project,
        champion: Scorer,
        trial: LoadedTrial,
        predictions: Sequence[Prediction],
    ) -> None:
        """Queue predictions for comparison as far as there is room. Never waits."""
        room = max(self._limit - len(self._waiting), 0)
        for prediction in predictions[:room]:
            if comparable(trial, prediction):
                self._waiting.append(_Pair(project, champion, trial, prediction))
        if len(predictions) > room:
            self._metrics.not_compared.labels("buffer full").inc(len(predictions) - room)
        if not self._something.is_set():
            self._something.set()

    def start(self) -> None:
        """Begin to compare."""
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def stop(self) -> None:
        """Stop comparing; requests that wait are dropped."""
        self._stopping.set()
        self._something.set()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopping.is_set():
            self._something.wait(EVERY_SECONDS if self._tallies else None)
            self._something.clear()
            self.compare()
            if time.monotonic() - last >= EVERY_SECONDS:
                last = time.monotonic()
                self.keep()
        self.keep()

    def compare(self) -> None:
        """Compare all requests that wait."""
        while self._waiting and not self._stopping.is_set():
            pair = self._waiting.popleft()
            try:
                self._compare(pair)
            except Exception:
                self._metrics.not_compared.labels("failed").inc()
                log.exception(
                    "version %s of project %s cannot be compared on a live request",
                    pair.trial.scorer.version,
                    pair.project.name,
                )

    def _compare(self, pair: _Pair) -> None:
        found = other_answer(pair.project, pair.champion, pair.trial, pair.prediction)
        if found is None:
            self._metrics.not_compared.labels("features not read").inc()
            return
        self._count(pair, *found)

    def _count(
        self, pair: _Pair, tried: Mapping[str, Any], ours: Mapping[str, Any], seconds: float | None
    ) -> None:
        name, trial = pair.project.name, pair.trial
        key = (name, trial.kind, trial.scorer.version, pair.champion.version)
        _, tally = self._tallies.setdefault(key, (trial, Differences()))
        difference, flipped = tally.add(tried, ours, seconds)
        self._metrics.compared.labels(name, trial.kind, "flipped" if flipped else "same").inc()
        self._metrics.differences.labels(name, trial.kind).observe(abs(difference))

    def keep(self) -> None:
        """Write the differences as measures; while the store is down the interval goes on."""
        at = datetime.now(tz=UTC)
        measures = [
            one
            for (name, _, _, champion), (trial, tally) in self._tallies.items()
            for one in tally.measures(name, trial, champion, at)
        ]
        if not measures:
            return
        try:
            self._context.stores.measures.write(measures)
        except AnabranchError as error:
            log.warning("comparisons of live requests are kept in memory: %s", error)
            return
        self._tallies.clear()
