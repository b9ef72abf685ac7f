"""Verification: recompute features from the lake and compare them, feature by feature, with what is served."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.views import entities
from features.aggregates.base import Aggregate
from features.declaration import FeatureColumn, Project
from features.keys import key_text, key_values
from features.merge import plain
from features.spark import point_in_time
from features.times import from_micros
from stores.answers import Answers, now_micros
from stores.lake import Lake
from stores.progress import Progress

_AT_ONCE = 200


@dataclass
class Compared:
    """One feature: keys whose values agree, keys whose values do not, the largest error of a float, and one example."""

    matches: int = 0
    mismatches: int = 0
    largest_error: float = 0.0
    example: str | None = None


@dataclass
class Verified:
    """Features recomputed for `keys` keys at `at` (microseconds); `degraded` counts answers that said they might not be exact."""

    keys: int
    at: int
    features: dict[str, Compared] = field(default_factory=dict)
    degraded: int = 0
    seconds: float = 0.0

    @property
    def mismatches(self) -> int:
        """Over all features and keys."""
        return sum(found.mismatches for found in self.features.values())


def verify(spark: SparkSession, lake: Lake, answers: Answers, project: Project, sample: int | None, progress: Progress) -> Verified:
    """Compare `sample` keys (None: all). The lake must hold every event the stream has read (land first)."""
    started = time.monotonic()
    events = lake.distinct_events(spark, project)
    keys = entities(project, events)
    chosen = keys if sample is None else keys.orderBy(F.xxhash64("key")).limit(sample)
    at = now_micros()
    progress.step("features from the lake")
    expected = recompute(with_witnesses(project), events, chosen, at)
    progress.step("features as served")
    verified = Verified(keys=len(expected), at=at, features={column.name: Compared() for column in project.columns})
    texts = list(expected)
    aggregates = {column.name: view.features[column.feature] for view in project.views for column in view.columns}
    for start in range(0, len(texts), _AT_ONCE):
        chunk = texts[start : start + _AT_ONCE]
        for text, answer in zip(chunk, answers.features(project, [key_values(project.keys, text) for text in chunk], at), strict=True):
            verified.degraded += answer.degraded is not None
            for column in project.columns:
                _compare(verified.features[column.name], aggregates[column.name], column, text, expected[text], answer.values[column.name])
        progress.advance(start + len(chunk), len(texts))
    verified.seconds = time.monotonic() - started
    return verified


def recompute(project: Project, events: Mapping[str, DataFrame], keys: DataFrame, at: int) -> dict[str, dict[str, object]]:
    """Features at `at` of `keys` (column `key`) from the lake's distinct events, by key."""
    parts = F.split("key", "\x1f")
    rows = keys.select(*[parts[i].alias(name) for i, name in enumerate(project.keys)], F.lit(from_micros(at)).alias("_at"))
    found = point_in_time(project, events, rows, "_at").toArrow().to_pylist()
    return {key_text(project.keys, row): _plain_row(project.columns, row) for row in found}


def _plain_row(columns: Sequence[FeatureColumn], row: Mapping[str, object]) -> dict[str, object]:
    return {column.name: plain(row[column.name], column.type) for column in columns}


def with_witnesses(project: Project) -> Project:
    """The project with the exact features that judge its approximate ones beside them."""
    views = []
    for view in project.views:
        more = {_witness(name, role): found for name, aggregate in view.features.items() for role, found in aggregate.witnesses().items()}
        views.append(replace(view, features={**view.features, **more}))
    return replace(project, views=tuple(views))


def _witness(feature: str, role: str) -> str:
    return f"w{hashlib.sha256(feature.encode()).hexdigest()[:8]}_{role}"


def _compare(found: Compared, aggregate: Aggregate, column: FeatureColumn, key: str, row: Mapping[str, object], served: object) -> None:
    expected = row[column.name]
    suffix = column.name.removeprefix(column.feature)
    witnessed = {role: row[_witness(column.feature, role) + suffix] for role in aggregate.witnesses()}
    if isinstance(expected, (int, float)) and isinstance(served, (int, float)):
        found.largest_error = max(found.largest_error, float(abs(expected - served) / max(1, abs(expected))))
    if aggregate.agrees(expected, served, witnessed):
        found.matches += 1
        return
    found.mismatches += 1
    found.example = found.example or f"{column.name} of {key}: lake {expected!r}, served {served!r}"
