"""Training sets against DuckDB's RANGE windows and Spark's window functions, and the time of one answer's
merge.

Skewed events (Zipf 1.3), a tenth as many queries, 4 windows of (count, sum, max). Queries lie on hops,
where our windows
and exact RANGE windows hold the same events, so that results can be compared value by value.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import Aggregate, Count, FeatureView, Max, Mean, Min, Project, Source, Sum
from anabranch.declare.models import Model
from anabranch.declare.sources import Label
from anabranch.folds.merge import BatchPart, Tiles, merge
from anabranch.folds.spark import point_in_time
from anabranch.values.times import DAY, HOUR, MINUTE
from jobs.show import Steps
from jobs.wiring.settings import load_settings
from jobs.wiring.spark_session import spark_session
from tests.bench.report import Row, alone, save

WINDOWS = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
SOURCE = Source(
    name="events", topic="events", id="id", time="at", schema="id STRING, k STRING, at TIMESTAMP, x DOUBLE"
)
VIEW = FeatureView(
    name="v",
    source=SOURCE,
    key="k",
    windows=tuple(WINDOWS),
    hop="5m",
    features={"n": Count("x"), "s": Sum("x"), "m": Max("x")},
)
PROJECT = Project(
    name="bench", views=(VIEW,), label=Label(source=SOURCE, key="k", target="x > 0"), model=Model()
)
DUCKDB_LARGEST = 2_000_000
SPARK_EVENTS = 20_000  # the most that Spark's own window functions finish in reasonable time at this skew


@dataclass(frozen=True)
class Data:
    """Parquet files of events (k, at, x) and queries (k, at, i)."""

    count: int
    events: Path
    queries: Path


def make_data(folder: Path, count: int) -> Data:
    """Random events over 90 days; a tenth as many queries on 5-minute marks; the same for the same count."""
    random = np.random.default_rng(count)
    key = np.char.add("k", np.minimum(random.zipf(1.3, count), 100_000).astype("U6"))
    at = 1_700_000_000_000_000 // DAY * DAY + random.integers(0, 90 * DAY, count)
    x = np.round(random.normal(50, 10, count), 2)
    asked = random.integers(0, count, count // 10)
    marks = at[0] // DAY * DAY + random.integers(0, 60 * DAY // (5 * MINUTE), count // 10) * 5 * MINUTE
    stamp = pa.timestamp("us", tz="UTC")
    data = Data(count, folder / f"events-{count}.parquet", folder / f"queries-{count}.parquet")
    pq.write_table(pa.table({"k": key, "at": pa.array(at, stamp), "x": x}), data.events)
    pq.write_table(
        pa.table({"k": key[asked], "at": pa.array(marks, stamp), "i": np.arange(count // 10)}), data.queries
    )
    return data


def ours(spark: SparkSession, data: Data, out: Path) -> None:
    """Our training set, Parquet to Parquet."""
    events = spark.read.parquet(str(data.events)).withColumn("id", F.lit(""))
    rows = point_in_time(PROJECT, {"events": events}, spark.read.parquet(str(data.queries)), "at")
    rows.write.mode("overwrite").parquet(str(out))


def _windows(query_time: str, before: Callable[[int], str]) -> tuple[str, str]:
    columns = [
        f"{function} OVER w{name} AS {column}_{name}"
        for name in WINDOWS
        for column, function in (("n", "count(x)"), ("s", "sum(x)"), ("m", "max(x)"))
    ]
    frames = [
        f"w{name} AS (PARTITION BY k ORDER BY {query_time} RANGE BETWEEN {before(width)} PRECEDING AND 1 "
        "PRECEDING)"
        for name, width in WINDOWS.items()
    ]
    return ", ".join(columns), ", ".join(frames)


def with_duckdb(data: Data, out: Path) -> None:
    """The same by DuckDB's RANGE windows on as many threads as we have cores."""
    columns, frames = _windows("t", str)
    both = f"""SELECT k, epoch_us("at") AS t, x, NULL AS i FROM '{data.events}'
        UNION ALL SELECT k, epoch_us("at"), NULL, i FROM '{data.queries}'"""
    duckdb.connect(config={"threads": 2}).execute(
        f"COPY (SELECT * FROM (SELECT i, {columns} FROM ({both}) WINDOW {frames}) WHERE i IS NOT NULL) TO "
        f"'{out}' (FORMAT parquet)"
    )


def with_spark(spark: SparkSession, data: Data, out: Path) -> None:
    """The same by Spark's own window functions."""
    columns, frames = _windows("t", str)
    spark.read.parquet(str(data.events)).createOrReplaceTempView("e")
    spark.read.parquet(str(data.queries)).createOrReplaceTempView("q")
    events = "SELECT k, unix_micros(at) AS t, x, NULL AS i FROM e"
    both = f"{events} UNION ALL SELECT k, unix_micros(at), NULL, i FROM q"
    spark.sql(
        f"SELECT * FROM (SELECT i, {columns} FROM ({both}) WINDOW {frames}) WHERE i IS NOT NULL"
    ).write.mode("overwrite").parquet(str(out))


def equal(left: Path, right: Path) -> bool:
    """Whether two results hold the same values, sums to 1e-9 relative."""
    a, b = (pq.read_table(path).to_pandas().sort_values("i").reset_index(drop=True) for path in (left, right))
    names = [f"{column}_{name}" for column in "nsm" for name in WINDOWS]
    return len(a) == len(b) and all(
        np.allclose(a[name].astype(float), b[name].astype(float), rtol=1e-9, atol=1e-9, equal_nan=True)
        for name in names
    )


class Peak:
    """The largest resident memory of this process and its children while a block runs, in MiB."""

    def __enter__(self) -> "Peak":
        self.most, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.2):
            sizes = []
            for process in [me, *me.children(recursive=True)]:
                try:
                    sizes.append(process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            self.most = max(self.most, sum(sizes) / 2**20)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def timed(work: Callable[[], None], runs: int) -> float:
    """Median seconds of `runs` runs, after one that warms it up: ours and every peer's alike."""
    work()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def training_rows(spark: SparkSession, folder: Path, sizes: list[int], steps: Steps) -> list[Row]:
    """Ours at every size; DuckDB up to 2 M events; Spark's window functions at a size they finish."""
    rows, per_event = [], {}
    small = make_data(folder, SPARK_EVENTS)
    ours(spark, small, folder / "warm")
    for count in sizes:
        data = make_data(folder, count)
        with Peak() as peak:
            seconds = timed(lambda data=data: ours(spark, data, folder / "ours"), 3)  # type: ignore[misc]
        per_event[count] = seconds / count
        steps.step(f"{count:,} events: ours {seconds:.1f} s, peak memory {peak.most:,.0f} MiB")
        rows.append(alone(f"peak memory, {count:,} events", peak.most, "MiB", goal=""))
        if count <= DUCKDB_LARGEST:
            theirs = timed(partial(with_duckdb, data, folder / "duckdb.parquet"), 3)
            steps.step(f"{count:,} events: DuckDB {theirs:.1f} s")
            same = equal(folder / "ours", folder / "duckdb.parquet")
            work = f"training set, {count:,} events x {count // 10:,} queries x 4 windows x 3"
            rows.append(
                Row(
                    work=work,
                    peer="DuckDB RANGE windows",
                    ours=seconds,
                    theirs=theirs,
                    unit="s",
                    ratio=theirs / seconds,
                    goal=">= 10",
                    equal=same,
                )
            )
    first, last = min(per_event), max(per_event)
    rows.append(
        Row(work=f"seconds an event, {first:,} to {last:,} events", peer="itself", ours=per_event[last],
        theirs=per_event[first], unit="s",
            ratio=per_event[first] / per_event[last], goal=">= 0.9", equal=None)
    )  # fmt: skip
    seconds = timed(lambda: ours(spark, small, folder / "ours"), 3)
    theirs = timed(lambda: with_spark(spark, small, folder / "spark"), 3)
    same = equal(folder / "ours", folder / "spark")
    work = f"training set, {SPARK_EVENTS:,} events"
    rows.append(
        Row(
            work=work,
            peer="Spark window functions",
            ours=seconds,
            theirs=theirs,
            unit="s",
            ratio=theirs / seconds,
            goal=">= 1",
            equal=same,
        )
    )
    return rows


def answer_rows() -> list[Row]:
    """One key of 50 features: decode and fold a batch part and 40 tiles, in one Python thread."""
    kinds: tuple[type[Aggregate], ...] = (Sum, Mean, Min, Max)
    made: dict[str, Aggregate] = {
        f"{kind.__name__.lower()}{i}": kind(f"x + {i}") for i in range(10) for kind in kinds
    }
    made |= {f"count{i}": Count(where=f"x > {i}") for i in range(10)}
    view = FeatureView(name="v", source=SOURCE, key="k", windows=("1d",), features=made)
    random, width = np.random.default_rng(1), view.layout.width
    at = 1_700_000_000_000_000 // DAY * DAY
    batch_blob = np.concatenate([[[-1.0, 0.0]], random.normal(size=(1, width))], axis=1).tobytes()
    tile_blobs = [random.normal(size=width).tobytes() for _ in range(40)]
    starts = np.arange(40, dtype=np.int64) * HOUR // 4 + at - HOUR * 10

    def decode_and_fold() -> None:
        batch = np.frombuffer(batch_blob).reshape(-1, 2 + width)
        tiles = np.frombuffer(b"".join(tile_blobs)).reshape(-1, width)
        view.layout.reduce(np.concatenate([batch[:, 2:], tiles]))

    def whole() -> None:
        batch = BatchPart(at - 10 * HOUR, 2 * DAY, np.frombuffer(batch_blob).reshape(-1, 2 + width))
        merge(view, batch, Tiles(starts, np.frombuffer(b"".join(tile_blobs)).reshape(-1, width)), at)

    def finish() -> None:
        list(view.layout.finish_alike(state, [[]], ends, ends))

    state, ends = random.normal(size=(1, width)), np.array([at], dtype=np.int64)
    stages = {
        "decode and fold 50 features x 41 states": (decode_and_fold, "<= 30"),
        "finish 50 values of one folded state": (finish, "<= 40"),
        "all of it: decode, choose the window's states, fold, finish": (whole, ""),
    }
    return [
        alone(f"answer: {name}", micros(work), "us a key", goal=goal) for name, (work, goal) in stages.items()
    ]


def micros(work: Callable[[], None], runs: int = 2000) -> float:
    """Median microseconds of one run."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter_ns()
        work()
        seconds.append(time.perf_counter_ns() - started)
    return statistics.median(seconds) / 1000


def main(arguments: list[str]) -> None:
    """Sizes in events may be given; 0.5, 2 and 8 million by default."""
    steps, sizes = Steps(), [int(float(text)) for text in arguments] or [500_000, 2_000_000, 8_000_000]
    spark = spark_session(load_settings(None, None), "bench-features", **{"spark.driver.memory": "2g"})
    with tempfile.TemporaryDirectory() as folder:
        rows = answer_rows() + training_rows(spark, Path(folder), sizes, steps)
    spark.stop()
    notes = [
        "Ours is a Spark job on local[2], Parquet to Parquet: one shuffle by key, then folds over sorted "
        "Arrow batches in numpy (anabranch/folds/training_sets.py).",
        "The most frequent key holds a quarter of all events (Zipf 1.3).",
        "Results are compared value by value: counts and maxima equal, sums to 1e-9.",
        "Medians of three runs for ours; DuckDB and Spark's window functions ran once, being long. Memory "
        "is that of all processes, the JVM included.",
    ]
    save("features", "Training sets and answers", rows, ["pyspark", "duckdb", "numpy", "pyarrow"], notes)


if __name__ == "__main__":
    main(sys.argv[1:])
