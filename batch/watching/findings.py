"""What a look at a model after its release found, as values; and the same as measures and as metrics of the registry."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import from_micros
from batch.watching.drift import Drift
from batch.watching.outcomes import Accuracy
from batch.watching.skew import Skew

PERIODS = "periods"
"""The subject of accuracy over time."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Looked at `at` over what happened since `since` (microseconds). By model version: `predictions` counts, `features` the drift of
    what predictions used, `scores` theirs. `current`: drift of the current rows of every key, for the champion.
    """  # fmt: skip

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

    def measures(self) -> list[Measure]:
        """All of it; accuracy by period is kept with the period's start, so that labels which come later correct it."""
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
        drifts = [("features", version, one) for version, found in self.features.items() for one in found]
        drifts += [("scores", version, one) for version, one in self.scores.items()]
        drifts += [("current", self.champion, one) for one in self.current]
        for subject, version, drift in drifts:
            yield self._one(subject, "psi", now, drift.psi, version, drift.feature)
            yield self._one(subject, "js", now, drift.js, version, drift.feature)
        for version, mean in self.means.items():
            yield self._one("scores", "mean", now, mean, version)
        if self.skew is not None:
            for name, value in (
                ("answers", self.skew.answers),
                ("values", self.skew.values),
                ("share", self.skew.share),
            ):
                yield self._one("skew", name, now, value, self.skew.version)

    def logged(self) -> Mapping[str, Mapping[str, float]]:
        """Metrics of the registry by version as they are now, such as ``features/psi/age``; those by period are in `news_of_periods`."""
        found: dict[str, dict[str, float]] = {}
        for one in self._measures():
            if one.subject != PERIODS:
                found.setdefault(one.version, {})[metric_name(one)] = one.value
        return found

    def news_of_periods(self, known: Sequence[Measure]) -> Mapping[tuple[str, datetime], Mapping[str, float]]:
        """Accuracy by version and start of its period, such as ``periods/roc_auc/sex 1``, where `known` has it not, or other than it is now."""
        before = {
            (one.name, one.at, one.version, one.slice): one.value for one in known if one.subject == PERIODS
        }
        found: dict[tuple[str, datetime], dict[str, float]] = {}
        for one in self._measures():
            told = one.subject == PERIODS and one.name in (self.metric, "labels")
            if told and before.get((one.name, one.at, one.version, one.slice)) != one.value:
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
    """A measure as the registry names it."""
    return "/".join(filter(None, (one.subject, one.name, one.slice)))
