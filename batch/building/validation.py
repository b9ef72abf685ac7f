"""Validation of a batch version before anybody sees it: is everything there, does it look like the version that serves, is it right?

    complete     a table has as many rows as were published
    keys         a view has not lost more than a share of its keys
    profile      of sampled keys, the share of nulls and the distribution of each feature, against the version that serves
    recomputed   of a few keys, each feature, against the lake by the path of training sets

Every finding is one sentence that names the feature, the figure and the limit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn, FeatureView
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.events.copies import distinct, distinct_among
from anabranch.folds.merge import merge
from anabranch.folds.spark import key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.views import Views
from anabranch.stores.lake.increments import read_increments
from anabranch.stores.lake.lake import Lake
from anabranch.values.keys import key_text, key_values
from anabranch.values.times import from_micros
from batch.building.kept_states import FEW, Owed, held, keys_name
from batch.building.recomputing import agrees, recompute, with_witnesses
from batch.settings import BuildSettings

# Of two samples of n and m the distance may be this times sqrt(1 / n + 1 / m) by chance, in one of a hundred cases.
_CHANCE = 1.63


@dataclass(frozen=True)
class Validation:
    """One version to be judged."""

    spark: SparkSession
    lake: Lake
    views: Views
    project: Project
    entry: Manifest
    before: Manifest | None
    limits: BuildSettings

    def passed(self, accept: str | None, progress: Progress) -> Manifest:
        """The version to publish, with why if `accept` overrules findings; raises AnabranchError with all of them otherwise."""
        found = [*self.incomplete(), *self.smaller(), *self.shifted(), *self.wrong()]
        if not found:
            return self.entry
        progress.step(f"validation found: {'; '.join(found)}")
        if accept is None:
            raise AnabranchError(
                f"batch version {self.entry.batch_version} of {self.project.name!r} was not published: {'; '.join(found)}: "
                f"look into it, or publish it all the same with: anabranch build {self.project.name} --accept REASON"
            )
        return replace(self.entry, accepted=accept)

    def incomplete(self) -> list[str]:
        """Tables that have fewer rows than were written."""
        counts = {
            view: self.views.count(table, self.entry.rows[view]) for view, table in self.entry.tables.items()
        }
        return [
            f"view {view!r} has {count:,} of {self.entry.rows[view]:,} rows in its table"
            for view, count in counts.items()
            if count != self.entry.rows[view]
        ]

    def smaller(self) -> list[str]:
        """Views that lost too many keys."""
        found, share = [], self.limits.fewer_keys
        for view in self._kept_views():
            rows, had = self.entry.rows[view.name], self.before.rows[view.name] if self.before else 0
            if rows < had * (1 - share):
                found.append(
                    f"view {view.name!r} has {rows:,} keys where it had {had:,}, {1 - rows / had:.0%} fewer (limit {share:.0%})"
                )
        return found

    def shifted(self) -> list[str]:
        """Features whose nulls or distribution moved too far."""
        found = []
        for view in self._kept_views():
            if self.before is None or self.before.tables[view.name] == self.entry.tables[view.name]:
                continue
            now, then = (self._sample(view, manifest) for manifest in (self.entry, self.before))
            for column in view.columns:
                found += _compared(column, now[column.name], then[column.name], self.limits)
        return found

    def _kept_views(self) -> list[FeatureView]:
        """Views that mean the same in the version that serves."""
        known = {} if self.before is None else self.before.fingerprints
        return [view for view in self.project.views if known.get(view.name) == view.fingerprint]

    def _sample(self, view: FeatureView, manifest: Manifest) -> dict[str, list[object]]:
        parts = self.views.sample(view, manifest, self.limits.profiled_keys)
        values = [merge(view, part, None, manifest.cut).values for part in parts]
        return {column.name: [row[column.name] for row in values] for column in view.columns}

    def wrong(self) -> list[str]:
        """Features of sampled keys that are not what the lake says."""
        builds = self.entry.increments.get(keys_name(self.project), [])
        if not builds or not self.limits.recomputed_keys:
            return []
        kept = read_increments(self.spark, self.lake, self.project.name, keys_name(self.project), builds)
        texts = [row["key"] for row in kept.sample(0.5).limit(self.limits.recomputed_keys).collect()]
        texts = texts or [row["key"] for row in kept.limit(self.limits.recomputed_keys).collect()]
        suspects = {key for key, _, _ in self._disagreeing(list(dict.fromkeys(texts)), recent=True)}
        return (
            list(
                {
                    feature: said for _, feature, said in self._disagreeing(sorted(suspects), recent=False)
                }.values()
            )
            if suspects
            else []
        )

    def _disagreeing(self, texts: Sequence[str], *, recent: bool) -> Iterator[tuple[str, str, str]]:
        """Key, feature and a sentence where what is served is not what the events say.

        `recent` reads no more than the windows reach back to, which is a fraction of the lake, and can call a feature wrong that is
        right: an id may have come before with an older event. So that is where to look, and all of the lake is who decides.
        """
        keys = self.spark.createDataFrame([(text,) for text in texts], "key STRING")
        with ExitStack() as stack:
            events = self._events_of(texts, stack, recent=recent)
            expected = recompute(with_witnesses(self.project), events, keys, self.entry.cut)
        for text, row in expected.items():
            served = self._served(key_values(self.project.keys, text))
            for view in self.project.views:
                for column in view.columns:
                    if not agrees(view.features[column.feature], column, row, served[column.name]):
                        shown = text.replace("\x1f", " ")
                        yield (
                            text,
                            column.name,
                            f"feature {column.name} of {shown} is {served[column.name]!r}, but the lake says {row[column.name]!r}",
                        )

    def _events_of(self, keys: Sequence[str], stack: ExitStack, *, recent: bool) -> dict[str, DataFrame]:
        """The owed distinct events of the keys, by source; of `recent` ones no other copy is looked for."""
        owed = Owed(self.entry.cut, self.entry.until, self.entry.lake_versions)
        out = {}
        for name, source in self.project.sources.items():
            views = self.project.views_of(name)
            if not views:
                continue
            events = self.lake.events(self.spark, self.project, source, version=owed.versions.get(name))
            asked = [key_values(self.project.keys, key) for key in keys]
            wanted = [
                key_column(view.keys).isin(sorted({key_text(view.keys, one) for one in asked}))
                for view in views
            ]
            of_keys = events.where(reduce(Column.__or__, wanted))
            tails = [span.tail(self.entry.cut) for view in views for span in view.spans]
            since = [tail for tail in tails if tail is not None]
            if recent and len(since) == len(tails):
                of_keys = of_keys.where(
                    named(source.time).cast("timestamp") >= F.lit(from_micros(min(since)))
                )
            kept, count = stack.enter_context(held(of_keys))
            found = (
                distinct(source, kept)
                if recent
                else distinct_among(source, kept, events, few=count <= FEW).drop("_again")
            )
            out[name] = found.where(owed.covers())
        return out

    def _served(self, key: Mapping[str, str]) -> dict[str, object]:
        """What the new version's tables say of a key at the cut."""
        values: dict[str, object] = {}
        for view in self.project.views:
            batch, _ = self.views.known(
                self.project.name, view, key_text(view.keys, key), self.entry, self.entry.cut
            )
            values.update(merge(view, batch, None, self.entry.cut).values)
        return values


def _compared(
    column: FeatureColumn, now: Sequence[object], then: Sequence[object], limits: BuildSettings
) -> list[str]:
    if not now or not then:
        return []
    found = []
    nulls = [np.array([value is None for value in values]).mean() for values in (now, then)]
    if abs(nulls[0] - nulls[1]) > limits.nulls + _CHANCE * sqrt(1 / len(now) + 1 / len(then)):
        found.append(
            f"feature {column.name} is null for {nulls[0]:.0%} of keys where it was for {nulls[1]:.0%} (limit {limits.nulls:.0%} of difference)"
        )
    left, right = _numbers(now), _numbers(then)
    if len(left) and len(right):
        distance = _distance(left, right)
        if distance > limits.drift + _CHANCE * sqrt(1 / len(left) + 1 / len(right)):
            medians = f"median {np.median(left):.6g} where it was {np.median(right):.6g}"
            found.append(
                f"feature {column.name} is distributed otherwise: {medians}, distance {distance:.2f} (limit {limits.drift:.2f})"
            )
    return found


def _numbers(values: Sequence[object]) -> NDArray[np.float64]:
    """Numbers as they are, lists by their length; texts and times are not compared."""
    found = [
        len(value) if isinstance(value, list) else float(value)
        for value in values
        if isinstance(value, (int, float, list))
    ]  # bool is an int
    return np.array(found, dtype=np.float64)


def _distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """How far deciles lie apart, as a share of their size or of the middle half's width: 0 for none, 0.5 for twice as much, at most 1.

    What grows with every event, such as a count for life, moves a little with each build; a wrong unit or a column of zeros, by all.
    """
    shares = np.arange(1, 10) / 10
    one, other = np.quantile(left, shares), np.quantile(right, shares)
    width = max(np.subtract(*np.quantile(values, [0.75, 0.25])) for values in (left, right))
    size = np.maximum(np.maximum(np.abs(one), np.abs(other)), width)
    return float(
        np.minimum(np.divide(np.abs(one - other), size, out=np.zeros(9), where=size > 0), 1.0).mean()
    )
