"""What a system was measured to need: from its own `/metrics`, or from the figures in docs/benchmarks.

Where a figure comes from goes with it. Times are in seconds, rates per second.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from anabranch.errors import AnabranchError
from jobs.capacity.queues import Times, mean_wait
from jobs.wiring.settings import ROOT

FOLDER = ROOT / "docs" / "benchmarks"
TERABYTE = 1e12
ANSWERS = ("predict", "features")
"""The routes whose times count as answers."""
FEWEST_CALLS = 200
"""Answers that a scrape must show before they say how long one takes."""
_NORMAL_99 = 2.3263478740408408


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What one answer takes of a worker, of the store, and of time besides; `memory` of a worker in MiB.

    `read` is what one read takes of the worker, shared by the calls that share it. `said` tells where it is
    from.
    """

    call: Times
    apart: Times
    store: float
    memory: float
    said: str
    read: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Events a second of one core, Kafka's and Cassandra's work included, and memory in MiB."""

    rate: float
    memory: float
    said: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of the batch benchmark on `cores`.

    `bytes_a_row` of CSV; rows `landed` and keys `published` per second; `build`, microseconds of a full build
    per event at `build_events`; `day`, seconds of the build of one new day over `day_events`; `driver` and
    `workers`, peak memory of the largest build in MiB.
    """

    bytes_a_row: float
    landed: float
    build: float
    build_events: int
    day: float
    day_events: int
    published: float
    events_a_key: int
    driver: float
    workers: float
    cores: int


def core_hours(measured: Measured, size: float = TERABYTE) -> dict[str, float]:
    """Core-hours for so many bytes of CSV, by task."""
    events = size / measured.bytes_a_row
    seconds = {
        "landing all rows": events / measured.landed,
        "a full build": events * measured.build / 1e6,
        "a build of one new day over 90 days": measured.day * events / measured.day_events,
        "publishing every key (part of each build)": events / measured.events_a_key / measured.published,
    }
    return {name: value * measured.cores / 3600 for name, value in seconds.items()}


def figure(rows: Sequence[tuple[str, float]], words: str) -> float:
    """Our figure in the last row whose work begins with `words`."""
    found = [ours for work, ours in rows if work.startswith(words)]
    if not found:
        raise AnabranchError(f"no row of the benchmark begins with {words!r}: run it again (make bench)")
    return found[-1]


def measured_batch(rows: Sequence[tuple[str, float]], *, cores: int, events_a_key: int = 10_000) -> Measured:
    """The figures of rows of docs/benchmarks/batch.json, as (work, ours)."""
    found = re.match(r"landing ([\d,]+) rows of CSV \((\d+) MiB\)", rows[0][0])
    events = [
        int(size[1].replace(",", ""))
        for work, _ in rows
        if (size := re.match(r"full build, ([\d,]+) events", work))
    ]
    if found is None or not events:
        raise AnabranchError("the batch benchmark's rows are not what is expected: run 'make bench-batch'")
    return Measured(
        bytes_a_row=int(found[2]) * 2**20 / int(found[1].replace(",", "")),
        landed=figure(rows, "landing"),
        build=figure(rows, "full build"),
        build_events=max(events),
        day=figure(rows, "build of one new day"),
        day_events=max(events),
        published=figure(rows, "publishing"),
        events_a_key=events_a_key,
        driver=figure(rows, "peak memory of driver"),
        workers=figure(rows, "peak memory of Python"),
        cores=cores,
    )


def benchmarked_batch(folder: Path = FOLDER) -> Measured:
    """What batches need, from docs/benchmarks/batch.json."""
    rows, cores, _ = _page(folder, "batch")
    return measured_batch(rows, cores=cores)


def benchmarked_stream(folder: Path = FOLDER) -> Streaming:
    """What the stream needs, from docs/benchmarks/speed.json and soak.json."""
    rows, cores, said = _page(folder, "speed")
    return Streaming(
        rate=figure(rows, "drain") / cores,
        memory=figure(_page(folder, "soak")[0], "memory of the stream"),
        said=f"{said}: events a second of a machine that also holds Kafka and Cassandra",
    )


def benchmarked_answers(folder: Path = FOLDER) -> Answering:
    """What answers need, from docs/benchmarks/serving.json, where no server runs to be asked.

    A worker that is asked as much as it answers is busy all the time: the inverse of its rate is its
    processor time of a call. What varies is fitted to the p50 and p99 at the highest rate held, as if
    logarithmic times were normal; it holds some waiting, so that answers are rather better than is said.
    """
    rows, _, said = _page(folder, "serving")
    call = 1 / figure(rows, "answers of one worker, batch part cold")
    alone = figure(rows, "stage: read and merge, alone on the wire: batch part and tiles") / 1e6
    held = "highest rate held at p99 < 50 ms, 2 workers: "
    spread = math.log(figure(rows, f"{held}p99") / figure(rows, f"{held}p50")) / _NORMAL_99
    scv = math.exp(spread * spread) - 1
    memory = [ours for work, ours in rows if work.endswith("2 workers: memory of the workers")]
    return Answering(
        call=Times(mean=call, scv=scv),
        apart=Times(mean=max(alone - call, call / 10), scv=scv),
        store=1 / _theirs(folder, "serving", "answers of one worker, batch part cold"),
        memory=memory[-1] / 2 if memory else 0.0,
        said=f"{said}; the store's share is at most the inverse of the driver's own rate of reads",
    )


def _page(folder: Path, name: str) -> tuple[list[tuple[str, float]], int, str]:
    """Rows of a benchmark as (work, ours), the cores it ran on, and where it is from."""
    rows = [(row["work"], float(row["ours"])) for row in _json(folder, name)]
    head = re.search(r"on (\d{4}-\d\d-\d\d)\..*?(\d+) cores", _text(folder / f"{name}.md"))
    if head is None:
        raise AnabranchError(f"{folder / name}.md does not say on how many cores it was measured")
    return rows, int(head[2]), f"docs/benchmarks/{name}.md of {head[1]}, {head[2]} cores"


def _theirs(folder: Path, name: str, words: str) -> float:
    return float(next(row["theirs"] for row in _json(folder, name) if row["work"].startswith(words)))


def _json(folder: Path, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(_text(folder / f"{name}.json"))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise AnabranchError(
            f"{file} cannot be read: it comes with the checkout, or run 'make bench-{file.stem}'"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """What `/metrics` of a REST server shows, all of its workers together.

    `buckets`: answers by the upper ends of the histogram's buckets, each bucket alone. `seconds`: the sum of
    answers' times; `processor`: seconds of all workers; `memory` in MiB of the largest.
    """

    buckets: Mapping[float, float]
    seconds: float
    processor: float
    memory: float
    workers: int

    @property
    def answers(self) -> float:
        """How many answers there were."""
        return sum(self.buckets.values())

    def since(self, before: "Scrape") -> "Scrape":
        """What came between."""
        return Scrape(
            buckets={end: count - before.buckets.get(end, 0.0) for end, count in self.buckets.items()},
            seconds=self.seconds - before.seconds,
            processor=self.processor - before.processor,
            memory=self.memory,
            workers=self.workers,
        )


def read_metrics(text: str, routes: Sequence[str] = ANSWERS) -> Scrape:
    """A scrape of `/metrics` in Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    upto: dict[float, float] = {}
    seconds = processor = memory = 0.0
    workers = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "process_cpu_seconds_total":
                processor += sample.value
                workers.add(labels.get("worker", ""))
            elif sample.name == "process_resident_memory_bytes":
                memory = max(memory, sample.value / 2**20)
            elif labels.get("route") not in routes:
                continue
            elif sample.name == "anabranch_request_seconds_sum":
                seconds += sample.value
            elif sample.name == "anabranch_request_seconds_bucket":
                end = float(labels["le"])
                upto[end] = upto.get(end, 0.0) + sample.value
    ends = sorted(upto)
    each = {end: upto[end] - upto.get(before, 0.0) for before, end in pairwise([-1.0, *ends])}
    return Scrape(buckets=each, seconds=seconds, processor=processor, memory=memory, workers=len(workers))


def observed_answers(found: Scrape, elapsed: float, store: float, said: str) -> Answering:
    """What answers took in a stretch of `elapsed` seconds; `store` is the store's processor time a call.

    The processor time of a call is all of the workers' over the answers. How much a time varies is what the
    histogram shows of answers. What of an answer is neither processor nor queue was waiting for the store.
    """
    if found.answers < FEWEST_CALLS:
        raise AnabranchError(
            f"the server gave {found.answers:.0f} answers in {elapsed:.0f} s: at least {FEWEST_CALLS} "
            "are needed to tell how long one takes"
        )
    mean = found.seconds / found.answers
    scv = variability(found)
    call = Times(mean=max(found.processor / found.answers, 1e-6), scv=scv)
    queued = mean_wait(found.answers / elapsed / max(1, found.workers), call)
    return Answering(
        call=call,
        apart=Times(mean=max(mean - call.mean - queued, mean / 20), scv=scv),
        store=store,
        memory=found.memory,
        said=said,
    )


def variability(found: Scrape) -> float:
    """The squared coefficient of variation of answers, each taken as the geometric middle of its bucket."""
    ends = sorted(found.buckets)
    middles = [math.sqrt(max(low, end / 4) * end) if math.isfinite(end) else 2 * low
               for low, end in pairwise([0.0, *ends])]  # fmt: skip
    counts = [found.buckets[end] for end in ends]
    total = sum(counts)
    mean = sum(n * x for n, x in zip(counts, middles, strict=True)) / total
    second = sum(n * x * x for n, x in zip(counts, middles, strict=True)) / total
    return max(0.0, second / mean**2 - 1)
