"""Features from the lake's events by the path of training sets: what served values are compared with."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.aggregates.base import Aggregate
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.folds.merge import plain
from anabranch.folds.spark import point_in_time
from anabranch.values.keys import key_text
from anabranch.values.times import from_micros


def recompute(
    project: Project, events: Mapping[str, DataFrame], keys: DataFrame, at: int
) -> dict[str, dict[str, object]]:
    """Features at `at` of `keys` (column `key`) from distinct events, by key."""
    parts = F.split("key", "\x1f")
    rows = keys.select(
        *[parts[i].alias(name) for i, name in enumerate(project.keys)], F.lit(from_micros(at)).alias("_at")
    )
    found = point_in_time(project, events, rows, "_at").toArrow().to_pylist()
    return {key_text(project.keys, row): _plain_row(project.columns, row) for row in found}


def _plain_row(columns: Sequence[FeatureColumn], row: Mapping[str, object]) -> dict[str, object]:
    return {column.name: plain(row[column.name], column.type) for column in columns}


def with_witnesses(project: Project) -> Project:
    """The project with the exact features that judge its approximate ones beside them."""
    views = []
    for view in project.views:
        more = {
            _witness(name, role): found
            for name, aggregate in view.features.items()
            for role, found in aggregate.witnesses().items()
        }
        views.append(replace(view, features={**view.features, **more}))
    return replace(project, views=tuple(views))


def _witness(feature: str, role: str) -> str:
    return f"w{hashlib.sha256(feature.encode()).hexdigest()[:8]}_{role}"


def agrees(aggregate: Aggregate, column: FeatureColumn, row: Mapping[str, object], served: object) -> bool:
    """Is a served value what a row of `recompute`, made with witnesses, says it is?"""
    suffix = column.name.removeprefix(column.feature)
    witnessed = {role: row[_witness(column.feature, role) + suffix] for role in aggregate.witnesses()}
    return aggregate.agrees(row[column.name], served, witnessed)
