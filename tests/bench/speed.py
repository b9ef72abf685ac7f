"""The stream, measured from outside: how soon a published event is in an answer, and what writing to
Cassandra costs.

Freshness: an outside process publishes events with its clock in them, another runs `anabranch stream`, and
this one reads
answers until each probe is in its key's. Throughput: the same query drains
one topic into Cassandra and into nothing.
"""

import json
import statistics
import sys
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from cassandra.concurrent import execute_concurrent_with_args
from kafka import KafkaConsumer, TopicPartition
from pyspark.sql import SparkSession

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.tables import tiles_table
from anabranch.values.times import HOUR, MINUTE, SECOND, now_micros
from jobs.show import Steps
from jobs.wiring.context import Context
from speed.query import query_settings, scores_topic
from speed.streams import start
from speed.views import events_of, sources_of, states_of
from tests.bench.current_rows import history, lookup
from tests.bench.freshness import NotMeasuredError, counted, freshness, read_probes, sent_by
from tests.bench.publisher import PROBES, message
from tests.bench.report import Row, alone, save, seconds_of
from tests.bench.river import PROJECTS, River, river
from tests.bench.serving_data import train

NAME, TOPIC = "speed_bench", "speed-bench"
DECIDING = "mean_1h"
KEYS = 500


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


def freshness_rows(found: River, project: Project, sizes: Sizes, steps: Steps, notes: list[str]) -> list[Row]:
    """Published to readable, at each rate; what was reached is added to `notes`."""
    context = Context(found.settings)
    context.bus.ensure_topics([TOPIC])
    train(context.models, project, DECIDING)
    rows: list[Row] = []
    reached: list[str] = []
    with closing(context), found.streaming(NAME):
        sent = sent_by(context.answers, project)
        context.bus.publish(TOPIC, [(None, message("first", "first-probe-0", 1.0, now_micros()))])
        read_probes(sent, "first", 1)
        steps.step("the stream answers")
        for rate in sizes.rates:
            got = freshness(found, TOPIC, sent, rate, sizes.warm, sizes.seconds, KEYS, f"r{rate}")
            same = counted(context.answers, project, f"r{rate}", KEYS, got.events)
            steps.step(f"{got}, every event counted once: {same}")
            reached.append(f"{got.reached:,.0f} of {rate:,}")
            for name, value in got.percentiles.items():
                goal = "<= 1" if (name, rate) == ("p99", 2_000) else ""
                work = f"published to readable answer at {rate:,} events/s, {name}"
                rows.append(alone(work, value, "s", goal=goal, equal=same))
        scored(context, project, f"r{sizes.rates[0]}-probe-0")
    notes.append(
        f"The publisher reached {', '.join(reached)} events/s. equal: the answers of all keys count every "
        "event, and each once."
    )
    return rows


def scored(context: Context, project: Project, key: str) -> None:
    """Raise NotMeasuredError unless current rows were scored and their scores published."""
    row = context.views.current(project, key) or {}
    if row.get("score") is None or not sum(context.bus.ends(scores_topic(project.name)).values()):
        raise NotMeasuredError(
            f"the current row of {key!r} was not scored and published ({row}): what was measured is not "
            "the whole stream"
        )


def throughput(found: River, project: Project, sizes: Sizes, steps: Steps) -> list[Row]:
    """Drain one topic by the very query of the stream: into Cassandra, and into nothing."""
    context = Context(found.settings)
    train(context.models, project, DECIDING)
    random = np.random.default_rng(2)
    # Events as they come when a stream is behind: of the last ten minutes, a few hundred things, a few twice.
    base = now_micros() - 600 * SECOND
    keys, values = random.integers(0, KEYS, sizes.drained), np.round(random.normal(50, 10, sizes.drained), 2)
    ids = [f"d-{i - 1 if i % 50 == 49 else i}" for i in range(sizes.drained)]
    times = (base + np.linspace(0, 600 * SECOND, sizes.drained)).astype(np.int64).tolist()
    context.bus.ensure_topics([TOPIC])
    before = context.bus.ends(TOPIC)[0]
    context.bus.publish(
        TOPIC,
        ((None, message(ids[i], f"d{keys[i]}", float(values[i]), times[i])) for i in range(sizes.drained)),
    )
    count = context.bus.ends(TOPIC)[0]
    steps.step(f"published {sizes.drained:,} events; the topic holds {count:,}")
    spark = context.spark
    seconds: dict[str, list[float]] = {"nothing": [], "Cassandra": []}
    for run in range(sizes.runs + 1):  # the first warms both up
        seconds["nothing"].append(seconds_of(partial(drain_into_nothing, spark, context, project, run)))
        seconds["Cassandra"].append(seconds_of(partial(drain, spark, context, project, run)))
    theirs, ours = (statistics.median(taken[1:]) for taken in seconds.values())
    same = check(context, project, before)
    scored(context, project, f"d{keys[0]}")
    context.close()
    steps.step(
        f"drained: Cassandra {count / ours:,.0f}, nothing {count / theirs:,.0f} events/s, answers equal: "
        f"{same}"
    )
    work = f"drain {count:,} events, two views, {KEYS} keys"
    peer = "the same query into a no-op sink"
    return [
        Row(
            work=work,
            peer=peer,
            ours=count / ours,
            theirs=count / theirs,
            unit="events/s",
            ratio=theirs / ours,
            goal=">= 0.7",
            equal=same,
        )
    ]


def drain(spark: SparkSession, context: Context, project: Project, run: int) -> None:
    """The stream until it has read everything, from the beginning: what was there is written again as it
    was.
    """
    checkpoints = str(context.settings.data / f"drain-{run}")
    for query in start(replace(context.speed_layer(once=True), checkpoints=checkpoints), project):
        query.awaitTermination()


def drain_into_nothing(spark: SparkSession, context: Context, project: Project, run: int) -> None:
    """The same queries without their sink."""
    layer = context.speed_layer(once=True)
    with query_settings(layer):
        queries = [
            states_of(layer, project, source, events_of(layer, project, source))
            .writeStream.outputMode("update")
            .format("noop")
            .option("checkpointLocation", str(context.settings.data / f"noop-{run}" / source.name))
            .trigger(availableNow=True)
            .start()
            for source in sources_of(project)
        ]
    for query in queries:
        query.awaitTermination()


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
    for key, answer in zip(
        keys, context.answers.features(project, [{"thing": key} for key in keys]), strict=True
    ):
        values, mine = answer.values, xs[key]
        found = (values["n_1h"], values["events"], values["top_7d"], values["high_1d"])
        expected = (len(mine), len(mine), max(mine), sum(x > 60 for x in mine))
        if (
            found != expected
            or not np.isclose(float(str(values["total"])), sum(mine))
            or not np.isclose(float(str(values["mean_1d"])), np.mean(mine))
        ):
            sys.stderr.write(f"{key}: {values} but {expected}\n")
            return False
    return bool(keys)


def amplification(found: River, project: Project, steps: Steps) -> list[Row]:
    """Rows that one answer reads of a key with steady events, 26 hours after the cut, against tiles of
    one tier.
    """
    context, (view, _) = Context(found.settings), project.views
    views, now = context.views, now_micros()
    views.ensure_tiles(project)
    empty, rows = view.layout.empty.astype("<f8").tobytes(), []
    for rate in (1, 10, 100):
        times = range(now - 26 * HOUR, now, MINUTE // rate)
        tiers = [{(time // HOUR * HOUR, time // width * width) for time in times} for width in view.tiers]
        for fine, tier in enumerate(tiers):
            insert = views.session.prepare(
                f"INSERT INTO {tiles_table(project.name, view, fine=bool(fine))} (key, slot, tile_start, "
                "state) VALUES (?, ?, ?, ?)"
            )
            execute_concurrent_with_args(
                views.session, insert, [(f"a{rate}", *place, empty) for place in sorted(tier)]
            )
        _, read = views.known(project.name, view, f"a{rate}", None, now)
        count = len(read.starts) + (len(read.fine.starts) if read.fine else 0) if read else 0
        asked = [{"thing": f"a{rate}"}]
        took = statistics.median(
            seconds_of(partial(context.answers.features, project, asked)) for _ in range(50)
        )
        steps.step(
            f"{rate} events a minute: an answer reads {count} rows of {len(tiers[-1])}, {1e3 * took:.1f} ms"
        )
        work = f"rows of tiles an answer reads, {rate} events a minute for 26 hours"
        theirs = len(tiers[-1])
        rows.append(
            Row(
                work=work,
                peer="one tier of 5 minutes",
                ours=count,
                theirs=theirs,
                unit="rows",
                ratio=theirs / count,
                goal=">= 10",
                equal=None,
            )
        )
    context.close()
    return rows


def main(arguments: list[str]) -> None:
    """`--quick`: small sizes, nothing saved."""
    steps, quick = Steps(), "--quick" in arguments
    sizes = QUICK if quick else Sizes()
    project = load_project(NAME, (PROJECTS,))
    rows: list[Row] = []
    notes = [
        "Publisher, stream, Kafka, Cassandra and the reader all run on the same cores and by one clock; "
        "the publisher's time is in each event.",
        f"{PROBES} probes a second have keys of their own among {KEYS} other keys; a probe is readable "
        "when an answer for its key has it.",
        "Freshness: of 40 seconds after a minute of the same rate; the stream began shortly before the "
        "first.",
        "Throughput: the stream's own query with checkpoints of its own, with its sink and with Spark's "
        "no-op sink in turn; medians of three after one.",
        "Current rows are scored by a champion and published.",
    ]
    try:
        with river() as found:
            steps.step("servers run")
            if "--no-freshness" not in arguments:
                rows += freshness_rows(found, project, sizes, steps, notes)
        with river() as found:
            rows += throughput(found, project, sizes, steps)
            rows += amplification(found, project, steps)
            rows += history(found, project, KEYS, steps)
            rows += lookup(found, project, sizes.current, sizes.runs, steps)
    except NotMeasuredError as error:
        raise SystemExit(f"error: {error}") from error
    save("speed", "The stream", rows, ["pyspark", "cassandra-driver", "kafka-python"], notes, dry=quick)


if __name__ == "__main__":
    main(sys.argv[1:])
