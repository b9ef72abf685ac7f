"""Upkeep of a project's lake: compacts small files, removes files that no version needs, deletes old bad
rows.

    events       folders of a day with many small files are compacted; versions that manifests and models in
                 force name stay readable, and every version for `history` after it was replaced
    states       folders of builds that the manifest lists are compacted; leftovers are removed
    quarantine   rows older than `quarantine` are deleted

No event changes, so landing, builds and streams go on meanwhile: what they write is newer than anything
removed.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.events.predictions import landed_sources
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.increments import states_there
from anabranch.stores.lake.table_files import Figures, SmallFiles, Table
from anabranch.stores.models.versions import ModelVersion
from anabranch.stores.opened import Stores
from anabranch.values.times import from_micros
from batch.settings import UpkeepSettings

log = logging.getLogger(__name__)
_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class TendedTable:
    """The upkeep of one table (in a dry run, what is due): folders compacted, files removed, rows deleted.

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
class _TablePlan:
    """The upkeep that one table is due.

    `partition`: the column of its folders. `only`: the folders to compact; None: all. `named`: versions that
    must stay readable; None for tables of which only the latest is read.
    """

    name: str
    path: str
    partition: str | None = None
    only: tuple[str, ...] | None = None
    named: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Upkeep:
    """Upkeep of the tables of projects; a dry run only reports what is due."""

    stores: Stores
    settings: UpkeepSettings
    progress: Progress
    dry_run: bool = False

    def run(
        self,
        project: Project,
        manifest: Manifest | None,
        models: Sequence[ModelVersion],
        borrowing: Sequence[ModelVersion] = (),
    ) -> list[TendedTable]:
        """Tend every table of the project.

        `manifest` and `models` name the versions that stay readable, and so do `borrowing`, the models of
        projects that use its views.
        """
        started, tended = time.monotonic(), []
        plans = list(self._plans(project, manifest, models, borrowing))
        for position, plan in enumerate(plans):
            work = "looking" if self.dry_run else "compacting and removing what nobody needs"
            self.progress.step(f"{plan.name}: {work}")
            try:
                tended.append(self._tend(plan))
            except DeltaConcurrentModificationException as error:
                raise AnabranchError(
                    f"{plan.name} of {project.name!r} was compacted or cleaned by another job at the same "
                    "moment: nothing is lost, run the upkeep again"
                ) from error
            self.progress.advance(position + 1, len(plans))
        seconds = time.monotonic() - started
        log.info("upkeep project=%s tables=%d seconds=%.1f", project.name, len(tended), seconds)
        return tended

    def _plans(
        self,
        project: Project,
        manifest: Manifest | None,
        models: Sequence[ModelVersion],
        borrowing: Sequence[ModelVersion],
    ) -> Iterator[_TablePlan]:
        lake = self.stores.lake
        for name, source in landed_sources(project).items():
            events, quarantine = lake.path(project, source), lake.quarantine_path(project, source)
            if DeltaTable.isDeltaTable(self.stores.spark, events):
                named = named_versions(name, manifest, models)
                named += named_versions(f"{project.name}.{name}", None, borrowing)
                yield _TablePlan(f"events/{name}", events, "_date", named=tuple(sorted(set(named))))
            if DeltaTable.isDeltaTable(self.stores.spark, quarantine):
                yield _TablePlan(f"quarantine/{name}", quarantine)
            ids = lake.readings(self.stores.spark, project, source).ids
            if source.table is not None and DeltaTable.isDeltaTable(self.stores.spark, ids):
                yield _TablePlan(f"ids/{name}", ids, named=())
        entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
        for name in states_there(self.stores.spark, lake, project.name):
            # Folders of other builds are being written or about to be deleted.
            builds = {str(build) for entry in entries for build in entry.increments.get(name, ())}
            path = lake.state_path(project.name, name)
            yield _TablePlan(f"states/{name}", path, "build", only=tuple(sorted(builds)))

    def _tend(self, plan: _TablePlan) -> TendedTable:
        table = Table(self.stores.spark, plan.path)
        before = table.figures()
        retention = self._retained(table, plan)
        deleted = self._delete_old_rows(table) if plan.name.startswith("quarantine/") else 0
        size = self.settings.file_megabytes * 1_048_576
        folders = table.small_files(plan.partition, size // 2, self.settings.small_files)
        small = tuple(each for each in folders if plan.only is None or each.partition in plan.only)
        if not self.dry_run:
            for each in small:
                table.compact(_condition(plan.partition, each.partition), size)
        removed = table.vacuum(retention, dry_run=self.dry_run)
        return TendedTable(
            table=plan.name,
            retention=retention,
            compacted=small,
            removed=removed,
            deleted=deleted,
            before=before,
            after=table.figures(),
        )

    def _retained(self, table: Table, plan: _TablePlan) -> int:
        """Seconds for which replaced files stay; the table is set to it before any file is replaced."""
        if plan.named is None:
            return self.settings.leftovers_seconds
        replaced = table.replaced_at(plan.named)
        retention = retention_for(self.settings.history_seconds, replaced, datetime.now(UTC))
        if not self.dry_run:
            table.remember(retention)
        return retention

    def _delete_old_rows(self, table: Table) -> int:
        oldest = from_micros(time.time_ns() // 1000 - self.settings.quarantine_seconds * 1_000_000)
        condition = f"arrival < TIMESTAMP'{oldest.isoformat()}'"
        return table.count(condition) if self.dry_run else table.delete(condition)


def named_versions(source: str, manifest: Manifest | None, models: Sequence[ModelVersion]) -> list[int]:
    """Versions of a source's table from which both batch versions and the models in force were built."""
    entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
    named = [entry.lake_versions for entry in entries]
    named += [model.lake_versions for model in models if model.aliases]
    return sorted({versions[source] for versions in named if source in versions})


def retention_for(horizon: int, replaced: Mapping[int, datetime | None], now: datetime) -> int:
    """Seconds for which replaced files stay, so that no named version loses one: the horizon or a multiple of
    it.

    The multiples are powers of two: a change of the setting is a commit that concurrent loads must repeat.
    """
    oldest = min((at.astimezone(UTC) for at in replaced.values() if at is not None), default=now)
    needed = (now - oldest).total_seconds()
    # A commit has the time of the machine that wrote it; a day covers the differences of their clocks.
    return horizon if needed < horizon else horizon * 2 ** math.ceil(math.log2((needed + _DAY) / horizon))


def _condition(partition: str | None, value: str | None) -> str | None:
    if partition is None or value is None:
        return None
    return f"{partition} = DATE'{value}'" if partition == "_date" else f"{partition} = {int(value)}"
