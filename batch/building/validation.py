"""Validation of a batch version before it becomes current: is it complete, like the version that serves, and
right?

    complete     a table has as many rows as were published
    keys         a view has not lost more than a share of its keys
    profile      nulls and distribution of each feature over sampled keys, against the version that serves
    recomputed   each feature of a few keys, against the lake by the path of training sets

Every finding is one sentence that names the feature, the figure and the limit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
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
from anabranch.stores.lake.increments import read_increments
from anabranch.stores.opened import Stores
from anabranch.values.keys import key_text, key_values
from anabranch.values.times import from_micros
from batch.building.kept_states import FEW, cached, keys_name
from batch.building.recomputing import agrees, recompute, with_witnesses
from batch.settings import BuildSettings
from batch.views import Coverage, sources_of

_CHANCE = 1.63
"""Times sqrt(1 / n + 1 / m): the distance of two samples that chance exceeds in 1 of 100 cases."""


@dataclass(frozen=True)
class Validation:
    """The validation of the version `entry` against `before`, the one that serves."""

    stores: Stores
    project: Project
    entry: Manifest
    before: Manifest | None
    limits: BuildSettings

    def passed(self, accept: str | None, progress: Progress) -> Manifest:
        """The version to publish, with the reason `accept` if it overrules findings.

        Raises AnabranchError with all findings otherwise.
        """
        if self._is_passed_already():
            return self.entry
        findings = "; ".join([*self.incomplete(), *self.smaller(), *self.shifted(), *self.wrong()])
        if not findings:
            return self.entry
        progress.step(f"validation found: {findings}")
        if accept is None:
            name, version = self.project.name, self.entry.batch_version
            raise AnabranchError(
                f"batch version {version} of {name!r} was not published: {findings}: look into it, "
                f"or publish it all the same with: anabranch build {name} --accept REASON"
            )
        return replace(self.entry, accepted=accept)

    def _is_passed_already(self) -> bool:
        """Whether every table is that of the version that serves, which passed when it was built."""
        before, entry = self.before, self.entry
        return before is not None and before.accepted is None and before.tables == entry.tables

    def incomplete(self) -> list[str]:
        """Tables that have fewer rows than were written."""
        findings, rows = [], self.entry.rows
        for view, table in self.entry.tables.items():
            count = self.stores.views.count(table, rows[view])
            if count != rows[view]:
                findings.append(f"view {view!r} has {count:,} of {rows[view]:,} rows in its table")
        return findings

    def smaller(self) -> list[str]:
        """Views that lost too many keys."""
        findings, share = [], self.limits.fewer_keys
        for view in self._kept_views():
            rows, had = self.entry.rows[view.name], self.before.rows[view.name] if self.before else 0
            if rows < had * (1 - share):
                fewer = f"{1 - rows / had:.0%} fewer (limit {share:.0%})"
                findings.append(f"view {view.name!r} has {rows:,} keys where it had {had:,}, {fewer}")
        return findings

    def shifted(self) -> list[str]:
        """Features whose nulls or distribution moved too far."""
        findings = []
        for view in self._kept_views():
            if self.before is None or self.before.tables[view.name] == self.entry.tables[view.name]:
                continue
            now, then = (self._sample(view, manifest) for manifest in (self.entry, self.before))
            for column in view.columns:
                findings += _compared(column, now[column.name], then[column.name], self.limits)
        return findings

    def _kept_views(self) -> list[FeatureView]:
        """Views that mean the same in the version that serves."""
        known = {} if self.before is None else self.before.fingerprints
        return [view for view in self.project.own_views if known.get(view.name) == view.fingerprint]

    @property
    def _own_uses(self) -> list[FeatureView]:
        """The project's views without those of other projects, which their owners validate."""
        return [view for view in self.project.views if view.use.owner is None]

    def _sample(self, view: FeatureView, manifest: Manifest) -> dict[str, list[object]]:
        parts = self.stores.views.sample(view, manifest, self.limits.profiled_keys)
        values = [merge(view, part, None, manifest.cut).values for part in parts]
        return {column.name: [row[column.name] for row in values] for column in view.columns}

    def wrong(self) -> list[str]:
        """Features of sampled keys that differ from the lake's."""
        builds = self.entry.increments.get(keys_name(self.project), [])
        if not builds or not self.limits.recomputed_keys:
            return []
        stores, name, most = self.stores, keys_name(self.project), self.limits.recomputed_keys
        kept = read_increments(stores.spark, stores.lake, self.project.name, name, builds)
        keys = kept.sample(0.5).limit(most).collect() or kept.limit(most).collect()
        texts = list(dict.fromkeys(row["key"] for row in keys))
        suspects = {key for key, _, _ in self._disagreeing(texts, recent=True)}
        if not suspects:
            return []
        disagreeing = self._disagreeing(sorted(suspects), recent=False)
        return list({feature: finding for _, feature, finding in disagreeing}.values())

    def _disagreeing(self, texts: Sequence[str], *, recent: bool) -> Iterator[tuple[str, str, str]]:
        """Key, feature and finding wherever the served value differs from the recomputed one.

        `recent` reads only as far back as the windows reach, a fraction of the lake, and can call a right
        feature wrong: an id may have come before with an older event. So it finds suspects, and the whole
        lake decides.
        """
        keys = self.stores.spark.createDataFrame([(text,) for text in texts], "key STRING")
        with ExitStack() as stack:
            events = self._events_of(texts, stack, recent=recent)
            expected = recompute(with_witnesses(self.project), events, keys, self.entry.cut)
        for text, row in expected.items():
            served = self._served(key_values(self.project.keys, text))
            for view in self._own_uses:
                for column in view.columns:
                    if column.name in served and not agrees(
                        view.parts[column.part], column, row, served[column.name]
                    ):
                        yield text, column.name, _difference(column, text, served, row)

    def _events_of(self, keys: Sequence[str], stack: ExitStack, *, recent: bool) -> dict[str, DataFrame]:
        """The covered distinct events of the keys by source; `recent` looks for no older copies."""
        entry, stores = self.entry, self.stores
        coverage = Coverage(cut=entry.cut, until=entry.until, versions=entry.lake_versions)
        asked, events_of_keys = [key_values(self.project.keys, key) for key in keys], {}
        for source in sources_of(self.project):
            version = coverage.versions.get(source.name)
            views = [view for view in self._own_uses if view.source.name == source.name]
            events = stores.lake.events(stores.spark, self.project, source, version=version)
            wanted = [
                key_column(view.keys).isin(sorted({key_text(view.asked, one) for one in asked}))
                for view in views
            ]
            rows = events.where(reduce(Column.__or__, wanted))
            tails = [span.tail(entry.cut) for view in views for span in view.spans]
            since = [tail for tail in tails if tail is not None]
            if recent and len(since) == len(tails):
                rows = rows.where(named(source.time).cast("timestamp") >= F.lit(from_micros(min(since))))
            rows, count = stack.enter_context(cached(rows))
            if recent:
                first = distinct(source, rows)
            else:
                first = distinct_among(source, rows, events, few=count <= FEW).drop("_again")
            events_of_keys[source.name] = first.where(coverage.condition())
        return events_of_keys

    def _served(self, key: Mapping[str, str]) -> dict[str, object]:
        """The values of a key at the cut, from the new version's tables; none of a view that lost states."""
        values: dict[str, object] = {}
        for view in self._own_uses:
            text = key_text(view.asked, key)
            batch, _ = self.stores.views.known(self.project.name, view, text, self.entry, self.entry.cut)
            merged = merge(view, batch, None, self.entry.cut)
            values.update(merged.values if merged.degraded is None else {})
        return values


def _difference(
    column: FeatureColumn, key: str, served: Mapping[str, object], lake: Mapping[str, object]
) -> str:
    store, right = (column.type.to_json(values[column.name]) for values in (served, lake))
    key = key.replace("\x1f", " ")
    return f"feature {column.name} of {key} is {store!r}, but the lake says {right!r}"


def _compared(
    column: FeatureColumn, now: Sequence[object], then: Sequence[object], limits: BuildSettings
) -> list[str]:
    if not now or not then:
        return []
    findings = []
    nulls = [np.array([value is None for value in values]).mean() for values in (now, then)]
    if abs(nulls[0] - nulls[1]) > limits.nulls + _CHANCE * sqrt(1 / len(now) + 1 / len(then)):
        shares = f"{nulls[0]:.0%} of keys where it was for {nulls[1]:.0%}"
        findings.append(
            f"feature {column.name} is null for {shares} (limit {limits.nulls:.0%} of difference)"
        )
    if column.type.time:
        return findings
    left, right = _numbers(now), _numbers(then)
    if len(left) and len(right):
        distance = _distance(left, right)
        if distance > limits.drift + _CHANCE * sqrt(1 / len(left) + 1 / len(right)):
            medians = f"median {np.median(left):.6g} where it was {np.median(right):.6g}"
            moved = f"distance {distance:.2f} (limit {limits.drift:.2f})"
            findings.append(f"feature {column.name} is distributed otherwise: {medians}, {moved}")
    return findings


def _numbers(values: Sequence[object]) -> NDArray[np.float64]:
    """Numbers and Booleans as numbers, lists by their length; texts and times are not compared."""
    numbers = [
        len(value) if isinstance(value, list) else float(value)
        for value in values
        if isinstance(value, (int, float, list))
    ]
    return np.array(numbers, dtype=np.float64)


def _distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """How far deciles lie apart, as a share of their size or of the middle half's width, at most 1.

    0 means not at all, 0.5 twice as much. A value that grows with every event, such as a count without a
    window, moves a little with each build; a wrong unit or a column of zeros moves by the whole.
    """
    shares = np.arange(1, 10) / 10
    one, other = np.quantile(left, shares), np.quantile(right, shares)
    width = max(np.subtract(*np.quantile(values, [0.75, 0.25])) for values in (left, right))
    size = np.maximum(np.maximum(np.abs(one), np.abs(other)), width)
    return float(
        np.minimum(np.divide(np.abs(one - other), size, out=np.zeros(9), where=size > 0), 1.0).mean()
    )
