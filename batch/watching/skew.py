"""Training/serving skew: features of served answers, recomputed from the lake as of the time of the answer.

Training reads the lake, serving reads the tables of batch and stream; both must give the model the same
values. Only events that had arrived by the time of the answer count. Left out are degraded answers, answers
of batch versions that are no longer known, and answers for a key whose event arrived at about the same
time, because the stream may or may not have folded it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.events.cells import named
from anabranch.events.copies import distinct_among
from anabranch.folds.spark import key_column, point_in_time, with_derived
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.values.keys import key_values, show_key
from anabranch.values.names import quoted
from anabranch.values.texts import json_text
from anabranch.values.times import SECOND, from_micros

MOST = 200
_IN_FLIGHT = 30 * SECOND
_CLOSE = 1e-5  # of float32, which models read


@dataclass(frozen=True, kw_only=True)
class Skew:
    """The skew of one model version with one batch version.

    `answers` were recomputed; `unsettled` were left out because an event arrived at about the same time. Of
    `values` features that came from the store, `differing` differ; `features` counts these by feature.
    """

    version: str
    batch_version: int
    answers: int
    unsettled: int
    values: int
    differing: int
    features: Mapping[str, int]
    example: str = ""

    @property
    def share(self) -> float:
        """The share of values that differ."""
        return self.differing / self.values if self.values else 0.0


def skew(
    stores: Stores, project: Project, scorer: Scorer, manifest: Manifest, predictions: DataFrame
) -> Skew | None:
    """Skew in a sample of the predictions of one model version with one batch version; None without any."""
    views = _recomputable(project)
    known = _known(project)
    sample = _sample(predictions, scorer.version, manifest.batch_version)
    if not sample or not set(known) & set(scorer.features):
        return None
    asked = _rows(stores.spark, project, sample)
    events = {
        name: _events(stores, project, name, sample, manifest.until)
        for name in {view.source.name for view in views}
    }
    try:
        unsettled = _in_flight(views, events, asked)
        found = point_in_time(
            Project(name=project.name, views=tuple(views)), events, asked, "_at", as_known=True
        )
        derived = [column.name for column in project.derived_columns if column.name in known]
        again = with_derived(project, found, derived).toArrow().to_pylist()
    finally:
        for frame in events.values():
            frame.unpersist()
    settled = [row for row in sample if row["prediction_id"] not in unsettled]
    recomputed = {row["_id"]: row for row in again}
    return replace(_compared(project, scorer, manifest, settled, recomputed), unsettled=len(unsettled))


def _recomputable(project: Project) -> list[FeatureView]:
    """Own views whose features the lake gives exactly; of others' an answer does not name the version."""
    return [
        view
        for view in project.views
        if view.use.owner is None and all(one.exactly is None for one in view.layout.bounds.values())
    ]


def _known(project: Project) -> set[str]:
    """Features, and derived ones, whose values the lake and the recorded request give exactly."""
    stored = {column.name for view in _recomputable(project) for column in view.columns}
    given = {*project.keys, *(column.name for column in project.request_columns)}
    return stored | {one.name for one in project.derived_columns if {*one.needs} <= stored | given}


def _sample(predictions: DataFrame, version: str, batch_version: int) -> list[Row]:
    mine = predictions.where((F.col("model_version") == version) & (F.col("batch_version") == batch_version))
    # An event that came with a question may be in the lake or not: such a prediction has no one true value.
    usual = "key IS NOT NULL AND NOT degraded AND get_json_object(asked, '$.events') IS NULL"
    chosen = mine.where(usual).select(
        "prediction_id", "key", F.unix_micros("as_of").alias("as_of"), "asked", "used"
    )
    return chosen.orderBy(F.xxhash64("prediction_id"), "prediction_id").limit(MOST).collect()


def _rows(spark: SparkSession, project: Project, sample: Sequence[Row]) -> DataFrame:
    request = project.request_columns
    names = ", ".join(f"{quoted(name)} STRING" for name in (*project.keys, *(one.name for one in request)))
    rows = [
        (
            *key_values(project.keys, row["key"]).values(),
            *_requested(project, row["asked"]),
            from_micros(row["as_of"]),
            row["prediction_id"],
        )
        for row in sample
    ]
    frame = spark.createDataFrame(rows, f"{names}, _at TIMESTAMP, _id STRING")
    typed = {one.name: F.expr(one.type.cell_sql(quoted(one.name))) for one in request}
    return frame.withColumns(typed) if typed else frame


def _requested(project: Project, asked: str) -> list[str | None]:
    """The columns of a recorded request, as text."""
    values = json.loads(asked).get("request") or {}
    found = [values.get(column.name) for column in project.request_columns]
    return [None if value is None else json_text(value) for value in found]


def _events(stores: Stores, project: Project, source: str, sample: Sequence[Row], until: int) -> DataFrame:
    """The distinct events of the sample's keys; of files only those that the batch version covers."""
    spark, lake = stores.spark, stores.lake
    keys = [key_values(project.keys, row["key"]) for row in sample]
    asked = [
        named(view.keys[0]).cast("string").isin(list({key[view.asked[0]] for key in keys}))
        for view in project.views
        if view.feed == source
    ]
    everything = lake.events(
        spark, project, project.sources[source], version=lake.versions(spark, project).get(source)
    )
    chosen = everything.where(reduce(lambda one, other: one | other, asked))
    found = distinct_among(project.sources[source], chosen, everything, few=True).drop("_again")
    return found.where(F.col("_file").isNull() | (F.unix_micros("_arrival") < until)).persist()


def _in_flight(views: Sequence[FeatureView], events: Mapping[str, DataFrame], asked: DataFrame) -> set[str]:
    """Ids of the predictions that were made at about the time an event of their key arrived."""
    found: set[str] = set()
    for view in views:
        came = (
            events[view.source.name]
            .where("_topic IS NOT NULL")
            .select(key_column(view.keys).alias("_key"), F.unix_micros("_arrival").alias("_came"))
        )
        rows = asked.select(key_column(view.keys).alias("_key"), F.unix_micros("_at").alias("_moment"), "_id")
        near = came.join(F.broadcast(rows), "_key").where(
            F.abs(F.col("_came") - F.col("_moment")) < _IN_FLIGHT
        )
        found |= {row["_id"] for row in near.select("_id").distinct().collect()}
    return found


def _compared(
    project: Project,
    scorer: Scorer,
    manifest: Manifest,
    sample: Sequence[Row],
    again: Mapping[str, Mapping[str, object]],
) -> Skew:
    known, types = _known(project), project.inputs
    used = [json.loads(row["used"]) for row in sample]
    given = [json.loads(row["asked"]).get("features") or {} for row in sample]
    # Both in the model's coding: times as numbers, texts as codes.
    expected = scorer.matrix(
        {
            name: [types[name].value(again[row["prediction_id"]].get(name)) for row in sample]
            for name in scorer.features
        }
    )
    served = scorer.matrix({name: [one.get(name) for one in used] for name in scorer.features})
    same = np.isclose(expected, served, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
    compared = np.array(
        [
            [name in known and {name, *project.needed((name,))}.isdisjoint(one) for name in scorer.features]
            for one in given
        ],
        dtype=bool,
    ).reshape(same.shape)
    wrong = compared & ~same
    example = ""
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        name, key = scorer.features[column], show_key(project.keys, sample[row]["key"])
        expected_value = again[sample[row]["prediction_id"]].get(name)
        example = f"{name} of {key}: {expected_value!r} in the lake, {used[row].get(name)!r} when served"
    return Skew(
        version=scorer.version,
        batch_version=manifest.batch_version,
        answers=len(sample),
        unsettled=0,
        values=int(compared.sum()),
        differing=int(wrong.sum()),
        features={
            name: int(count) for name, count in zip(scorer.features, wrong.sum(axis=0), strict=True) if count
        },
        example=example,
    )
