"""Verification: features recomputed from the lake, compared one by one with the served values."""

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from pyspark.sql import functions as F

from anabranch.answers.features import Answer, Answers
from anabranch.declare.projects import Project
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.opened import Stores
from anabranch.values.keys import key_values
from anabranch.values.times import now_micros
from anabranch.values.types import DataType
from batch.building.kept_states import entities
from batch.building.recomputing import agrees, derived_of, differs, recompute, with_witnesses

_AT_ONCE = 200


@dataclass
class ComparedFeature:
    """One feature: keys whose values agree and differ, the largest error, and an example of a difference.

    `lost` counts values that differ because states of the key are more than the store takes: answers say so.
    """

    name: str
    type: DataType
    matches: int = 0
    mismatches: int = 0
    lost: int = 0
    largest_error: float = 0.0
    example: str | None = None

    def count(self, key: str, expected: object, served: object, agree: bool, lost: bool = False) -> None:
        """Count the values of one key; `agree`: they are equal enough, `lost`: the answer lacks states."""
        if lost and not agree:
            self.lost += 1
            return
        if isinstance(expected, int | float) and isinstance(served, int | float):
            error = float(abs(expected - served) / max(1, abs(expected)))
            self.largest_error = max(self.largest_error, error)
        self.matches += agree
        self.mismatches += not agree
        if not agree and self.example is None:
            lake, store = self.type.to_json(expected), self.type.to_json(served)
            self.example = f"{self.name} of {key}: lake {lake!r}, served {store!r}"


@dataclass
class Verified:
    """The comparison of `keys` keys at `at` (microseconds); `degraded` counts answers that were marked so."""

    keys: int
    at: int
    features: dict[str, ComparedFeature] = field(default_factory=dict)
    degraded: int = 0
    seconds: float = 0.0

    @property
    def mismatches(self) -> int:
        """The number of values that differ, over all features and keys."""
        return sum(feature.mismatches for feature in self.features.values())

    @property
    def lost(self) -> int:
        """The number of values that differ because states of their key are more than the store takes."""
        return sum(feature.lost for feature in self.features.values())


def verify(
    stores: Stores,
    answers: Answers,
    project: Project,
    sample: int | None,
    progress: Progress,
    manifest: Manifest | None = None,
) -> Verified:
    """Compare `sample` keys (None: all). The lake must hold every event the stream has read (land first).

    `manifest` as for `Answers.features`.
    """
    started = time.monotonic()
    events = stores.lake.distinct_events(stores.spark, project)
    keys = entities(project, events)
    chosen = keys if sample is None else keys.orderBy(F.xxhash64("key")).limit(sample)
    at = now_micros()
    progress.step("features from the lake")
    expected = recompute(with_witnesses(project), events, chosen, at)
    progress.step("features as served")
    verified = Verified(
        keys=len(expected),
        at=at,
        features={column.name: ComparedFeature(column.name, column.type) for column in project.columns},
    )
    texts = list(expected)
    aggregates = {column.name: view.parts[column.part] for view in project.views for column in view.columns}
    for start in range(0, len(texts), _AT_ONCE):
        chunk = texts[start : start + _AT_ONCE]
        served = answers.features(
            project, [key_values(project.keys, text) for text in chunk], at, (), manifest
        )
        wrong: dict[str, set[str]] = {text: set() for text in chunk}
        for text, answer in zip(chunk, served, strict=True):
            verified.degraded += answer.degraded is not None
            for column in project.view_columns:
                row, value = expected[text], answer.values[column.name]
                feature = verified.features[column.name]
                agree = agrees(aggregates[column.name], column, row, value)
                feature.count(text, row[column.name], value, agree, column.name in answer.lost)
                if not agree:
                    wrong[text].add(column.name)
        _count_derived(stores, project, verified, {text: expected[text] for text in chunk}, served, wrong)
        progress.advance(start + len(chunk), len(texts))
    verified.seconds = time.monotonic() - started
    return verified


def _count_derived(
    stores: Stores,
    project: Project,
    verified: Verified,
    expected: Mapping[str, Mapping[str, object]],
    served: Sequence[Answer],
    wrong: Mapping[str, AbstractSet[str]],
) -> None:
    """Compare derived features.

    Features that agree may still differ in their last digits, and an expression may make more of that. So a
    derived value also agrees when it is that of Spark over the served features, unless one that it needs is
    `wrong`.
    """
    pairs = list(zip(expected.items(), served, strict=True))
    unlike = [
        place
        for place, ((_, row), answer) in enumerate(pairs)
        if any(differs(row[one.name], answer.values[one.name]) for one in project.derived_columns)
    ]
    texts = [pairs[place][0][0] for place in unlike]
    keys = [key_values(project.keys, text) for text in texts]
    values = [pairs[place][1].values for place in unlike]
    again = derived_of(stores.spark, project, keys, values) if unlike else []
    by_spark = dict(zip(texts, again, strict=True))
    for (text, row), answer in pairs:
        for column in project.derived_columns:
            value, wanted = answer.values[column.name], row[column.name]
            excused = wrong[text].isdisjoint(column.needs)
            agree = not differs(wanted, value) or (
                excused and not differs(by_spark[text][column.name], value)
            )
            lost = not answer.lost.isdisjoint(column.needs)
            verified.features[column.name].count(text, wanted, value, agree, lost)
