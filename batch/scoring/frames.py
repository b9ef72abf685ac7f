"""Scores of rows as Spark columns: one expression for data sets, tables and streams.

A worker process opens a version's own files once and scores Arrow columns; with `pyfunc` MLflow's pyfunc UDF
scores. Both give the same scores. MLflow loads a version that was registered outside Anabranch.
"""

from collections.abc import Callable, Mapping

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import BooleanType, NumericType

from anabranch.declare.models import TASKS
from anabranch.declare.names import INTERVAL
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.cells import named
from anabranch.events.given_rows import read_columns
from anabranch.stores.models.foreign import ForeignVersion, scoring_version
from anabranch.stores.models.inputs import ModelInput, check_fits, column_inputs
from anabranch.stores.models.shipping import ShippedModel, ShippedPyfunc, input_column, ship, ship_pyfunc
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.values.types import DataType
from batch.scoring.explained import check_explained, explained

_TARGETS = {"number": "DOUBLE", "boolean": "BOOLEAN"}


def score(
    stores: Stores,
    project: Project,
    rows: DataFrame,
    version: str | Scorer | ForeignVersion | None = None,
    *,
    pyfunc: bool = False,
    explain: bool = False,
) -> DataFrame:
    """`rows` with `score` DOUBLE, `label` INT (NULL for models of numbers) and `model_version` STRING.

    With intervals of numbers `interval_low` and `interval_high` DOUBLE follow. Of several classes `label` is
    STRING or BIGINT, `score` the label's, and `scores` MAP<STRING, DOUBLE> has those of all classes.

    `rows` has at least the model's feature columns, typed or as text; NULL is a missing value. Text that
    does not parse fails the job that reads the result; the message names the cell. `version` may be loaded
    already; None is the champion. With `explain` there are the columns that `explained_columns` names too.
    """
    spark, models = stores.spark, stores.models
    if version is None or isinstance(version, str):
        version = scoring_version(models, project, version)
    scorer: Scorer | ForeignVersion = version
    check_names(project, rows.columns)
    missing = [name for name in scorer.features if name not in rows.columns]
    if missing:
        raise MisuseError(
            f"the rows lack the model's features {', '.join(missing)}: "
            f"give them, or the key columns {', '.join(project.keys)}"
        )
    if isinstance(scorer, ForeignVersion):
        predict = _foreign(ship_pyfunc(spark, models, project.name, scorer.version), scorer)
    elif pyfunc:
        predict = _mlflow_udf(spark, models.uri(project.name, scorer.version), _result(scorer))
    else:
        predict = _arrow(ship(spark, models, project.name, scorer.version), _result(scorer))
    # Plain columns: to hand over a struct costs twice as much.
    inputs = _inputs(project, rows, scorer)
    if isinstance(scorer, Scorer) and scorer.classes:
        scored = _of_classes(rows.withColumn("scores", predict(*inputs)), scorer)
    else:
        scored = _of_numbers(rows.withColumn("score", predict(*inputs)), scorer, project)
    if not explain:
        return scored
    check_explained(project, scorer, rows.columns)
    shipped = ship(spark, models, project.name, scorer.version)
    return explained(scored, inputs, shipped, project, scorer.features)


def _of_numbers(rows: DataFrame, scorer: Scorer | ForeignVersion, project: Project) -> DataFrame:
    """`rows`, whose `score` is a number or the probability of class 1, with label, version and interval."""
    label = F.lit(None).cast("int")
    if scorer.task == "class":
        label = F.when(F.col("score") >= scorer.threshold, 1).otherwise(0)
    results = {"label": label, "model_version": F.lit(scorer.version)}
    if set(INTERVAL) <= set(project.results):
        results |= dict(zip(INTERVAL, _ends(scorer), strict=True))
    return rows.withColumns(results)


def _ends(scorer: Scorer | ForeignVersion) -> list[Column]:
    """The ends of the interval around the score; NULL of a version that has none."""
    interval = scorer.interval if isinstance(scorer, Scorer) else None
    if interval is None:
        return [F.lit(None).cast("double")] * 2
    return [F.col("score") + F.lit(interval.low), F.col("score") + F.lit(interval.high)]


def _result(scorer: Scorer) -> str:
    """The type of what a version gives for a row: a number, or one a class."""
    return "array<double>" if scorer.classes else "double"


def _of_classes(rows: DataFrame, scorer: Scorer) -> DataFrame:
    """`rows`, whose `scores` are those of the classes in order, with score, label, scores and version."""
    best, names = F.array_max("scores"), [F.lit(str(name)) for name in scorer.classes]
    first = F.array_position("scores", best).cast("int")
    label = F.element_at(F.array(*map(F.lit, scorer.classes)), first)
    return rows.withColumns(
        {
            "score": best,
            "label": label if isinstance(scorer.classes[0], str) else label.cast("bigint"),
            "scores": F.map_from_arrays(F.array(*names), "scores"),
            "model_version": F.lit(scorer.version),
        }
    )


def _arrow(shipped: ShippedModel, result: str) -> Callable[..., Column]:
    def scores(*columns: pa.Array) -> pa.Array:
        found = shipped.opened().scores(list(columns))
        if found.ndim == 1:
            return pa.array(found)
        wide = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1])
        return wide.cast(pa.list_(pa.float64()))

    found: Callable[..., Column] = arrow_udf(scores, result)  # type: ignore[call-overload]
    return found


def _mlflow_udf(spark: SparkSession, uri: str, result: str) -> Callable[..., Column]:
    import mlflow.pyfunc

    found: Callable[..., Column] = mlflow.pyfunc.spark_udf(
        spark, uri, result_type=result, env_manager="local"
    )
    return found


def _foreign(shipped: ShippedPyfunc, scorer: ForeignVersion) -> Callable[..., Column]:
    """The version is loaded once a worker process, where MLflow's own UDF would load it with every task."""
    names, types = scorer.features, scorer.types

    def scores(*columns: pa.Array) -> pa.Array:
        return pa.array(shipped.opened().scores(names, columns))

    found: Callable[..., Column] = arrow_udf(scores, "double")  # type: ignore[call-overload]
    return lambda *columns: found(
        *[column.cast(types[name]) for name, column in zip(names, columns, strict=True)]
    )


def version_inputs(project: Project, scorer: Scorer | ForeignVersion) -> dict[str, ModelInput]:
    """The inputs of the version as the project declares them now.

    Raises MisuseError when a feature is no longer declared, or declared with another kind of type, and when
    either the version or the label has several classes.
    """
    check_fits(project, scorer.version, scorer.kinds)
    if (scorer.task == "classes") != (project.task == "classes"):
        raise MisuseError(
            f"version {scorer.version} of {project.name!r} gives {TASKS[scorer.task]}, and the label is "
            f"declared with {TASKS[project.task]}: train again"
        )
    return {one.name: one for one in column_inputs(project, scorer.features)}


def check_names(project: Project, names: list[str]) -> None:
    """Raises MisuseError for columns that would be confused with results, keys or features."""
    taken = [name for name in names if name.lower() in project.results]
    if taken:
        raise MisuseError(
            f"the rows already have a column {taken[0]!r}, the name of a result: rename or drop it"
        )
    known = {*project.keys, *project.model_features}
    folded = {name.lower() for name in known}
    # Spark ignores case: it would take both for one column.
    near = [name for name in names if name not in known and name.lower() in folded]
    if near:
        raise MisuseError(
            f"the rows have a column {near[0]!r}, "
            f"which differs from {near[0].lower()!r} in case only: rename it"
        )


def _inputs(project: Project, rows: DataFrame, scorer: Scorer | ForeignVersion) -> list[Column]:
    read = version_inputs(project, scorer)
    typed = read_columns(rows, input_types(project, rows, read))
    return [
        input_column(one, typed[name] if name in typed else named(name).cast(_TARGETS[one.kind]))
        for name, one in read.items()
    ]


def input_types(project: Project, rows: DataFrame, read: Mapping[str, ModelInput]) -> dict[str, DataType]:
    """The model's inputs in the rows that are read as their declared type: all but those that are numbers."""
    return {
        name: project.inputs[name]
        for name, one in read.items()
        if not (one.kind in _TARGETS and isinstance(rows.schema[name].dataType, NumericType | BooleanType))
    }
