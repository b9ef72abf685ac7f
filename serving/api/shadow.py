"""Champion and version on trial compared on the same live requests, after the answer has gone.

A shadow scores what the champion answered; for a canary the champion scores what the canary answered.
Requests wait in a bounded buffer, which never delays or fails an answer: requests that find it full are
counted and not compared. The differences are written as measures every few seconds and shown on /metrics.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from anabranch.answers.predict import Prediction, needs_store, predict
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.versions import Scorer
from serving.api.context import ServingContext
from serving.api.metrics import ServingMetrics
from serving.api.trials import SHADOW, LoadedTrial

log = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
_REASONS = ("buffer full", "features not read", "failed")
_KEPT = 20_000  # differences of one interval that its p99 is taken from


@dataclass(frozen=True, slots=True)
class _Pair:
    project: Project
    champion: Scorer
    trial: LoadedTrial
    prediction: Prediction


@dataclass
class Differences:
    """Differences in one interval, version on trial minus champion."""

    rows: int = 0
    flips: int = 0
    total: float = 0.0
    apart: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, difference: float, flipped: bool, seconds: float | None) -> None:
        """Count one request; `seconds` is what the version on trial took, None where it was not timed."""
        self.rows += 1
        self.flips += flipped
        self.total += difference
        self.apart.append(abs(difference))
        if seconds is not None:
            self.seconds.append(seconds)

    def measures(self, project: str, trial: LoadedTrial, champion: str, at: datetime) -> list[Measure]:
        """The interval's measures: subject is the trial's kind, version its version, slice the champion."""
        values = {
            "rows": float(self.rows),
            "mean_difference": self.total / self.rows,
            "mean_apart": float(np.mean(self.apart)),
            "p99_apart": float(np.quantile(self.apart, 0.99)),
            "flips": self.flips / self.rows,
        }
        if self.seconds:
            values["p99_ms"] = 1000 * float(np.quantile(self.seconds, 0.99))
        version = trial.scorer.version
        return [
            Measure(
                project=project,
                subject=trial.kind,
                name=name,
                at=at,
                value=value,
                version=version,
                slice=champion,
            )
            for name, value in values.items()
            if np.isfinite(value)
        ]


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
            if trial.kind == SHADOW or prediction.answer["model_version"] == trial.scorer.version:
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
        trial, champion, answered = pair.trial, pair.champion, pair.prediction.answer
        asked, stored = pair.prediction.asked, pair.prediction.stored
        by_trial = answered["model_version"] == trial.scorer.version
        other = champion if by_trial else trial.scorer
        if stored is None and needs_store(pair.project, asked, other):
            self._metrics.not_compared.labels("features not read").inc()
            return
        started = time.perf_counter()
        (second,) = predict(pair.project, other, [asked], [stored], 0)
        seconds = None if by_trial else time.perf_counter() - started
        tried, ours = (answered, second.answer) if by_trial else (second.answer, answered)
        self._count(pair, tried, ours, seconds)

    def _count(self, pair: _Pair, tried: dict[str, Any], ours: dict[str, Any], seconds: float | None) -> None:
        name, trial, flipped = pair.project.name, pair.trial, tried["label"] != ours["label"]
        key = (name, trial.kind, trial.scorer.version, pair.champion.version)
        _, tally = self._tallies.setdefault(key, (trial, Differences()))
        difference = float(tried["score"] - ours["score"])
        tally.add(difference, flipped, seconds)
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
