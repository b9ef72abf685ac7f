"""Training: label events, features strictly before them, a split by key, a trainer, a version in the registry.

Spark makes the training set; small data then trains on the driver, which is many times faster there than on a cluster.
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.labels import Label
from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, DeclarationError, MisuseError
from anabranch.folds.spark import key_column, point_in_time
from anabranch.progress import Progress
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.columns import input_column
from anabranch.stores.models.inputs import model_inputs, slice_inputs
from anabranch.stores.models.registry import Models
from batch.evaluation.assessment import SliceResult
from batch.evaluation.kept_runs import TrainingRun, keep
from batch.release.promotion import GateCheck
from batch.release.registering import register
from batch.settings import TrainingSettings
from batch.trainers.choice import tried
from batch.trainers.registry import check_model, learn, trainer
from batch.trainers.trainer import Trainer
from batch.training.preparing import KEY, TARGET, TIME, prepare
from batch.training.recording import assess
from batch.training.spreading import TrainingSize, check_fits, kept_frame, prepare_frame, training_size

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingPlace:
    """Where a training happens: `folders` are searched for the user's own functions, `kept` holds trainings until they are registered
    (a temporary folder when None), `about` is recorded with it, such as the batch version and the commit; devices are told through `bus`.
    A training set of more than `local_bytes` is not brought into this process."""

    folders: tuple[Path, ...] = ()
    kept: Path | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    bus: Bus | None = None
    local_bytes: int = TrainingSettings().local_bytes


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A registered version. `metrics` are on held-out rows, the declared one first; `rows` labels were usable, `left_out` were not.

    `checks` are the gate's and `reason` why it is not champion; `split` says which rows were held out.
    """

    version: str
    champion: bool
    metrics: Mapping[str, float]
    rows: int
    left_out: int
    seconds: float
    reason: str = ""
    checks: tuple[GateCheck, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    split: str = ""


def train(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    progress: Progress,
    *,
    promote: bool = True,
    place: TrainingPlace | None = None,
) -> Trained:
    """Train the project's model on the whole lake and register it, as champion when the gate lets it (never when `promote` is False)."""
    started = time.monotonic()
    _, model = _learnable(project)
    check_model(model)
    place = place or TrainingPlace()
    run, rows, left_out = lake_run(spark, lake, project, progress, lake.versions(spark, project), place)
    trained = _registered(
        models,
        project,
        run,
        progress,
        rows=rows,
        left_out=left_out,
        promote=promote,
        started=started,
        place=place,
    )
    log.info(
        "trained project=%s version=%s rows=%d left_out=%d seconds=%.1f",
        project.name,
        trained.version,
        rows,
        left_out,
        trained.seconds,
    )
    return trained


def lake_run(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    progress: Progress,
    versions: Mapping[str, int],
    place: TrainingPlace,
) -> tuple[TrainingRun, int, int]:
    """Train and judge on the lake's `versions`: the run, how many labels were usable and how many were not; nothing is registered."""
    _, model = _learnable(project)
    check_model(model)
    frame, total = lake_frame(spark, lake, project, progress, versions)
    found, size = trainer(model.trainer), training_size(project, total)
    # A search makes many trainings: they stay on the driver unless the declaration says otherwise.
    large = size.bytes > place.local_bytes
    if (
        total
        and found.learn_frame is not None
        and model.search is None
        and found.spreads(total, model.params, large=large)
    ):
        return _spread_run(found, project, frame, size, progress, versions, place)
    table = _collected(project, model, frame, size, place.local_bytes)
    return (
        train_run(project, table, versions, progress, left_out=total - table.num_rows, place=place),
        table.num_rows,
        total - table.num_rows,
    )


def _spread_run(
    found: Trainer, project: Project, frame: DataFrame, size: TrainingSize, progress: Progress,
    versions: Mapping[str, int], place: TrainingPlace,
) -> tuple[TrainingRun, int, int]:  # fmt: skip
    label, model = _learnable(project)
    with kept_frame(frame) as stays:
        usable = stays.count()
        if usable == 0:
            raise _no_labels(project, label, size.rows)
        prepared, given = prepare_frame(project, model, stays, size, place.local_bytes)
        progress.step(f"split {prepared.split.how}")
        progress.step(
            f"trainer {model.trainer} on Spark's workers: {given.count:,} rows, {len(prepared.rows.inputs)} features"
        )
        learnt = found.train_frame(given)
    run = assess(
        project, model, prepared, learnt.fitted(), progress,
        lake_versions=versions, left_out=size.rows - usable, about=place.about, trials=tried(learnt), count=given.count,
    )  # fmt: skip
    return run, usable, size.rows - usable


def lake_training_set(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    progress: Progress,
    versions: Mapping[str, int],
    most: int,
) -> pa.Table:
    """The training set of the lake's `versions` in memory; raises AnabranchError when that is more than `most` bytes."""
    frame, total = lake_frame(spark, lake, project, progress, versions)
    _, model = _learnable(project)
    return _collected(project, model, frame, training_size(project, total), most)


def lake_frame(
    spark: SparkSession, lake: Lake, project: Project, progress: Progress, versions: Mapping[str, int]
) -> tuple[DataFrame, int]:
    """The training set, and how many label events there are."""
    label, _ = _learnable(project)
    # The recorded versions, so that the training set can be made again whatever lands meanwhile.
    events = lake.distinct_events(spark, project, versions)
    progress.step("training set: features strictly before every label")
    labels = label_rows(label, events[label.source.name])
    return training_set(project, events, labels), labels.count()


def _collected(project: Project, model: Model, frame: DataFrame, size: TrainingSize, most: int) -> pa.Table:
    label, _ = _learnable(project)
    check_fits(project, model, size, most)
    table = frame.toArrow()
    if table.num_rows == 0:
        raise _no_labels(project, label, size.rows)
    return table


def _no_labels(project: Project, label: Label, total: int) -> AnabranchError:
    why = (
        f"all {total} have no key, time or target" if total else f"ingest or land {label.source.name!r} first"
    )
    return AnabranchError(f"project {project.name!r} has no labels to learn from: {why}")


def label_rows(label: Label, events: DataFrame) -> DataFrame:
    """One row a label event: the key's columns, `_time` and `_target` DOUBLE; each may be NULL."""
    target = F.expr(label.target)
    rows = events.select(
        *[F.col(f"`{name}`") for name in label.keys],
        F.col(f"`{label.source.time}`").cast("timestamp").alias(TIME),
        target.alias(TARGET),
    )
    kind = rows.schema[TARGET].dataType.typeName()
    if kind in ("string", "binary", "date", "timestamp"):
        raise DeclarationError(
            f"label, target: {label.target!r} gives {kind.upper()}: it must give a number or a condition such as 'num > 0'"
        )
    return rows.withColumn(TARGET, F.col(TARGET).cast("double"))


def training_set(project: Project, events: Mapping[str, DataFrame], labels: DataFrame) -> DataFrame:
    """`_key` STRING, `_time` micros, `_target`, the model's inputs and the slices' (DOUBLE or STRING), from labels that have all three."""
    keys = key_column(project.keys)
    usable = labels.where(keys.isNotNull() & F.col(TIME).isNotNull() & (F.abs(TARGET) < float("inf")))
    known = point_in_time(project, events, usable, TIME)
    inputs = [input_column(given) for given in (*model_inputs(project), *slice_inputs(project))]
    return known.select(keys.alias(KEY), F.unix_micros(TIME).alias(TIME), TARGET, *inputs)


def fit_and_log(
    models: Models,
    project: Project,
    table: pa.Table,
    lake_versions: Mapping[str, int],
    progress: Progress,
    *,
    left_out: int = 0,
    promote: bool = True,
    work: TrainingPlace | None = None,
) -> Trained:
    """Train on a training set that fits the driver, judge it on held-out rows, register it and let the gate decide."""
    started = time.monotonic()
    run = train_run(project, table, lake_versions, progress, left_out=left_out, place=work or TrainingPlace())
    return _registered(
        models,
        project,
        run,
        progress,
        rows=table.num_rows,
        left_out=left_out,
        promote=promote,
        started=started,
        place=work or TrainingPlace(),
    )


def train_run(
    project: Project,
    table: pa.Table,
    lake_versions: Mapping[str, int],
    progress: Progress,
    *,
    left_out: int,
    place: TrainingPlace,
) -> TrainingRun:
    """Train and judge; nothing is registered."""
    _, model = _learnable(project)
    check_model(model)
    prepared = prepare(project, model, table, place.folders)
    progress.step(f"split {prepared.split.how}")
    if prepared.empty:
        progress.step(f"without any value before the labels, so learnt around: {', '.join(prepared.empty)}")
    progress.step(
        f"trainer {model.trainer}: {len(prepared.rows.target):,} rows, {len(prepared.rows.inputs)} features"
    )
    learnt = learn(model.trainer, prepared.rows, model.search)
    fitted = learnt.fitted()
    return assess(
        project,
        model,
        prepared,
        fitted,
        progress,
        lake_versions=lake_versions,
        left_out=left_out,
        about=place.about,
        trials=tried(learnt),
    )


def _registered(
    models: Models,
    project: Project,
    run: TrainingRun,
    progress: Progress,
    *,
    rows: int,
    left_out: int,
    promote: bool,
    started: float,
    place: TrainingPlace,
) -> Trained:
    _, model = _learnable(project)
    root = place.kept or Path(tempfile.gettempdir()) / "anabranch-unfinished"
    folder = root / project.name / f"{time.time_ns()}"
    keep(run, folder)
    found = register(models, project, model, folder, progress, promote=promote, bus=place.bus)
    return Trained(
        version=found.version,
        champion=found.champion,
        metrics=run.metrics,
        rows=rows,
        left_out=left_out,
        seconds=time.monotonic() - started,
        reason=found.verdict.reason,
        checks=found.verdict.checks,
        slices=tuple(run.slices),
        split=str(run.parameters["split"]),
    )


def _learnable(project: Project) -> tuple[Label, Model]:
    if project.label is None or project.model is None:
        raise MisuseError(
            f"project {project.name!r} declares no model: add label=Label(...) and model=Model(...) to train one"
        )
    return project.label, project.model
