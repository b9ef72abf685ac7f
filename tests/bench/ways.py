"""Ways to run the stream, each beside the present one, in one run of one warm process: docs/adr/0017.

Each way starts the queries anew, with a checkpoint of its own, at the end of the topic. The present way runs
at the beginning, in
the middle and at the end: how far these three lie apart is noise. way_alone.py has the ways that are for
queries without state only.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anabranch.declare.loading import load_project
from anabranch.values.times import now_micros
from jobs.show import Steps
from jobs.wiring.context import Context
from speed.streams import start
from tests.bench.freshness import NotMeasuredError, counted, freshness, read_probes, sent_by
from tests.bench.publisher import message
from tests.bench.report import Row, save
from tests.bench.river import PROJECTS, river
from tests.bench.serving_data import train
from tests.bench.speed import DECIDING, KEYS, NAME, TOPIC, scored
from tests.bench.way import QUICK, RATE, Bench, Busy, Measured, Sizes
from tests.bench.way_alone import BATCH, hour_of_one_key, refusals, tables, topics

CHANGELOG = "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled"


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is otherwise than it is when the queries start: values of the channel, and Spark's settings."""

    name: str
    channel: Mapping[str, Any] = field(default_factory=dict)
    conf: Mapping[str, str] = field(default_factory=dict)


PRESENT = Way(name="as it is")
WAYS = (
    PRESENT,
    Way(name="trigger 0.5 s", channel={"trigger": "500 milliseconds"}),
    Way(name="trigger 1 s", channel={"trigger": "1 second"}),
    PRESENT,
    Way(name="without changelog checkpoints", conf={CHANGELOG: "false"}),
    Way(name="2 partitions of state", channel={"partitions": 2}),
    Way(name="4 partitions of state", channel={"partitions": 4}),
    PRESENT,
)


def whole(bench: Bench, way: Way, warm: float, seconds: float) -> Measured:
    """The stream itself, started in this way; published to readable in an answer."""
    run, context, spark = bench.begin(), bench.context, bench.context.spark
    layer = replace(context.speed_layer(once=False), checkpoints=bench.checkpoint, **way.channel)
    before = {name: spark.conf.get(name) for name in way.conf}
    try:
        for name, value in way.conf.items():
            spark.conf.set(name, value)
        queries = start(layer, bench.project)
    finally:
        for name, old in before.items():
            spark.conf.set(name, str(old))
    with bench.running(queries):
        sent = bench.watched(sent_by(context.answers, bench.project), queries)
        # No event waits for the query to start, so that none of it is in what is measured.
        context.bus.publish(
            TOPIC, [(None, message(f"{run}-first", f"{run}-first-probe-0", 1.0, now_micros()))]
        )
        read_probes(sent, f"{run}-first", 1)
        busy = Busy(bench)
        got = freshness(bench.found, TOPIC, sent, RATE, warm, seconds, KEYS, run)
        cores = busy.cores()
        same = counted(context.answers, bench.project, run, KEYS, got.events)
        scored(context, bench.project, f"{run}-probe-0")
    bench.steps.step(f"{way.name}: {got}, {cores:.2f} cores, every event counted once: {same}")
    return Measured(name=way.name, figures=got.percentiles, cores=cores, equal=same)


def rows_of(measured: list[Measured], against: Measured, peer: str) -> Iterator[Row]:
    """One row a figure of each way, beside that of the way it is compared with."""
    for way in measured:
        for name, value in way.figures.items():
            theirs = against.figures[name]
            yield Row(
                work=f"{way.name}: {name}",
                peer=peer,
                ours=value,
                theirs=theirs,
                unit="s",
                ratio=theirs / value,
                goal="",
                equal=way.equal,
            )
        yield Row(
            work=f"{way.name}: busy",
            peer=peer,
            ours=way.cores,
            theirs=against.cores,
            unit="cores",
            ratio=against.cores / way.cores,
            goal="",
            equal=None,
        )


def mean(measured: list[Measured]) -> Measured:
    """Of several runs of one way."""
    figures = {
        name: float(np.mean([each.figures[name] for each in measured])) for name in measured[0].figures
    }
    return Measured(
        name=measured[0].name,
        figures=figures,
        cores=float(np.mean([each.cores for each in measured])),
        equal=all(each.equal for each in measured),
    )


def measure(bench: Bench) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    context, sizes = bench.context, bench.sizes
    context.bus.ensure_topics([TOPIC])
    train(context.models, bench.project, DECIDING)
    bench.steps.step("a champion is there")
    whole(bench, PRESENT, sizes.first, sizes.warm)
    streams = [whole(bench, way, sizes.warm, sizes.seconds) for way in WAYS]
    present = mean([way for way in streams if way.name == PRESENT.name])
    rows = list(rows_of(streams, present, "as it is, mean of its three runs"))
    (into_tables, no_tables), (into_topics, no_topics) = tables(bench), topics(bench)
    rows += [
        *rows_of(into_tables, into_tables[0], "in micro-batches"),
        *rows_of(into_topics, into_topics[0], "in micro-batches"),
    ]
    raw, tiles, count = hour_of_one_key(bench, "w1-k0")
    work = f"read of one key for an answer: its raw events of an hour ({count:,} rows), not folded yet"
    rows.append(
        Row(
            work=work,
            peer="answer from tiles",
            ours=raw,
            theirs=tiles,
            unit="ms",
            ratio=tiles / raw,
            goal="",
            equal=None,
        )
    )
    return rows, [*no_tables, *no_topics, *refusals(bench)]


def main(arguments: list[str]) -> None:
    """`--quick`: small sizes, nothing saved."""
    quick, steps = "--quick" in arguments, Steps()
    project = load_project(NAME, (PROJECTS,))
    sizes = QUICK if quick else Sizes()
    try:
        with river() as found, closing(Context(found.settings)) as context:
            rows, refused = measure(Bench(found, context, project, sizes, steps))
    except NotMeasuredError as error:
        raise SystemExit(f"error: {error}") from error
    for text in refused:
        steps.step(text)
    speed = found.settings.speed
    notes = [
        f"Published to readable in an answer at {RATE:,} events/s and {KEYS} keys, of {sizes.seconds:g} s "
        f"after {sizes.warm:g} s, in one warm process.",
        f"As it is: trigger {speed.trigger!r}, changelog checkpoints, state partitions {speed.partitions}.",
        "Ways in the order in which they were run. The present one ran three times: how far its runs lie "
        "from their mean is noise.",
        "equal: every event was counted (or is there), and none twice.",
        f"Events alone: published to there, of {sizes.alone:g} s. Into Cassandra by a foreach writer in "
        "Python, one row an event; nothing is folded.",
        "busy: cores of Spark's JVM, its Python workers and Cassandra. Real-Time Mode with batches of "
        f"{BATCH}.",
        *(f"Tried too: {text}" for text in refused),
    ]
    save(
        "ways",
        "Ways to run the stream",
        rows,
        ["pyspark", "cassandra-driver", "kafka-python"],
        notes,
        dry=quick,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
