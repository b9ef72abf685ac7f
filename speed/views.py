"""Speed views: states of the events since the cut, in tiles by slot of arrival, kept current by a stream.

The twin of batch/views.py: the same aggregates over the same events; there all of them, here those that just arrived. Each
micro-batch writes whole tiles again, so a replay is harmless, then scores the keys that changed.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from features.declaration import FeatureView, Project
from features.spark import tiles
from stores.bus import Bus
from stores.cassandra_source import CassandraSource, cassandra_options
from stores.current import SCORES_SCHEMA, refresher
from stores.events import good_events
from stores.models import Models
from stores.settings import TimeSettings
from stores.views import Views, tiles_table

log = logging.getLogger(__name__)


def scores_topic(project: str) -> str:
    """Topic of a project's approximate scores."""
    return f"scores.{project}"


def start(
    spark: SparkSession, bus: Bus, views: Views, models: Models, project: Project, times: TimeSettings, checkpoints: str, trigger: str | None
) -> list[StreamingQuery]:
    """Start one query a view that a topic feeds; `trigger` None drains what is there and stops."""
    spark.dataSource.register(CassandraSource)
    fed = [view for view in project.views if view.source.topic is not None]
    bus.ensure_topics([*dict.fromkeys(str(view.source.topic) for view in fed), scores_topic(project.name)])
    views.ensure_tiles(project)
    views.ensure_current(project)
    return [_start(spark, bus, views, models, project, view, times, checkpoints, trigger) for view in fed]


def _start(
    spark: SparkSession,
    bus: Bus,
    views: Views,
    models: Models,
    project: Project,
    view: FeatureView,
    times: TimeSettings,
    checkpoints: str,
    trigger: str | None,
) -> StreamingQuery:
    states = live_tiles(spark, bus, project, view, times)
    writer = (
        states.writeStream.queryName(f"{project.name}.{view.name}")
        .outputMode("update")
        .option("checkpointLocation", str(Path(checkpoints) / project.name / f"{view.name}-{view.fingerprint}"))
        .foreachBatch(_micro_batch(bus, views, models, project, view))
    )
    timed = writer.trigger(availableNow=True) if trigger is None else writer.trigger(processingTime=trigger)
    return timed.start()


def live_tiles(spark: SparkSession, bus: Bus, project: Project, view: FeatureView, times: TimeSettings) -> DataFrame:
    """The streaming tiles of a view: parsed, de-duplicated within the horizon, aggregated by (key, slot, tile)."""
    raw = spark.readStream.format("kafka").options(**bus.spark_options([str(view.source.topic)])).option("startingOffsets", "earliest").load()
    events = good_events(project, view.source, raw, times)
    fresh = events.withWatermark("_arrival", f"{times.dedup_horizon_seconds} seconds").dropDuplicatesWithinWatermark([view.source.id])
    return tiles(view, fresh, times.slot_seconds, project.keys)


def _micro_batch(bus: Bus, views: Views, models: Models, project: Project, view: FeatureView) -> Callable[[DataFrame, int], None]:
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
