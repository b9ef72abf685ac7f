"""What measuring ways to run the stream shares: the run with its one warm session, and what came of a way."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from kafka import KafkaAdminClient, TopicPartition
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.declare.projects import Project
from jobs.servers.processes import read_record
from jobs.show import Steps
from jobs.wiring.context import Context
from tests.bench.freshness import NotMeasuredError
from tests.bench.river import River
from tests.bench.speed import TOPIC

RATE = 2_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Seconds: before anything counts, before each way, of each way, of each on events alone."""

    first: float = 120.0
    warm: float = 12.0
    seconds: float = 32.0
    alone: float = 22.0


QUICK = Sizes(first=20.0, warm=5.0, seconds=8.0, alone=8.0)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a way; `cores` are those that Spark, its workers and Cassandra kept busy."""

    name: str
    figures: Mapping[str, float]
    cores: float
    equal: bool | None


@dataclass
class Bench:
    """The run: servers, the one warm session, the project."""

    found: River
    context: Context
    project: Project
    sizes: Sizes
    steps: Steps
    runs: int = 0

    @property
    def checkpoint(self) -> str:
        """A folder for this run of a query alone."""
        return str(self.found.settings.data / f"way-{self.runs}")

    def begin(self) -> str:
        """The name of the next run, for which the topic is empty."""
        self.runs += 1
        place, admin = (
            TopicPartition(TOPIC, 0),
            KafkaAdminClient(bootstrap_servers=self.found.settings.bus.bootstrap_servers),
        )
        admin.delete_records({place: self.context.bus.ends(TOPIC)[0]})
        admin.close()
        return f"w{self.runs}"

    @contextmanager
    def running(self, queries: list[StreamingQuery]) -> Iterator[None]:
        """Stop the queries at the end; raises NotMeasuredError when one failed, and says what of."""
        try:
            yield
        finally:
            failures = [
                first_line(error) for error in (query.exception() for query in queries) if error is not None
            ]
            for query in queries:
                query.stop()
            if failures:
                raise NotMeasuredError(f"a query failed: {failures[0]}")

    def watched(
        self, sent: Callable[[str], object], queries: list[StreamingQuery]
    ) -> Callable[[str], object]:
        """`sent`, which gives up when there is nothing and a query that should bring it has ended."""

        def asked(key: str) -> object:
            found = sent(key)
            if found is None and not all(query.isActive for query in queries):
                raise NotMeasuredError("the query has ended")
            return found

        return asked


def first_line(error: Exception) -> str:
    """Of what Spark says when a query ends, the line that says why."""
    text = str(error).partition("terminated with exception: ")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(
        next(
            (line for line in lines if "upport" in line or "llowlist" in line), lines[0] if lines else ""
        ).split()
    )[:400]


class Busy:
    """Processor time of Spark's JVM, its workers and Cassandra since it was made."""

    def __init__(self, bench: Bench) -> None:
        jvm = bench.context.spark.sparkContext._gateway.proc.pid  # type: ignore[union-attr]
        record = read_record(bench.found.settings.data / "run" / "cassandra.json")
        assert record is not None
        self._pids = (jvm, record.pid)
        self._began = (time.perf_counter(), self._seconds())

    def _seconds(self) -> float:
        found = [
            each
            for pid in self._pids
            for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        ]
        total = 0.0
        for process in found:
            try:
                total += sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        return total

    def cores(self) -> float:
        """On average."""
        began, seconds = self._began
        return (self._seconds() - seconds) / (time.perf_counter() - began)
