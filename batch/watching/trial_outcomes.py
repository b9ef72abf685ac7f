"""A version on trial beside the champion by outcomes: both judged by labels that came.

A prediction records the inputs that the model read, so the version that did not answer is scored on them
afterwards: every judged prediction compares both, whoever answered, and the comparison is paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER
from anabranch.stores.models.versions import Scorer
from batch.evaluation.assessment import JudgedRows, resamples
from batch.evaluation.measures import measure
from batch.watching.outcomes import JudgedPredictions

_RESAMPLES = 400
_SEED = 13
_POWER = 1.96 + 0.84  # a true difference of this size is found in 80 of 100 cases


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """The metric of the version on trial and of the champion on the same `labels` labels.

    `gain` is how much better the tried version is, positive in any metric, with the bounds of its 95%
    bootstrap interval by key. `needed` is about how many more labels show in 80 of 100 cases that the gain is
    not 0, if it is what it is now: 0 when it is shown, None when it is nothing. All are None where the metric
    is not defined. `left_out` predictions do not record what both versions read.
    """

    metric: str
    version: str
    champion: str
    labels: int
    left_out: int
    tried: float | None = None
    ours: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    needed: int | None = None

    @property
    def said(self) -> str:
        """The comparison in one sentence, for people."""
        if self.gain is None or self.tried is None or self.ours is None:
            return f"{self.labels} labels do not tell version {self.version} from {self.champion} yet"
        interval = "" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        rest = {None: "no difference to prove", 0: "enough labels"}.get(
            self.needed, f"about {self.needed or 0:,} more labels are needed to prove it"
        )
        return (
            f"{self.metric} {self.tried:.4f} of version {self.version} against {self.ours:.4f} of "
            f"{self.champion} on {self.labels:,} labels: gain {self.gain:+.4f}{interval}, {rest}"
        )

    @property
    def values(self) -> Mapping[str, float | None]:
        """The numbers by name, as they are kept as measures."""
        return {
            "labels": float(self.labels),
            "tried": self.tried,
            "champion": self.ours,
            "gain": self.gain,
            "gain_low": self.low,
            "gain_high": self.high,
            "needed": None if self.needed is None else float(self.needed),
        }


def trial_outcome(
    metric: str, found: JudgedPredictions, champion: Scorer, tried: Scorer, since: int
) -> TrialOutcome | None:
    """Both versions on the labels with an event time at or after `since` (microseconds), the trial's begin.

    The version on trial may have learnt from earlier labels. None when no such label has come.
    """
    both = np.isin(found.version.astype(str), [champion.version, tried.version])
    places = np.flatnonzero(both & (found.time >= since))
    _, first = np.unique(np.stack([found.key[places], found.time[places]]), axis=1, return_index=True)
    places = places[np.sort(first)]  # a label judges both versions where both answered its key
    if not len(places):
        return None
    needed = {*champion.features, *tried.features}
    usable = places[[needed <= set(found.used[place]) for place in places.tolist()]]
    empty = TrialOutcome(
        metric=metric,
        version=tried.version,
        champion=champion.version,
        labels=len(usable),
        left_out=len(places) - len(usable),
    )
    target = found.target[usable]
    if len(np.unique(target)) < 2:
        return empty
    scores = [_scores(one, found, usable) for one in (tried, champion)]
    rows = [
        JudgedRows(target=target, scores=score, groups=found.key[usable], threshold=one.threshold)
        for one, score in zip((tried, champion), scores, strict=True)
    ]
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    values = [one.measure(metric) for one in rows]
    gain = sign * (values[0] - values[1])
    gains = [
        sign * (_drawn(metric, rows[0], drawn) - _drawn(metric, rows[1], drawn))
        for drawn in resamples(rows[0].groups, _RESAMPLES, _SEED)
        if len(np.unique(target[drawn])) > 1
    ]
    low, high = (float(one) for one in np.quantile(gains, (0.025, 0.975))) if gains else (None, None)
    return TrialOutcome(
        metric=metric,
        version=tried.version,
        champion=champion.version,
        labels=len(usable),
        left_out=len(places) - len(usable),
        tried=values[0],
        ours=values[1],
        gain=gain,
        low=low,
        high=high,
        needed=_needed(gain, gains, len(usable)),
    )


def _scores(scorer: Scorer, found: JudgedPredictions, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The recorded scores of the version's own predictions, and its scores of the inputs of others'."""
    scores = found.score[places].copy()
    others = np.flatnonzero(found.version[places].astype(str) != scorer.version)
    if len(others):
        used = [found.used[place] for place in places[others].tolist()]
        scores[others] = scorer.score({name: [row[name] for row in used] for name in scorer.features})
    return scores


def _drawn(metric: str, rows: JudgedRows, drawn: NDArray[np.int64]) -> float:
    return measure(metric, rows.target[drawn], rows.scores[drawn], rows.threshold)


def _needed(gain: float, gains: list[float], labels: int) -> int | None:
    """The error of a mean falls with the root of the number of labels, and so does a resample's."""
    if not gains or gain == 0:
        return None
    error = float(np.std(gains))
    return max(0, ceil(labels * (_POWER * error / abs(gain)) ** 2) - labels)
