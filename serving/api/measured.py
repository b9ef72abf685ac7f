"""Measures of every project on `/metrics`, read in the background: a scrape reads no store."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure

log = logging.getLogger(__name__)
EVERY_SECONDS = 10.0


class Measured(Collector):
    """What `read` last found of each project; a project that cannot be read keeps what it had."""

    def __init__(
        self, read: Callable[[str], Sequence[Measure]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._found: dict[str, Sequence[Measure]] = {}
        self._next = clock()

    def look(self, projects: Iterable[str]) -> None:
        """Read the measures of `projects` anew, when it is time."""
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
        """What was last found of one."""
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
