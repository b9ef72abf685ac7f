"""The findings of a look at a model after its release, also as measures and as metrics of the registry."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from anabranch.stores.cassandra.measures import OUTCOMES, Measure
from anabranch.values.times import from_micros
from batch.evaluation.fairness import RATES, Fairness
from batch.watching.drift import Drift
from batch.watching.outcomes import Accuracy
from batch.watching.skew import Skew
from batch.watching.trial_outcomes import TrialOutcome

FAIRNESS = "fairness"
"""The subject of rates by slice and their differences."""
PERIODS = "periods"
"""The subject of accuracy over time."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The findings of a look at `at` over the time since `since` (microseconds).

    By model version: `predictions` counts them, `features` and `scores` are the drift of what they used and
    of their scores, `labels` that of the labels by class, where there are several, `means` the mean scores,
    `fairness` the rates of class 1 by slice. `current` is the drift of the current rows of every key, for the
    champion. Drift of fewer than `least` rows is chance: it is shown, and is no measure. `trial` compares the
    version on trial with the champion.
    """

    project: str
    metric: str
    at: int
    since: int
    champion: str
    predictions: Mapping[str, int]
    accuracy: tuple[Accuracy, ...]
    features: Mapping[str, tuple[Drift, ...]]
    scores: Mapping[str, Drift]
    means: Mapping[str, float]
    current: tuple[Drift, ...]
    skew: Skew | None
    approximation: Mapping[str, Measure]
    notes: tuple[str, ...] = ()
    least: int = 1
    fairness: Mapping[str, Fairness] = field(default_factory=dict)
    trial: TrialOutcome | None = None
    labels: Mapping[str, Drift] = field(default_factory=dict)

    def measures(self) -> list[Measure]:
        """The findings as measures; accuracy by period is dated at its start, so later labels correct it."""
        return list(self._measures())

    def _measures(self) -> Iterator[Measure]:
        now = from_micros(self.at)
        for version, count in self.predictions.items():
            yield self._one("predictions", "count", now, count, version)
        for one in self.accuracy:
            subject, at = ("predictions", now) if one.period is None else (PERIODS, one.period)
            found = {
                "labels": float(one.labels),
                self.metric: one.value,
                f"{self.metric}_low": one.low,
                f"{self.metric}_high": one.high,
            }
            for name, value in found.items():
                if value is not None:
                    yield self._one(subject, name, at, value, one.version, one.part)
        for version, fair in self.fairness.items():
            yield from self._fairness(now, version, fair)
        yield from self._trial(now)
        drifts = [("features", version, one) for version, found in self.features.items() for one in found]
        drifts += [("scores", version, one) for version, one in self.scores.items()]
        drifts += [("labels", version, replace(one, feature="")) for version, one in self.labels.items()]
        drifts += [("current", self.champion, one) for one in self.current]
        for subject, version, drift in drifts:
            if drift.rows < self.least:
                continue
            yield self._one(subject, "psi", now, drift.psi, version, drift.feature)
            yield self._one(subject, "js", now, drift.js, version, drift.feature)
        for version, mean in self.means.items():
            yield self._one("scores", "mean", now, mean, version)
        if self.skew is not None:
            for name in ("answers", "values", "share"):
                yield self._one("skew", name, now, getattr(self.skew, name), self.skew.version)

    def _fairness(self, now: datetime, version: str, fair: Fairness) -> Iterator[Measure]:
        for one in fair.rates:
            for name in RATES:
                rate = getattr(one, name)
                for suffix, value in (("", rate.value), ("_low", rate.low), ("_high", rate.high)):
                    if value is not None:
                        yield self._one(
                            FAIRNESS, f"{name}{suffix}", now, value, version, f"{one.feature} {one.part}"
                        )
        for gap in fair.disparities:
            name = f"{gap.rate}_difference"
            for suffix, value in (("", gap.difference), ("_low", gap.low), ("_high", gap.high)):
                yield self._one(FAIRNESS, f"{name}{suffix}", now, value, version, gap.feature)

    def _trial(self, now: datetime) -> Iterator[Measure]:
        for name, value in self.trial.values.items() if self.trial is not None else ():
            if value is not None and self.trial is not None:
                yield self._one(OUTCOMES, name, now, value, self.trial.version, self.trial.champion)

    def registry_metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Metrics by version, such as ``features/psi/age``, without those by period."""
        found: dict[str, dict[str, float]] = {}
        for one in self._measures():
            if one.subject != PERIODS:
                found.setdefault(one.version, {})[metric_name(one)] = one.value
        return found

    def changed_periods(self, known: Sequence[Measure]) -> Mapping[tuple[str, datetime], Mapping[str, float]]:
        """Metrics by version and period, such as ``periods/roc_auc/sex 1``, that differ from `known`."""
        before = {
            (one.name, one.at, one.version, one.slice): one.value for one in known if one.subject == PERIODS
        }
        found: dict[tuple[str, datetime], dict[str, float]] = {}
        for one in self._measures():
            logged = one.subject == PERIODS and one.name in (self.metric, "labels")
            if logged and before.get((one.name, one.at, one.version, one.slice)) != one.value:
                found.setdefault((one.version, one.at), {})[metric_name(one)] = one.value
        return found

    def _one(
        self, subject: str, name: str, at: datetime, value: float, version: str, part: str = ""
    ) -> Measure:
        return Measure(
            project=self.project,
            subject=subject,
            name=name,
            at=at,
            value=float(value),
            version=version,
            slice=part,
        )


def metric_name(one: Measure) -> str:
    """The name of a measure in the registry."""
    return "/".join(filter(None, (one.subject, one.name, one.slice)))
