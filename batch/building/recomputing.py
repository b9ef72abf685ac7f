"""Features recomputed from the lake's events by the path of training sets, to compare served values with."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.aggregates.base import Aggregate
from anabranch.declare.derived import DerivedColumn
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.folds.spark import point_in_time, with_derived
from anabranch.values.keys import key_text
from anabranch.values.times import from_micros


def recompute(
    project: Project, events: Mapping[str, DataFrame], keys: DataFrame, at: int
) -> dict[str, dict[str, object]]:
    """The features of `keys` (column `key`) at `at` (microseconds) from distinct events, by key.

    Only of views whose events are given.
    """
    parts = F.split("key", "\x1f")
    names = [parts[i].alias(name) for i, name in enumerate(project.keys)]
    asked = keys.select(*names, F.lit(from_micros(at)).alias("_at"))
    views = [view for view in project.views if view.feed in events]
    columns: list[FeatureColumn | DerivedColumn] = [column for view in views for column in view.columns]
    there = {
        *project.keys,
        *(column.name for column in columns),
        *(one.name for one in project.request_columns),
    }
    derived = [column for column in project.derived_columns if {*column.needs} <= there]
    known = _without_request(derived, project, point_in_time(project, events, asked, "_at"))
    rows = known.toArrow().to_pylist()
    return {key_text(project.keys, row): _plain_row([*columns, *derived], row) for row in rows}


def _without_request(columns: Sequence[DerivedColumn], project: Project, rows: DataFrame) -> DataFrame:
    """The rows with the derived features; those that need the request are NULL, as there is none."""
    known = with_derived(project, rows, [column.name for column in columns if not column.asked])
    blank = {column.name: F.lit(None).cast(column.type.spark) for column in columns if column.asked}
    return known.withColumns(blank) if blank else known


def _plain_row(
    columns: Sequence[FeatureColumn | DerivedColumn], row: Mapping[str, object]
) -> dict[str, object]:
    return {column.name: column.type.value(row[column.name]) for column in columns}


def with_witnesses(project: Project) -> Project:
    """The project with further, exact features (witnesses) by which its approximate ones are judged."""
    views = []
    for view in project.views:
        more = {
            _witness(name, role): witness
            for name, aggregate in view.parts.items()
            for role, witness in aggregate.witnesses().items()
        }
        views.append(replace(view, features={**view.features, **more}))
    return replace(project, views=tuple(views))


def _witness(part: str, role: str) -> str:
    return f"w{hashlib.sha256(part.encode()).hexdigest()[:8]}_{role}"


def differs(expected: object, served: object) -> bool:
    """Whether two values of a derived feature differ by more than rounding."""
    if isinstance(expected, float) and isinstance(served, float):
        same = math.isclose(expected, served, rel_tol=1e-9) or (math.isnan(expected) and math.isnan(served))
        return not same
    return expected != served


def derived_of(
    spark: SparkSession,
    project: Project,
    keys: Sequence[Mapping[str, str]],
    rows: Sequence[Mapping[str, object]],
) -> list[dict[str, object]]:
    """The derived features that need no request, by Spark from served features."""
    columns = [column for column in project.view_columns if not column.type.nested]
    table = {
        **{name: pa.array([key[name] for key in keys], pa.string()) for name in project.keys},
        **{one.name: pa.array([row[one.name] for row in rows], one.type.arrow) for one in columns},
        "_n": pa.array(range(len(rows)), pa.int64()),
    }
    frame = spark.createDataFrame(pa.table(table))
    found = _without_request(project.derived_columns, project, frame).orderBy("_n").toArrow().to_pylist()
    return [_plain_row(project.derived_columns, row) for row in found]


def agrees(aggregate: Aggregate, column: FeatureColumn, row: Mapping[str, object], served: object) -> bool:
    """Does a served value agree with a row of `recompute`, made with witnesses?"""
    suffix = column.name.removeprefix(column.prefix + column.feature)
    suffix = suffix.removesuffix(f"_{column.category}") if column.category else suffix
    witnessed = {
        role: row[column.prefix + _witness(column.part, role) + suffix] for role in aggregate.witnesses()
    }
    return aggregate.agrees(row[column.name], served, witnessed)
