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

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.predictions import NAME
from anabranch.stores.opened import Stores
from batch.calibration.adjusted import adjusted
from batch.evaluation.assessment import SliceResult
from batch.evaluation.fairness import Fairness
from batch.evaluation.hindsight import Hindsight
from batch.evaluation.kept_runs import TrainingRun, keep
from batch.release.promotion import GateCheck
from batch.release.registering import register
from batch.trainers.choice import tried
from batch.trainers.registry import check_model, learn, trainer
from batch.training.job import TrainingJob, TrainingLabels, TrainingSet
from batch.training.preparing import prepare
from batch.training.recording import assess
from batch.training.served import served_frame, served_versions
from batch.training.spreading import kept_frame, prepare_frame, training_size
from batch.training.training_sets import collected, lake_frame, no_labels

log = logging.getLogger(__name__)
_CLOSE = 1e-9  # relative above 1; metrics closer than that are the same


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A registered version. `metrics` are on held-out rows, the declared one first.

    `rows` labels were usable, `left_out` were not. `checks` are the gate's and `reason` why the version is
    not champion; `split` says which rows were held out, `chosen` what `auto` or a search chose.
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
    chosen: str = ""
    hindsight: Hindsight | None = None
    fairness: Fairness | None = None


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Each metric as it was recorded and as it is now; None where one training has no such metric."""

    version: str
    metrics: Mapping[str, tuple[float | None, float | None]]

    @property
    def different(self) -> tuple[str, ...]:
        """Metrics that differ."""
        return tuple(
            name
            for name, (was, now) in self.metrics.items()
            if was is None or now is None or abs(was - now) > _CLOSE * max(1.0, abs(was))
        )


def chosen(parameters: Mapping[str, object]) -> str:
    """What `auto` or a search chose, for people; empty when nothing was chosen."""
    if "validated" not in parameters:
        return ""
    named = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in parameters.items()
        if name not in ("chosen", "validated", "trials")
    ]
    return " ".join([str(parameters.get("chosen", "")), *named]).strip()


def train(stores: Stores, job: TrainingJob) -> Trained:
    """Train the project's model on the whole lake and register it, as champion when the gate passes it."""
    started = time.monotonic()
    check_model(job.model, job.project.task)
    read = served_versions if job.from_served else _versions_read
    run = lake_run(stores, job, read(stores, job.project))
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
    """Train and judge on the lake's `versions`, on served features if these name the predictions'.

    Nothing is registered.
    """
    check_model(job.model, job.project.task)
    make = served_frame if NAME in versions else lake_frame
    frame, total = make(stores, job.project, versions, job.progress)
    large = training_size(job.project, total).bytes > job.local_bytes
    # A search makes many trainings: they stay on the driver unless the declaration says otherwise.
    in_one = job.project.task == "classes" or job.model.calibrate or job.model.interval or job.model.search
    spreads = trainer(job.model.trainer).spreads(total, job.model.params, large=large)
    if total and spreads and not in_one:
        return _spread_run(job, frame, total, versions)
    table = collected(job, frame, total)
    return train_run(job, TrainingSet(table=table, lake_versions=versions, left_out=total - table.num_rows))


def _versions_read(stores: Stores, project: Project) -> dict[str, int]:
    return stores.lake.versions_read(stores.spark, project)


def reproduce(stores: Stores, job: TrainingJob, version: str) -> Reproduction:
    """Train again as `version` was trained; nothing is registered.

    Raises MisuseError when the declaration has changed since, or the version was not trained from a lake.
    """
    project, entry = job.project, stores.models.entry(job.project.name, version)
    place = f"version {version} of {project.name!r}"
    if entry.fingerprint != project.fingerprint:
        raise MisuseError(
            f"{place} was trained from the declaration {entry.fingerprint or 'of nobody knows when'}, "
            f"which is {project.fingerprint} now: check out the declaration it was trained from"
        )
    if not entry.lake_versions:
        raise MisuseError(f"{place} recorded no lake versions: it was not trained from a lake")
    run = lake_run(stores, job, entry.lake_versions)
    names = dict.fromkeys([*entry.metrics, *run.metrics])
    return Reproduction(
        version=version, metrics={name: (entry.metrics.get(name), run.metrics.get(name)) for name in names}
    )


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
    check_model(job.model, job.project.task)
    prepared = prepare(job.project, job.model, given.table, job.folders)
    job.progress.step(f"split {prepared.split.how}")
    if prepared.empty:
        job.progress.step(f"features without any value before the labels: {', '.join(prepared.empty)}")
    rows = prepared.rows
    job.progress.step(f"trainer {job.model.trainer}: {len(rows.target):,} rows, {len(rows.inputs)} features")
    learnt = adjusted(learn(job.model.trainer, rows, job.model.search), job.model, rows)
    if tried(learnt):
        job.progress.step(f"chosen among {len(tried(learnt))}: {chosen(learnt.fitted().parameters)}")
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
        chosen=chosen(run.fitted.parameters),
        hindsight=run.hindsight,
        fairness=run.fairness,
    )
