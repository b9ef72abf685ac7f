"""What landing of files and of topics have in common: a load is judged, written in one pass, passes the gate, becomes visible."""

import time
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, Observation

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from anabranch.events.judging import judge
from anabranch.settings import TimeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import Load, stage
from batch.quality.gate import QualityGate


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What one load brought: good rows, rows in quarantine, how many files had been landed before; the quality gate's
    reports, and what was not as its suite expects.
    """  # fmt: skip

    rows: int = 0
    quarantined: int = 0
    skipped_files: int = 0
    seconds: float = 0.0
    reports: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()


@dataclass
class Counts:
    """The same while it grows."""

    rows: int = 0
    quarantined: int = 0
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)
    reports: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)

    def add(self, load: Load) -> None:
        """A load has become visible."""
        self.rows += load.rows
        self.quarantined += load.bad_rows

    def landed(self) -> Landed:
        """What there is until now."""
        said = {name: tuple(dict.fromkeys(getattr(self, name))) for name in ("reports", "unmet")}
        return Landed(
            rows=self.rows,
            quarantined=self.quarantined,
            skipped_files=self.skipped,
            seconds=time.monotonic() - self.started,
            **said,
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where loads of one source go, and by which rules."""

    lake: Lake
    project: Project
    source: Source
    times: TimeSettings
    gate: QualityGate | None

    def judged(self, events: DataFrame) -> DataFrame:
        """The events of `parse_*` with a reason for every row that is to go to quarantine."""
        suite = None if self.gate is None else self.gate.suite(self.source)
        return judge(
            self.source, self.project.key_sets(self.source), events, self.times.future_skew_seconds, suite
        )

    def staged(self, judged: DataFrame, header: str | None = None) -> "Staged":
        """The rows of `judged` written, and measured for the gate in the same pass; not visible yet."""
        if self.gate is None:
            return Staged(
                target=self, load=stage(self.lake, judged, self.project, self.source, header), measured=None
            )
        measured = Observation()
        watched = judged.observe(measured, *self.gate.check(self.source).measures)
        return Staged(
            target=self, load=stage(self.lake, watched, self.project, self.source, header), measured=measured
        )


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A load that was written."""

    target: Target
    load: Load
    measured: Observation | None

    def pass_gate(self, counts: Counts) -> None:
        """Raise RefusedLoadError, after dropping the load, when the gate does not let it pass."""
        if self.target.gate is None or self.measured is None or not self.load.rows + self.load.bad_rows:
            return
        try:
            verdict = self.target.gate.check(self.target.source).close(
                self.load.spark, self.target.lake, self.measured.get, self.load.bad()
            )
        except BaseException:
            self.load.drop()
            raise
        counts.reports.append(verdict.report)
        counts.unmet += verdict.unmet


def find_source(project: Project, name: str) -> Source:
    """The project's source `name`; raises MisuseError naming those there are."""
    if name not in project.sources:
        raise MisuseError(
            f"project {project.name!r} has no source {name!r}: it has {', '.join(project.sources)}"
        )
    return project.sources[name]
