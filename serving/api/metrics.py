"""The content of /metrics: counters of the server, measures of its projects, metrics of all its workers.

Each application has its own registry. Labels take only values that are known beforehand.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anabranch.answers.costs import StageCosts
from anabranch.declare.operations import Objectives
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND
from serving.api.budgets import EVENTS
from serving.api.live import Served
from serving.api.promises import STATES, ChannelFreshness

log = logging.getLogger(__name__)
EVERY_SECONDS = 10.0
_DIFFERENCES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PROJECT = re.compile(rb'[{,]project="([^"]+)"')
_STALE_SECONDS = 15.0
_FAULT, _REFUSED = 500, 400
"""Statuses from these on are faults of the server, and answers that are none."""


class MeasuredValues(Collector):
    """The latest measures of each project, read in the background: a scrape reads no store."""

    def __init__(
        self, read: Callable[[str], Sequence[Measure]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._latest: dict[str, Sequence[Measure]] = {}
        self._next = clock()

    def look(self, projects: Iterable[str]) -> None:
        """Read the measures again when the last read is old; a project that fails keeps its values."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + EVERY_SECONDS
        latest: dict[str, Sequence[Measure]] = {}
        for project in projects:
            try:
                latest[project] = self._read(project)
            except AnabranchError as error:
                log.debug("measures of %s cannot be read: %s", project, error)
                latest[project] = self.of(project)
        self._latest = latest

    def of(self, project: str) -> Sequence[Measure]:
        """The measures of one project, as they were last read."""
        return self._latest.get(project, ())

    def collect(self) -> Iterator[Metric]:
        """One gauge for all measures."""
        labels = ("project", "subject", "name", "version", "slice")
        about = "Latest measured value: accuracy, drift, skew, approximation."
        family = GaugeMetricFamily("anabranch_measure", about, labels=labels)
        for measures in self._latest.values():
            for one in measures:
                family.add_metric([one.project, one.subject, one.name, one.version, one.slice], one.value)
        yield family


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounters:
    """What one kind of answer adds to: a request, its seconds, and the objectives of its project.

    `quick` and `slow` are for answers within and beyond `promised` seconds; None where nothing is promised.
    """

    requests: Counter
    seconds: Histogram
    available: Counter | None = None
    quick: Counter | None = None
    slow: Counter | None = None
    promised: float = 0.0


@dataclass(eq=False)
class CostsOfStages(Collector):
    """Processor time of answers by stage, and of the event loop's thread as a whole."""

    costs: StageCosts

    def collect(self) -> Iterator[Metric]:
        """Seconds and answers by stage: their quotient is what a stage costs an answer."""
        about = "Processor time of stages, of answers that were measured."
        seconds = CounterMetricFamily("anabranch_answer_cpu_seconds", about, labels=["stage"])
        about = "Answers whose stages were measured."
        answers = CounterMetricFamily("anabranch_answer_cpu_answers", about, labels=["stage"])
        for stage, spent in self.costs.spent.items():
            seconds.add_metric([stage], spent / 1e9)
            answers.add_metric([stage], self.costs.answers[stage])
        about = "Processor time of the thread that answers, HTTP and waiting included."
        yield from (seconds, answers)
        yield CounterMetricFamily("anabranch_loop_cpu_seconds", about, self.costs.thread_seconds)


class ServingMetrics:
    """Counters of one server process."""

    def __init__(
        self,
        measured: MeasuredValues | None = None,
        timed: Collection[str] = (),
        costs: StageCosts | None = None,
    ) -> None:
        self._versions: dict[str, str | None] = {}
        self._answered: dict[tuple[str, str, int], AnswerCounters] = {}
        self._objectives: dict[str, Objectives] = {}
        self._timed = frozenset(timed)
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        if measured is not None:
            registry.register(measured)
        if costs is not None:
            registry.register(CostsOfStages(costs))

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"anabranch_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"anabranch_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"anabranch_{name}", about, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests answered.", "route", "project", "status")
        self._seconds = histogram("request_seconds", "Time to answer.", _SECONDS, "route")
        self.degraded = counter("degraded_answers", "Degraded answers.", "project")
        self.published = counter("predictions_published", "Predictions published.")
        self.dropped = counter("predictions_dropped", "Predictions that were not published.", "reason")
        self.buffered = gauge("predictions_buffered", "Predictions that wait to be published.")
        self.events = counter("events_accepted", "Events published to topics.", "project", "source")
        self.batch_version = gauge("batch_version", "Batch version served.", "project")
        self.batch_cut = gauge(
            "batch_cut_seconds", "Cut of the batch version, seconds since 1970.", "project"
        )
        self.cache = gauge("batch_parts", "The cache of batch parts: bytes, entries, hits, misses.", "what")
        self.breaker = gauge("breaker_open", "1 while a store that failed is left alone.", "store")
        self.compared = counter(
            "trial_compared",
            "Live requests scored by the champion and the version on trial, by whether the label flips.",
            "project",
            "kind",
            "label",
        )
        self.differences = histogram(
            "trial_apart", "How far the two scores lie apart.", _DIFFERENCES, "project", "kind"
        )
        self.not_compared = counter("trial_not_compared", "Live requests that were not compared.", "reason")
        channel = ("project", "channel")
        self.behind = gauge(
            "freshness_seconds", "Age of the batch's cut; how far the stream is behind arrival.", *channel
        )
        self.promised = gauge(
            "freshness_promised_seconds", "What the project promises of its freshness.", *channel
        )
        self.fresh = gauge(
            "freshness", "1 for the promise's state: kept, missed or unknown.", *channel, "state"
        )
        objective = ("project", "objective")
        self._target = gauge("objective_target", "The share that an objective promises.", *objective)
        self._judged = Counter(
            EVENTS,
            "What an objective judged, and whether it was kept.",
            (*objective, "kept"),
            registry=registry,
        )
        self.model = gauge("model_served", "1 for the model version served.", "project", "version")

    def answered(self, route: str, project: str, status: int, started: float) -> None:
        """Count a request that began at `started` (perf_counter)."""
        counted = self._answered.get((route, project, status))
        if counted is None:
            counted = self._answered[route, project, status] = self._counted(route, project, status)
        seconds = time.perf_counter() - started
        counted.requests.inc()
        counted.seconds.observe(seconds)
        if counted.available is not None:
            counted.available.inc()
        if counted.quick is not None and counted.slow is not None:
            (counted.quick if seconds <= counted.promised else counted.slow).inc()

    def _counted(self, route: str, project: str, status: int) -> "AnswerCounters":
        objectives = self._objectives.get(project)
        targets = {} if objectives is None else objectives.targets
        available = quick = slow = None
        if "availability" in targets:
            available = self._judged.labels(project, "availability", "no" if status >= _FAULT else "yes")
        # An answer that was refused was quick for nothing: it is judged by availability alone.
        if "latency" in targets and route in self._timed and status < _REFUSED:
            quick, slow = (self._judged.labels(project, "latency", kept) for kept in ("yes", "no"))
        return AnswerCounters(
            requests=self._requests.labels(route, project, str(status)),
            seconds=self._seconds.labels(route),
            available=available,
            quick=quick,
            slow=slow,
            promised=(objectives and objectives.p99_seconds) or 0.0,
        )

    def promise(self, project: str, objectives: Objectives | None) -> None:
        """Count for these objectives from now on; to be called before the first answer, and again."""
        if self._objectives.get(project) == objectives:
            return
        before = self._objectives.pop(project, None)
        for name in () if before is None else before.targets:
            self._target.remove(project, name)
        if objectives is not None:
            self._objectives[project] = objectives
            for name, target in objectives.targets.items():
                self._target.labels(project, name).set(target)
                if name != "quality":  # rows are counted where they land
                    for kept in ("yes", "no"):
                        self._judged.labels(project, name, kept)
        self._answered = {key: one for key, one in self._answered.items() if key[1] != project}

    def judge_freshness(self, project: str, kept: bool | None) -> None:
        """Count one look at the freshness of a project; None, which nobody can judge, is not counted."""
        objectives = self._objectives.get(project)
        if kept is not None and objectives is not None and objectives.freshness is not None:
            self._judged.labels(project, "freshness", "yes" if kept else "no").inc()

    def show(self, served: Served) -> None:
        """Set the versions of a project."""
        name = served.project.name
        if served.manifest is not None:
            self.batch_version.labels(name).set(served.manifest.batch_version)
            self.batch_cut.labels(name).set(served.manifest.cut / SECOND)
        self._model_served(name, served.scorer.version if served.scorer else None)

    def show_freshness(self, project: str, channels: Mapping[str, ChannelFreshness]) -> None:
        """Set the freshness of a project, and the state of its promises where it makes any."""
        for name, channel in channels.items():
            if channel.behind is not None:
                self.behind.labels(project, name).set(channel.behind / SECOND)
            if channel.promised is not None:
                self.promised.labels(project, name).set(channel.promised / SECOND)
                for state in STATES:
                    self.fresh.labels(project, name, state).set(channel.state == state)

    def show_stores(self, cache: Mapping[str, int], breakers: Mapping[str, bool]) -> None:
        """Set the figures of the cache and of the circuit breakers."""
        for what, count in cache.items():
            self.cache.labels(what).set(count)
        for store, is_open in breakers.items():
            self.breaker.labels(store).set(is_open)

    def _model_served(self, project: str, version: str | None) -> None:
        before = self._versions.get(project)
        if before is not None and before != version:
            self.model.remove(project, before)
        if version is not None:
            self.model.labels(project, version).set(1)
        self._versions[project] = version

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def of_projects(text: bytes, may: Callable[[str], bool]) -> bytes:
    """The text without samples of projects that the caller may not see; samples without a project stay."""
    return b"".join(
        line
        for line in text.splitlines(keepends=True)
        if line.startswith(b"#") or (found := _PROJECT.search(line)) is None or may(found[1].decode())
    )


def leave(folder: Path, text: bytes) -> None:
    """Write this worker's metrics where the other workers read them, as a whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{os.getpid()}.new"
    draft.write_bytes(text)
    draft.replace(folder / f"{os.getpid()}.prom")


def together(folder: Path, own: bytes) -> bytes:
    """This worker's metrics and those the others left; a worker that ended disappears after some seconds."""
    texts = {str(os.getpid()): own.decode()}
    for file in sorted(folder.glob("*.prom")):
        with suppress(OSError):  # it ended just now
            if file.stem not in texts and time.time() - file.stat().st_mtime < _STALE_SECONDS:
                texts[file.stem] = file.read_text(encoding="utf-8")
    return joined(texts).encode()


def joined(texts: Mapping[str, str]) -> str:
    """Texts in Prometheus' format as one: each sample has the label `worker`, families stay together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for worker, text in texts.items():
        family: tuple[list[str], list[str]] = ([], [])
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                family[0].append(line)
            elif line:
                family[1].append(_labelled(line, worker))
    return "".join(
        f"{line}\n" for heads, samples in families.values() for line in (*dict.fromkeys(heads), *samples)
    )


def _labelled(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
