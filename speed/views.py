"""Speed views: states of the events since the cut, in tiles by slot of arrival, kept current by a stream.

The twin of batch/views.py, with the same steps in the same order over the same aggregates: there of all
events up to a cut, here of those that have just arrived. One query a source keeps all its views; a
micro-batch writes whole tiles again, so a replay changes nothing (see streams.py for the queries).
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.answers.current import SCORES_SCHEMA, refresher
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.judging import good_events, is_ahead
from anabranch.folds.spark import pieces_of, tiles
from anabranch.values.names import quoted
from speed.progress import AHEAD
from speed.query import SpeedLayer, messages, model_in_force, remembered_days, starting_offsets
from speed.tiles import CHANGED_SCHEMA, tile_writer


def sources_of(project: Project) -> list[Source]:
    """The sources of the project's views that have a topic: others wait for a build."""
    return [one for one in project.sources.values() if one.topic is not None and project.views_of(one.name)]


def events_of(layer: SpeedLayer, project: Project, source: Source) -> DataFrame:
    """The streaming good events of a source, each once: the first arrival of an id."""
    topic = layer.stores.bus.read_as(str(source.topic))
    read = messages(layer, topic, startingOffsets=starting_offsets(layer, project, source))
    ahead = F.max(F.when(is_ahead(layer.times), F.unix_micros("timestamp")))
    read = read.observe(AHEAD, ahead.alias("until"))
    suite = layer.suites(project).get(source.name)
    events = good_events(project, source, read, layer.times, suite, layer.stores.schemas)
    days, spark = remembered_days(layer, project), layer.stores.spark
    # No row of a file has the identity of a message.
    loaded = layer.stores.lake.file_ids(spark, project, source, days) if source.id is not None else None
    if loaded is not None:
        # A build counts what a file brought first; Delta shows each micro-batch the table as it then is.
        same = (named(source.identity) == F.col("_file_id")) & (F.col("_file_arrival") <= F.col("_arrival"))
        events = events.join(loaded, same, "left_anti")
    # The watermark precedes the shuffle: behind it Spark forgets the partitioning and would shuffle again.
    marked = events.withWatermark("_arrival", f"{layer.times.dedup_horizon_seconds} seconds")
    # Of duplicates in one micro-batch the first row wins: in the order of arrival, the first arrival.
    shuffled = marked.repartition(layer.partitions, quoted(source.identity))
    ordered = shuffled.sortWithinPartitions("_arrival", "_partition", "_offset")
    return ordered.dropDuplicatesWithinWatermark([source.identity])


def states_of(layer: SpeedLayer, project: Project, source: Source, events: DataFrame) -> DataFrame:
    """The states of all views of a source: tiles by (piece, key, slot, tile start)."""
    entity = project.key_columns_in(source)
    return tiles(project.views_of(source.name), events, layer.times.slot_seconds, entity)


def write_states(layer: SpeedLayer, project: Project, source: Source, states: DataFrame) -> DataFrame:
    """The keys of the project that changed (`key`). Computing the frame writes the tiles."""
    pieces = pieces_of(project.views_of(source.name), project.key_columns_in(source))
    moments = [F.unix_micros(name).alias(name) for name in ("slot", "tile_start")]
    stored = states.select("piece", "key", *moments, "events", "state", "extra")
    write = tile_writer(layer.stores.views.settings, project, source, pieces)
    # The shuffle of `distinct` ends with the last task that writes tiles: no key is scored before.
    return stored.mapInArrow(write, CHANGED_SCHEMA).distinct()


def refresh_current(layer: SpeedLayer, project: Project, keys: DataFrame) -> DataFrame:
    """Messages (`key`, `value`) of the keys' scores. Computing the frame writes their current rows."""
    views, models = layer.stores.views.settings, layer.stores.models.settings
    run = refresher(views, models, project, model_in_force(layer, project))
    return keys.mapInArrow(run, SCORES_SCHEMA)
