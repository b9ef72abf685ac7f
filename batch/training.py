"""Training: label events, features strictly before them, a split by key, a trainer, a version in the registry.

Spark makes the training set; small data then trains on the driver, which is many times faster there than on a cluster.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.evaluation import evaluate, held_out
from batch.trainers import TrainingRows, check_trainer, fit
from features.declaration import Label, Model, Project
from features.errors import AnabranchError, DeclarationError, MisuseError
from features.spark import key_column, point_in_time
from stores.lake import Lake
from stores.model_columns import input_column
from stores.model_inputs import ModelInput, model_inputs
from stores.model_scoring import InputCoder
from stores.models import Models, TrainingRecord
from stores.progress import Progress

log = logging.getLogger(__name__)
_KEY, _TIME, _TARGET = "_key", "_time", "_target"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A registered version. `metrics` are on held-out keys, the declared one first; `left_out` labels were unusable."""

    version: str
    champion: bool
    metrics: Mapping[str, float]
    rows: int
    left_out: int
    seconds: float


def train(spark: SparkSession, lake: Lake, models: Models, project: Project, progress: Progress, *, promote: bool = True) -> Trained:
    """Train the project's model on the whole lake and register it, as champion unless `promote` is False."""
    started = time.monotonic()
    label, model = _learnable(project)
    check_trainer(model.trainer, model.task)
    versions = lake.versions(spark, project)
    # The recorded versions, so that the training set can be made again whatever lands meanwhile.
    events = lake.distinct_events(spark, project, versions)
    progress.step("training set: features strictly before every label")
    labels = label_rows(label, events[label.source.name])
    total = labels.count()
    table = training_set(project, events, labels).toArrow()
    left_out = total - table.num_rows
    if table.num_rows == 0:
        why = f"all {total} have no key, time or target" if total else f"ingest or land {label.source.name!r} first"
        raise AnabranchError(f"project {project.name!r} has no labels to learn from: {why}")
    trained = fit_and_log(models, project, table, versions, progress, left_out=left_out, promote=promote)
    seconds = time.monotonic() - started
    log.info("trained project=%s version=%s rows=%d left_out=%d seconds=%.1f", project.name, trained.version, trained.rows, left_out, seconds)
    return Trained(**{**vars(trained), "seconds": seconds})


def label_rows(label: Label, events: DataFrame) -> DataFrame:
    """One row a label event: the key's columns, `_time` and `_target` DOUBLE; each may be NULL."""
    target = F.expr(label.target)
    rows = events.select(*[F.col(f"`{name}`") for name in label.keys], F.col(f"`{label.source.time}`").cast("timestamp").alias(_TIME), target.alias(_TARGET))
    kind = rows.schema[_TARGET].dataType.typeName()
    if kind in ("string", "binary", "date", "timestamp"):
        raise DeclarationError(f"label, target: {label.target!r} gives {kind.upper()}: it must give a number or a condition such as 'num > 0'")
    return rows.withColumn(_TARGET, F.col(_TARGET).cast("double"))


def training_set(project: Project, events: Mapping[str, DataFrame], labels: DataFrame) -> DataFrame:
    """`_key` STRING, `_time` micros, `_target` and the model's inputs (DOUBLE or STRING), from labels that have all three."""
    keys = key_column(project.keys)
    usable = labels.where(keys.isNotNull() & F.col(_TIME).isNotNull() & (F.abs(_TARGET) < float("inf")))
    known = point_in_time(project, events, usable, _TIME)
    inputs = [input_column(given) for given in model_inputs(project)]
    return known.select(keys.alias(_KEY), F.unix_micros(_TIME).alias(_TIME), _TARGET, *inputs)


def fit_and_log(
    models: Models, project: Project, table: pa.Table, lake_versions: Mapping[str, int], progress: Progress, *, left_out: int = 0, promote: bool = True
) -> Trained:
    """Train on a training set that fits the driver, evaluate on held-out keys, register."""
    started = time.monotonic()
    _, model = _learnable(project)
    # Spark gives rows in any order; the same rows in the same order give the same model.
    table = table.sort_by([(_KEY, "ascending"), (_TIME, "ascending"), (_TARGET, "ascending")])
    target = table.column(_TARGET).to_numpy().astype(np.float64)
    test = held_out(np.array(table.column(_KEY).to_pylist(), dtype=object), target, model.task)
    columns = {name: _values(table.column(name)) for name in project.model_features}
    inputs = tuple(given.learnt(columns[given.name][~test]) for given in model_inputs(project))
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    progress.step(f"trainer {model.trainer}: {int((~test).sum()):,} rows, {len(inputs)} features")
    fitted = fit(model.trainer, TrainingRows(matrix=matrix[~test], target=target[~test], inputs=inputs, task=model.task, params=model.params))
    scores = fitted.scores(matrix[test])
    metrics = evaluate(model.metric, model.task, target[test], scores, fitted.threshold)
    metrics |= {"rows_train": float((~test).sum()), "rows_test": float(test.sum())}
    progress.step(f"registering: {model.metric} {metrics[model.metric]:.4f} on {int(test.sum()):,} held-out rows")
    said = {"trainer": model.trainer, "metric": model.metric, "task": model.task, "features": len(inputs), "labels_left_out": left_out}
    example = {given.name: _example(given, columns[given.name]) for given in inputs}
    record = TrainingRecord(metrics=metrics, parameters=said, lake_versions=lake_versions, example=example)
    version = models.log(project, record, fitted)
    if promote:
        models.promote(project.name, version)
    seconds = time.monotonic() - started
    return Trained(version=version, champion=promote, metrics=metrics, rows=len(target), left_out=left_out, seconds=seconds)


def _learnable(project: Project) -> tuple[Label, Model]:
    if project.label is None or project.model is None:
        raise MisuseError(f"project {project.name!r} declares no model: add label=Label(...) and model=Model(...) to train one")
    return project.label, project.model


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers with NaN for null, or texts with None."""
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    return np.array(column.to_pylist(), dtype=object)


def _example(given: ModelInput, values: NDArray[Any]) -> list[Any]:
    """One made-up value for MLflow's input example: no row of anybody's data is copied into it."""
    if given.kind == "text":
        return [given.categories[0] if given.categories else None]
    known = values[np.isfinite(values)]
    return [float(np.median(known)) if len(known) else None]
