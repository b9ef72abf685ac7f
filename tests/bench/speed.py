"""The stream, measured from outside: how soon a published event is in an answer, and what writing to Cassandra costs.

Freshness: an outside process publishes events with its clock in them, another runs `anabranch stream`, and this one reads
answers until each probe is in its key's. Throughput: the same query drains one topic into Cassandra and into nothing.
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from cassandra.concurrent import execute_concurrent_with_args
from kafka import KafkaConsumer, TopicPartition
from pyspark.sql import SparkSession

from features.declaration import Project
from features.loading import load_project
from features.times import HOUR, MINUTE, SECOND
from jobs.context import Context
from jobs.settings import ROOT
from jobs.show import Steps
from speed.views import fed_sources, live_tiles, query_settings, start
from stores.answers import Answers, now_micros
from stores.cassandra_source import CassandraSource, cassandra_options
from stores.cassandra_writer import write_rows
from stores.current import refresh
from stores.parts import Parts
from stores.spark_tables import SparkTables
from stores.views import Views, current_table, history_table, tiles_table
from tests.bench.publisher import PROBES, message
from tests.bench.report import Row, save
from tests.bench.river import PROJECTS, River, river

NAME, TOPIC = "speed_bench", "speed-bench"
KEYS = 500
PATIENCE = 300.0
_HISTORY_RUNS = 30


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rates: tuple[int, ...] = (100, 2_000, 10_000)
    warm: float = 60.0
    seconds: float = 40.0
    drained: int = 400_000
    current: int = 200_000
    runs: int = 3


QUICK = Sizes(rates=(100, 2_000), warm=10.0, seconds=10.0, drained=60_000, current=20_000, runs=1)


def freshness(found: River, project: Project, sizes: Sizes, steps: Steps) -> list[Row]:
    """Published to readable, at each rate."""
    context = Context(found.settings)
    context.bus.ensure_topics([TOPIC])
    log = Path(found.settings.data) / "stream.log"
    stream = found.verb("--debug", "stream", NAME, log=log)
    rows: list[Row] = []
    try:
        context.bus.publish(TOPIC, [(None, message("first", "first-probe-0", 1.0, now_micros()))])
        read_probes(context.answers, project, "first", 1)
        steps.step("the stream answers")
        for rate in sizes.rates:
            run = f"r{rate}"
            words = [found.settings.bus.bootstrap_servers, TOPIC, str(rate), str(sizes.warm + sizes.seconds), str(KEYS), run]
            command = [sys.executable, "-m", "tests.bench.publisher", *words]
            publisher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=dict(found.environment))
            lags = read_probes(context.answers, project, run, int(PROBES * (sizes.warm + sizes.seconds)))
            reached = float(publisher.communicate()[0])
            kept = np.array(lags[int(PROBES * sizes.warm) :]) / SECOND
            p50, p95, p99 = (float(value) for value in np.percentile(kept, [50, 95, 99]))
            steps.step(f"{rate:,} events/s (reached {reached:,.0f}): p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s of {len(kept)} probes")
            for name, value in (("p50", p50), ("p95", p95), ("p99", p99)):
                goal = "under 1" if (name, rate) == ("p99", 2_000) else ""
                work = f"published to readable answer at {rate:,} events/s, {name}"
                rows.append(Row(work=work, peer="none", ours=value, theirs=None, unit="s", ratio=None, goal=goal, equal=None))
    finally:
        stream.send_signal(signal.SIGTERM)
        stream.wait(60)
        context.close()
        _keep(log)
    return rows


def _keep(log: Path) -> None:
    """The stream's own log, for whoever looks where a micro-batch's time goes."""
    sys.stderr.write("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]) + "\n")


def read_probes(answers: Answers, project: Project, run: str, count: int) -> list[int]:
    """Microseconds from a probe's publishing to an answer that has it, in the order they were published."""
    lags: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while len(lags) < count:
        (answer,) = answers.features(project, [{"thing": f"{run}-probe-{len(lags)}"}])
        sent = answer.values["sent_1h"]
        if isinstance(sent, int):
            lags.append(now_micros() - sent)
            deadline = time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            sys.stderr.write(f"probe {len(lags)} of {run} never came\n")
            return lags
        else:
            time.sleep(0.02)  # the reader shares the cores with what it measures
    return lags


def throughput(found: River, project: Project, sizes: Sizes, steps: Steps) -> list[Row]:
    """Drain one topic by the very query of the stream: into Cassandra, and into nothing."""
    context = Context(found.settings)
    random = np.random.default_rng(2)
    # Events as they come when a stream is behind: of the last ten minutes, a few hundred things, a few twice.
    base = now_micros() - 600 * SECOND
    keys, values = random.integers(0, KEYS, sizes.drained), np.round(random.normal(50, 10, sizes.drained), 2)
    ids = [f"d-{i - 1 if i % 50 == 49 else i}" for i in range(sizes.drained)]
    times = (base + np.linspace(0, 600 * SECOND, sizes.drained)).astype(np.int64).tolist()
    context.bus.ensure_topics([TOPIC])
    before = context.bus.ends(TOPIC)[0]
    context.bus.publish(TOPIC, ((None, message(ids[i], f"d{keys[i]}", float(values[i]), times[i])) for i in range(sizes.drained)))
    count = context.bus.ends(TOPIC)[0]
    steps.step(f"published {sizes.drained:,} events; the topic holds {count:,}")
    spark = context.spark
    seconds: dict[str, list[float]] = {"nothing": [], "Cassandra": []}
    for run in range(sizes.runs + 1):  # the first warms both up
        seconds["nothing"].append(_seconds(partial(drain_into_nothing, spark, context, project, run)))
        seconds["Cassandra"].append(_seconds(partial(drain, spark, context, project, run)))
    theirs, ours = (statistics.median(taken[1:]) for taken in seconds.values())
    same = check(context, project, before)
    context.close()
    steps.step(f"drained: Cassandra {count / ours:,.0f}, nothing {count / theirs:,.0f} events/s, answers equal: {same}")
    work = f"drain {count:,} events, two views, {KEYS} keys"
    peer = "the same query into a no-op sink"
    return [Row(work=work, peer=peer, ours=count / ours, theirs=count / theirs, unit="events/s", ratio=theirs / ours, goal=">= 0.7", equal=same)]


def drain(spark: SparkSession, context: Context, project: Project, run: int) -> None:
    """The stream until it has read everything, from the beginning: what was there is written again as it was."""
    for query in start(spark, replace(context.channel(once=True), checkpoints=str(context.settings.data / f"drain-{run}")), project):
        query.awaitTermination()


def drain_into_nothing(spark: SparkSession, context: Context, project: Project, run: int) -> None:
    """The same queries without their sink."""
    channel = context.channel(once=True)
    with query_settings(spark, channel):
        queries = [
            live_tiles(spark, channel, project, source)
            .writeStream.outputMode("update")
            .format("noop")
            .option("checkpointLocation", str(context.settings.data / f"noop-{run}" / source.name))
            .trigger(availableNow=True)
            .start()
            for source in fed_sources(project)
        ]
    for query in queries:
        query.awaitTermination()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def check(context: Context, project: Project, start_at: int) -> bool:
    """Whether the drained keys' answers equal a plain fold over the distinct events of the topic."""
    place = TopicPartition(TOPIC, 0)
    consumer = KafkaConsumer(bootstrap_servers=context.settings.bus.bootstrap_servers)
    consumer.assign([place])
    consumer.seek(place, start_at)
    end, seen = consumer.end_offsets([place])[place], set()
    xs: dict[str, list[float]] = defaultdict(list)
    while consumer.position(place) < end:
        for record in next(iter(consumer.poll(1000).values()), []):
            event = json.loads(record.value)
            if event["id"] not in seen:
                seen.add(event["id"])
                xs[event["thing"]].append(event["x"])
    consumer.close()
    keys = sorted(xs)
    for key, answer in zip(keys, context.answers.features(project, [{"thing": key} for key in keys]), strict=True):
        values, mine = answer.values, xs[key]
        found = (values["n_1h"], values["events"], values["top_7d"], values["high_1d"])
        expected = (len(mine), len(mine), max(mine), sum(x > 60 for x in mine))
        if found != expected or not np.isclose(float(str(values["total"])), sum(mine)) or not np.isclose(float(str(values["mean_1d"])), np.mean(mine)):
            sys.stderr.write(f"{key}: {values} but {expected}\n")
            return False
    return bool(keys)


def amplification(found: River, project: Project, steps: Steps) -> list[Row]:
    """Rows that one answer reads of a key with steady events, 26 hours after the cut, against tiles of one tier."""
    context, (view, _) = Context(found.settings), project.views
    views, now = context.views, now_micros()
    views.ensure_tiles(project)
    empty, rows = view.layout.empty.astype("<f8").tobytes(), []
    for rate in (1, 10, 100):
        times = range(now - 26 * HOUR, now, MINUTE // rate)
        tiers = [{(time // HOUR * HOUR, time // width * width) for time in times} for width in view.tiers]
        for fine, tier in enumerate(tiers):
            insert = views.session.prepare(f"INSERT INTO {tiles_table(project.name, view, fine=bool(fine))} (key, slot, tile_start, state) VALUES (?, ?, ?, ?)")
            execute_concurrent_with_args(views.session, insert, [(f"a{rate}", *place, empty) for place in sorted(tier)])
        _, read = views.ask(project.name, view, f"a{rate}", None, now).result()
        count = len(read.starts) + (len(read.fine.starts) if read.fine else 0) if read else 0
        asked = [{"thing": f"a{rate}"}]
        took = statistics.median(_seconds(partial(context.answers.features, project, asked)) for _ in range(50))
        steps.step(f"{rate} events a minute: an answer reads {count} rows of {len(tiers[-1])}, {1e3 * took:.1f} ms")
        work = f"rows of tiles an answer reads, {rate} events a minute for 26 hours"
        theirs = len(tiers[-1])
        rows.append(Row(work=work, peer="one tier of 5 minutes", ours=count, theirs=theirs, unit="rows", ratio=theirs / count, goal="tens", equal=None))
    context.close()
    return rows


def history(found: River, project: Project, steps: Steps) -> list[Row]:
    """The last step of a micro-batch, current rows merged and written, with the history of these rows and without it, in turn."""
    context = Context(found.settings)
    with_history, without = context.views, Views(replace(context.settings.views, history_ttl_days=0))
    with_history.ensure_tiles(project)
    with_history.ensure_current(project)
    keys = [f"d{number}" for number in range(KEYS)]
    taken: dict[bool, list[float]] = {True: [], False: []}
    for run in range(_HISTORY_RUNS + 2):  # the first two warm both up
        for kept, views in ((True, with_history), (False, without)):
            seconds = _seconds(partial(refresh, Answers(views, parts=Parts(2**25)), None, project, keys, "speed"))
            if run > 1:
                taken[kept].append(seconds)
    ours, theirs = (KEYS / statistics.median(taken[kept]) for kept in (True, False))
    (count,) = context.views.session.execute(f"SELECT count(*) FROM {history_table(project.name)}").one()
    context.close()
    steps.step(f"current rows: {ours:,.0f} keys/s with their history, {theirs:,.0f} without")
    work = f"current rows of {KEYS} keys merged and written, with their history"
    return [
        Row(work=work, peer="without history", ours=ours, theirs=theirs, unit="keys/s", ratio=ours / theirs, goal=">= 0.95", equal=count in (KEYS, 2 * KEYS))
    ]


def lookup(found: River, project: Project, sizes: Sizes, steps: Steps) -> list[Row]:
    """The current row of a key by Spark SQL: its partition is read, against the whole table that Spark filters."""
    context, name = Context(found.settings), current_table(project.name)
    context.views.ensure_current(project)
    spark, views = context.spark, found.settings.views
    write_rows(spark.range(sizes.current).selectExpr("CONCAT('c', id) AS key", "CAST(id AS STRING) AS thing", "'batch' AS layer"), views, name, None)
    spark.dataSource.register(CassandraSource)
    whole = spark.read.format("cassandra").options(**cassandra_options(views), table=name).load()
    pushed = SparkTables(spark, context.lake, views, found.settings.models).current(project)
    taken: dict[str, list[float]] = {"pushed": [], "whole": []}
    rows: dict[str, list[object]] = {}
    for run in range(sizes.runs + 2):  # the first warms both up
        for how, frame in (("pushed", pushed), ("whole", whole)):
            seconds = _seconds(lambda how=how, frame=frame, run=run: rows.update({how: frame.where(f"key = 'c{run}'").collect()}))  # type: ignore[misc]
            taken[how].append(seconds)
    ours, theirs = (statistics.median(taken[how][1:]) for how in ("pushed", "whole"))
    same = len(rows["pushed"]) == 1 and rows["pushed"] == rows["whole"]
    context.close()
    steps.step(f"a key of {sizes.current:,} rows by Spark SQL: {ours:.2f} s, {theirs:.2f} s with the whole table")
    work = f"the current row of a key by Spark SQL, of {sizes.current:,} rows"
    return [Row(work=work, peer="the whole table read", ours=ours, theirs=theirs, unit="s", ratio=theirs / ours, goal="more than 1", equal=same)]


def main(arguments: list[str]) -> None:
    """`--quick`: small sizes, nothing saved."""
    steps, quick = Steps(), "--quick" in arguments
    sizes = QUICK if quick else Sizes()
    project = load_project(NAME, (PROJECTS,))
    rows: list[Row] = []
    with river() as found:
        steps.step("servers run")
        if "--no-freshness" not in arguments:
            rows += freshness(found, project, sizes, steps)
    with river() as found:
        rows += throughput(found, project, sizes, steps)
        rows += amplification(found, project, steps)
        rows += history(found, project, steps)
        rows += lookup(found, project, sizes, steps)
    notes = [
        "Publisher, stream, Kafka, Cassandra and the reader all run on the same cores and by one clock; the publisher's time is in each event.",
        f"{PROBES} probes a second have keys of their own among {KEYS} other keys; a probe is readable when an answer for its key has it.",
        "Freshness: of 40 seconds after a minute of the same rate; the stream began shortly before the first.",
        "Throughput: the stream's own query with checkpoints of its own, with its sink and with Spark's no-op sink in turn; medians of three after one.",
    ]
    save("speed", "The stream", rows, ["pyspark", "cassandra-driver", "kafka-python"], notes, dry=quick)


if __name__ == "__main__":
    main(sys.argv[1:])
