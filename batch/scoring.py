"""Mass scoring: rows of a data set with the score of a model version, through MLflow's pyfunc UDF."""

# ruff: noqa: PLC0415 - MLflow takes seconds to import

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType as SparkType
from pyspark.sql.types import StringType

from batch.rows import check_replaceable, read_rows, write_rows
from features.declaration import FeatureColumn, Project
from features.errors import AnabranchError, MisuseError
from features.spark import point_in_time
from features.times import from_micros
from stores.cells import cell, complaint, is_wrong
from stores.lake import Lake
from stores.model_columns import input_column
from stores.model_inputs import model_inputs
from stores.models import Models, Scorer
from stores.progress import Progress

log = logging.getLogger(__name__)
RESULTS = ("score", "label", "model_version")
_AT, _GIVEN = "_at", "_given_"
_WRONG = "a cell cannot be read: "
_TARGETS = {"boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP", "text": "STRING", "number": "DOUBLE"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A finished mass scoring: what was written where."""

    rows: int
    version: str
    out: str
    attached: tuple[str, ...]
    seconds: float


def score_path(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    source: str | Path,
    out: str | Path,
    version: str | None,
    progress: Progress,
    *,
    at: int | None = None,
) -> Scored:
    """Score the data set `source` into the folder `out` with `version` (the champion when None).

    Feature columns that the rows lack are taken from the lake, as of `at` (microseconds; now when None), when the rows
    have the project's key columns.
    """
    started = time.monotonic()
    check_replaceable(spark, str(out))
    scorer = models.scorer(project.name, version)
    rows = read_rows(spark, str(source))
    _check_names(project, rows)
    missing = tuple(name for name in scorer.features if name not in rows.columns)
    known = rows
    if missing:
        progress.step(f"{len(missing)} features from the lake, as of {'now' if at is None else from_micros(at).isoformat()}")
        known = with_features(spark, lake, project, rows, missing, time.time_ns() // 1000 if at is None else at)
    progress.step(f"scoring with version {scorer.version} into {out}")
    scored = score(spark, models, project, known, scorer.version).select(*[F.col(f"`{name}`") for name in (*rows.columns, *RESULTS)])
    try:
        count = write_rows(scored, str(out), {"written_by": "anabranch score", "project": project.name, "model_version": scorer.version})
    except PySparkException as error:
        raise _explained(error, str(source)) from error
    seconds = time.monotonic() - started
    log.info("scored project=%s version=%s rows=%d seconds=%.1f", project.name, scorer.version, count, seconds)
    return Scored(rows=count, version=scorer.version, out=str(out), attached=missing, seconds=seconds)


def score(spark: SparkSession, models: Models, project: Project, rows: DataFrame, version: str | None = None) -> DataFrame:
    """`rows` with `score` DOUBLE, `label` INT (NULL for models of numbers) and `model_version` STRING.

    `rows` has at least the model's feature columns, typed or as text; text that is no such value fails the job that
    reads the result, naming the cell. NULL is a missing value.
    """
    import mlflow.pyfunc

    scorer = models.scorer(project.name, version)
    _check_names(project, rows)
    missing = [name for name in scorer.features if name not in rows.columns]
    if missing:
        raise MisuseError(f"the rows lack the model's features {', '.join(missing)}: give them, or the key columns {', '.join(project.keys)}")
    predict = mlflow.pyfunc.spark_udf(spark, models.uri(project.name, scorer.version), result_type="double", env_manager="local")
    # Plain columns: a struct would cost twice as much to hand over.
    scored = rows.withColumn("score", predict(*_inputs(project, rows, scorer)))
    label = F.when(F.col("score") >= scorer.threshold, 1).otherwise(0) if scorer.task == "class" else F.lit(None).cast("int")
    return scored.withColumns({"label": label, "model_version": F.lit(scorer.version)})


def with_features(spark: SparkSession, lake: Lake, project: Project, rows: DataFrame, names: Sequence[str], at: int) -> DataFrame:
    """`rows` with the feature columns `names` of their keys, from all distinct events of the lake strictly before `at`."""
    absent = [name for name in project.keys if name not in rows.columns]
    if absent:
        raise MisuseError(
            f"the rows lack the features {', '.join(names)} and the key column {absent[0]!r} to look them up with: "
            f"give all features, or all of {', '.join(project.keys)}"
        )
    views = tuple(view for view in project.views if {column.name for column in view.columns} & set(names))
    needed = Project(name=project.name, views=views)
    events = lake.distinct_events(spark, needed)
    # Given columns may be named as features of the same views: they step aside while these are attached.
    aside = {name: f"{_GIVEN}{name}" for name in rows.columns if name in {column.name for column in needed.columns}}
    stamped = rows.withColumnsRenamed(aside).withColumn(_AT, F.lit(from_micros(at)))
    known = point_in_time(needed, events, stamped, _AT)
    kept = [F.col(f"`{aside.get(name, name)}`").alias(name) for name in rows.columns]
    return known.select(*kept, *[F.col(f"`{name}`") for name in names])


def _inputs(project: Project, rows: DataFrame, scorer: Scorer) -> list[Column]:
    declared = {column.name: column for column in project.columns}
    kinds = {given.name: given for given in model_inputs(project)}
    unknown = [name for name in scorer.features if name not in kinds]
    if unknown:
        raise AnabranchError(f"version {scorer.version} of {project.name!r} reads {unknown[0]!r}, which is declared no more: train again")
    typed = {name: _typed(declared[name], _TARGETS[kinds[name].kind], rows.schema[name].dataType) for name in scorer.features}
    return [input_column(kinds[name], typed[name]) for name in scorer.features]


def _typed(declared: FeatureColumn, target: str, found: SparkType) -> Column:
    given = F.col(f"`{declared.name}`")
    if isinstance(found, StringType) and target != "STRING":
        value = cell(given, declared.type)
        said = F.concat(F.lit(_WRONG), complaint(declared.name, given, declared.type))
        return F.when(is_wrong(given, value), F.raise_error(said)).otherwise(value)
    if found.typeName() in ("array", "map", "struct", "binary", "variant"):
        raise MisuseError(f"feature {declared.name!r} is {found.simpleString().upper()} in the rows: it must be {declared.type}")
    return given.cast(target)


def _check_names(project: Project, rows: DataFrame) -> None:
    taken = [name for name in rows.columns if name.lower() in RESULTS]
    if taken:
        raise MisuseError(f"the rows have a column {taken[0]!r} already, where the result is to stand: rename or drop it")
    known = {*project.keys, *project.model_features}
    # Spark would take both for one column.
    near = [name for name in rows.columns if name not in known and name.lower() in {other.lower() for other in known}]
    if near:
        raise MisuseError(f"the rows have a column {near[0]!r}, which differs from {near[0].lower()!r} in case alone: rename it")


def _explained(error: PySparkException, source: str) -> Exception:
    """The user's own mistake in one line, when the job failed because of it; else the error as it is."""
    text = str(error)
    if _WRONG not in text:
        return error
    found = text.split(_WRONG, 1)[1].splitlines()[0].split(" SQLSTATE", 1)[0]
    return MisuseError(f"{source}: {found}: correct the cell, or leave it empty where the value is unknown")
