"""Training: a training set, a split, a trainer, judgement on held-out rows, a version in the registry.

Spark makes the training set. A small one trains on the driver, which is many times faster than a cluster is;
a large one trains on Spark's workers.
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame

from anabranch.stores.opened import Stores
from batch.evaluation.assessment import SliceResult
from batch.evaluation.kept_runs import TrainingRun, keep
from batch.release.promotion import GateCheck
from batch.release.registering import register
from batch.trainers.registry import check_model, learn, trainer
from batch.training.job import TrainingJob, TrainingLabels, TrainingSet
from batch.training.preparing import prepare
from batch.training.recording import assess
from batch.training.spreading import kept_frame, prepare_frame, training_size
from batch.training.training_sets import collected, lake_frame, no_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A registered version. `metrics` are on held-out rows, the declared one first.

    `rows` labels were usable, `left_out` were not. `checks` are the gate's and `reason` why the version is
    not champion; `split` says which rows were held out.
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


def train(stores: Stores, job: TrainingJob) -> Trained:
    """Train the project's model on the whole lake and register it, as champion when the gate passes it."""
    started = time.monotonic()
    check_model(job.model)
    run = lake_run(stores, job, stores.lake.versions(stores.spark, job.project))
    trained = _registered(stores, job, run, started)
    log.info(
        "trained project=%s version=%s rows=%d left_out=%d seconds=%.1f",
        job.project.name, trained.version, trained.rows, trained.left_out, trained.seconds,
    )  # fmt: skip
    return trained


def fit_and_log(stores: Stores, job: TrainingJob, given: TrainingSet) -> Trained:
    """Train on a training set in memory, judge on held-out rows, register, and let the gate decide."""
    started = time.monotonic()
    return _registered(stores, job, train_run(job, given), started)


def lake_run(stores: Stores, job: TrainingJob, versions: Mapping[str, int]) -> TrainingRun:
    """Train and judge on the lake's `versions`; nothing is registered."""
    check_model(job.model)
    frame, total = lake_frame(stores, job.project, versions, job.progress)
    large = training_size(job.project, total).bytes > job.local_bytes
    # A search makes many trainings: they stay on the driver unless the declaration says otherwise.
    spreads = trainer(job.model.trainer).spreads(total, job.model.params, large=large)
    if total and spreads and job.model.search is None:
        return _spread_run(job, frame, total, versions)
    table = collected(job, frame, total)
    return train_run(job, TrainingSet(table=table, lake_versions=versions, left_out=total - table.num_rows))


def _spread_run(job: TrainingJob, frame: DataFrame, total: int, versions: Mapping[str, int]) -> TrainingRun:
    """Train on Spark's workers on `frame`, which was made of `total` labels."""
    with kept_frame(frame) as stays:
        usable = stays.count()
        if usable == 0:
            raise no_labels(job.project, total)
        size = training_size(job.project, total)
        prepared, given = prepare_frame(job.project, job.model, stays, size, job.local_bytes)
        job.progress.step(f"split {prepared.split.how}")
        job.progress.step(
            f"trainer {job.model.trainer} on Spark's workers: {given.count:,} rows, "
            f"{len(prepared.rows.inputs)} features"
        )
        learnt = trainer(job.model.trainer).train_frame(given)
    labels = TrainingLabels(
        lake_versions=versions, usable=usable, left_out=total - usable, on_workers=given.count
    )
    return assess(job, prepared, learnt, labels)


def train_run(job: TrainingJob, given: TrainingSet) -> TrainingRun:
    """Train in memory and judge; nothing is registered."""
    check_model(job.model)
    prepared = prepare(job.project, job.model, given.table, job.folders)
    job.progress.step(f"split {prepared.split.how}")
    if prepared.empty:
        job.progress.step(f"features without any value before the labels: {', '.join(prepared.empty)}")
    rows = prepared.rows
    job.progress.step(f"trainer {job.model.trainer}: {len(rows.target):,} rows, {len(rows.inputs)} features")
    learnt = learn(job.model.trainer, rows, job.model.search)
    return assess(job, prepared, learnt, given.labels)


def _registered(stores: Stores, job: TrainingJob, run: TrainingRun, started: float) -> Trained:
    root = job.kept or Path(tempfile.gettempdir()) / "anabranch-unfinished"
    folder = root / job.project.name / f"{time.time_ns()}"
    keep(run, folder)
    found = register(stores, job.project, folder, job.progress, promote=job.promote, announces=job.announce)
    return Trained(
        version=found.version,
        champion=found.champion,
        metrics=run.metrics,
        rows=run.rows,
        left_out=run.left_out,
        seconds=time.monotonic() - started,
        reason=found.verdict.reason,
        checks=found.verdict.checks,
        slices=tuple(run.slices),
        split=str(run.parameters["split"]),
    )
