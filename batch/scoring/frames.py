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

from anabranch.declare.names import RESULTS
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
        predict = _mlflow_udf(spark, models.uri(project.name, scorer.version))
    else:
        predict = _arrow(ship(spark, models, project.name, scorer.version))
    # Plain columns: to hand over a struct costs twice as much.
    inputs = _inputs(project, rows, scorer)
    scored = rows.withColumn("score", predict(*inputs))
    if explain:
        check_explained(project, scorer, rows.columns)
        shipped = ship(spark, models, project.name, scorer.version)
        scored = explained(scored, inputs, shipped, project, scorer.features)
    label = F.lit(None).cast("int")
    if scorer.task == "class":
        label = F.when(F.col("score") >= scorer.threshold, 1).otherwise(0)
    return scored.withColumns({"label": label, "model_version": F.lit(scorer.version)})


def _arrow(shipped: ShippedModel) -> Callable[..., Column]:
    def scores(*columns: pa.Array) -> pa.Array:
        return pa.array(shipped.opened().scores(list(columns)))

    found: Callable[..., Column] = arrow_udf(scores, "double")  # type: ignore[call-overload]
    return found


def _mlflow_udf(spark: SparkSession, uri: str) -> Callable[..., Column]:
    import mlflow.pyfunc

    found: Callable[..., Column] = mlflow.pyfunc.spark_udf(
        spark, uri, result_type="double", env_manager="local"
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

    Raises MisuseError when a feature is no longer declared, or declared with another kind of type.
    """
    check_fits(project, scorer.version, scorer.kinds)
    return {one.name: one for one in column_inputs(project, scorer.features)}


def check_names(project: Project, names: list[str]) -> None:
    """Raises MisuseError for columns that would be confused with results, keys or features."""
    taken = [name for name in names if name.lower() in RESULTS]
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
