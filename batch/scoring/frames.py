"""Rows in, rows with scores out, as Spark frames: one expression for data sets, tables and streams.

A version's own files are opened once a worker process and fed Arrow columns; with `pyfunc` MLflow's UDF does it. Both say the same.
A version that others registered is loaded by MLflow, once a worker process too.
"""

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import DataType as SparkType
from pyspark.sql.types import StringType

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.errors import MisuseError
from anabranch.events.cells import cell, complaint, is_wrong
from anabranch.stores.models.foreign import ForeignVersion, scoring_version
from anabranch.stores.models.inputs import ModelInput, check_fits, column_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.shipping import ShippedModel, ShippedPyfunc, input_column, ship, ship_pyfunc
from anabranch.stores.models.versions import Scorer

RESULTS = ("score", "label", "model_version")
WRONG_CELL = "a cell cannot be read: "
"""How the message of a job that met one begins; what follows says which."""
_TARGETS = {
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "text": "STRING",
    "number": "DOUBLE",
}


def score(
    spark: SparkSession,
    models: Models,
    project: Project,
    rows: DataFrame,
    version: str | Scorer | ForeignVersion | None = None,
    *,
    pyfunc: bool = False,
) -> DataFrame:
    """`rows` with `score` DOUBLE, `label` INT (NULL for models of numbers) and `model_version` STRING.

    `rows` has at least the model's feature columns, typed or as text; text that is no such value fails the job that
    reads the result, naming the cell. NULL is a missing value. `version` is the champion by default, and may be loaded already.
    """
    scorer = (
        scoring_version(models, project, version) if version is None or isinstance(version, str) else version
    )
    check_names(project, rows.columns)
    missing = [name for name in scorer.features if name not in rows.columns]
    if missing:
        raise MisuseError(
            f"the rows lack the model's features {', '.join(missing)}: give them, or the key columns {', '.join(project.keys)}"
        )
    # Plain columns: a struct would cost twice as much to hand over.
    if isinstance(scorer, ForeignVersion):
        predict = _registered(ship_pyfunc(spark, models, project.name, scorer.version), scorer)
    else:
        predict = (
            _pyfunc(spark, models, project, scorer)
            if pyfunc
            else _arrow(ship(spark, models, project.name, scorer.version))
        )
    scored = rows.withColumn("score", predict(*_inputs(project, rows, scorer)))
    label = (
        F.when(F.col("score") >= scorer.threshold, 1).otherwise(0)
        if scorer.task == "class"
        else F.lit(None).cast("int")
    )
    return scored.withColumns({"label": label, "model_version": F.lit(scorer.version)})


def _arrow(shipped: ShippedModel) -> Callable[..., Column]:
    def scores(*columns: pa.Array) -> pa.Array:
        return pa.array(shipped.opened().scores(list(columns)))

    found: Callable[..., Column] = arrow_udf(scores, "double")  # type: ignore[call-overload]
    return found


def _pyfunc(spark: SparkSession, models: Models, project: Project, scorer: Scorer) -> Callable[..., Column]:
    import mlflow.pyfunc

    found: Callable[..., Column] = mlflow.pyfunc.spark_udf(
        spark, models.uri(project.name, scorer.version), result_type="double", env_manager="local"
    )
    return found


def _registered(shipped: ShippedPyfunc, scorer: ForeignVersion) -> Callable[..., Column]:
    """MLflow's own UDF would load the version with every task."""
    names, types = scorer.features, scorer.types

    def scores(*columns: pa.Array) -> pa.Array:
        return pa.array(shipped.opened().scores(names, columns))

    found: Callable[..., Column] = arrow_udf(scores, "double")  # type: ignore[call-overload]
    return lambda *columns: found(
        *[column.cast(types[name]) for name, column in zip(names, columns, strict=True)]
    )


def version_inputs(project: Project, scorer: Scorer | ForeignVersion) -> dict[str, ModelInput]:
    """What the version reads, as the project declares it now; raises MisuseError for what is declared no more, or as another kind."""
    check_fits(project, scorer.version, scorer.kinds)
    return {given.name: given for given in column_inputs(project, scorer.features)}


def check_names(project: Project, names: list[str]) -> None:
    """Raises MisuseError for columns that would be taken for others."""
    taken = [name for name in names if name.lower() in RESULTS]
    if taken:
        raise MisuseError(
            f"the rows have a column {taken[0]!r} already, where the result is to stand: rename or drop it"
        )
    known = {*project.keys, *project.model_features}
    # Spark would take both for one column.
    near = [
        name for name in names if name not in known and name.lower() in {other.lower() for other in known}
    ]
    if near:
        raise MisuseError(
            f"the rows have a column {near[0]!r}, which differs from {near[0].lower()!r} in case alone: rename it"
        )


def _inputs(project: Project, rows: DataFrame, scorer: Scorer | ForeignVersion) -> list[Column]:
    declared = project.column_of
    read = version_inputs(project, scorer)
    return [
        input_column(given, _typed(declared[name], _TARGETS[given.kind], rows.schema[name].dataType))
        for name, given in read.items()
    ]


def _typed(declared: FeatureColumn, target: str, found: SparkType) -> Column:
    given = F.col(f"`{declared.name}`")
    if isinstance(found, StringType) and target != "STRING":
        value = cell(declared.name, declared.type)
        said = F.concat(F.lit(WRONG_CELL), complaint(declared.name, given, declared.type))
        return F.when(is_wrong(given, value), F.raise_error(said)).otherwise(value)
    if found.typeName() in ("array", "map", "struct", "binary", "variant"):
        raise MisuseError(
            f"feature {declared.name!r} is {found.simpleString().upper()} in the rows: it must be {declared.type}"
        )
    return given.cast(target)
