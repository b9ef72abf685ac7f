"""Training/serving skew: answers that were given, with their features made again from the lake as of the time they were given.

Training reads the lake, serving reads what batch and stream left in tables; both are to give the model the same values. Only events
that had arrived by then count. Left aside are answers that said they are degraded, answers of batch versions that are no longer
known, and those of keys that an event reached at that very moment, when nobody can say whether the stream had it yet.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.events.copies import distinct_among
from anabranch.folds.spark import key_column, point_in_time
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_values, show_key
from anabranch.values.times import SECOND, from_micros

MOST = 200
_IN_FLIGHT = 30 * SECOND
_CLOSE = 1e-5  # of float32, which models read


@dataclass(frozen=True, kw_only=True)
class Skew:
    """`answers` of one model version and batch version were made again, `unsettled` were left aside.

    Of `values` features that came from the store `differing` were other ones, counted by feature in `features`.
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
        """Of values that differ."""
        return self.differing / self.values if self.values else 0.0


def skew(
    spark: SparkSession, lake: Lake, project: Project, scorer: Scorer, manifest: Manifest, made: DataFrame
) -> Skew | None:
    """Compare a sample of the predictions `made` by the scorer's version with the batch version of `manifest`; None when there is none."""
    views = [
        view for view in project.views if all(bound.exactly is None for bound in view.layout.bounds.values())
    ]
    known = [column.name for view in views for column in view.columns]
    sample = _sample(made, scorer.version, manifest.batch_version)
    if not sample or not set(known) & set(scorer.features):
        return None
    asked = _rows(spark, project, sample)
    events = {
        name: _events(spark, lake, project, name, sample, manifest.until)
        for name in {view.source.name for view in views}
    }
    try:
        unsettled = _in_flight(views, events, asked)
        again = (
            point_in_time(Project(name=project.name, views=tuple(views)), events, asked, "_at", as_known=True)
            .toArrow()
            .to_pylist()
        )
    finally:
        for frame in events.values():
            frame.unpersist()
    settled = [row for row in sample if row["prediction_id"] not in unsettled]
    return _compared(
        project, scorer, manifest, settled, {row["_id"]: row for row in again}, known, len(unsettled)
    )


def _sample(made: DataFrame, version: str, batch_version: int) -> list[Row]:
    mine = made.where((F.col("model_version") == version) & (F.col("batch_version") == batch_version))
    chosen = mine.where("key IS NOT NULL AND NOT degraded").select(
        "prediction_id", "key", F.unix_micros("as_of").alias("as_of"), "asked", "used"
    )
    return chosen.orderBy(F.xxhash64("prediction_id"), "prediction_id").limit(MOST).collect()


def _rows(spark: SparkSession, project: Project, sample: Sequence[Row]) -> DataFrame:
    names = ", ".join(f"`{name}` STRING" for name in project.keys)
    rows = [
        (*key_values(project.keys, row["key"]).values(), from_micros(row["as_of"]), row["prediction_id"])
        for row in sample
    ]
    return spark.createDataFrame(rows, f"{names}, _at TIMESTAMP, _id STRING")


def _events(
    spark: SparkSession, lake: Lake, project: Project, source: str, sample: Sequence[Row], until: int
) -> DataFrame:
    """The distinct events of the sample's keys: of files those that the batch version has."""
    keys = [key_values(project.keys, row["key"]) for row in sample]
    asked = [
        F.col(f"`{name}`").cast("string").isin(list({key[name] for key in keys}))
        for view in project.views_of(source)
        for name in view.keys[:1]
    ]
    everything = lake.events(
        spark, project, project.sources[source], version=lake.versions(spark, project).get(source)
    )
    chosen = everything.where(reduce(lambda one, other: one | other, asked))
    found = distinct_among(project.sources[source], chosen, everything, few=True).drop("_again")
    return found.where(F.col("_file").isNull() | (F.unix_micros("_arrival") < until)).persist()


def _in_flight(views: Sequence[FeatureView], events: Mapping[str, DataFrame], asked: DataFrame) -> set[str]:
    """Predictions that were made while an event of their key arrived."""
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
    known: Sequence[str],
    unsettled: int,
) -> Skew:
    types = {column.name: column.type for column in project.columns}
    used = [json.loads(row["used"]) for row in sample]
    given = [json.loads(row["asked"]).get("features") or {} for row in sample]
    # Both as the model sees them: times as numbers, texts as their codes.
    expected = scorer.matrix(
        {
            name: [types[name].value(again[row["prediction_id"]].get(name)) for row in sample]
            for name in scorer.features
        }
    )
    served = scorer.matrix({name: [one.get(name) for one in used] for name in scorer.features})
    same = np.isclose(expected, served, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
    compared = np.array(
        [[name in known and name not in one for name in scorer.features] for one in given], dtype=bool
    ).reshape(same.shape)
    wrong = compared & ~same
    example = ""
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        name, key = scorer.features[column], show_key(project.keys, sample[row]["key"])
        example = f"{name} of {key}: {again[sample[row]['prediction_id']].get(name)!r} by the lake, {used[row].get(name)!r} when served"
    return Skew(
        version=scorer.version,
        batch_version=manifest.batch_version,
        answers=len(sample),
        unsettled=unsettled,
        values=int(compared.sum()),
        differing=int(wrong.sum()),
        features={
            name: int(count) for name, count in zip(scorer.features, wrong.sum(axis=0), strict=True) if count
        },
        example=example,
    )
