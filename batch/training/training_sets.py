"""Training sets: label events from the lake, each with the features that were known strictly before it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.folds.spark import key_column, point_in_time, request_columns, with_derived
from anabranch.progress import Progress
from anabranch.stores.models.inputs import model_inputs, slice_inputs
from anabranch.stores.models.shipping import input_column
from anabranch.stores.opened import Stores
from batch.evaluation.splits import check_classes
from batch.training.job import TrainingJob, learnable
from batch.training.preparing import KEY, TARGET, TIME
from batch.training.spreading import check_memory, training_size


def lake_frame(
    stores: Stores, project: Project, versions: Mapping[str, int], progress: Progress
) -> tuple[DataFrame, int]:
    """The training set from the lake's `versions`, and the number of label events.

    Raises AnabranchError for targets that the metric is not for, before any feature is computed.
    """
    label, model = learnable(project)
    _require_events(project, versions)
    # The recorded versions, so that the training set can be made again whatever lands meanwhile.
    events = stores.lake.distinct_events(stores.spark, project, versions)
    progress.step("training set: features strictly before every label")
    own = events[label.source.name]
    labels = label_rows(label, own, request_columns(project, own))
    target = F.when(F.abs(TARGET) < float("inf"), F.col(TARGET))
    strange = F.when(~target.isin(0.0, 1.0), target)
    (told,) = labels.agg(
        F.count(F.lit(1)).alias("total"),
        F.array_compact(F.array(F.min(strange), F.min(target), F.max(target))).alias("found"),
    ).collect()
    if model.task == "class":
        check_classes(list(dict.fromkeys(told["found"])), told["total"])
    return training_set(project, events, labels), told["total"]


def _require_events(project: Project, versions: Mapping[str, int]) -> None:
    """Raise AnabranchError for a source of another project of which nothing was landed."""
    for view in (view for view in project.views if view.use.owner is not None):
        if view.feed not in versions:
            raise AnabranchError(
                f"view {view.name!r} of project {view.use.owner!r} has no event in the lake (source "
                f"{view.source.name!r}), so nothing can be learnt from it: run 'anabranch build "
                f"{view.use.owner}' first"
            )


def lake_training_set(stores: Stores, job: TrainingJob, versions: Mapping[str, int]) -> pa.Table:
    """The training set from the lake's `versions` in memory.

    Raises AnabranchError when it takes more than the job's `local_bytes`, or has no row.
    """
    frame, total = lake_frame(stores, job.project, versions, job.progress)
    return collected(job, frame, total)


def collected(job: TrainingJob, frame: DataFrame, total: int) -> pa.Table:
    """The training set `frame`, made of `total` labels, in memory; raises as `lake_training_set` does."""
    check_memory(job.project, job.model, training_size(job.project, total), job.local_bytes)
    table = frame.toArrow()
    if table.num_rows == 0:
        raise no_labels(job.project, total)
    return table


def no_labels(project: Project, total: int) -> AnabranchError:
    """The error for a training set without a row, made of `total` labels."""
    label, _ = learnable(project)
    why = (
        f"all {total} have no key, time or target" if total else f"ingest or land {label.source.name!r} first"
    )
    return AnabranchError(f"project {project.name!r} has no labels to learn from: {why}")


def label_rows(label: Label, events: DataFrame, request: Sequence[Column] = ()) -> DataFrame:
    """One row a label event: its key, its request, `_time` and `_target` DOUBLE; each may be NULL.

    A target that is no number, or that 32 bits do not hold, in which models compute, is NULL.
    """
    target = F.expr(label.target_sql).cast("double")
    return events.select(
        *[named(name) for name in label.keys],
        *request,
        named(label.source.time).cast("timestamp").alias(TIME),
        F.when(F.abs(target) <= float(np.finfo(np.float32).max), target).alias(TARGET),
    )


def training_set(project: Project, events: Mapping[str, DataFrame], labels: DataFrame) -> DataFrame:
    """One row a label that has a key, a time and a target.

    Columns: `_key` STRING, `_time` micros, `_target` DOUBLE, the model's inputs and the slices' (DOUBLE or
    STRING).
    """
    keys = key_column(project.keys)
    usable = labels.where(keys.isNotNull() & F.col(TIME).isNotNull() & (F.abs(TARGET) < float("inf")))
    known = with_derived(project, point_in_time(project, events, usable, TIME))
    inputs = [input_column(given) for given in (*model_inputs(project), *slice_inputs(project))]
    return known.select(keys.alias(KEY), F.unix_micros(TIME).alias(TIME), TARGET, *inputs)
