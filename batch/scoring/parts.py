"""The work of a mass scoring: attach the features that rows lack, plan parts, score unfinished parts."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pyspark.sql import Observation
from pyspark.sql import functions as F

from anabranch.declare.names import INTERVAL
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.cells import named
from anabranch.progress import Progress
from anabranch.stores.files.filesystems import is_local
from anabranch.stores.models.foreign import ForeignVersion
from anabranch.stores.models.shipping import ship
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.values.names import listed
from anabranch.values.times import from_micros
from batch.scoring.explained import explained_columns
from batch.scoring.features import attach_features
from batch.scoring.frames import score, version_inputs
from batch.scoring.input_rows import InputRows, parquet_files
from batch.scoring.ledger import Plan, ScoringRun, plan_files
from batch.scoring.parquet import SCORED_SCHEMA, FileScoring, Part, fits, plan_parts
from batch.scoring.row_files import SPARK_ERRORS, fault_of_rows
from batch.settings import ScoringSettings

_LOOK_SECONDS = 1.0
_TASKS_A_CORE = 2


@dataclass(frozen=True, kw_only=True)
class ScoringOrder:
    """What to score into what, and how.

    `source` and `out` are paths, or ``serving`` for the project's serving table. The champion scores when
    `version` is None. Missing features are attached as of `at` (microseconds; now when None), or with
    `join` as of each row's own time. `keep` names the columns to carry over, all when
    None. `form` is the form of the result, derived from `out` when None. `pyfunc` scores by MLflow's pyfunc
    UDF even where a faster way exists. `explain` adds the columns of explanations (explained.py).
    """

    source: str
    out: str
    version: str | None = None
    at: int | None = None
    join: bool = False
    keep: tuple[str, ...] | None = None
    form: str | None = None
    pyfunc: bool = False
    explain: bool = False
    sizes: ScoringSettings = field(default_factory=ScoringSettings)


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """A checked order: the rows, the model version, and the features (`missing`) to attach to the rows first.

    `own_times`: they are attached as of each row's own time.
    """

    stores: Stores
    project: Project
    scorer: Scorer | ForeignVersion
    order: ScoringOrder
    rows: InputRows
    missing: tuple[str, ...]
    own_times: bool
    progress: Progress

    @property
    def moving(self) -> bool:
        """Whether a later run may read other values: rows without a digest, or features as of now."""
        return self.rows.digest is None or (
            bool(self.missing) and self.order.at is None and not self.own_times
        )


def run_scoring(job: ScoringJob, run: ScoringRun) -> tuple[int, int]:
    """Score every part that is not finished; the number of rows, and of parts that were finished before."""
    try:
        ready = _ready_rows(job, run)
        kept = _kept_columns(job)
        plan = run.plan(lambda: _plan(job, run, ready))
        todo = run.missing(plan)
        done = len(plan.parts) - len(todo)
        resumed = f", {done} of {len(plan.parts)} parts are finished already" if done else ""
        job.progress.step(f"scoring with version {job.scorer.version}{resumed}")
        if plan.by_groups:
            _score_groups(job, run, plan, todo, kept)
        else:
            _score_files(job, run, plan, todo, _PartWriter(job=job, ready=ready, kept=kept))
        return run.rows(plan), done
    except SPARK_ERRORS as error:
        wrong = fault_of_rows(error, job.order.source)
        if wrong is not None:
            run.drop()  # corrected rows are other rows
        raise wrong or error from error
    except MisuseError:
        run.drop()
        raise


def _ready_rows(job: ScoringJob, run: ScoringRun) -> InputRows:
    """The rows with the features that they lack, in files."""
    rows, spark = job.rows, job.stores.spark
    if not job.missing and rows.files:
        return rows
    frame = rows.frame
    if job.missing:
        at = run.moment if job.order.at is None else job.order.at
        when = "now" if job.order.at is None else from_micros(at).isoformat()
        staged = ", kept by an earlier run" if run.has_staged else ""
        if job.own_times:
            when = "each row's own time"
        job.progress.step(f"{len(job.missing)} features from the lake, as of {when}{staged}")
        frame = attach_features(job.stores, job.project, frame, job.missing, None if job.own_times else at)
    else:
        job.progress.step("reading the rows")
    folder = run.staged(frame)
    read = spark.read.schema(frame.schema)
    return replace(
        rows,
        frame=frame,
        form="parquet",
        files=parquet_files(spark, folder),
        read=lambda paths: read.parquet(*paths),
    )


def _kept_columns(job: ScoringJob) -> tuple[str, ...]:
    columns, keep = job.rows.frame.columns, job.order.keep
    if keep is None:
        return tuple(columns)
    unknown = [name for name in keep if name not in columns]
    if unknown:
        known = listed(unknown[0], columns, "they have")
        raise MisuseError(f"the rows have no column {unknown[0]!r} to keep: {known}")
    return keep


def _inputs(job: ScoringJob) -> tuple[tuple[str, str], ...]:
    return tuple((name, one.kind) for name, one in version_inputs(job.project, job.scorer).items())


def _plan(job: ScoringJob, run: ScoringRun, ready: InputRows) -> Plan:
    paths = [path for path, _ in ready.files]
    local = ready.form == "parquet" and all(is_local(path) for path in (*paths, run.scored))
    if local and not job.order.pyfunc and not job.order.explain and fits(paths, _inputs(job)):
        return Plan(by_groups=True, parts=plan_parts(paths, job.order.sizes.part_rows))
    return plan_files(ready.files, job.order.sizes.part_megabytes)


def _score_groups(
    job: ScoringJob, run: ScoringRun, plan: Plan, todo: list[Part], kept: tuple[str, ...]
) -> None:
    """The workers read and write files themselves; the finished files show the progress."""
    if not todo:
        return
    scorer, spark = job.scorer, job.stores.spark
    scoring = FileScoring(
        model=ship(spark, job.stores.models, job.project.name, scorer.version),
        inputs=_inputs(job),
        kept=kept,
        version=scorer.version,
        threshold=scorer.threshold if scorer.task == "class" else None,
        classes=scorer.classes if isinstance(scorer, Scorer) else (),
        ends=_ends(job),
        folder=run.scored,
    )
    tasks = min(len(todo), _TASKS_A_CORE * spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, len(todo), 1, tasks)
    stop = threading.Event()
    total = sum(part.rows for part in plan.parts)
    watch = threading.Thread(target=_show_progress, args=(job, run, plan, total, stop), daemon=True)
    started = time.monotonic()
    watch.start()
    try:
        numbers.mapInArrow(scoring(todo), SCORED_SCHEMA).collect()
    finally:
        stop.set()
        watch.join()
    job.progress.advance(total, total, pace(sum(part.rows for part in todo), 0, time.monotonic() - started))


def _ends(job: ScoringJob) -> tuple[float | None, ...]:
    """What is added to a score for the columns of its interval, of a project that declares one."""
    if not set(INTERVAL) <= set(job.project.results):
        return ()
    interval = job.scorer.interval if isinstance(job.scorer, Scorer) else None
    return (None, None) if interval is None else (interval.low, interval.high)


def _show_progress(job: ScoringJob, run: ScoringRun, plan: Plan, total: int, stop: threading.Event) -> None:
    started, before = time.monotonic(), run.rows(plan)
    while not stop.wait(_LOOK_SECONDS):
        rows = run.rows(plan)
        job.progress.advance(rows, total, pace(rows - before, total - rows, time.monotonic() - started))


def pace(done: int, left: int, seconds: float) -> str:
    """Rows a second and the seconds that are left."""
    return f"rows, {done / seconds:,.0f} rows/s, {left * seconds / done:,.0f} s left" if done else "rows"


@dataclass(frozen=True, kw_only=True)
class _PartWriter:
    """Scores a part by Spark."""

    job: ScoringJob
    ready: InputRows
    kept: tuple[str, ...]

    def of(self, part: Part) -> Callable[[str], int]:
        """A function that writes the scored rows of a part into a folder and returns how many there are."""
        job = self.job
        explained = explained_columns(job.project, job.scorer.features) if job.order.explain else ()
        columns = [named(name) for name in (*self.kept, *job.project.results, *explained)]

        def write(folder: str) -> int:
            rows = self.ready.read([path for path, _ in part.pieces])
            scored = score(
                job.stores, job.project, rows, job.scorer, pyfunc=job.order.pyfunc, explain=job.order.explain
            )
            counted = Observation()
            observed = scored.select(*columns).observe(counted, F.count(F.lit(1)).alias("rows"))
            observed.write.parquet(folder)
            return int(counted.get["rows"])

        return write


def _score_files(job: ScoringJob, run: ScoringRun, plan: Plan, todo: list[Part], writer: _PartWriter) -> None:
    """A Spark job for each part."""
    started, rows, done = time.monotonic(), 0, len(plan.parts) - len(todo)
    for place, part in enumerate(todo, 1):
        rows += run.keep(part, writer.of(part))
        seconds = time.monotonic() - started
        left = (len(todo) - place) * seconds / place
        speed = f"{rows / max(seconds, 0.001):,.0f} rows/s, {left:,.0f} s left"
        job.progress.advance(done + place, None, f"of {len(plan.parts):,} parts, {rows:,} rows, {speed}")
