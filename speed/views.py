"""Speed views: states of the events since the cut, in tiles by slot of arrival, kept current by a stream.

The twin of batch/views.py: the same aggregates over the same events; there all of them, here those that just arrived. One
query a source folds all views of it. Each micro-batch is one Spark job: it writes whole tiles again, so a replay is
harmless, and when all are written it scores the keys that changed.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter

from anabranch.answers.current import SCORES_SCHEMA, InForce, refresher
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import UnavailableError
from anabranch.events.expectations import Suite
from anabranch.events.judging import good_events
from anabranch.folds.spark import pieces_of, tiles
from anabranch.settings import TimeSettings
from anabranch.stores.cassandra.retirement import needed_since
from anabranch.stores.cassandra.views import Views
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.values.times import DAY, SECOND, floor_to, now_micros
from speed.tiles import CHANGED_SCHEMA, tile_writer

log = logging.getLogger(__name__)
_FORMAT = 2
"""Counts changes of what a checkpoint holds for one and the same declaration."""


def scores_topic(project: str) -> str:
    """Topic of a project's approximate scores."""
    return f"scores.{project}"


def _no_suites(_project: Project) -> Mapping[str, Suite]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What a stream reads and writes, and how: `trigger` None drains what is there and stops.

    `suites`: by source the rules that landing judges rows by; the stream must leave out the same ones.
    `partitions`: of its state, fixed for the life of a checkpoint. `most_offsets`: the most messages of a micro-batch.
    """

    lake: Lake
    bus: Bus
    views: Views
    models: Models
    times: TimeSettings
    checkpoints: str
    suites: Callable[[Project], Mapping[str, Suite]] = _no_suites
    trigger: str | None = None
    most_offsets: int | None = None
    partitions: int = 1


def fed_sources(project: Project) -> list[Source]:
    """The sources of the project's views that come by topic."""
    return [
        source
        for source in project.sources.values()
        if source.topic is not None and project.views_of(source.name)
    ]


def start(spark: SparkSession, channel: Channel, project: Project) -> list[StreamingQuery]:
    """Start one query a source that comes by topic."""
    prepare(channel, project)
    return [start_source(spark, channel, project, source) for source in fed_sources(project)]


def prepare(channel: Channel, project: Project) -> None:
    """Make the topics and tables that the project's stream needs, where they are missing."""
    topics = [str(source.topic) for source in fed_sources(project)]
    channel.bus.ensure_topics([*topics, scores_topic(project.name)])
    channel.bus.require_arrival(topics)
    channel.views.ensure_tiles(project)
    channel.views.ensure_current(project)


def start_source(spark: SparkSession, channel: Channel, project: Project, source: Source) -> StreamingQuery:
    """Start the query of one source, for which `prepare` was called."""
    writer = (
        live_tiles(spark, channel, project, source)
        .writeStream.queryName(f"{project.name}.{source.name}")
        .outputMode("update")
        .option("checkpointLocation", checkpoint(channel, project, source))
        .foreachBatch(_micro_batch(channel, project, source))
    )
    with query_settings(spark, channel):
        return timed(writer, channel).start()


def timed(writer: DataStreamWriter, channel: Channel) -> DataStreamWriter:
    """The query with the channel's trigger."""
    return (
        writer.trigger(availableNow=True)
        if channel.trigger is None
        else writer.trigger(processingTime=channel.trigger)
    )


@contextmanager
def query_settings(spark: SparkSession, channel: Channel) -> Iterator[None]:
    """What the session has to say while a query starts: the query takes its settings as they then are."""
    wanted = {
        "spark.sql.shuffle.partitions": str(channel.partitions),
        # State that is past its time is removed with the next events; a micro-batch of its own for it only delays those.
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        # Spark refuses any sort in a stream. The one here orders the rows of one task of one micro-batch, which is well defined.
        "spark.sql.streaming.unsupportedOperationCheck": "false",
    }
    before = {name: spark.conf.get(name) for name in wanted}
    try:
        for name, value in wanted.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            spark.conf.set(name, str(old))


def checkpoint(channel: Channel, project: Project, source: Source) -> str:
    """Where the query of a source keeps its place: another folder for whatever changes the meaning or the layout of its state."""
    meaning = (
        _FORMAT,
        channel.partitions,
        channel.times.slot_seconds,
        project.keys,
        [view.fingerprint for view in project.views_of(source.name)],
    )
    return f"{channel.checkpoints.rstrip('/')}/{project.name}/{source.name}-{hashlib.sha256(repr(meaning).encode()).hexdigest()[:12]}"


def live_tiles(spark: SparkSession, channel: Channel, project: Project, source: Source) -> DataFrame:
    """The streaming tiles of a source's views: parsed and de-duplicated once, aggregated by (piece, key, slot, tile)."""
    options = {
        **channel.bus.spark_options([str(source.topic)]),
        "startingOffsets": starting_offsets(channel, project, source),
    }
    if channel.most_offsets is not None:
        options["maxOffsetsPerTrigger"] = str(channel.most_offsets)
    messages = spark.readStream.format("kafka").options(**options).load()
    events = good_events(project, source, messages, channel.times, channel.suites(project).get(source.name))
    loaded = channel.lake.file_ids(spark, project, source, remembered_days(channel, project))
    if loaded is not None:
        # The batch owes what a file brought first; Delta shows each micro-batch the table as it then is.
        same = (F.col(f"`{source.id}`") == F.col("_file_id")) & (F.col("_file_arrival") <= F.col("_arrival"))
        events = events.join(loaded, same, "left_anti")
    # The watermark comes first: behind it Spark no longer knows how rows are partitioned, and would shuffle them once more.
    marked = events.withWatermark("_arrival", f"{channel.times.dedup_horizon_seconds} seconds")
    # Of duplicates in one micro-batch the first row wins: in the order of arrival, it is the first arrival.
    ordered = marked.repartition(channel.partitions, f"`{source.id}`").sortWithinPartitions(
        "_arrival", "_partition", "_offset"
    )
    fresh = ordered.dropDuplicatesWithinWatermark([source.id])
    return tiles(project.views_of(source.name), fresh, channel.times.slot_seconds, project.keys)


def starting_offsets(channel: Channel, project: Project, source: Source) -> str:
    """Where a query without a checkpoint begins, as Spark's Kafka source takes it: at the first arrival it can need."""
    first = _first_needed(channel, project)
    if first is None:
        return "earliest"
    offsets = channel.bus.offsets_at(str(source.topic), first)
    return json.dumps({source.topic: {str(partition): offset for partition, offset in offsets.items()}})


def remembered_days(channel: Channel, project: Project) -> int | None:
    """How many days back the files of a large table are asked for copies of what the topic brings; None: all of them.

    Long enough for whatever a query that starts now can still read and an answer can need, and it moves with the query.
    """
    first = _first_needed(channel, project)
    return (
        None
        if first is None
        else -(-(now_micros() - first + channel.times.dedup_horizon_seconds * SECOND) // DAY)
    )


def _first_needed(channel: Channel, project: Project) -> int | None:
    """The first arrival (microseconds) that a query without a checkpoint can need; None: all of them."""
    since = needed_since(channel.views.manifest(project.name))
    return (
        None
        if since is None
        else floor_to(since, channel.times.slot_seconds * SECOND)
        - channel.times.dedup_horizon_seconds * SECOND
    )


def _micro_batch(channel: Channel, project: Project, source: Source) -> Callable[[DataFrame, int], None]:
    views, models = channel.views, channel.models
    pieces = pieces_of(project.views_of(source.name), project.keys)
    write = tile_writer(views.settings, project, pieces)
    options = {**channel.bus.spark_options([]), "topic": scores_topic(project.name)}

    def run(states: DataFrame, number: int) -> None:
        started = time.monotonic()
        moments = [F.unix_micros(name).alias(name) for name in ("slot", "tile_start")]
        stored = states.select("piece", "key", *moments, "events", "state", "extra")
        # One job: no key is scored before the shuffle of `distinct` has seen the end of every task that writes tiles.
        changed = stored.mapInArrow(write, CHANGED_SCHEMA).distinct()
        scores = changed.mapInArrow(
            refresher(views.settings, models.settings, project, _model(models, project)), SCORES_SCHEMA
        )
        scores.write.format("kafka").options(**options).save()
        log.info(
            "micro-batch project=%s source=%s number=%s seconds=%.2f",
            project.name,
            source.name,
            number,
            time.monotonic() - started,
        )

    return run


def _model(models: Models, project: Project) -> InForce:
    """The version that scores; none while registry or artifacts are away and it was not known before: tiles go on, and rows say why."""
    if project.model is None:
        return InForce(version=None)
    try:
        version = models.fitting_champion(project, last=True)
        return InForce(version=version, place="" if version is None else models.place(project.name, version))
    except UnavailableError as error:
        log.info("rows of %s are not scored: %s", project.name, error)
        return InForce(version=None, why=str(error))
