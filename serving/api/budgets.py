"""Error budgets: what a project's objectives promise, how often they were missed, and what is left to miss.

Counts are those of the server, of all its workers since they started, or, where `serving.prometheus` is set,
those that Prometheus kept of every server for 30 days.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx

from anabranch.declare.operations import Objectives

log = logging.getLogger(__name__)
EVENTS = "anabranch_objective_events"
"""The counter of what an objective judges: answers, looks at freshness, landed rows."""
KEPT_SERIES = "anabranch:objective_events:sum30d"
"""The series in which Prometheus keeps the counts of 30 days."""
_EVERY_SECONDS = 10.0
_PATIENCE_SECONDS = 2.0
_SAMPLE = re.compile(rf"^{EVENTS}_total\{{([^}}]*)\}} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
Counts = Mapping[tuple[str, str], tuple[float, float]]
"""By project and objective: how many were kept, and how many missed."""
CountedBy = Literal["prometheus", "server"]


@dataclass(frozen=True)
class Judgements:
    """Counts, and who counted: Prometheus for 30 days, or this server since its workers started."""

    by: CountedBy = "server"
    counts: Counts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One objective: `promised` in words, the `target` share, and how many were kept and missed.

    `kept` and `missed` are None when nobody has counted; `by` says who did.
    """

    objective: str
    promised: str
    target: float
    kept: float | None = None
    missed: float | None = None
    by: CountedBy = "server"

    @property
    def share(self) -> float | None:
        """The share that was kept; None without any."""
        if self.kept is None or self.missed is None or self.kept + self.missed <= 0:
            return None
        return self.kept / (self.kept + self.missed)

    @property
    def left(self) -> float | None:
        """The share of the budget that is left: 1 when nothing was missed, below 0 when too much was."""
        return None if self.share is None else 1 - (1 - self.share) / (1 - self.target)


def budgets(project: str, objectives: Objectives | None, tally: Judgements) -> list[Budget]:
    """The budgets of a project in the order of its objectives; none without objectives."""
    if objectives is None:
        return []
    found = []
    for name, target in objectives.targets.items():
        kept, missed = tally.counts.get((project, name), (None, None))
        words = _promised(name, objectives)
        found.append(
            Budget(objective=name, promised=words, target=target, kept=kept, missed=missed, by=tally.by)
        )
    return found


def _promised(name: str, objectives: Objectives) -> str:
    if name == "latency":
        return f"99% within {objectives.p99}"
    if name == "freshness":
        fresh = objectives.freshness
        parts = (
            {} if fresh is None or isinstance(fresh, str) else {"batch": fresh.batch, "stream": fresh.stream}
        )
        limits = " and ".join(f"{channel} within {text}" for channel, text in parts.items() if text)
        return f"99% of the time {limits}"
    return f"{getattr(objectives, name):.10g}"


def counted(text: str) -> Counts:
    """The counts of metrics in Prometheus' text format, workers added up."""
    samples = ((dict(_LABEL.findall(labels)), float(value)) for labels, value in _SAMPLE.findall(text))
    return _summed(samples)


def _summed(samples: Iterable[tuple[Mapping[str, str], float]]) -> Counts:
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for labels, value in samples:
        key = labels.get("project", ""), labels.get("objective", "")
        kept, missed = found.get(key, (0.0, 0.0))
        good = labels.get("kept") == "yes"
        found[key] = (kept + value * good, missed + value * (not good))
    return found


class KeptCounts:
    """The counts that Prometheus has, read in the background; None while it has not answered."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock, self._next = address.rstrip("/"), clock, clock()
        self.latest: Counts | None = None

    def look(self) -> None:
        """Ask again when the last answer is old; without an answer the former counts are forgotten."""
        if not self._address or self._clock() < self._next:
            return
        self._next = self._clock() + _EVERY_SECONDS
        try:
            answer = httpx.get(
                f"{self._address}/api/v1/query", params={"query": KEPT_SERIES}, timeout=_PATIENCE_SECONDS
            )
            results = answer.raise_for_status().json()["data"]["result"]
            self.latest = _summed((one["metric"], float(one["value"][1])) for one in results)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("error budgets are those of this server alone: Prometheus: %s", type(error).__name__)
            self.latest = None
