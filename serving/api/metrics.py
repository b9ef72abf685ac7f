"""What /metrics shows. Each application has its own registry; labels take only values that are known beforehand."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND
from serving.api.live import Served
from serving.api.promises import STATES, ChannelFreshness

APART = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_PROJECT = re.compile(rb'[{,]project="([^"]+)"')
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

log = logging.getLogger(__name__)
EVERY_SECONDS = 10.0


class MeasuredValues(Collector):
    """The latest measures of each project, read in the background: a scrape reads no store."""

    def __init__(
        self, read: Callable[[str], Sequence[Measure]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._found: dict[str, Sequence[Measure]] = {}
        self._next = clock()

    def look(self, projects: Iterable[str]) -> None:
        """Read the measures of `projects` again when the last read is old; what cannot be read keeps its values."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + EVERY_SECONDS
        found: dict[str, Sequence[Measure]] = {}
        for project in projects:
            try:
                found[project] = self._read(project)
            except AnabranchError as error:
                log.debug("measures of %s cannot be read: %s", project, error)
                found[project] = self._found.get(project, ())
        self._found = found

    def of(self, project: str) -> Sequence[Measure]:
        """The measures of one project as they were last read."""
        return self._found.get(project, ())

    def collect(self) -> Iterator[Metric]:
        """One gauge for all of them."""
        labels = ("project", "subject", "name", "version", "slice")
        family = GaugeMetricFamily(
            "anabranch_measure", "Latest measured value: accuracy, drift, skew, approximation.", labels=labels
        )
        for measures in self._found.values():
            for one in measures:
                family.add_metric([one.project, one.subject, one.name, one.version, one.slice], one.value)
        yield family


class ServingMetrics:
    """Counters of one server process."""

    def __init__(self, measured: MeasuredValues | None = None) -> None:
        self._versions: dict[str, str | None] = {}
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        if measured is not None:
            registry.register(measured)
        self._requests = Counter(
            "anabranch_requests", "Requests answered.", ("route", "project", "status"), registry=registry
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._seconds = Histogram(
            "anabranch_request_seconds", "Time to answer.", ("route",), buckets=BUCKETS, registry=registry
        )
        self.degraded = Counter(
            "anabranch_degraded_answers",
            "Answers that said they are degraded.",
            ("project",),
            registry=registry,
        )
        self.published = Counter(
            "anabranch_predictions_published", "Predictions published.", registry=registry
        )
        self.dropped = Counter(
            "anabranch_predictions_dropped",
            "Predictions that were not published.",
            ("reason",),
            registry=registry,
        )
        self.buffered = Gauge(
            "anabranch_predictions_buffered", "Predictions that wait to be published.", registry=registry
        )
        self.events = Counter(
            "anabranch_events_accepted",
            "Events published to topics.",
            ("project", "source"),
            registry=registry,
        )
        self.batch_version = Gauge(
            "anabranch_batch_version", "Batch version served.", ("project",), registry=registry
        )
        self.batch_cut = Gauge(
            "anabranch_batch_cut_seconds",
            "Cut of the batch version, seconds since 1970.",
            ("project",),
            registry=registry,
        )
        self.kept = Gauge(
            "anabranch_batch_parts",
            "The cache of batch parts: bytes, entries, hits, misses.",
            ("what",),
            registry=registry,
        )
        self.breaker = Gauge(
            "anabranch_breaker_open",
            "1 while a store that failed is left alone.",
            ("store",),
            registry=registry,
        )
        self.compared = Counter(
            "anabranch_trial_compared",
            "Live requests scored by champion and tried version, by whether the label flips.",
            ("project", "kind", "label"),
            registry=registry,
        )
        self.apart = Histogram(
            "anabranch_trial_apart",
            "How far their scores lie apart.",
            ("project", "kind"),
            buckets=APART,
            registry=registry,
        )
        self.not_compared = Counter(
            "anabranch_trial_not_compared",
            "Live requests that were not compared.",
            ("reason",),
            registry=registry,
        )
        channel = ("project", "channel")
        self.behind = Gauge(
            "anabranch_freshness_seconds",
            "Age of the batch's cut; how far the stream is behind arrival.",
            channel,
            registry=registry,
        )
        self.promised = Gauge(
            "anabranch_freshness_promised_seconds",
            "What the project promises of them.",
            channel,
            registry=registry,
        )
        self.fresh = Gauge(
            "anabranch_freshness",
            "1 for how the promise stands: kept, missed or unknown.",
            (*channel, "state"),
            registry=registry,
        )
        self.model = Gauge(
            "anabranch_model_served",
            "1 for the model version served.",
            ("project", "version"),
            registry=registry,
        )

    def answered(self, route: str, project: str, status: int, started: float) -> None:
        """Count a request that began at `started` (perf_counter)."""
        found = self._answered.get((route, project, status))
        if found is None:
            found = self._answered[route, project, status] = (
                self._requests.labels(route, project, str(status)),
                self._seconds.labels(route),
            )
        found[0].inc()
        found[1].observe(time.perf_counter() - started)

    def show(self, served: Served) -> None:
        """Set what is known of a project's versions."""
        name = served.project.name
        if served.manifest is not None:
            self.batch_version.labels(name).set(served.manifest.batch_version)
            self.batch_cut.labels(name).set(served.manifest.cut / SECOND)
        self._model_served(name, served.scorer.version if served.scorer else None)

    def show_freshness(self, project: str, channels: Mapping[str, ChannelFreshness]) -> None:
        """Set how a project's promises stand, where it has any."""
        for name, found in channels.items():
            if found.behind is not None:
                self.behind.labels(project, name).set(found.behind / SECOND)
            if found.promised is not None:
                self.promised.labels(project, name).set(found.promised / SECOND)
                for state in STATES:
                    self.fresh.labels(project, name, state).set(found.state == state)

    def show_stores(self, kept: Mapping[str, int], breakers: Mapping[str, bool]) -> None:
        """Set what is known of the cache and the circuit breakers."""
        for what, count in kept.items():
            self.kept.labels(what).set(count)
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
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


def only_of(text: bytes, may: Callable[[str], bool]) -> bytes:
    """The text without the figures of projects that a caller may not see; those of no project are everybody's."""
    lines = text.splitlines(keepends=True)
    return b"".join(
        line
        for line in lines
        if line.startswith(b"#") or (found := _PROJECT.search(line)) is None or may(found[1].decode())
    )
