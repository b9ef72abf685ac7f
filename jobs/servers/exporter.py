"""The exporter's process: metrics of what has no port of its own, and the replicas that Prometheus scrapes.

It shows the last run of every job, the disks of data folder and lake, and whether Kafka and Cassandra answer.
It follows the REST servers that say that they are up and writes them down as targets. One that ended without
leaving stays a target for a day, so that Prometheus sees that it is down.
"""

import json
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anabranch.errors import AnabranchError
from anabranch.settings import BusSettings, ViewsSettings
from anabranch.stores.cassandra.replicas import Replicas
from anabranch.stores.kafka.bus import Bus
from jobs.monitoring.runs import kept_runs
from jobs.monitoring.targets import write_targets
from jobs.servers.processes import is_alive, read_record
from serving.api.budgets import EVENTS

log = logging.getLogger(__name__)
GIVEN = "given.json"
LOOK_SECONDS = 2.0
LOST_SECONDS = 86_400.0
_SPARK_PARTS = ("master", "applications")
_RUN = ("verb", "project")


class Followed:
    """The replicas that are targets: those that are up, and those that ended without leaving.

    A replica that stops says that it leaves; the row of one that was killed expires without.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seen = clock, dict[str, float]()
        self._ensured = False
        self.ready: dict[str, bool] = {}

    def look(self, replicas: Replicas) -> list[str]:
        """The places to scrape now; raises an AnabranchError, and changes nothing, without the store."""
        if not self._ensured:
            replicas.ensure()
            self._ensured = True
        up: dict[str, bool] = {}
        for one in replicas.all():
            up[one.place] = up.get(one.place, False) or one.ready
        now, left = self._clock(), replicas.left()
        self._seen |= dict.fromkeys(up, now)
        self._seen = {
            place: at
            for place, at in self._seen.items()
            if place in up or (place not in left and now - at < LOST_SECONDS)
        }
        self.ready = up
        return sorted(self._seen)


class MachineFigures(Collector):
    """What the exporter shows. `look` reads the stores; a scrape reads files of this machine alone."""

    def __init__(
        self,
        data: Path,
        lake: str = "",
        servers: Mapping[str, Callable[[], bool]] | None = None,
        usage: Callable[[str], tuple[int, int, int]] = shutil.disk_usage,
    ) -> None:
        self._data, self._servers, self._usage = data, dict(servers or {}), usage
        self._places = {"data": str(data), **({"lake": lake} if lake and "://" not in lake else {})}
        self._up: dict[str, bool] = {}
        self.replicas: Mapping[str, bool] = {}

    def look(self) -> None:
        """Ask every server whether it answers."""
        self._up = {name: answers() for name, answers in self._servers.items()}

    def collect(self) -> Iterator[Metric]:
        """All families."""
        up = GaugeMetricFamily("anabranch_server_up", "1 while the server answers.", labels=("server",))
        for name, answers in self._up.items():
            up.add_metric([name], float(answers))
        replicas = GaugeMetricFamily(
            "anabranch_replica_ready", "1 for a REST server that says it can answer.", labels=("place",)
        )
        for place, ready in self.replicas.items():
            replicas.add_metric([place], float(ready))
        yield from (up, replicas)
        yield from self._disks()
        yield from self._jobs()

    def _disks(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("anabranch_disk_bytes", "Size of the disk.", labels=("place",))
        free = GaugeMetricFamily("anabranch_disk_free_bytes", "Free bytes of the disk.", labels=("place",))
        for name, path in self._places.items():
            with suppress(OSError):  # the lake is made by the first landing
                total, _, left = self._usage(path)
                size.add_metric([name], total)
                free.add_metric([name], left)
        yield from (size, free)

    def _jobs(self) -> Iterator[Metric]:
        def gauge(name: str, about: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"anabranch_job_{name}", about, labels=(*_RUN, *more))

        ended = gauge("ended_seconds", "When the last run ended, seconds since 1970.")
        succeeded = gauge("succeeded_seconds", "When the last run that did not fail ended.")
        seconds = gauge("duration_seconds", "How long the last run took.")
        failed = gauge("failed", "1 when the last run failed.")
        result = gauge("result", "The numbers of the last run's result: rows, versions.", "name")
        runs = CounterMetricFamily("anabranch_job_runs", "Runs that ended.", labels=_RUN)
        failures = CounterMetricFamily("anabranch_job_failures", "Runs that failed.", labels=_RUN)
        judged = CounterMetricFamily(
            EVENTS, "Landed rows, and whether they are good.", labels=("project", "objective", "kept")
        )
        rows: dict[tuple[str, str], int] = {}
        for run in kept_runs(self._data):
            if run.rows + run.quarantined:
                for kept, count in (("yes", run.rows), ("no", run.quarantined)):
                    rows[run.project, kept] = rows.get((run.project, kept), 0) + count
            labels = [run.verb, run.project]
            ended.add_metric(labels, run.ended)
            succeeded.add_metric(labels, run.succeeded)
            seconds.add_metric(labels, run.seconds)
            failed.add_metric(labels, float(run.failed))
            runs.add_metric(labels, run.runs)
            failures.add_metric(labels, run.failures)
            for name, value in run.figures.items():
                result.add_metric([*labels, name], value)
        for (project, kept), count in rows.items():
            judged.add_metric([project, "quality", kept], count)
        yield from (ended, succeeded, seconds, failed, result, runs, failures, judged)


class Exporter:
    """The figures on a port of loopback, and the files of targets kept true, until stopped."""

    def __init__(self, figures: MachineFigures, data: Path, replicas: Replicas | None) -> None:
        self._figures, self._data, self._replicas = figures, data, replicas
        self._followed = Followed()
        self._written: dict[str, list[str]] = {}

    def run(self, place: str, stopping: threading.Event) -> None:
        """Serve metrics at `place` (``host:port``) and look at the servers every few seconds."""
        registry = CollectorRegistry()
        registry.register(self._figures)
        host, _, port = place.rpartition(":")
        server, _ = start_http_server(int(port), addr=host, registry=registry)
        try:
            while True:
                self._look()
                if stopping.wait(LOOK_SECONDS):
                    return
        finally:
            server.shutdown()
            server.server_close()

    def _look(self) -> None:
        self._figures.look()
        self._spark()
        if self._replicas is None:
            return
        try:
            places = self._followed.look(self._replicas)
        except AnabranchError as error:
            log.debug("replicas are those of before: %s", error)
            return
        self._figures.replicas = self._followed.ready
        self._write("rest", "replicas", places)

    def _spark(self) -> None:
        """The pages of the embedded cluster's master, while it runs."""
        record = read_record(self._data / "run" / "spark-master.json")
        places = [f"127.0.0.1:{record.ports[1]}"] if record is not None and is_alive(record) else []
        for part in _SPARK_PARTS:
            self._write("spark", part, places, {"__metrics_path__": f"/metrics/{part}/prometheus"})

    def _write(self, job: str, name: str, places: list[str], labels: Mapping[str, str] | None = None) -> None:
        if self._written.get(name) != places:
            write_targets(self._data, job, name, places, labels)
            self._written[name] = places


def main(home: Path) -> None:
    """Run the exporter in the foreground until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    for noisy in ("cassandra", "kafka"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    given: dict[str, Any] = json.loads((home / GIVEN).read_text(encoding="utf-8"))
    (home / GIVEN).unlink()
    given["views"]["hosts"] = tuple(given["views"]["hosts"])
    views, bus = ViewsSettings(**given["views"]), Bus(BusSettings(**given["bus"]))
    stopping = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stopping.set())
    replicas, data = Replicas(views), Path(given["data"])
    servers = {"kafka": bus.is_reachable, "cassandra": lambda: _answers(replicas)}
    figures = MachineFigures(data, given["lake"], servers)
    Exporter(figures, data, replicas).run(given["place"], stopping)


def _answers(replicas: Replicas) -> bool:
    """Whether Cassandra answers a query."""
    try:
        replicas.all()
    except AnabranchError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
