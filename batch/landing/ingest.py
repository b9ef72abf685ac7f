"""Landing of files: every row of every file in the lake exactly once, bad rows in quarantine.

A file is known by its content (see contents.py), so that it lands once under whatever name and however often
a load is cut off and repeated. Files go in groups; a group is one commit, which carries three names of each
file:

    ingest/<project>/<source>/content/<hash>               decides
    ingest/<project>/<source>/file/<path>/<size>/<time>    spares reading it again
    ingest/<project>/<source>/size/<bytes>                 no file of this size: its content must be new

A large file is read once: its content is known when it has been written, and only then does it become visible
or not. CSV whose rows turn out to stand on several lines is read a second time, by records (records.py).
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession

from anabranch.declare.projects import Project
from anabranch.declare.tables import read_address
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Progress
from anabranch.stores.files.filesystems import files_at, is_local
from anabranch.stores.lake.loads import StagedLoad
from anabranch.stores.lake.schemas import check_tables, prepare_events
from anabranch.stores.lake.staging import transactions
from anabranch.stores.opened import Stores
from batch.landing.contents import (
    FileGroup,
    content_name,
    contents,
    groups,
    has_cut_rows,
    observed_content,
    parse_rows,
    raw_rows,
)
from batch.landing.event_files import EventFile, check_file, find_files
from batch.landing.explained import explained
from batch.landing.loader import LoadSummary, SourceLoader, find_source
from batch.landing.reading import Reading
from batch.landing.records import CsvForm
from batch.quality.gate import QualityGate

log = logging.getLogger(__name__)
_SETTLED = 2_000  # milliseconds: a file younger than that may change again without looking different


def ingest(
    stores: Stores,
    project: Project,
    source_name: str,
    files: Sequence[str],
    progress: Progress,
    gate: QualityGate | None = None,
    form: CsvForm | None = None,
) -> LoadSummary:
    """Land files, folders and patterns of files, of this machine or at URLs; `form` is how CSV is written.

    Every file is checked before the first is landed, and passes `gate` before it is visible. Spark's workers
    must see the files under the same paths.
    """
    source = find_source(project, source_name)
    if source.table is not None:
        raise MisuseError(
            f"source {source.name!r} is read from table {read_address(source.table)}: nothing was landed; "
            "append the rows to that table, or declare another source for files"
        )
    # Before Spark starts, which takes seconds.
    found = find_files(files, None) if all(map(is_local, files)) else None
    spark = stores.spark
    check_tables(spark, stores.lake, project)
    checked = [check_file(each, source, spark, form) for each in found or find_files(files, spark)]
    loader = SourceLoader(stores=stores, project=project, source=source, gate=gate)
    loads = _FileLoads(spark=spark, loader=loader, arrival=time.time_ns() // 1000)
    new = loads.not_landed(checked)
    summary = LoadSummary(skipped_files=len(checked) - len(new))
    known = f", {summary.skipped_files} are there already" if summary.skipped_files else ""
    progress.step(f"{len(new)} files into {project.name}.{source.name}{known}")
    if new:
        prepare_events(spark, stores.lake, project, source)
    with Reading(spark, progress, len(new), sum(file.found.size for file in new)) as reading:
        for group in groups(new, spark.sparkContext.defaultParallelism):
            landed = loads.land(group)
            reading.done(len(group.files), group.bytes, landed.rows + landed.quarantined)
            summary += landed
    log.info("ingested project=%s source=%s files=%d %s", project.name, source.name, len(checked), summary)
    return summary


@dataclass(frozen=True, kw_only=True)
class _FileLoads:
    """Groups of files on their way, all with one arrival (microseconds)."""

    spark: SparkSession
    loader: SourceLoader
    arrival: int

    def not_landed(self, files: Sequence[EventFile]) -> list[EventFile]:
        """The files that are not known to be landed by name, size and time."""
        known = self._known()
        return [file for file in files if known is None or not known.contains(self._file_name(file))]

    def land(self, group: FileGroup) -> LoadSummary:
        """Land what is new of a group, in one commit."""
        try:
            return self._land(group)
        except (PySparkException, Py4JError) as error:
            raise explained(error, str(group)) from error

    def _land(self, group: FileGroup) -> LoadSummary:
        names = self._contents(group)
        new = self._new(group, names)
        skipped = LoadSummary(skipped_files=len(group.files) - len(new))
        if not new:
            return skipped
        chosen = replace(group, files=tuple(new))
        whole = not chosen.csv.plain
        raw, observation = raw_rows(self.spark, chosen, self.arrival, by_record=whole), None
        if not names:
            raw, observation = observed_content(raw)
        load, measures = self._stage(chosen, raw)
        if observation is not None:
            names = {new[0].path: self._content_name(content_name(observation.get))}
            if not self._new(chosen, names):
                load.drop()
                return LoadSummary(skipped_files=len(group.files))
        if not whole and has_cut_rows(load.bad(), chosen):
            load.drop()
            load, measures = self._stage(chosen, raw_rows(self.spark, chosen, self.arrival, by_record=True))
        summary = self.loader.pass_gate(load, measures)
        names = {file.path: names[file.path] for file in new}
        if load.commit(dict.fromkeys(names.values(), 0), names, self._notes(new)):
            return skipped + summary
        raise AnabranchError(
            f"{chosen} was landed by another process at the same time: "
            "run it again for the files that are left"
        )

    def _stage(self, group: FileGroup, raw: DataFrame) -> tuple[StagedLoad, Observation | None]:
        events = parse_rows(raw, group, self.loader.source)
        load, measures = self.loader.stage(self.loader.judge(events), group.header)
        self._check_unchanged(group, load)
        return load, measures

    def _contents(self, group: FileGroup) -> dict[str, str]:
        """The content of each file that must be known beforehand; empty for one whose load reveals it."""
        known = self._known()
        only = group.files[0]
        if (
            len(group.files) == 1
            and group.csv.plain
            and (known is None or not known.contains(self._size_name(only)))
        ):
            return {}
        return {path: self._content_name(content) for path, content in contents(self.spark, group).items()}

    def _new(self, group: FileGroup, names: dict[str, str]) -> list[EventFile]:
        known, taken, new = self._known(), set[str](), []
        for file in group.files:
            name = names.get(file.path)
            if name is None or (name not in taken and (known is None or not known.contains(name))):
                new.append(file)
            taken |= {name} if name is not None else set()
        return new

    def _check_unchanged(self, group: FileGroup, load: StagedLoad) -> None:
        for file in group.files:
            if files_at(file.path, self.spark).look(file.path) != file.found:
                load.drop()
                raise AnabranchError(
                    f"{file.path} changed while it was read: nothing of {group} was landed; "
                    "run it again when the file is complete"
                )

    def _known(self) -> Any:
        return transactions(self.spark, self.loader.table)

    def _notes(self, files: Sequence[EventFile]) -> list[str]:
        settled = [file for file in files if self.arrival // 1000 - file.found.modified > _SETTLED]
        return list(dict.fromkeys([*map(self._size_name, files), *map(self._file_name, settled)]))

    def _content_name(self, content: str) -> str:
        return f"{self._prefix}/content/{content}"

    def _size_name(self, file: EventFile) -> str:
        return f"{self._prefix}/size/{file.found.size}"

    def _file_name(self, file: EventFile) -> str:
        path = hashlib.sha256(file.path.encode()).hexdigest()[:32]
        return f"{self._prefix}/file/{path}/{file.found.size}/{file.found.modified}"

    @property
    def _prefix(self) -> str:
        return f"ingest/{self.loader.project.name}/{self.loader.source.name}"
