"""Features recomputed from the lake's events by the path of training sets, to compare served values with."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.aggregates.base import Aggregate
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.folds.spark import point_in_time
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
    rows = point_in_time(project, events, asked, "_at").toArrow().to_pylist()
    columns = [column for view in project.views if view.feed in events for column in view.columns]
    return {key_text(project.keys, row): _plain_row(columns, row) for row in rows}


def _plain_row(columns: Sequence[FeatureColumn], row: Mapping[str, object]) -> dict[str, object]:
    return {column.name: column.type.value(row[column.name]) for column in columns}


def with_witnesses(project: Project) -> Project:
    """The project with further, exact features (witnesses) by which its approximate ones are judged."""
    views = []
    for view in project.views:
        more = {
            _witness(name, role): witness
            for name, aggregate in view.features.items()
            for role, witness in aggregate.witnesses().items()
        }
        views.append(replace(view, features={**view.features, **more}))
    return replace(project, views=tuple(views))


def _witness(feature: str, role: str) -> str:
    return f"w{hashlib.sha256(feature.encode()).hexdigest()[:8]}_{role}"


def agrees(aggregate: Aggregate, column: FeatureColumn, row: Mapping[str, object], served: object) -> bool:
    """Does a served value agree with a row of `recompute`, made with witnesses?"""
    suffix = column.name.removeprefix(column.prefix + column.feature)
    witnessed = {
        role: row[column.prefix + _witness(column.feature, role) + suffix] for role in aggregate.witnesses()
    }
    return aggregate.agrees(row[column.name], served, witnessed)
