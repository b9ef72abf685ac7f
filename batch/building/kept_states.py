"""What a build keeps: the grains of every view and the keys of the project, from all events or from those new since the last build.

A version with cut C and `until` U owes the distinct events that came by topic before C or by file before U. A build goes on
from the version before when it can tell which owed events are new; else it reads all of them, by the same path.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.events.copies import distinct_among
from anabranch.folds.spark import coarsened, grains, key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.increments import builds_there, read_increments, write_increment
from anabranch.stores.lake.lake import FeedError, Lake
from anabranch.values.times import format_time, from_micros

log = logging.getLogger(__name__)
FEW = 500_000
"""Ids that every worker can hold."""


@dataclass(frozen=True)
class Owed:
    """What a version covers: by topic before `cut`, by file before `until` (microseconds), of the lake at `versions`."""

    cut: int
    until: int
    versions: Mapping[str, int]

    def covers(self) -> Column:
        """Whether an event is owed."""
        by_file = F.col("_file").isNotNull()
        return (by_file & (F.col("_arrival") < F.lit(from_micros(self.until)))) | (
            ~by_file & (F.col("_arrival") < F.lit(from_micros(self.cut)))
        )

    def events(self, spark: SparkSession, lake: Lake, project: Project) -> dict[str, DataFrame]:
        """The distinct events that are owed, by source.

        Duplicates go first, so that a file row whose event came by topic at or after the cut is left to the stream.
        """
        return {
            name: events.where(self.covers())
            for name, events in lake.distinct_events(spark, project, self.versions).items()
        }


@dataclass(frozen=True)
class New:
    """Owed events of a source that the version before did not have: `events` None when that cannot be told, and `why`."""

    events: DataFrame | None = None
    count: int = 0
    why: str = ""


@dataclass(frozen=True)
class Kept:
    """The builds that make up a state, and whether the version before had the very same."""

    increments: list[int]
    same: bool


@dataclass
class StateUpdate:
    """One build's work on what is kept; `full` is why everything must be read, if anything says so beforehand."""

    spark: SparkSession
    lake: Lake
    project: Project
    before: Manifest | None
    owed: Owed
    build: int
    most: int
    progress: Progress
    full: str | None = None
    _new: dict[str, New] = field(default_factory=dict)
    _kept: dict[str, Kept] = field(default_factory=dict)

    def view(self, view: FeatureView) -> Kept:
        """The grains of a view; views of one meaning share them."""
        name = view.fingerprint
        if name not in self._kept:
            new = self._since(name, [view.source])
            if new.events is None:
                self.progress.step(
                    f"view {view.name}: grains up to {format_time(self.owed.cut)} of every event ({new.why})"
                )
                self._kept[name] = self._written(
                    name, grains(view, self._owed_events[view.source.name], self.owed.cut), []
                )
            else:
                self.progress.step(
                    f"view {view.name}: grains up to {format_time(self.owed.cut)} of {new.count:,} new events"
                )
                self._kept[name] = self._grown(view, new.events, new.count)
        return self._kept[name]

    def _grown(self, view: FeatureView, events: DataFrame, count: int) -> Kept:
        listed = self._listed(view.fingerprint)
        if not count:
            return Kept(listed, same=True)
        added = grains(view, events, self.owed.cut)
        if len(listed) < self.most:
            return self._written(view.fingerprint, added, listed)
        old = read_increments(self.spark, self.lake, self.project.name, view.fingerprint, listed)
        return self._written(view.fingerprint, coarsened(view, old.unionByName(added), self.owed.cut), [])

    def keys(self) -> Kept:
        """Every key that events name in full."""
        name = keys_name(self.project)
        full = [self.project.sources[source] for source in sources_of_keys(self.project)]
        new = self._since(name, full)
        if new.events is None:
            self.progress.step(f"keys of every event ({new.why})")
            return self._written(name, entities(self.project, self._owed_events), [])
        listed = self._listed(name)
        if not new.count:
            return Kept(listed, same=True)
        self.progress.step(f"keys of {new.count:,} new events")
        known = read_increments(self.spark, self.lake, self.project.name, name, listed)
        found = entities(
            self.project,
            {source: found.events for source, found in self._new.items() if found.events is not None},
        )
        if len(listed) < self.most:
            return self._written(name, found.join(known, "key", "left_anti"), listed)
        return self._written(name, known.unionByName(found).distinct(), [])

    def _written(self, name: str, frame: DataFrame, listed: list[int]) -> Kept:
        rows = write_increment(self.lake, self.project.name, name, frame, self.build)
        return Kept([*listed, self.build] if rows else listed, same=False)

    def _listed(self, name: str) -> list[int]:
        return list(self.before.increments[name]) if self.before else []

    def _since(self, name: str, sources: list[Source]) -> New:
        """The new events of the sources together, for a state that goes on from the version before."""
        if self.before is None or self.full is not None:
            return New(why=self.full or "the first build")
        if name not in self.before.increments:
            return New(why="nothing is kept of it yet")
        if not set(self.before.increments[name]) <= builds_there(
            self.spark, self.lake, self.project.name, name
        ):
            return New(why="what was kept of it is gone from the lake")
        found = [self._new_events(source, self.before) for source in sources]
        missing = next((new for new in found if new.events is None), None)
        return missing or New(found[0].events, sum(new.count for new in found))

    def _new_events(self, source: Source, before: Manifest) -> New:
        if source.name not in self._new:
            try:
                self._new[source.name] = self._read_new(source, before)
            except FeedError as error:
                self._new[source.name] = New(why=str(error))
            except (PySparkException, Py4JJavaError) as error:
                log.warning("changes of %s.%s cannot be read", self.project.name, source.name, exc_info=error)
                self._new[source.name] = New(why=f"what was appended to {source.name!r} is no longer there")
        return self._new[source.name]

    def _read_new(self, source: Source, before: Manifest) -> New:
        version = self.owed.versions.get(source.name)
        everything = self.lake.events(self.spark, self.project, source, version=version)
        chosen = (
            everything
            if source.name not in before.lake_versions
            else self._candidates(source, before, everything)
        )
        counted = Owed(before.cut, before.until, {}).covers()
        with held(chosen.where(self.owed.covers())) as (kept, count):
            found = distinct_among(source, kept, everything, counted, few=count <= FEW).persist(
                StorageLevel.MEMORY_AND_DISK
            )
            rows = found.agg(F.count(F.lit(1)).alias("all"), F.count_if("_again").alias("again")).collect()[0]
        if rows["again"]:
            found.unpersist()
            # A file that was landed while the last build ran has events whose later copies it has counted.
            return New(
                why=f"{rows['again']} events of {source.name!r} came earlier than their copies that were counted"
            )
        return New(found.drop("_again"), int(rows["all"]))

    def _candidates(self, source: Source, before: Manifest, everything: DataFrame) -> DataFrame:
        """Rows that may be owed and were not there for the version before, or were not owed then."""
        version, known = self.owed.versions[source.name], before.lake_versions[source.name]
        by_file = F.col("_file").isNotNull()
        since = F.when(by_file, F.lit(from_micros(before.until))).otherwise(F.lit(from_micros(before.cut)))
        recent = F.col("_date") >= F.to_date(
            F.lit(from_micros(min(before.cut, before.until)))
        )  # leaves out folders of the lake
        appended = self.lake.appended(self.spark, self.project, source, known, version)
        return everything.where(recent & (F.col("_arrival") >= since)).unionByName(
            appended.where(by_file & (F.col("_arrival") < since))
        )

    @cached_property
    def _owed_events(self) -> dict[str, DataFrame]:
        return self.owed.events(self.spark, self.lake, self.project)

    def close(self) -> None:
        """Let go of what was held."""
        for new in self._new.values():
            if new.events is not None:
                new.events.unpersist()


@contextmanager
def held(frame: DataFrame) -> Iterator[tuple[DataFrame, int]]:
    """The frame, computed once for all that is done with it, and its number of rows."""
    kept = frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield kept, kept.count()
    finally:
        kept.unpersist()


def cannot_go_on(before: Manifest | None, owed: Owed, identities: Mapping[str, str]) -> str | None:
    """Why a build cannot go on from the version before at all, if so."""
    if before is None:
        return "the first build"
    if owed.cut < before.cut or owed.until < before.until:
        return f"version {before.batch_version} reaches further, to {format_time(before.cut)}"
    for source, identity in before.lake_ids.items():
        if identities.get(source) != identity or owed.versions[source] < before.lake_versions[source]:
            return f"the lake's table of {source!r} is another one"
    return None


def sources_of_keys(project: Project) -> list[str]:
    """Sources whose events name all keys of the project; raises AnabranchError when there are none."""
    found = [
        name
        for name, source in project.sources.items()
        if {column.name for column in source.columns} >= set(project.keys)
    ]
    if not found:
        raise AnabranchError(
            f"no source of {project.name!r} has all of its keys {', '.join(project.keys)}: add them to one source"
        )
    return found


def keys_name(project: Project) -> str:
    """The name under which the project's keys are kept; another one when they mean something else."""
    sources = [project.sources[name] for name in sources_of_keys(project)]
    meaning = [
        project.keys,
        *[
            (
                source.name,
                source.topic,
                source.id,
                *[str(source.column(key, "key").type) for key in project.keys],
            )
            for source in sources
        ],
    ]
    return f"keys-{hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]}"


def entities(project: Project, events: Mapping[str, DataFrame]) -> DataFrame:
    """Every key of the project that its events name in full: one column `key`, distinct."""
    named = [
        events[name].select(key_column(project.keys).alias("key")).where("key IS NOT NULL")
        for name in sources_of_keys(project)
        if name in events
    ]
    return reduce(DataFrame.unionAll, named).distinct()
