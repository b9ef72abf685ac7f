"""The batch layer, measured: landing, builds of all events and of a day's, publishing. Run by `make bench-
batch`; `--quick` for a try.

    python -m tests.bench.batch [--quick] [EVENTS ...]       sizes of full builds; 1e6 1e7 by default,
    1e8 takes half an hour more

Events are generated: a reading about every 13 minutes of each key over 90 days, in the lake as landing leaves
them. New days come
to the largest of these lakes. Servers of its own, on free ports, in a folder that is removed afterwards.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Max, Mean, Project, Source, Sum
from anabranch.folds.merge import merge
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.session import close_sessions, session_for
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.lake.schemas import prepare_events
from anabranch.stores.lake.staging import commit_files, write_files
from anabranch.values.times import DAY, from_micros, now_micros
from batch.building.publication import BuildOptions, Built, build
from batch.landing.ingest import ingest
from batch.settings import BuildSettings
from jobs.capacity.figures import Measured, measured_batch
from jobs.servers import embedded as servers
from jobs.show import Steps, say
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings, load_settings
from jobs.wiring.spark_session import spark_session
from tests.bench.plain_load import VARIANTS
from tests.bench.report import Row, alone, save, seconds_of
from tests.bench.sizing import page, save_sizing
from tests.conftest import free_ports

SOURCE = Source(
    name="events", topic="events", id="id", time="at", schema="id STRING, k STRING, at TIMESTAMP, x DOUBLE"
)
FEATURES = {"n": Count("x"), "s": Sum("x"), "m": Max("x"), "a": Mean("x")}
VIEW = FeatureView(
    name="readings", source=SOURCE, key="k", windows=("1h", "1d", "7d", "30d"), features=FEATURES
)
BASE = 1_700_000_000_000_000 // DAY * DAY
DAYS = 90
A_KEY = 10_000  # events of one key in 90 days
HEAP = "2g"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    landed: int = 5_000_000
    builds: tuple[int, ...] = (1_000_000, 10_000_000)
    published: int = 400_000
    runs: int = 3


QUICK = Sizes(landed=50_000, builds=(50_000, 200_000), published=5_000, runs=1)
SLOW = 20_000_000
"""From so many events on a new day is built once, and compared with the full build of the 90 days before."""


class Clock(Steps):
    """Progress that notes when each step began; made when the work begins."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = [("before the first step", time.monotonic())]

    def step(self, text: str) -> None:
        self.begun.append((text, time.monotonic()))

    def until(self, words: str) -> float:
        """Seconds from the beginning to the step of the words."""
        return next(moment for text, moment in self.begun if words in text) - self.begun[0][1]

    def told(self) -> str:
        """Every step with its seconds."""
        ends = [moment for _, moment in self.begun[1:]] + [time.monotonic()]
        return "; ".join(
            f"{text} {end - moment:.1f} s" for (text, moment), end in zip(self.begun, ends, strict=True)
        )


class Peak:
    """The largest resident memory in MiB while a block runs: of this process and the JVM, and of Spark's
    Python workers.
    """

    def __enter__(self) -> "Peak":
        self.driver = self.workers = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.2):
            driver, workers = me.memory_info().rss, 0
            for process in me.children(recursive=True):
                try:
                    size, command = process.memory_info().rss, " ".join(process.cmdline())
                except psutil.NoSuchProcess:
                    continue
                if "SparkSubmit" in command:
                    driver += size
                elif "pyspark" in command:
                    workers += size
            self.driver, self.workers = max(self.driver, driver / 2**20), max(self.workers, workers / 2**20)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@dataclass
class Bench:
    """What everything is measured with."""

    settings: Settings
    spark: SparkSession
    folder: Path
    sizes: Sizes
    steps: Steps = field(default_factory=Steps)

    def context(self, lake: str) -> Context:
        """Stores with a lake of their own."""
        made = Context(replace(self.settings, lake=LakeSettings(root=str(self.folder / lake))))
        made.spark = self.spark
        return made


def generated(spark: SparkSession, count: int, first: int, days: tuple[int, int], keys: int) -> DataFrame:
    """Random events of `keys` keys over the days, numbered from `first`: the columns of the source."""
    span = (days[1] - days[0]) * DAY
    at = f"timestamp_micros({BASE + days[0] * DAY} + pmod(xxhash64(id, 1), {span}))"
    columns = {
        "id": "concat('e', id)",
        "k": f"concat('k', pmod(xxhash64(id, 2), {keys}))",
        "at": at,
        "x": "round(50 + pmod(xxhash64(id, 3), 4000) / 100D, 2)",
    }
    numbers = spark.range(first, first + count).withColumn("id", F.col("id").cast("bigint"))
    return numbers.select(*[F.expr(text).alias(name) for name, text in columns.items()])


def landed(events: DataFrame, arrival: str, topic: str | None) -> DataFrame:
    """The events with the lake's columns, by file or by topic."""
    lake = {
        "_arrival": arrival,
        "_date": f"to_date({arrival})",
        "_file": "NULL" if topic else "'generated'",
        "_topic": f"'{topic}'" if topic else "NULL",
    }
    lake |= {"_partition": "0" if topic else "CAST(NULL AS INT)", "_offset": "CAST(substr(id, 2) AS BIGINT)"}
    return events.select(
        "*",
        *[
            F.expr(f"CAST({text} AS {kind})").alias(name)
            for (name, text), kind in zip(lake.items(), KINDS, strict=True)
        ],
    )


KINDS = ("TIMESTAMP", "DATE", "STRING", "STRING", "INT", "BIGINT")


def append(context: Context, project: Project, rows: DataFrame, number: int) -> None:
    """Add rows of the lake's own columns to the lake, as landing commits them."""
    path = context.lake.path(project, SOURCE)
    prepare_events(context.spark, context.lake, project, SOURCE)
    commit_files(context.spark, path, write_files(rows, path), {"generated": number})


def fill(context: Context, project: Project, count: int) -> None:
    """90 days of events, each by topic at its own time."""
    events = generated(context.spark, count, 0, (0, DAYS), max(count // A_KEY, 1))
    append(context, project, landed(events, "at", "events").repartition("_date"), 0)


def built(context: Context, project: Project, cut: int, clock: Clock, *, full: bool = False) -> Built:
    """A build of what the lake holds."""
    options = BuildOptions(cut=cut, until=now_micros(), full=full)
    return build(context, project, options, context.settings.build, clock)


def landing_rows(bench: Bench) -> list[Row]:
    """A CSV file into the lake, against Spark's own copy of it into Delta, one after the other."""
    count, spark = bench.sizes.landed, bench.spark
    csv = bench.folder / "csv"
    generated(spark, count, 0, (0, DAYS), max(count // A_KEY, 1)).coalesce(1).write.option(
        "header", "true"
    ).csv(str(csv))
    (file,) = csv.glob("*.csv")
    project = Project(name="landed", views=(VIEW,))
    ours, theirs = [], []
    for run in range(bench.sizes.runs + 1):  # the first warms both up
        context, copy = bench.context(f"landing-{run}"), str(bench.folder / f"copy-{run}")
        ours.append(
            seconds_of(
                lambda context=context: ingest(  # type: ignore[misc]
                    context, project, "events", [str(file)], Silent()
                )
            )
        )
        plain = spark.read.schema(SOURCE_SCHEMA).option("header", "true").csv(str(file))
        theirs.append(seconds_of(partial(plain.write.format("delta").save, copy)))
    whole = [
        F.count("id"),
        F.count_distinct("id"),
        F.sum(F.unix_micros("at").cast("decimal(38,0)")),
        F.round(F.sum("x"), 2),
    ]
    equal = (
        context.lake.events(spark, project, SOURCE).agg(*whole).collect()
        == spark.read.format("delta").load(copy).agg(*whole).collect()
    )
    mine, peer = count / statistics.median(ours[1:]), count / statistics.median(theirs[1:])
    bench.steps.step(f"landing: {mine:,.0f} rows/s, bare copy {peer:,.0f}")
    work = f"landing {count:,} rows of CSV ({file.stat().st_size / 2**20:.0f} MiB)"
    return [
        Row(
            work=work,
            peer="bare Spark CSV to Delta",
            ours=mine,
            theirs=peer,
            unit="rows/s",
            ratio=mine / peer,
            goal=">= 0.8",
            equal=equal,
        )
    ]


SOURCE_SCHEMA = "id STRING, k STRING, at TIMESTAMP, x DOUBLE"


def build_rows(bench: Bench) -> list[Row]:
    """Full builds of growing lakes: time an event, memory; then new days in the largest."""
    rows: list[Row] = []
    each: dict[int, float] = {}
    warm = bench.context("warm")
    fill(warm, Project(name="warm", views=(VIEW,)), 20_000)
    built(warm, Project(name="warm", views=(VIEW,)), BASE + DAYS * DAY, Clock())
    for count in bench.sizes.builds:
        project, context = Project(name=f"full_{count}", views=(VIEW,)), bench.context(f"full-{count}")
        fill(context, project, count)
        clock = Clock()
        with Peak() as peak:
            done = built(context, project, BASE + DAYS * DAY, clock)
        each[count] = done.seconds / count * 1e6
        bench.steps.step(
            f"full build of {count:,} events: {done.seconds:.1f} s ({clock.told()}), driver "
            f"{peak.driver:,.0f} MiB, workers {peak.workers:,.0f} MiB"
        )
        base = min(each)
        rows.append(
            Row(work=f"full build, {count:,} events of {max(count // A_KEY, 1):,} keys",
            peer=f"itself at {base:,}", ours=each[count], theirs=each[base],
                unit="us an event", ratio=each[base] / each[count], goal=">= 0.8",
                equal=exact(context, project, done.manifest))
        )  # fmt: skip
        memory = {f"driver and JVM, heap {HEAP}": peak.driver, "Python workers": peak.workers}
        rows += [alone(f"peak memory of {who}, {count:,} events", mib, "MiB", goal="")
                 for who, mib in memory.items()]  # fmt: skip
    return rows + incremental_rows(bench, context, project, count, clock.until("current rows"))


def exact(context: Context, project: Project, manifest: Manifest) -> bool:
    """Whether counts and sums over 30 days of some keys are those of the lake."""
    span = VIEW.spans[-1]
    since, until = (F.lit(from_micros(moment)) for moment in (span.tail(manifest.cut) or 0, manifest.cut))
    inside = context.lake.events(context.spark, project, SOURCE).where(
        (F.col("at") >= since) & (F.col("at") < until) & F.col("k").rlike("^k[0-9]$")
    )
    expected = {
        row["k"]: (row["n"], row["s"])
        for row in inside.groupBy("k").agg(F.count("x").alias("n"), F.sum("x").alias("s")).collect()
    }
    found = {key: values(context, project, manifest, key) for key in expected}
    return all(
        found[key]["n_30d"] == n and np.isclose(float(str(found[key]["s_30d"])), s, rtol=1e-9)
        for key, (n, s) in expected.items()
    )


def values(context: Context, project: Project, manifest: Manifest, key: str) -> dict[str, object]:
    """What a version says of a key at its cut."""
    batch, _ = context.views.known(project.name, VIEW, key, manifest, manifest.cut)
    return dict(merge(VIEW, batch, None, manifest.cut).values)


def incremental_rows(bench: Bench, context: Context, project: Project, count: int, full: float) -> list[Row]:
    """One new day over 90 that were built in `full` seconds: what is new against everything."""
    keys, day = max(count // A_KEY, 1), count // DAYS
    ours, theirs, after = [], [full], [0.0, 0.0]
    equal = True
    for run in range(1 if count >= SLOW else bench.sizes.runs):
        last = DAYS + run
        more = generated(context.spark, day, count + run * day, (last, last + 1), keys)
        append(context, project, landed(more, "at", "events"), run + 1)
        clock = Clock()
        new = built(context, project, BASE + (last + 1) * DAY, clock)
        ours.append(clock.until("current rows"))
        after[0] = new.seconds - ours[-1]
        equal &= exact(context, project, new.manifest)
        bench.steps.step(f"one day: {new.seconds:.1f} s ({clock.told()})")
        if count < SLOW:
            again = Clock()
            every = built(context, project, BASE + (last + 1) * DAY, again, full=True)
            theirs.append(again.until("current rows"))
            after[1] = every.seconds - theirs[-1]
            names = [f"k{number}" for number in range(min(keys, 200))]
            equal &= all(
                alike(
                    values(context, project, new.manifest, name),
                    values(context, project, every.manifest, name),
                )
                for name in names
            )
            bench.steps.step(f"everything: {every.seconds:.1f} s ({again.told()})")
    rows_ours, rows_theirs = after[0], after[1] or None
    theirs = theirs[1:] or theirs
    mine, peer = statistics.median(ours), statistics.median(theirs)
    work = f"build of one new day ({day:,} events) over 90 ({count:,}), until it serves"
    return [
        Row(
            work=work,
            peer="full build",
            ours=mine,
            theirs=peer,
            unit="s",
            ratio=peer / mine,
            goal=">= 10",
            equal=equal,
        ),
        Row(
            work=f"current rows of {keys:,} keys after each",
            peer="none",
            ours=rows_ours,
            theirs=rows_theirs,
            unit="s",
            ratio=None,
            goal="",
            equal=None,
        ),
    ]


def alike(left: dict[str, object], right: dict[str, object]) -> bool:
    """Equal, floats to 1e-9."""
    pairs = [(left[name], right[name]) for name in left]
    return all(
        np.isclose(a, b, rtol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in pairs
    )


def publishing_rows(bench: Bench) -> list[Row]:
    """Batch rows into Cassandra: our writer against the fastest of several plain loads with the driver,
    each into a new table.
    """
    spark, count = bench.spark, bench.sizes.published
    session = session_for(bench.settings.views)
    file = str(bench.folder / "rows")
    states = "transform(sequence(1, 84), i -> CAST(xxhash64(id, i) AS DOUBLE))"
    spark.range(count).selectExpr("concat('key-', id) AS key", f"{states} AS states").repartition(
        2
    ).write.parquet(file)
    frame = spark.read.parquet(file).persist()
    frame.count()
    plain = bench.folder / "plain"
    plain.mkdir()
    for position, part in enumerate(sorted(Path(file).glob("*.parquet"))):
        read = pq.read_table(part)
        blobs = [np.asarray(row, dtype="<f8").tobytes() for row in read.column("states").to_pylist()]
        pq.write_table(
            pa.table({"key": read.column("key"), "states": pa.array(blobs, pa.binary())}),
            plain / f"{position}.parquet",
        )

    def table(name: str) -> str:
        session.execute(f"DROP TABLE IF EXISTS {name}")
        session.execute(f"CREATE TABLE {name} (key text PRIMARY KEY, states blob, extras blob)")
        return name

    def ours() -> float:
        made = table("published_ours")
        return seconds_of(lambda: write_rows(frame, bench.settings.views, made))

    seconds: dict[str, list[float]] = {"ours": []}
    ours()
    for _ in range(bench.sizes.runs):
        seconds["ours"].append(ours())
        for variant in VARIANTS:
            seconds.setdefault(variant, []).append(
                plainly(bench.settings, plain, table("published_plain"), variant)
            )
    rates = {name: count / statistics.median(found) for name, found in seconds.items()}
    bench.steps.step("publishing: " + ", ".join(f"{name} {rate:,.0f} rows/s" for name, rate in rates.items()))
    same = sorted(session.execute("SELECT key, states FROM published_ours")) == sorted(
        session.execute("SELECT key, states FROM published_plain")
    )
    best = max(VARIANTS, key=lambda name: rates[name])
    mine, peer = rates["ours"], rates[best]
    work = f"publishing {count:,} rows of 84 float64"
    frame.unpersist()
    return [
        Row(
            work=work,
            peer=f"plain driver: {best}",
            ours=mine,
            theirs=peer,
            unit="rows/s",
            ratio=mine / peer,
            goal=">= 0.8",
            equal=same,
        )
    ]


def plainly(settings: Settings, folder: Path, table: str, variant: str) -> float:
    """Seconds of a plain load, its processes' start and connecting left out."""
    processes = 2 if "two processes" in variant else 1
    files = [str(path) for path in sorted(folder.glob("*.parquet"))]
    shares = [files[i::processes] for i in range(processes)]
    command = [
        sys.executable,
        "-m",
        "tests.bench.plain_load",
        settings.views.hosts[0],
        str(settings.views.port),
        settings.views.keyspace,
        table,
        variant,
    ]
    running = [
        subprocess.Popen(
            [*command, *share], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for share in shares
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for process in running:
        process.communicate("go\n")
        assert process.returncode == 0
    return time.perf_counter() - started


@contextmanager
def benchmark(sizes: Sizes) -> Iterator[Bench]:
    """Servers and a session of their own in a new folder."""
    ports = free_ports(4)
    names = ("kafka_port", "kafka_controller_port", "cassandra_port", "cassandra_storage_port")
    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "paths.data": folder,
            "paths.jars": str(ROOT / ".anabranch" / "jars"),
            "spark.driver_memory": HEAP,
            "servers.cassandra_heap": "1g",
        }
        settings = load_settings(
            {}, {**overrides, **{f"servers.{name}": port for name, port in zip(names, ports, strict=True)}}
        )
        try:
            servers.up(settings)
            yield Bench(settings, spark_session(settings, "bench-batch"), Path(folder), sizes)
        finally:
            close_sessions()
            if SparkSession.getActiveSession() is not None:
                SparkSession.active().stop()
            servers.down(settings)


def _measured(rows: Sequence[Row]) -> Measured:
    """What sizing is computed from."""
    cores = len(os.sched_getaffinity(0))
    return measured_batch([(row.work, row.ours) for row in rows], cores=cores, events_a_key=A_KEY)


def main(arguments: Sequence[str]) -> None:
    """Sizes of full builds may be given; a quick try saves nothing."""
    quick = "--quick" in arguments
    given = tuple(int(float(text)) for text in arguments if text != "--quick")
    sizes = QUICK if quick else Sizes()
    sizes = replace(sizes, builds=given or sizes.builds)
    with benchmark(sizes) as bench:
        rows = landing_rows(bench) + publishing_rows(bench) + build_rows(bench)
    notes = [
        f"Spark runs on local[2] with a heap of {HEAP}, Cassandra beside it on the same cores, one node, "
        "one copy.",
        f"A key has {A_KEY:,} events in 90 days; the view has 4 windows (1h, 1d, 7d, 30d) and 4 features "
        "(count, sum, maximum, mean).",
        "Landing, publishing and the build of a day are medians of runs that take turns with their peer; "
        "full builds ran once each.",
        f"From {SLOW:,} events on the build of a day ran once, against the full build of the 90 days "
        "before it.",
        "A build is everything from reading the lake to the swap and the current rows: de-duplication, "
        "grains, publishing, validation.",
        "The build of a day and the full build beside it are timed until they serve; their current rows, "
        "which are every key's in both, stand apart.",
        f"The plain loads: {', '.join(VARIANTS)}; rows are made beforehand, starting and connecting are "
        "not counted.",
        "Results: landed rows by count, distinct ids and sums; published rows byte by byte; builds "
        "against Spark's own sums, and against each other.",
        f"Increments are rewritten as one after {BuildSettings().increments}.",
    ]
    if quick:
        say(page(_measured(rows)))
        for row in rows:
            bench.steps.step(
                f"{row.work}: ours {row.ours:,.2f}, theirs {row.theirs or 0:,.2f} {row.unit}, ratio "
                f"{row.ratio or 0:.2f} ({row.goal}), equal {row.equal}"
            )
        return
    save_sizing(_measured(rows))
    save(
        "batch",
        "The batch layer",
        rows,
        ["pyspark", "delta-spark", "cassandra-driver", "numpy", "pyarrow"],
        notes,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
