"""Served features as training data: each label with what the model read when its key was last asked for.

Predictions land in the lake with the values that the model used (serving/api/prediction_log.py). A training
set of them is point-in-time by construction: nothing is computed again, and hindsight cannot enter.
"""

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.events.predictions import NAME, predictions_source
from anabranch.folds.spark import key_column
from anabranch.progress import Progress
from anabranch.stores.models.inputs import model_inputs, slice_inputs
from anabranch.stores.opened import Stores
from anabranch.values.names import quoted
from batch.training.job import learnable
from batch.training.preparing import KEY, TARGET, TIME
from batch.training.training_sets import checked_labels, label_rows


def served_versions(stores: Stores, project: Project) -> dict[str, int]:
    """The lake's versions to learn from served features: the label's source and the predictions.

    Raises AnabranchError when no prediction was landed.
    """
    label, _ = learnable(project)
    own = predictions_source(project.name)
    found = {
        source.name: stores.lake.version(stores.spark, project, source) for source in (label.source, own)
    }
    if found[NAME] is None:
        raise AnabranchError(
            f"project {project.name!r} has no served features in the lake: serve a model, and run "
            f"'anabranch land {project.name}' when predictions were made"
        )
    return {name: version for name, version in found.items() if version is not None}


def served_frame(
    stores: Stores, project: Project, versions: Mapping[str, int], progress: Progress
) -> tuple[DataFrame, int]:
    """The training set of served features from the lake's `versions`, and the number of label events.

    One row a label with a prediction before it, within `Watch(horizon=)`: `_key` STRING, `_time` micros,
    `_target`, and the model's inputs and the slices' (DOUBLE or STRING). Left out are predictions that do not
    record every input of the declared model, and degraded ones, whose features were not exact.
    """
    label, _ = learnable(project)
    spark, lake = stores.spark, stores.lake
    progress.step("training set: features as they were served before every label")
    events = lake.distinct_events_of(spark, project, label.source, versions.get(label.source.name))
    labels = label_rows(label, events, task=project.task)
    total, _ = checked_labels(project, label, labels)
    keyed = labels.select(key_column(project.keys).alias("key"), F.unix_micros(TIME).alias("time"), TARGET)
    usable = F.col(TARGET).isNotNull() if project.task == "classes" else F.abs(TARGET) < float("inf")
    asked = keyed.where(F.col("key").isNotNull() & F.col("time").isNotNull() & usable)
    inputs, given = model_inputs(project), (*model_inputs(project), *slice_inputs(project))
    missing = F.array_except(F.array(*[F.lit(one.name) for one in inputs]), F.json_object_keys("used"))
    predictions = (
        lake.predictions(spark, project, version=versions[NAME])
        .where(F.col("key").isNotNull() & ~F.coalesce("degraded", F.lit(False)) & (F.size(missing) == 0))
        .select("prediction_id", "at", "key", F.lit("").alias("model_version"), "score", "used")
    )
    horizon, _, _ = project.watch.spans
    found = join_labels(predictions, asked.withColumnRenamed(TARGET, "target"), horizon)
    schema = ", ".join(f"{quoted(one.name)} {'STRING' if one.kind == 'text' else 'DOUBLE'}" for one in given)
    used = found.withColumn("_used", F.from_json("used", schema))
    columns = [F.col(f"_used.{quoted(one.name)}").alias(one.name) for one in given]
    names = {"key": KEY, "time": TIME, "target": TARGET}
    return used.select(*[F.col(name).alias(alias) for name, alias in names.items()], *columns), total


def join_labels(predictions: DataFrame, labels: DataFrame, horizon: int) -> DataFrame:
    """`labels` (key, time in microseconds, target) with version, score and `used` of what they judge.

    One pass over each key's predictions and labels in the order of time, however many of them there are.
    """
    versions = [row["model_version"] for row in predictions.select("model_version").distinct().collect()]
    by_class = ["scores"] if "scores" in predictions.columns else []
    if not versions:
        kinds = _PREDICTED | dict.fromkeys(by_class, "STRING")
        return labels.select(
            "*", *[F.lit(None).cast(kind).alias(name) for name, kind in kinds.items()]
        ).limit(0)
    # Maps have no order, which the struct needs: as text.
    texts = [F.to_json(name).alias(name) for name in by_class]
    prediction = F.struct(F.unix_micros("at").alias("made"), "prediction_id", "score", "used", *texts).alias(
        "prediction"
    )
    predicted = predictions.select(
        "key",
        "model_version",
        F.unix_micros("at").alias("time"),
        F.lit(None).cast(labels.schema["target"].dataType).alias("target"),
        prediction,
    )
    version = F.explode(F.array(*map(F.lit, versions))).alias("model_version")
    asked = labels.select(
        "key",
        version,
        "time",
        "target",
        F.lit(None).cast(predicted.schema["prediction"].dataType).alias("prediction"),
    )
    # Strictly before the label, which later predictions may know. Of one time the larger id is the last.
    before = (
        Window.partitionBy("key", "model_version").orderBy("time").rangeBetween(Window.unboundedPreceding, -1)
    )
    last = (
        asked.unionByName(predicted)
        .withColumn("_last", F.max("prediction").over(before))
        .where("target IS NOT NULL")
    )
    found = last.where(F.col("_last.made") >= F.col("time") - horizon)
    more = [f"_last.{name}" for name in ("score", "used", *by_class)]
    return found.select("key", "time", "target", "model_version", *more)


_PREDICTED = {"model_version": "STRING", "score": "DOUBLE", "used": "STRING"}
