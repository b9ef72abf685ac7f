"""Verification: recompute features from the lake and compare them, feature by feature, with what is served."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.views import entities
from features.declaration import FeatureColumn, Project
from features.keys import key_text, key_values
from features.merge import plain
from features.spark import point_in_time
from features.times import from_micros
from stores.answers import Answers, now_micros
from stores.events import distinct
from stores.lake import Lake
from stores.progress import Progress

_AT_ONCE = 200
TOLERANCE = 1e-9  # relative, for floats; everything else must be equal


@dataclass
class Compared:
    """One feature: keys whose values agree, keys whose values do not, the largest error of a float, and one example."""

    matches: int = 0
    mismatches: int = 0
    largest_error: float = 0.0
    example: str | None = None


@dataclass
class Verified:
    """Features recomputed for `keys` keys; `degraded` counts answers that said they might not be exact."""

    keys: int
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
    events = {name: distinct(source, lake.events(spark, project, source)) for name, source in project.sources.items()}
    keys = entities(project, events)
    chosen = keys if sample is None else keys.orderBy(F.xxhash64("key")).limit(sample)
    at = now_micros()
    progress.step("features from the lake")
    expected = recompute(project, events, chosen, at)
    progress.step("features as served")
    verified = Verified(keys=len(expected), features={column.name: Compared() for column in project.columns})
    texts = list(expected)
    for start in range(0, len(texts), _AT_ONCE):
        chunk = texts[start : start + _AT_ONCE]
        for text, answer in zip(chunk, answers.features(project, [key_values(project.keys, text) for text in chunk], at), strict=True):
            verified.degraded += answer.degraded is not None
            for column in project.columns:
                _compare(verified.features[column.name], column, text, expected[text][column.name], answer.values[column.name])
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


def _compare(found: Compared, column: FeatureColumn, key: str, expected: object, served: object) -> None:
    error = 0.0
    if isinstance(expected, float) and isinstance(served, float):
        error = abs(expected - served) / max(1.0, abs(expected))
        same = error <= TOLERANCE or (math.isnan(expected) and math.isnan(served))
        found.largest_error = max(found.largest_error, error)
    else:
        same = expected == served
    if same:
        found.matches += 1
        return
    found.mismatches += 1
    found.example = found.example or f"{column.name} of {key}: lake {expected!r}, served {served!r}"
