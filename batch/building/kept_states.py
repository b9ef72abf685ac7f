"""The states that the lake keeps between builds: the grains of every view and the keys of the project.

A build goes on from the states of the version before when it can tell which covered events are new; else it
reads all events, by the same path.
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
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.events.copies import distinct_among
from anabranch.folds.spark import coarsened, key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.increments import read_increments, write_increment
from anabranch.stores.lake.lake import FeedError
from anabranch.values.times import format_time, from_micros
from batch.building.versions import NewVersion
from batch.views import Coverage, events_of, states_of

log = logging.getLogger(__name__)
FEW = 500_000
"""Ids that fit into the memory of every worker."""


@dataclass(frozen=True, kw_only=True)
class NewEvents:
    """Covered events that the version before lacked; `why` they are unknown where `events` is None."""

    events: DataFrame | None = None
    count: int = 0
    why: str = ""


@dataclass(frozen=True)
class Increments:
    """The builds whose increments make up a state, and whether the version before had exactly the same."""

    builds: list[int]
    unchanged: bool


@dataclass
class KeptStates:
    """The kept states, brought up to a new version; `full` says why every event must be read, if so.

    A state of more than `most` increments is rewritten as one.
    """

    version: NewVersion
    most: int
    progress: Progress
    full: str | None = None
    whole: set[str] = field(default_factory=set)
    """The fingerprints of views whose grains this build made of every event."""
    _new: dict[str, NewEvents] = field(default_factory=dict)
    _views: dict[str, Increments] = field(default_factory=dict)

    def view(self, view: FeatureView) -> Increments:
        """The grains of a view; views of one meaning share them."""
        name = view.fingerprint
        if name not in self._views:
            self._views[name] = self._brought_up(view)
        return self._views[name]

    def keys(self) -> Increments:
        """Every key that events name in full."""
        project = self.version.project
        name = keys_name(project)
        new = self._new_for(name, [project.sources[source] for source in sources_of_keys(project)])
        if new.events is None:
            self.progress.step(f"keys of every event ({new.why})")
            return self._written(name, entities(project, self._all_events), [])
        listed = self._listed(name)
        if not new.count:
            return Increments(listed, unchanged=True)
        self.progress.step(f"keys of {new.count:,} new events")
        known = self._read(name, listed)
        events = {source: each.events for source, each in self._new.items() if each.events is not None}
        added = entities(project, events)
        if len(listed) < self.most:
            return self._written(name, added.join(known, "key", "left_anti"), listed)
        return self._written(name, known.unionByName(added).distinct(), [])

    def close(self) -> None:
        """Release the cached events."""
        for new in self._new.values():
            if new.events is not None:
                new.events.unpersist()

    def _brought_up(self, view: FeatureView) -> Increments:
        name, coverage = view.fingerprint, self.version.coverage
        new, until = self._new_for(name, [view.source]), format_time(coverage.cut)
        if new.events is None:
            self.progress.step(f"view {view.name}: grains up to {until} of every event ({new.why})")
            self.whole.add(name)
            return self._written(name, states_of(view, self._all_events[view.source.name], coverage), [])
        self.progress.step(f"view {view.name}: grains up to {until} of {new.count:,} new events")
        listed = self._listed(name)
        if not new.count:
            return Increments(listed, unchanged=True)
        added = states_of(view, new.events, coverage)
        if len(listed) < self.most:
            return self._written(name, added, listed)
        return self._written(
            name, coarsened(view, self._read(name, listed).unionByName(added), coverage.cut), []
        )

    def _written(self, name: str, states: DataFrame, listed: list[int]) -> Increments:
        version = self.version
        rows = write_increment(version.stores.lake, version.project.name, name, states, version.number)
        return Increments([*listed, version.number] if rows else listed, unchanged=False)

    def _read(self, name: str, builds: list[int]) -> DataFrame:
        stores = self.version.stores
        return read_increments(stores.spark, stores.lake, self.version.project.name, name, builds)

    def _listed(self, name: str) -> list[int]:
        before = self.version.before
        return list(before.increments[name]) if before else []

    def _new_for(self, name: str, sources: list[Source]) -> NewEvents:
        """The new events of the sources together, for a state that goes on from the version before."""
        before = self.version.before
        if before is None or self.full is not None:
            return NewEvents(why=self.full or "the first build")
        if name not in before.increments:
            return NewEvents(why="nothing is kept of it yet")
        if not set(before.increments[name]) <= self.version.kept.get(name, set()):
            return NewEvents(why="what was kept of it is gone from the lake")
        each = [self._new_events(source, before) for source in sources]
        unknown = next((new for new in each if new.events is None), None)
        return unknown or NewEvents(events=each[0].events, count=sum(new.count for new in each))

    def _new_events(self, source: Source, before: Manifest) -> NewEvents:
        if source.name not in self._new:
            try:
                self._new[source.name] = self._read_new(source, before)
            except FeedError as error:
                self._new[source.name] = NewEvents(why=str(error))
            except (PySparkException, Py4JJavaError) as error:
                project = self.version.project.name
                log.warning("changes of %s.%s cannot be read", project, source.name, exc_info=error)
                self._new[source.name] = NewEvents(
                    why=f"what was appended to {source.name!r} is no longer there"
                )
        return self._new[source.name]

    def _read_new(self, source: Source, before: Manifest) -> NewEvents:
        stores, project, coverage = self.version.stores, self.version.project, self.version.coverage
        version = coverage.versions.get(source.name)
        everything = stores.lake.events(stores.spark, project, source, version=version)
        if self._is_settled(source, before):
            return NewEvents(events=everything.limit(0), count=0)
        known = source.name in before.lake_versions
        chosen = self._candidates(source, before, everything) if known else everything
        counted = Coverage(cut=before.cut, until=before.until, versions={}).condition()
        with cached(chosen.where(coverage.condition())) as (rows, count):
            new = distinct_among(source, rows, everything, counted, few=count <= FEW)
            new = new.persist(StorageLevel.MEMORY_AND_DISK)
            counts = new.agg(F.count(F.lit(1)).alias("all"), F.count_if("_again").alias("again"))
            (total,) = counts.collect()
        if total["again"]:
            new.unpersist()
            # A file that was landed while the last build ran has events whose later copies were counted.
            again = f"{total['again']} events of {source.name!r}"
            return NewEvents(why=f"{again} came earlier than their copies that were counted")
        return NewEvents(events=new.drop("_again"), count=int(total["all"]))

    def _is_settled(self, source: Source, before: Manifest) -> bool:
        """Whether the version before covers every event of the table, told without reading any."""
        stores, project, coverage = self.version.stores, self.version.project, self.version.coverage
        if coverage.versions.get(source.name) != before.lake_versions.get(source.name):
            return False
        last = stores.lake.last_arrival(stores.spark, project, source)
        same_cut = coverage.cut == before.cut
        return last is not None and last < before.until and (same_cut or last < before.cut)

    def _candidates(self, source: Source, before: Manifest, everything: DataFrame) -> DataFrame:
        """Rows that may be covered now and were not there for the version before, or not covered by it."""
        stores, project = self.version.stores, self.version.project
        version, known = self.version.coverage.versions[source.name], before.lake_versions[source.name]
        by_file = F.col("_file").isNotNull()
        since = F.when(by_file, F.lit(from_micros(before.until))).otherwise(F.lit(from_micros(before.cut)))
        first = F.lit(from_micros(min(before.cut, before.until)))
        recent = F.col("_date") >= F.to_date(first)  # skips folders of the lake
        # What is new in the lake may have arrived earlier: files, and messages of a broker that set its clock
        # back or of a transaction that was committed late.
        appended = stores.lake.appended(stores.spark, project, source, known, version)
        return everything.where(recent & (F.col("_arrival") >= since)).unionByName(
            appended.where(F.col("_arrival") < since)
        )

    @cached_property
    def _all_events(self) -> dict[str, DataFrame]:
        """All distinct events that the version covers, by source."""
        stores, project, coverage = self.version.stores, self.version.project, self.version.coverage
        return {
            name: events_of(stores, project, source, coverage) for name, source in project.sources.items()
        }


@contextmanager
def cached(frame: DataFrame) -> Iterator[tuple[DataFrame, int]]:
    """The frame, computed once and cached for the block, and its number of rows."""
    kept = frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield kept, kept.count()
    finally:
        kept.unpersist()


def why_full(before: Manifest | None, coverage: Coverage, identities: Mapping[str, str]) -> str | None:
    """Why a build cannot go on from the version before and must read every event; None when it can."""
    if before is None:
        return "the first build"
    if coverage.cut < before.cut or coverage.until < before.until:
        return f"version {before.batch_version} reaches further, to {format_time(before.cut)}"
    for source, identity in before.lake_ids.items():
        older = coverage.versions.get(source, -1) < before.lake_versions[source]
        if identities.get(source) != identity or older:
            return f"the lake's table of {source!r} is another one"
    return None


def sources_of_keys(project: Project) -> list[str]:
    """Sources whose events name all keys of the project; raises AnabranchError when there are none."""
    names = [name for name, source in project.sources.items() if project.key_columns_in(source)]
    if not names:
        needed = ", ".join(project.keys)
        raise AnabranchError(
            f"no source of {project.name!r} has all of its keys {needed}: add them to one source"
        )
    return names


def keys_name(project: Project) -> str:
    """The name under which the project's keys are kept: it changes when their meaning does."""
    meaning: list[object] = [project.keys]
    for source in (project.sources[name] for name in sources_of_keys(project)):
        columns = project.key_columns_in(source)
        types = [str(source.column(name, "key").type) for name in columns]
        meaning.append((source.name, source.topic, source.id, *types))
        meaning += [] if columns == project.keys else [columns]
    return f"keys-{hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]}"


def entities(project: Project, events: Mapping[str, DataFrame]) -> DataFrame:
    """Every key of the project that its events name in full: one column `key`, distinct."""
    named = [
        events[name]
        .select(key_column(project.key_columns_in(project.sources[name])).alias("key"))
        .where("key IS NOT NULL")
        for name in sources_of_keys(project)
        if name in events
    ]
    return reduce(DataFrame.unionAll, named).distinct()
