"""Batch views: states of every key from the whole lake up to a cut, published to Cassandra and swapped in.

The twin of speed/views.py: the same aggregates over the same events; here all of them, there those since the cut.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from features.declaration import FeatureView, Project
from features.errors import AnabranchError
from features.spark import batch_states, key_column
from features.times import SECOND, floor_to, format_time, from_micros
from stores.cassandra_source import CassandraSource, cassandra_options
from stores.current import SCORES_SCHEMA, refresher
from stores.lake import Lake
from stores.manifest import Manifest
from stores.models import Models
from stores.progress import Progress
from stores.settings import TimeSettings
from stores.views import Views, batch_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished build: rows by view, and how many current rows were reset."""

    manifest: Manifest
    current_rows: int
    seconds: float


def latest_cut(times: TimeSettings, now: int) -> int:
    """The last slot boundary at or before `now` (microseconds)."""
    return floor_to(now, times.slot_seconds * SECOND)


def owed(spark: SparkSession, lake: Lake, project: Project, cut: int) -> dict[str, DataFrame]:
    """The distinct events a batch owes, by source: first arrivals by file, and those that came by topic before the cut.

    Duplicates go first, so that a file row whose event came by topic at or after the cut is left to the stream.
    """
    covered = F.col("_file").isNotNull() | (F.col("_arrival") < F.lit(from_micros(cut)))
    return {name: events.where(covered) for name, events in lake.distinct_events(spark, project).items()}


def build(spark: SparkSession, lake: Lake, views: Views, models: Models, project: Project, times: TimeSettings, cut: int, progress: Progress) -> Built:
    """Compute, publish and swap one batch version. The lake must hold all that arrived before `cut` (see landing)."""
    started = time.monotonic()
    if cut % (times.slot_seconds * SECOND):
        raise AnabranchError(f"cut {format_time(cut)} is no slot boundary: slots are {times.slot_seconds} s long")
    before = views.manifest(project.name)
    versions = lake.versions(spark, project)
    events = owed(spark, lake, project, cut)
    kept = unchanged(project, before, versions, cut, times)
    changed = [view.name for view in project.views if view.name not in kept]
    version = views.new_version(project.name, changed, max(int(time.time()), before.batch_version + 1 if before else 0))
    try:
        rows, tables = {}, {}
        for view in project.views:
            progress.step(f"view {view.name}: " + (f"states up to {format_time(cut)}" if view.name in changed else "nothing changed, kept as it is"))
            tables[view.name], rows[view.name] = kept.get(view.name) or (
                batch_table(project.name, view.name, version),
                _publish(view, events[view.source.name], views, project, version, cut, times),
            )
        champion = models.champion(project.name)
        entry = Manifest(
            project=project.name,
            batch_version=version,
            cut=cut,
            slack=times.slack_seconds * SECOND,
            built_at=time.time_ns() // 1000,
            fingerprints={view.name: view.fingerprint for view in project.views},
            tables=tables,
            rows=rows,
            lake_versions=versions,
            model_version=champion,
        )
        views.ensure_tiles(project)
        views.swap(entry, before, _still_valid(before, project))
    except BaseException:
        views.drop_version(project.name, changed, version)
        raise
    progress.step("current rows of every key")
    reset = reset_current(views, models, project, events, champion)
    seconds = time.monotonic() - started
    log.info("built project=%s version=%s cut=%s rows=%s seconds=%.1f", project.name, version, format_time(cut), rows, seconds)
    return Built(manifest=entry, current_rows=reset, seconds=seconds)


def unchanged(project: Project, before: Manifest | None, lake_versions: Mapping[str, int], cut: int, times: TimeSettings) -> dict[str, tuple[str, int]]:
    """Table and rows, by view, of states that are there already: same meaning (whatever its name), same events, same cut."""
    if before is None or (before.cut, before.slack) != (cut, times.slack_seconds * SECOND):
        return {}
    known = {fingerprint: (before.tables[view], before.rows[view]) for view, fingerprint in before.fingerprints.items()}
    same = [view for view in project.views if before.lake_versions.get(view.source.name) == lake_versions.get(view.source.name)]
    return {view.name: known[view.fingerprint] for view in same if view.fingerprint in known}


def _still_valid(before: Manifest | None, project: Project) -> Manifest | None:
    """The version to keep for rollback: the one before, unless its views mean something else by now."""
    known = {view.name: view.fingerprint for view in project.views}
    return before if before is not None and dict(before.fingerprints) == known else None


def _publish(view: FeatureView, events: DataFrame, views: Views, project: Project, version: int, cut: int, times: TimeSettings) -> int:
    counted = Observation()
    states = batch_states(view, events, cut, times.slack_seconds * SECOND).observe(counted, F.count(F.lit(1)).alias("rows"))
    events.sparkSession.dataSource.register(CassandraSource)
    options = {**cassandra_options(views.settings), "table": batch_table(project.name, view.name, version)}
    states.write.format("cassandra").options(**options).mode("append").save()
    return int(counted.get["rows"])


def entities(project: Project, events: Mapping[str, DataFrame]) -> DataFrame:
    """Every key of the project that its events name in full: one column `key`, distinct."""
    full = [frame for name, frame in events.items() if {column.name for column in project.sources[name].columns} >= set(project.keys)]
    named = [frame.select(key_column(project.keys).alias("key")).where("key IS NOT NULL") for frame in full]
    if not named:
        raise AnabranchError(f"no source of {project.name!r} has all of its keys {', '.join(project.keys)}: add them to one source")
    return reduce(DataFrame.unionAll, named).distinct()


def reset_current_rows(spark: SparkSession, lake: Lake, views: Views, models: Models, project: Project, cut: int) -> int:
    """The same for a champion that came after the build, such as the first one."""
    return reset_current(views, models, project, owed(spark, lake, project, cut), models.champion(project.name))


def reset_current(views: Views, models: Models, project: Project, events: Mapping[str, DataFrame], champion: str | None) -> int:
    """Recompute the current row of every key with the batch's states and the champion; returns how many."""
    views.ensure_current(project)
    run = refresher(views.settings, models.settings, project, champion, "batch")
    return entities(project, events).mapInArrow(run, SCORES_SCHEMA).count()


def rollback(views: Views, project: Project) -> Manifest:
    """Make the previous batch version (and the model it was built with) current again; the two change places."""
    current = views.manifest(project.name)
    if current is None or current.previous is None:
        raise AnabranchError(f"project {project.name!r} has no previous batch version to go back to: it needs two builds of the same declaration")
    views.swap(current.previous, current, current)
    return current.previous
