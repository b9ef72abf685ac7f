"""Ways that Spark has for queries without state only: events alone, parsed as the stream parses them, into a
table or a topic.

And what it says to the stream's own query when that is to run in such a way.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial

import numpy as np
from kafka import TopicPartition
from numpy.typing import NDArray
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import Row as SparkRow
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter

from anabranch.events.judging import good_events
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import prepared, session_for
from anabranch.values.times import SECOND, now_micros
from jobs.servers.processes import wait_until
from speed.query import query_settings
from speed.views import events_of, states_of
from tests.bench.freshness import Freshness, NotMeasuredError, freshness, outcome, published, read_probes
from tests.bench.publisher import PROBES, message
from tests.bench.speed import KEYS, TOPIC
from tests.bench.way import RATE, Bench, Busy, Measured, first_line

TABLE, OUT = "events_alone", "events-alone"
HOUR_OF_ONE_KEY = RATE * 3_600 // KEYS
ASYNC = "asyncProgressTrackingEnabled"
BATCH = "5 seconds"
"""How long a batch of Real-Time Mode is, and so the most that is done again after a failure; Spark takes no
less.
"""


def tables(bench: Bench) -> tuple[list[Measured], list[str]]:
    """Into Cassandra: what was measured, the way to compare with first, and what Spark said where it
    would not.
    """
    bench.context.views.session.execute(
        f"CREATE TABLE {TABLE} (thing text, at bigint, id text, x double, sent bigint, PRIMARY KEY (thing, "
        "at, id))"
    )
    ways = {"micro-batches": into_table, "Real-Time Mode": lambda bench: real_time(into_table(bench))}
    return _tried(
        bench, {f"events alone into Cassandra, {name}": way for name, way in ways.items()}, table_lag
    )


def topics(bench: Bench) -> tuple[list[Measured], list[str]]:
    """Into Kafka: the same."""
    bench.context.bus.ensure_topics([OUT])
    ways: dict[str, Callable[[Bench], DataStreamWriter]] = {
        "micro-batches": into_topic,
        "asynchronous progress": lambda bench: into_topic(bench).option(ASYNC, "true"),
        "Real-Time Mode": lambda bench: real_time(into_topic(bench)),
    }
    return _tried(bench, {f"events alone into Kafka, {name}": way for name, way in ways.items()}, topic_lag)


def _tried(
    bench: Bench,
    ways: Mapping[str, Callable[[Bench], DataStreamWriter]],
    measure: Callable[[Bench, str, DataStreamWriter], Measured],
) -> tuple[list[Measured], list[str]]:
    measured, failed = list[Measured](), list[str]()
    for name, way in ways.items():
        try:
            measured.append(measure(bench, name, way(bench)))
        except (NotMeasuredError, PySparkException) as error:
            if not measured:
                raise
            failed.append(f"{name}: {first_line(error)}")
            bench.steps.step(failed[-1])
    return measured, failed


def real_time(writer: DataStreamWriter) -> DataStreamWriter:
    """The query in Real-Time Mode."""
    return writer.trigger(realTime=BATCH)  # type: ignore[call-overload, no-any-return]


def alone(bench: Bench) -> DataFrame:
    """Events as the stream parses and judges them, neither de-duplicated nor folded."""
    context, (source,) = bench.context, bench.project.sources.values()
    options = {**context.bus.spark_options([TOPIC]), "startingOffsets": "earliest"}
    messages = context.spark.readStream.format("kafka").options(**options).load()
    columns = ("thing", F.unix_micros("at").alias("at"), "id", "x", "sent")
    return good_events(bench.project, source, messages, context.settings.times).select(*columns)


class IntoTable:
    """The foreach writer: a row an event, of which the first arrival of an id need not win; none is lost
    or doubled.
    """

    def __init__(self, views: ViewsSettings) -> None:
        self._views = views

    def open(self, _partition: int, _epoch: int) -> bool:
        self._session = session_for(self._views)
        self._insert = prepared(
            self._session, f"INSERT INTO {TABLE} (thing, at, id, x, sent) VALUES (?, ?, ?, ?, ?)"
        )
        self._waiting: list[object] = []
        return True

    def process(self, row: SparkRow) -> None:
        self._waiting.append(self._session.execute_async(self._insert, tuple(row)))
        if len(self._waiting) >= 64:
            self._waiting.pop(0).result()  # type: ignore[attr-defined]

    def close(self, error: Exception | None) -> None:
        for future in self._waiting if error is None else ():
            future.result()  # type: ignore[attr-defined]


def into_table(bench: Bench) -> DataStreamWriter:
    return alone(bench).writeStream.outputMode("update").foreach(IntoTable(bench.context.views.settings))


def into_topic(bench: Bench) -> DataStreamWriter:
    message = alone(bench).select(F.col("id").alias("key"), F.to_json(F.struct("id", "sent")).alias("value"))
    return (
        message.writeStream.outputMode("update")
        .format("kafka")
        .options(**bench.context.bus.spark_options([]), topic=OUT)
    )


def table_lag(bench: Bench, name: str, writer: DataStreamWriter) -> Measured:
    """Events alone into Cassandra: published to there."""
    session, run = bench.context.views.session, bench.begin()
    asked = session.prepare(f"SELECT sent FROM {TABLE} WHERE thing = ?")

    def sent_in(key: str) -> object:
        row = session.execute(asked, (key,)).one()
        return None if row is None else row.sent

    def count() -> int:
        of_key = session.prepare(f"SELECT count(*) FROM {TABLE} WHERE thing = ?")
        return sum(session.execute(of_key, (f"{run}-k{number}",)).one()[0] for number in range(KEYS))

    queries = [_started(bench, writer)]
    with bench.running(queries):
        sent = bench.watched(sent_in, queries)
        bench.context.bus.publish(
            TOPIC, [(None, message(f"{run}-first", f"{run}-first-probe-0", 1.0, now_micros()))]
        )
        read_probes(sent, f"{run}-first", 1)
        busy = Busy(bench)
        got = freshness(bench.found, TOPIC, sent, RATE, bench.sizes.warm, bench.sizes.alone, KEYS, run)
        cores = busy.cores()
        same = wait_until(lambda: count() == got.events, 30.0)
    bench.steps.step(f"{name}: {got}, {cores:.2f} cores, every event there once: {same}")
    return Measured(name=name, figures=got.percentiles, cores=cores, equal=same)


def topic_lag(bench: Bench, name: str, writer: DataStreamWriter) -> Measured:
    """Events alone into Kafka: published to appended, by the broker's clock, which is the publisher's."""
    run, since = bench.begin(), bench.context.bus.ends(OUT)[0]
    queries = [_started(bench, writer)]
    with bench.running(queries):
        bench.context.bus.publish(TOPIC, [(None, message(f"{run}-first", f"{run}-first", 1.0, now_micros()))])
        if not wait_until(lambda: bench.context.bus.ends(OUT)[0] > since or not queries[0].isActive, 60.0):
            raise NotMeasuredError("nothing comes out of the query in a minute")
        busy = Busy(bench)
        publisher = published(bench.found, TOPIC, RATE, bench.sizes.warm + bench.sizes.alone, KEYS, run)
        reached, events = outcome(publisher, RATE)
        cores = busy.cores()
        all_of_it = 1 + events + int(PROBES * (bench.sizes.warm + bench.sizes.alone))
        wait_until(lambda: bench.context.bus.ends(OUT)[0] >= since + all_of_it, 60.0)
    ids, sent, arrived = _appended(bench, since)
    late = sent >= sent[-1] - bench.sizes.alone * SECOND
    got = Freshness(rate=RATE, reached=reached, events=events, lags=(arrived - sent)[late] / SECOND)
    same = sorted(name for name in ids if name.removeprefix(f"{run}-").isdigit()) == sorted(
        f"{run}-{number}" for number in range(events)
    )
    bench.steps.step(f"{name}: {got}, {cores:.2f} cores, every event there once: {same}")
    return Measured(name=name, figures=got.percentiles, cores=cores, equal=same)


def _appended(bench: Bench, since: int) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Ids of what a query appended to its topic, when each was sent, and when it was appended, in
    microseconds.
    """
    consumer, place = bench.context.bus.consumer(), TopicPartition(OUT, 0)
    with closing(consumer):
        consumer.assign([place])
        consumer.seek(place, since)
        ids, sent, arrived = [], [], []
        end = consumer.end_offsets([place])[place]
        while consumer.position(place) < end:
            for record in next(iter(consumer.poll(1000).values()), []):
                said = json.loads(record.value)
                ids.append(said["id"])
                sent.append(said["sent"])
                arrived.append(record.timestamp * 1000)
    return ids, np.array(sent, dtype=np.float64), np.array(arrived, dtype=np.float64)


def _started(bench: Bench, writer: DataStreamWriter) -> StreamingQuery:
    return writer.option("checkpointLocation", bench.checkpoint).start()


def refusals(bench: Bench) -> Iterator[str]:
    """What Spark says to the stream's own query in ways that it has for others."""
    context, (source,) = bench.context, bench.project.sources.values()
    layer = context.speed_layer(once=False)
    kafka: Mapping[str, str] = {**context.bus.spark_options([]), "topic": OUT}
    with query_settings(layer):
        tiles = states_of(layer, bench.project, source, events_of(layer, bench.project, source))
        wide = tiles.select(F.col("key"), F.to_json(F.struct("piece", "events")).alias("value"))
        distinct = (
            alone(bench)
            .dropDuplicates(["id"])
            .select(F.col("id").alias("key"), F.col("thing").alias("value"))
        )

        def written(frame: DataFrame) -> DataStreamWriter:
            return frame.writeStream.outputMode("update")

        tried = [
            (
                "asynchronous progress, the stream's query",
                written(tiles).foreachBatch(_nothing).option(ASYNC, "true"),
            ),
            (
                "asynchronous progress, its tiles into Kafka",
                written(wide).format("kafka").options(**kafka).option(ASYNC, "true"),
            ),
            (
                "asynchronous progress, events alone into a foreach writer",
                into_table(bench).option(ASYNC, "true"),
            ),
            ("Real-Time Mode, the stream's query", real_time(written(tiles).foreachBatch(_nothing))),
            (
                "Real-Time Mode, its tiles into Kafka",
                real_time(written(wide).format("kafka").options(**kafka)),
            ),
            (
                "Real-Time Mode, de-duplicated events into Kafka",
                real_time(written(distinct).format("kafka").options(**kafka)),
            ),
        ]
        for name, writer in tried:
            yield f"{name}: {_said(bench, writer)}"


def _nothing(_frame: DataFrame, _number: int) -> None:
    """A sink."""


def _said(bench: Bench, writer: DataStreamWriter) -> str:
    """The error that a query ends with, its first line; that it is not refused, when it reads instead."""
    run = bench.begin()
    try:
        query = _started(bench, writer)
    except Exception as error:  # noqa: BLE001 - what Spark says is what is asked for
        return f"refused: {first_line(error)}"
    bench.context.bus.publish(TOPIC, [(None, message(f"{run}-first", f"{run}-first", 1.0, now_micros()))])
    wait_until(lambda: not query.isActive or query.lastProgress is not None, 20.0)
    failure = query.exception()
    query.stop()
    return "runs" if failure is None else f"refused: {first_line(failure)}"


def hour_of_one_key(bench: Bench, key: str) -> tuple[float, float, int]:
    """Milliseconds to read one key's events of an hour, to answer for a key from its tiles, and how many
    rows the former are.
    """
    session, answers, now = bench.context.views.session, bench.context.answers, now_micros()
    insert = session.prepare(f"INSERT INTO {TABLE} (thing, at, id, x, sent) VALUES (?, ?, ?, ?, ?)")
    waiting = []
    for number in range(HOUR_OF_ONE_KEY):
        waiting.append(session.execute_async(insert, ("hour", now - number, f"h{number}", 50.0, now)))
        if len(waiting) >= 64:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    asked = session.prepare(f"SELECT at, id, x FROM {TABLE} WHERE thing = ?")
    raw = _milliseconds(lambda: len(list(session.execute(asked, ("hour",)))))
    return raw, _milliseconds(partial(answers.features, bench.project, [{"thing": key}])), HOUR_OF_ONE_KEY


def _milliseconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(15):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))
