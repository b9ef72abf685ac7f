"""Upkeep of a project's lake: many small files become few, what no version within the horizon needs is removed, old bad rows go.

    events       a day's folder of many small files is compacted; versions that manifests and models in force name stay readable,
                 and every version for `history` after it was replaced
    states       the same for what builds keep, in the folders of builds that the manifest lists
    quarantine   rows older than `quarantine` are deleted

Nothing here changes an event, so landing, builds and streams go on meanwhile; what they write is newer than anything removed.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.events.predictions import landed_sources
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.increments import states_there
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.table_files import Figures, SmallFiles, Table
from anabranch.stores.models.versions import ModelVersion
from anabranch.values.times import from_micros
from batch.settings import UpkeepSettings

log = logging.getLogger(__name__)
_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Tended:
    """What was done to one table, or of a dry run would be: folders `compacted`, files `removed`, rows `deleted`.

    Versions replaced longer ago than `retention` seconds can no longer be read.
    """

    table: str
    retention: int
    compacted: tuple[SmallFiles, ...]
    removed: int
    deleted: int
    before: Figures
    after: Figures


@dataclass(frozen=True)
class _TendedTable:
    """One table and how it is to be tended."""

    name: str
    path: str
    partition: str | None = None
    only: tuple[str, ...] | None = None
    named: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Upkeep:
    """One upkeep of a project; `manifest` and `models` name the versions that must stay readable."""

    spark: SparkSession
    lake: Lake
    settings: UpkeepSettings
    progress: Progress
    dry_run: bool = False

    def run(
        self, project: Project, manifest: Manifest | None, models: Sequence[ModelVersion]
    ) -> list[Tended]:
        """Tend every table of the project that is there."""
        started, tended = time.monotonic(), []
        kept = list(self._tables(project, manifest, models))
        for position, each in enumerate(kept):
            self.progress.step(
                f"{each.name}: {'looking' if self.dry_run else 'compacting and removing what nobody needs'}"
            )
            try:
                tended.append(self._tend(each))
            except DeltaConcurrentModificationException as error:
                raise AnabranchError(
                    f"{each.name} of {project.name!r} was compacted or cleaned by another job at the same moment: nothing is lost, run the upkeep again"
                ) from error
            self.progress.advance(position + 1, len(kept))
        log.info(
            "upkeep project=%s tables=%d seconds=%.1f", project.name, len(tended), time.monotonic() - started
        )
        return tended

    def _tables(
        self, project: Project, manifest: Manifest | None, models: Sequence[ModelVersion]
    ) -> Iterator[_TendedTable]:
        for name, source in landed_sources(project).items():
            if DeltaTable.isDeltaTable(self.spark, self.lake.path(project, source)):
                yield _TendedTable(
                    f"events/{name}",
                    self.lake.path(project, source),
                    "_date",
                    named=tuple(named_versions(name, manifest, models)),
                )
            if DeltaTable.isDeltaTable(self.spark, self.lake.quarantine_path(project, source)):
                yield _TendedTable(f"quarantine/{name}", self.lake.quarantine_path(project, source))
        entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
        for name in states_there(self.spark, self.lake, project.name):
            # The folders of other builds are being written, or about to be deleted.
            builds = {str(build) for entry in entries for build in entry.increments.get(name, ())}
            yield _TendedTable(
                f"states/{name}",
                self.lake.state_path(project.name, name),
                "build",
                only=tuple(sorted(builds)),
            )

    def _tend(self, kept: _TendedTable) -> Tended:
        table = Table(self.spark, kept.path)
        before = table.figures()
        retention = self._remembered(table, kept)
        deleted = self._forget_rows(table) if kept.name.startswith("quarantine/") else 0
        size = self.settings.file_megabytes * 1_048_576
        found = table.small_files(kept.partition, size // 2, self.settings.small_files)
        small = tuple(each for each in found if kept.only is None or each.partition in kept.only)
        if not self.dry_run:
            for each in small:
                table.compact(_condition(kept.partition, each.partition), size)
        removed = table.vacuum(retention, dry_run=self.dry_run)
        return Tended(
            table=kept.name,
            retention=retention,
            compacted=small,
            removed=removed,
            deleted=deleted,
            before=before,
            after=table.figures(),
        )

    def _remembered(self, table: Table, kept: _TendedTable) -> int:
        """How long what was replaced stays; the table is made to remember it before anything is replaced."""
        if kept.named is None:
            return self.settings.leftovers_seconds
        retention = retention_for(
            self.settings.history_seconds, table.replaced_at(kept.named), datetime.now(UTC)
        )
        if not self.dry_run:
            table.remember(retention)
        return retention

    def _forget_rows(self, table: Table) -> int:
        oldest = from_micros(time.time_ns() // 1000 - self.settings.quarantine_seconds * 1_000_000)
        condition = f"arrival < TIMESTAMP'{oldest.isoformat()}'"
        return table.count(condition) if self.dry_run else table.delete(condition)


def named_versions(source: str, manifest: Manifest | None, models: Sequence[ModelVersion]) -> list[int]:
    """Versions of a source's table that the current and the previous batch and models in force were made from."""
    entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
    in_force = [model.lake_versions for model in models if model.aliases]
    return sorted(
        {
            versions[source]
            for versions in [*(entry.lake_versions for entry in entries), *in_force]
            if source in versions
        }
    )


def retention_for(horizon: int, replaced: Mapping[int, datetime | None], now: datetime) -> int:
    """Seconds for which replaced files must stay, so that no named version loses one: the horizon, or a doubling of it that reaches.

    Doubled, because a table's memory is changed by a commit that loads of that very moment must repeat: seldom is better.
    """
    oldest = min((at.astimezone(UTC) for at in replaced.values() if at is not None), default=now)
    needed = (now - oldest).total_seconds()
    # A commit takes its time from the clock of the machine that made it; a day covers what they differ.
    return horizon if needed < horizon else horizon * 2 ** math.ceil(math.log2((needed + _DAY) / horizon))


def _condition(partition: str | None, value: str | None) -> str | None:
    if partition is None or value is None:
        return None
    return f"{partition} = DATE'{value}'" if partition == "_date" else f"{partition} = {int(value)}"
