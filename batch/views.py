"""Batch views: states of all events up to a cut, recomputed from the lake and swapped in whole.

The twin of speed/views.py, with the same steps in the same order over the same aggregates: here of all events
up to a cut, there of those that have just arrived. A build skips events whose grains an earlier one has kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.answers.current import REPLACED_SCHEMA, replacer
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.folds.spark import batch_rows, grains
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.opened import Stores
from anabranch.values.times import SECOND, from_micros
from batch.lost_states import lost_states_told

FEW_KEYS = 5_000  # rows of so many are made in this process, as Spark's workers take longer to start


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The events of a batch version: by topic before `cut`, by file before `until` (microseconds).

    `versions`: by source the version of the lake's table that is read.
    """

    cut: int
    until: int
    versions: Mapping[str, int]

    def condition(self) -> Column:
        """Whether the version covers an event."""
        by_file, arrival = F.col("_file").isNotNull(), F.col("_arrival")
        before_until, before_cut = (arrival < F.lit(from_micros(end)) for end in (self.until, self.cut))
        return (by_file & before_until) | (~by_file & before_cut)


def sources_of(project: Project) -> list[Source]:
    """The sources of the project's views, whether their events come by topic, file or table."""
    return [source for source in project.sources.values() if project.views_of(source.name)]


def events_of(stores: Stores, project: Project, source: Source, coverage: Coverage) -> DataFrame:
    """The distinct events of a source that the version covers.

    Duplicates go first, so that a file's row whose event came by topic at or after the cut is left to the
    stream.
    """
    version = coverage.versions.get(source.name)
    return stores.lake.distinct_events_of(stores.spark, project, source, version).where(coverage.condition())


def states_of(view: FeatureView, events: DataFrame, coverage: Coverage) -> DataFrame:
    """The states of a view: grains by (key, start), which the lake keeps between builds."""
    return grains(view, events, coverage.cut)


def write_states(stores: Stores, view: FeatureView, states: DataFrame, coverage: Coverage, table: str) -> int:
    """Write a view's grains to a table of the serving store, one row a key; returns the number of rows."""
    slack = stores.settings.times.slack_seconds * SECOND
    with lost_states_told(view, batch_rows(view, states, coverage.cut, slack)) as rows:
        return write_rows(rows, stores.views.settings, table)


def refresh_current(
    stores: Stores, project: Project, keys: DataFrame, model_version: str | None
) -> DataFrame:
    """Comparisons with the stream's scores (REPLACED_SCHEMA). Computing the frame writes current rows."""
    run = replacer(stores.views.settings, stores.models.settings, project, model_version)
    few = keys.limit(FEW_KEYS + 1).toArrow()
    if few.num_rows <= FEW_KEYS:
        rows = [row for batch in run(iter(few.to_batches())) for row in batch.to_pylist()]
        return stores.spark.createDataFrame(rows, REPLACED_SCHEMA)
    return keys.repartition(stores.spark.sparkContext.defaultParallelism).mapInArrow(run, REPLACED_SCHEMA)
