"""Verification: recompute features from the lake and compare them, feature by feature, with what is served."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.aggregates.base import Aggregate
from anabranch.answers.features import Answers
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.progress import Progress
from anabranch.stores.lake.lake import Lake
from anabranch.values.keys import key_values
from anabranch.values.times import now_micros
from batch.building.kept_states import entities
from batch.building.recomputing import agrees, recompute, with_witnesses

_AT_ONCE = 200


@dataclass
class ComparedFeature:
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
    features: dict[str, ComparedFeature] = field(default_factory=dict)
    degraded: int = 0
    seconds: float = 0.0

    @property
    def mismatches(self) -> int:
        """Over all features and keys."""
        return sum(found.mismatches for found in self.features.values())


def verify(
    spark: SparkSession,
    lake: Lake,
    answers: Answers,
    project: Project,
    sample: int | None,
    progress: Progress,
) -> Verified:
    """Compare `sample` keys (None: all). The lake must hold every event the stream has read (land first)."""
    started = time.monotonic()
    events = lake.distinct_events(spark, project)
    keys = entities(project, events)
    chosen = keys if sample is None else keys.orderBy(F.xxhash64("key")).limit(sample)
    at = now_micros()
    progress.step("features from the lake")
    expected = recompute(with_witnesses(project), events, chosen, at)
    progress.step("features as served")
    verified = Verified(
        keys=len(expected), at=at, features={column.name: ComparedFeature() for column in project.columns}
    )
    texts = list(expected)
    aggregates = {
        column.name: view.features[column.feature] for view in project.views for column in view.columns
    }
    for start in range(0, len(texts), _AT_ONCE):
        chunk = texts[start : start + _AT_ONCE]
        for text, answer in zip(
            chunk,
            answers.features(project, [key_values(project.keys, text) for text in chunk], at),
            strict=True,
        ):
            verified.degraded += answer.degraded is not None
            for column in project.columns:
                _compare(
                    verified.features[column.name],
                    aggregates[column.name],
                    column,
                    text,
                    expected[text],
                    answer.values[column.name],
                )
        progress.advance(start + len(chunk), len(texts))
    verified.seconds = time.monotonic() - started
    return verified


def _compare(
    found: ComparedFeature,
    aggregate: Aggregate,
    column: FeatureColumn,
    key: str,
    row: Mapping[str, object],
    served: object,
) -> None:
    expected = row[column.name]
    if isinstance(expected, (int, float)) and isinstance(served, (int, float)):
        found.largest_error = max(found.largest_error, float(abs(expected - served) / max(1, abs(expected))))
    if agrees(aggregate, column, row, served):
        found.matches += 1
        return
    found.mismatches += 1
    found.example = found.example or f"{column.name} of {key}: lake {expected!r}, served {served!r}"
