"""Speed views: states of the events since the cut, in tiles by slot of arrival, kept current by a stream.

The twin of batch/views.py: the same aggregates over the same events; there all of them, here those that just arrived. Each
micro-batch writes whole tiles again, so a replay is harmless, then scores the keys that changed.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from features.declaration import FeatureView, Project
from features.spark import tiles
from stores.bus import Bus
from stores.cassandra_source import CassandraSource, cassandra_options
from stores.current import SCORES_SCHEMA, refresher
from stores.events import good_events
from stores.expectations import Suite
from stores.lake import Lake
from stores.models import Models
from stores.settings import TimeSettings
from stores.views import Views, tiles_table

log = logging.getLogger(__name__)


def scores_topic(project: str) -> str:
    """Topic of a project's approximate scores."""
    return f"scores.{project}"


def _no_suites(_project: Project) -> Mapping[str, Suite]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Channel:
    """What a stream reads and writes, and how: `trigger` None drains what is there and stops.

    `suites`: by source the rules that landing judges rows by; the stream must leave out the same ones.
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


def start(spark: SparkSession, channel: Channel, project: Project) -> list[StreamingQuery]:
    """Start one query a view that a topic feeds."""
    spark.dataSource.register(CassandraSource)
    fed = [view for view in project.views if view.source.topic is not None]
    topics = list(dict.fromkeys(str(view.source.topic) for view in fed))
    channel.bus.ensure_topics([*topics, scores_topic(project.name)])
    channel.bus.require_arrival(topics)
    channel.views.ensure_tiles(project)
    channel.views.ensure_current(project)
    return [_start(spark, channel, project, view) for view in fed]


def _start(spark: SparkSession, channel: Channel, project: Project, view: FeatureView) -> StreamingQuery:
    writer = (
        live_tiles(spark, channel, project, view)
        .writeStream.queryName(f"{project.name}.{view.name}")
        .outputMode("update")
        .option("checkpointLocation", f"{channel.checkpoints.rstrip('/')}/{project.name}/{view.name}-{view.fingerprint}")
        .foreachBatch(_micro_batch(channel, project, view))
    )
    timed = writer.trigger(availableNow=True) if channel.trigger is None else writer.trigger(processingTime=channel.trigger)
    return timed.start()


def live_tiles(spark: SparkSession, channel: Channel, project: Project, view: FeatureView) -> DataFrame:
    """The streaming tiles of a view: parsed, de-duplicated within the horizon, aggregated by (key, slot, tile)."""
    options = {**channel.bus.spark_options([str(view.source.topic)]), "startingOffsets": "earliest"}
    if channel.most_offsets is not None:
        options["maxOffsetsPerTrigger"] = str(channel.most_offsets)
    messages = spark.readStream.format("kafka").options(**options).load()
    events = good_events(project, view.source, messages, channel.times, channel.suites(project).get(view.source.name))
    loaded = channel.lake.file_ids(spark, project, view.source)
    if loaded is not None:
        # The batch owes what a file brought first; Delta shows each micro-batch the table as it then is.
        same = (F.col(f"`{view.source.id}`") == F.col("_file_id")) & (F.col("_file_arrival") <= F.col("_arrival"))
        events = events.join(loaded, same, "left_anti")
    fresh = events.withWatermark("_arrival", f"{channel.times.dedup_horizon_seconds} seconds").dropDuplicatesWithinWatermark([view.source.id])
    return tiles(view, fresh, channel.times.slot_seconds, project.keys)


def _micro_batch(channel: Channel, project: Project, view: FeatureView) -> Callable[[DataFrame, int], None]:
    bus, views, models = channel.bus, channel.views, channel.models
    options = {**cassandra_options(views.settings), "table": tiles_table(project.name, view)}

    def run(states: DataFrame, number: int) -> None:
        started = time.time_ns() // 1000
        states.persist()
        try:
            stored = states.select("key", *[F.unix_micros(name).alias(name) for name in ("slot", "tile_start")], "state", "extra")
            # The moment the micro-batch began is the write's timestamp: a retry repeats it, a later batch passes it.
            stored.write.format("cassandra").options(**options, timestamp=str(started)).mode("append").save()
            changed = states.select(F.explode("entities").alias("key")).where("key IS NOT NULL").distinct()
            champion = models.champion(project.name)
            scores = changed.mapInArrow(refresher(views.settings, models.settings, project, champion, "speed"), SCORES_SCHEMA)
            scores.write.format("kafka").options(**bus.spark_options([])).option("topic", scores_topic(project.name)).save()
        finally:
            states.unpersist()
        log.info("micro-batch project=%s view=%s number=%s seconds=%.2f", project.name, view.name, number, (time.time_ns() // 1000 - started) / 1e6)

    return run
