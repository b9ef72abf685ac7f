"""Loading of a source, by files or topics: judge rows, write them, pass the gate, make them visible."""

from dataclasses import dataclass, replace

from pyspark.sql import DataFrame, Observation

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from anabranch.events.judging import judge
from anabranch.stores.lake.loads import StagedLoad, stage
from anabranch.stores.opened import Stores
from anabranch.values.names import listed
from batch.quality.gate import QualityGate


@dataclass(frozen=True, kw_only=True)
class LoadSummary:
    """What was landed from one source: good rows, rows in quarantine, files that had been landed before.

    `reports` are the pages of the quality gate, `unmet` the expectations of its suite that were not met.
    """

    rows: int = 0
    quarantined: int = 0
    skipped_files: int = 0
    reports: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()

    def __add__(self, other: "LoadSummary") -> "LoadSummary":
        return LoadSummary(
            rows=self.rows + other.rows,
            quarantined=self.quarantined + other.quarantined,
            skipped_files=self.skipped_files + other.skipped_files,
            reports=tuple(dict.fromkeys((*self.reports, *other.reports))),
            unmet=tuple(dict.fromkeys((*self.unmet, *other.unmet))),
        )


@dataclass(frozen=True, kw_only=True)
class SourceLoader:
    """Loads events of one source into the lake, past the quality gate if there is one."""

    stores: Stores
    project: Project
    source: Source
    gate: QualityGate | None

    @property
    def table(self) -> str:
        """The path of the source's table of events."""
        return self.stores.lake.path(self.project, self.source)

    def judge(self, events: DataFrame) -> DataFrame:
        """Typed events with a reason for every row that goes to quarantine."""
        suite = None if self.gate is None else self.gate.suite(self.source)
        keys = self.project.key_sets(self.source)
        return judge(self.source, keys, events, self.stores.settings.times.future_skew_seconds, suite)

    def stage(self, judged: DataFrame, header: str | None = None) -> tuple[StagedLoad, Observation | None]:
        """Write judged rows where nobody reads them yet, and measure them for the gate in the same pass."""
        measures = None if self.gate is None else Observation()
        if self.gate is not None and measures is not None:
            judged = judged.observe(measures, *self.gate.check(self.source).measures)
        return stage(self.stores.lake, judged, self.project, self.source, header), measures

    def pass_gate(self, load: StagedLoad, measures: Observation | None) -> LoadSummary:
        """The summary of a load that passes the gate; otherwise drops it and raises RefusedLoadError."""
        summary = LoadSummary(rows=load.rows, quarantined=load.bad_rows)
        if self.gate is None or measures is None or not load.rows + load.bad_rows:
            return summary
        try:
            verdict = self.gate.check(self.source).close(
                load.spark, self.stores.lake, measures.get, load.bad()
            )
        except BaseException:
            load.drop()
            raise
        return replace(summary, reports=(verdict.report,), unmet=verdict.unmet)


def find_source(project: Project, name: str) -> Source:
    """The project's source `name`. Raises MisuseError that names the sources of the project."""
    if name not in project.sources:
        known = listed(name, project.sources)
        raise MisuseError(f"project {project.name!r} has no source {name!r}: {known}")
    return project.sources[name]
