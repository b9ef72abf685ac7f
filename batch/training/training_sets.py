"""Training sets: label events from the lake, each with the features that were known strictly before it."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.aggregates.base import TOLERANCE
from anabranch.declare.models import MOST_CLASSES
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.folds.arrow import ARRIVAL
from anabranch.folds.spark import (
    counted_sights,
    key_column,
    known_columns,
    own_identity,
    request_columns,
    sights,
    with_derived,
)
from anabranch.progress import Progress
from anabranch.stores.models.inputs import ModelInput, model_inputs, slice_inputs
from anabranch.stores.models.shipping import input_column
from anabranch.stores.opened import Stores
from anabranch.values.names import quoted
from anabranch.values.times import format_time
from batch.evaluation.named_classes import check_named_classes
from batch.evaluation.splits import check_classes
from batch.training.job import TrainingJob, learnable
from batch.training.preparing import KEY, SIGHT, TARGET, TIME
from batch.training.spreading import check_memory, training_size

AUDITED = 200_000
"""Labels that are examined for hindsight; of more, a sample by a hash."""


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
    known = " from what had arrived by then" if model.as_known else ""
    own_events = ", with its own event" if label.own_event else ""
    progress.step(f"training set: features strictly before every label{own_events}{known}")
    own = events[label.source.name]
    labels = label_rows(label, own, request_columns(project, own), project.task)
    total, latest = checked_labels(project, label, labels)
    if model.as_known:
        check_arrived(project, events, latest)
    return training_set(project, events, labels, min(1.0, AUDITED / max(total, 1))), total


def checked_labels(project: Project, label: Label, labels: DataFrame) -> tuple[int, int | None]:
    """The number of label events and the latest time (microseconds); `labels` as `label_rows` makes them.

    Raises AnabranchError for targets that the metric is not for.
    """
    latest = F.max(F.unix_micros(TIME)).alias("latest")
    if project.task == "classes":
        total = _checked_classes(label, labels)
        as_known = project.model is not None and project.model.as_known
        return total, labels.agg(latest).collect()[0]["latest"] if as_known else None
    target = F.when(F.abs(TARGET) < float("inf"), F.col(TARGET))
    strange = F.when(~target.isin(0.0, 1.0), target)
    (told,) = labels.agg(
        F.count(F.lit(1)).alias("total"),
        F.array_compact(F.array(F.min(strange), F.min(target), F.max(target))).alias("found"),
        latest,
    ).collect()
    if project.task == "class":
        check_classes(list(dict.fromkeys(told["found"])), told["total"])
    return told["total"], told["latest"]


def check_arrived(project: Project, events: Mapping[str, DataFrame], latest: int | None) -> None:
    """Raise AnabranchError when no event had arrived by `latest` (microseconds), the latest row's time.

    Nothing is known of rows whose events were all landed afterwards.
    """
    feeds = sorted({view.feed for view in project.views})
    firsts = [events[feed].agg(F.min(F.unix_micros(ARRIVAL)).alias("first")) for feed in feeds]
    (row,) = reduce(DataFrame.unionAll, firsts).agg(F.min("first")).collect()
    if latest is not None and row[0] is not None and row[0] >= latest:
        raise AnabranchError(
            f"nothing was known at any row's time: the first event of {', '.join(feeds)} arrived at "
            f"{format_time(row[0])}, and the latest row is of {format_time(latest)}. The arrival of an event "
            "from a file is the time of its landing: leave out as_known (--as-known) for history that was "
            "loaded afterwards"
        )


def _checked_classes(label: Label, labels: DataFrame) -> int:
    """The number of label events; raises AnabranchError for classes that no model can have."""
    found = labels.groupBy(TARGET).count().limit(MOST_CLASSES * 10).collect()
    counts = {row[TARGET]: int(row["count"]) for row in found}
    total = sum(counts.values()) if len(counts) < MOST_CLASSES * 10 else labels.count()
    declared = tuple(map(str, label.classes))
    check_named_classes(sorted(name for name in counts if name is not None), total, declared)
    return total


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


def label_rows(
    label: Label, events: DataFrame, request: Sequence[Column] = (), task: str = "class"
) -> DataFrame:
    """One row a label event: its key, its request, `_time` and `_target` DOUBLE; each may be NULL.

    Of a label with `own_event` also `_own`, the event's identity, by which its features count it.
    A target that is no number, or that 32 bits do not hold, in which models compute, is NULL. Of the task
    ``classes`` the target is STRING, the name of the class; an empty text is NULL.
    """
    named_class = F.expr(label.target_sql).cast("string")
    target = F.expr(label.target_sql).cast("double")
    return events.select(
        *[named(name) for name in label.keys],
        *request,
        named(label.source.time).cast("timestamp").alias(TIME),
        (
            F.when(named_class != "", named_class)
            if task == "classes"
            else F.when(F.abs(target) <= float(np.finfo(np.float32).max), target)
        ).alias(TARGET),
        *([own_identity(label.source)] if label.own_event else []),
    )


def training_set(
    project: Project, events: Mapping[str, DataFrame], labels: DataFrame, share: float = 1.0
) -> DataFrame:
    """One row a label that has a key, a time and a target.

    Columns: `_key` STRING, `_time` micros, `_target` DOUBLE (of several classes STRING), the model's inputs
    and the slices' (DOUBLE or STRING), and `_sight`: `events`, `late` and `loaded` of all views
    (anabranch.folds.spark.sights), and `changed`, the inputs that events which had not arrived change, by
    their place, with their other value: as
    known, or with hindsight where the model learns as known. Without that only a `share` of the rows is
    examined so, and `_sight` is NULL of the others.
    """
    keys = key_column(project.keys)
    as_known = project.model is not None and project.model.as_known
    sound = F.col(TARGET).isNotNull() if project.task == "classes" else F.abs(TARGET) < float("inf")
    usable = labels.where(keys.isNotNull() & F.col(TIME).isNotNull() & sound)
    found, names = sights(
        project, events, usable, TIME, trust_files=as_known, share=1.0 if as_known else share
    )
    inputs, given = model_inputs(project), (*model_inputs(project), *slice_inputs(project))
    values = F.struct(*[input_column(one) for one in given])
    hindsight = with_derived(project, found).withColumns(
        {_HINDSIGHT: values, SIGHT: F.when(_examined(names), F.struct(*counted_sights(names)))}
    )
    known = known_columns(project, events, names)
    kept = [column for column in usable.columns if column not in known]
    rest = [*[named(name) for name in kept], *[value.alias(name) for name, value in known.items()]]
    both = with_derived(project, hindsight.select(*rest, _HINDSIGHT, SIGHT)).withColumn(_KNOWN, values)
    learnt, other = (_KNOWN, _HINDSIGHT) if as_known else (_HINDSIGHT, _KNOWN)
    changed = F.when(F.col(f"{SIGHT}.late") > 0, _changed(inputs, learnt, other)).alias("changed")
    return both.select(
        keys.alias(KEY),
        F.unix_micros(TIME).alias(TIME),
        TARGET,
        *[F.col(f"{learnt}.{quoted(one.name)}").alias(one.name) for one in given],
        F.when(F.col(SIGHT).isNotNull(), F.struct(f"{SIGHT}.*", changed)).alias(SIGHT),
    )


def _examined(names: Sequence[str]) -> Column:
    return F.col(names[0]).isNotNull() if names else F.lit(False)


_HINDSIGHT, _KNOWN = "_hindsight", "_known"


def _changed(inputs: Sequence[ModelInput], learnt: str, other: str) -> Column:
    """The other values of the inputs that have another one, beyond rounding."""
    entries = []
    for place, given in enumerate(inputs):
        one, two = (F.col(f"{side}.{quoted(given.name)}") for side in (learnt, other))
        same = one.eqNullSafe(two)
        if given.kind != "text":
            close = F.abs(one - two) <= TOLERANCE * F.greatest(F.abs(one), F.abs(two))
            same = same | F.coalesce(close, F.lit(False))
        number, text = (two, F.lit(None)) if given.kind != "text" else (F.lit(None), two)
        entry = F.struct(
            F.lit(place).alias("place"),
            number.cast("double").alias("number"),
            text.cast("string").alias("text"),
        )
        entries.append(F.when(~same, entry))
    return F.array_compact(F.array(*entries))
