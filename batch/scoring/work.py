"""The work of a mass scoring: attach what the rows lack, divide them into parts, score the parts that are not finished."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.progress import Progress
from anabranch.stores.files.filesystems import is_local
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.foreign import ForeignVersion
from anabranch.stores.models.registry import Models
from anabranch.stores.models.shipping import ship
from anabranch.stores.models.versions import Scorer
from anabranch.values.times import from_micros
from batch.scoring.frames import RESULTS, WRONG_CELL, score, version_inputs
from batch.scoring.given import Given, parquet_files, with_features
from batch.scoring.ledger import Plan, ScoringRun, whole_files
from batch.scoring.parquet import SCORED_SCHEMA, FileScoring, Part, fits, plan_parts
from batch.settings import ScoringSettings

_LOOK_SECONDS = 1.0
_TASKS_A_CORE = 2


@dataclass(frozen=True, kw_only=True)
class ScoringOrder:
    """How to score. `at` (microseconds) is when missing features are attached as of, now when None.

    `join`: as of each row's own time, where the rows have one. `keep` are the columns carried over, all when None. `form` is that of
    the result, told by its name when None. `pyfunc`: through MLflow's UDF, whatever could be faster.
    """

    version: str | None = None
    at: int | None = None
    join: bool = False
    keep: tuple[str, ...] | None = None
    form: str | None = None
    pyfunc: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoringWork:
    """What a scoring works with."""

    spark: SparkSession
    lake: Lake
    models: Models
    project: Project
    scorer: Scorer | ForeignVersion
    order: ScoringOrder
    sizes: ScoringSettings
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The rows of `source` and the features to attach to them first, as of each row's own time or of the order's."""

    given: Given
    source: str
    missing: tuple[str, ...]
    own_times: bool


def run_scoring(work: ScoringWork, run: ScoringRun, wanted: Wanted) -> tuple[int, int]:
    """Score every part that is not finished; how many rows there are in all, and how many parts were there already."""
    try:
        ready = _ready(work, run, wanted)
        kept = _kept(work, wanted.given)
        plan = run.plan(lambda: _plan(work, run, ready))
        todo = run.missing(plan)
        done = len(plan.parts) - len(todo)
        said = f", {done} of {len(plan.parts)} parts are finished already" if done else ""
        work.progress.step(f"scoring with version {work.scorer.version}{said}")
        if plan.by_groups:
            _score_groups(work, run, plan, todo, kept)
        else:
            _score_files(work, run, plan, todo, ready, kept)
        return run.rows(plan), done
    except PySparkException as error:
        raise _explained(error, wanted.source, run) from error
    except MisuseError:
        run.drop()
        raise


def _ready(work: ScoringWork, run: ScoringRun, wanted: Wanted) -> Given:
    """The rows with the features that they lack, as files."""
    given, missing = wanted.given, wanted.missing
    if not missing and given.files:
        return given
    rows, at = given.rows, run.moment if work.order.at is None else work.order.at
    if missing:
        when = (
            "each row's own time"
            if wanted.own_times
            else "now"
            if work.order.at is None
            else from_micros(at).isoformat()
        )
        work.progress.step(
            f"{len(missing)} features from the lake, as of {when}"
            + (", kept by an earlier run" if run.has_staged else "")
        )
        rows = with_features(
            work.spark, work.lake, work.project, rows, missing, at, own_times=wanted.own_times
        )
    else:
        work.progress.step("reading the rows")
    folder = run.staged(rows)
    read = work.spark.read.schema(rows.schema)
    return Given(
        rows=rows,
        form="parquet",
        files=parquet_files(work.spark, folder),
        digest=given.digest,
        read=lambda paths: read.parquet(*paths),
    )


def _kept(work: ScoringWork, given: Given) -> tuple[str, ...]:
    if work.order.keep is None:
        return tuple(given.rows.columns)
    unknown = [name for name in work.order.keep if name not in given.rows.columns]
    if unknown:
        raise MisuseError(
            f"the rows have no column {unknown[0]!r} to keep: they have {', '.join(given.rows.columns)}"
        )
    return work.order.keep


def _inputs(work: ScoringWork) -> tuple[tuple[str, str], ...]:
    return tuple((name, given.kind) for name, given in version_inputs(work.project, work.scorer).items())


def _plan(work: ScoringWork, run: ScoringRun, ready: Given) -> Plan:
    paths = [path for path, _ in ready.files]
    here = ready.form == "parquet" and all(is_local(path) for path in (*paths, run.scored))
    if here and not work.order.pyfunc and fits(paths, _inputs(work)):
        return Plan(by_groups=True, parts=plan_parts(paths, work.sizes.part_rows))
    return whole_files(ready.files, work.sizes.part_megabytes)


def _score_groups(
    work: ScoringWork, run: ScoringRun, plan: Plan, todo: list[Part], kept: tuple[str, ...]
) -> None:
    """The workers read and write themselves; how far they are is told by the files that are there."""
    if not todo:
        return
    scorer, spark = work.scorer, work.spark
    threshold = scorer.threshold if scorer.task == "class" else None
    shipped = ship(spark, work.models, work.project.name, scorer.version)
    scoring = FileScoring(
        model=shipped,
        inputs=_inputs(work),
        kept=kept,
        version=scorer.version,
        threshold=threshold,
        folder=run.scored,
    )
    tasks = min(len(todo), _TASKS_A_CORE * spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, len(todo), 1, tasks)
    stop = threading.Event()
    total = sum(part.rows for part in plan.parts)
    watch = threading.Thread(target=_watch, args=(work, run, plan, total, stop), daemon=True)
    started = time.monotonic()
    watch.start()
    try:
        numbers.mapInArrow(scoring(todo), SCORED_SCHEMA).collect()
    finally:
        stop.set()
        watch.join()
    work.progress.advance(total, total, pace(sum(part.rows for part in todo), 0, time.monotonic() - started))


def _watch(work: ScoringWork, run: ScoringRun, plan: Plan, total: int, stop: threading.Event) -> None:
    started, before = time.monotonic(), run.rows(plan)
    while not stop.wait(_LOOK_SECONDS):
        rows = run.rows(plan)
        work.progress.advance(rows, total, pace(rows - before, total - rows, time.monotonic() - started))


def pace(done: int, left: int, seconds: float) -> str:
    """How fast it goes, and how long it will take."""
    return f"rows, {done / seconds:,.0f} rows/s, {left * seconds / done:,.0f} s left" if done else "rows"


def _score_files(
    work: ScoringWork, run: ScoringRun, plan: Plan, todo: list[Part], ready: Given, kept: tuple[str, ...]
) -> None:
    """A job of Spark for each part."""
    started, rows, done = time.monotonic(), 0, len(plan.parts) - len(todo)
    for place, part in enumerate(todo, 1):
        rows += run.keep(part, _scored(work, ready, part, kept))
        seconds = time.monotonic() - started
        left = (len(todo) - place) * seconds / place
        note = f"of {len(plan.parts):,} parts, {rows:,} rows, {rows / max(seconds, 0.001):,.0f} rows/s, {left:,.0f} s left"
        work.progress.advance(done + place, None, note)


def _scored(work: ScoringWork, ready: Given, part: Part, kept: tuple[str, ...]) -> Callable[[str], int]:
    """A function that writes the scored rows of a part into a folder and says how many."""
    columns = [F.col(f"`{name}`") for name in (*kept, *RESULTS)]

    def write(folder: str) -> int:
        rows = ready.read([path for path, _ in part.pieces])
        scored = score(
            work.spark, work.models, work.project, rows, work.scorer, pyfunc=work.order.pyfunc
        ).select(*columns)
        counted = Observation()
        scored.observe(counted, F.count(F.lit(1)).alias("rows")).write.parquet(folder)
        return int(counted.get["rows"])

    return write


def _explained(error: PySparkException, source: str, run: ScoringRun) -> Exception:
    """The user's own mistake in one line, when the job failed because of it; else the error as it is."""
    text = str(error)
    if WRONG_CELL not in text:
        return error
    # The rows will be others when they are right.
    run.drop()
    found = text.split(WRONG_CELL, 1)[1].splitlines()[0].split(" SQLSTATE", 1)[0]
    return MisuseError(f"{source}: {found}: correct the cell, or leave it empty where the value is unknown")
