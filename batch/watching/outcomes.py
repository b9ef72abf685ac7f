"""Labels that arrived later, joined to the predictions that they judge, and the accuracy of these.

A label judges, for every model version, the last prediction for its key before the label's event time and at
most the declared horizon before it. Earlier predictions for the key are not judged by this label.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F

from anabranch.declare.models import Model, Slice
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.events.cells import named
from anabranch.events.copies import distinct
from anabranch.folds.spark import key_column
from anabranch.stores.opened import Stores
from anabranch.values.times import from_micros
from batch.evaluation.assessment import JudgedRows, intervals, slice_parts
from batch.evaluation.fairness import Fairness, fairness_of
from batch.evaluation.named_classes import class_codes
from batch.training.preparing import TARGET, TIME
from batch.training.served import join_labels
from batch.training.training_sets import label_rows

MOST = 200_000
"""Judged predictions that are collected on the driver; of more, a sample by a hash of the key."""
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class JudgedPredictions:
    """Predictions with targets; keys are numbers, times microseconds, `used` holds values by feature.

    Of several classes targets are their names, and `scores` has the scores by class.
    """

    version: NDArray[np.object_]
    key: NDArray[np.int64]
    time: NDArray[np.int64]
    score: NDArray[np.float64]
    target: NDArray[Any]
    used: Sequence[Mapping[str, object]]
    scores: Sequence[Mapping[str, float]] = ()

    def rows(
        self, mask: NDArray[np.bool_], threshold: float, classes: Sequence[str | int] = ()
    ) -> JudgedRows:
        """The chosen predictions, as metrics are computed of them; `classes` are those of their version."""
        target, scores = self.target[mask], self.score[mask]
        if classes:
            by_class = [self.scores[place] for place in np.flatnonzero(mask).tolist()]
            wide = [[one.get(str(name), 0.0) for name in classes] for one in by_class]
            target = class_codes(target.tolist(), classes)
            scores = np.array(wide, dtype=np.float64).reshape(-1, len(classes))
        return JudgedRows(target=target, scores=scores, groups=self.key[mask], threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The declared metric of one version on `labels` labels of a slice ("" for all).

    `period` is the start of a period, None for the whole time. `value` is None where the metric is not
    defined, as with labels of one class only. `low` and `high` bound 95%; slices of a period have no
    bounds, being many and of few labels.
    """

    version: str
    part: str
    labels: int
    value: float | None
    low: float | None = None
    high: float | None = None
    period: datetime | None = None


def judged(stores: Stores, project: Project, label: Label, since: int, horizon: int) -> JudgedPredictions:
    """Labels with an event time at or after `since` (microseconds), with the predictions that they judge.

    Of copies of a label the first with such a time counts.
    """
    spark, lake = stores.spark, stores.lake
    predictions = lake.predictions(spark, project, from_micros(since - horizon)).where(
        "key IS NOT NULL AND score IS NOT NULL AND model_version IS NOT NULL"
    )
    # The lake knows the bounds of times in each file, so files older than the window are not read.
    recent = lake.events(spark, project, label.source).where(
        named(label.source.time) >= F.lit(from_micros(since))
    )
    classes = project.task == "classes"
    labels = label_rows(label, distinct(label.source, recent), task=project.task)
    keyed = labels.select(
        key_column(label.keys).alias("key"), F.unix_micros(TIME).alias("time"), F.col(TARGET).alias("target")
    )
    finite = F.col("target").isNotNull() if classes else F.abs("target") < float("inf")
    usable = keyed.where((F.col("time") >= since) & F.col("key").isNotNull() & finite)
    if classes:  # a champion from before the label was declared with classes has none
        predictions = predictions.where("scores IS NOT NULL")
    joined = join_labels(predictions, usable, horizon)
    return _collected(joined.orderBy(F.xxhash64("key"), "key", "time").limit(MOST).toArrow())


def _collected(table: pa.Table) -> JudgedPredictions:
    _, key = np.unique(np.array(table.column("key").to_pylist(), dtype=str), return_inverse=True)
    return JudgedPredictions(
        version=np.array(table.column("model_version").to_pylist(), dtype=object),
        key=key.astype(np.int64),
        time=table.column("time").to_numpy().astype(np.int64),
        score=table.column("score").to_numpy().astype(np.float64),
        target=_targets(table.column("target")),
        used=[json.loads(text) for text in table.column("used").to_pylist()],
        scores=[json.loads(text) for text in table.column("scores").to_pylist()]
        if "scores" in table.column_names
        else (),
    )


def _targets(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def accuracies(
    model: Model,
    found: JudgedPredictions,
    thresholds: Mapping[str, float],
    period: int,
    classes: Mapping[str, Sequence[str | int]] | None = None,
) -> list[Accuracy]:
    """Accuracy of every version, over all and by declared slice: over the whole time, then by period.

    Of several classes a version that is not in `classes`, which are by version, is left out.
    """
    accuracy: list[Accuracy] = []
    starts = found.time // period * period
    for version in sorted(set(found.version.tolist()), key=_numbered):
        known = (classes or {}).get(version, ())
        if found.scores and not known:
            continue
        mine: NDArray[np.bool_] = np.asarray(found.version == version)
        named = _parts(model.declared_slices, found, mine)
        parts = [("", mine), *[(f"{feature} {part}", mask) for feature, part, mask in named]]
        masks: list[tuple[str, datetime | None, NDArray[np.bool_]]] = [
            (part, None, mask) for part, mask in parts
        ]
        for start in np.unique(starts[mine]).tolist():
            masks += [(part, from_micros(start), mask & (starts == start)) for part, mask in parts]
        for part, moment, mask in masks:
            if mask.any() or moment is None:
                rows = found.rows(mask, thresholds.get(version, 0.5), known)
                accuracy.append(_accuracy(model.metric, rows, version, part, moment))
    return accuracy


def fairness_by_version(
    model: Model, found: JudgedPredictions, thresholds: Mapping[str, float]
) -> dict[str, Fairness]:
    """The rates of every version by declared slice, over the whole time; empty for other than two classes."""
    if model.task != "class" or not model.declared_slices:
        return {}
    by_version = {}
    for version in sorted(set(found.version.tolist()), key=_numbered):
        mine: NDArray[np.bool_] = np.asarray(found.version == version)
        parts = [
            (feature, part, found.rows(mask, thresholds.get(version, 0.5)))
            for feature, part, mask in _parts(model.declared_slices, found, mine)
        ]
        by_version[version] = fairness_of(parts)
    return by_version


def _parts(
    slices: Sequence[Slice], found: JudgedPredictions, mine: NDArray[np.bool_]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Feature, part and mask of each slice of `mine`, the judged predictions of one version."""
    places = np.flatnonzero(mine)
    used = [found.used[place] for place in places.tolist()]
    for one in slices:
        if not all(one.feature in given for given in used):
            continue  # the version does not read it, so predictions do not hold it
        values = np.empty(len(used), dtype=object)
        values[:] = [given[one.feature] for given in used]
        for part, inside in slice_parts(one, values):
            mask = np.zeros_like(mine)
            mask[places[inside]] = True
            yield one.feature, part, mask


def _accuracy(metric: str, rows: JudgedRows, version: str, part: str, period: datetime | None) -> Accuracy:
    labels = len(rows.target)
    if len(np.unique(rows.target)) < 2:
        return Accuracy(version=version, part=part, labels=labels, value=None, period=period)
    low: float | None = None
    high: float | None = None
    if not part or period is None:
        low, high = intervals([metric], rows, _SEED).get(metric, (None, None))
    value = rows.measure(metric)
    return Accuracy(version=version, part=part, labels=labels, value=value, low=low, high=high, period=period)


def _numbered(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
