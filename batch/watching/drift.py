"""Distances of distributions: population stability index and Jensen-Shannon divergence of binned counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anabranch.stores.models.scoring import Matrix, Scores
from batch.training.profile import Bins, Profile

FLOOR = 1e-4
"""The smallest share of a bin in the index, in which an empty bin would be infinitely far away."""
SCORE, LABEL = "", "label"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Drift of a feature, or of the scores (`feature` is ""), of `rows` rows against the training data."""

    feature: str
    psi: float
    js: float
    rows: int
    names: tuple[str, ...]
    expected: tuple[float, ...]
    found: tuple[float, ...]

    @property
    def most_moved(self) -> str:
        """The bin whose share changed most, with both shares."""
        place = int(np.argmax(np.abs(np.subtract(self.found, self.expected))))
        return f"{self.names[place]}: {self.expected[place]:.0%} to {self.found[place]:.0%}"


def psi(expected: ArrayLike, found: ArrayLike) -> float:
    """Sum of (q - p) ln(q / p) over the shares p of `expected` and q of `found` counts.

    Equal shares give 0; above 0.25 is usually called a shift.
    """
    p, q = (np.maximum(_shares(counts), FLOOR) for counts in (expected, found))
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(expected: ArrayLike, found: ArrayLike) -> float:
    """Jensen-Shannon divergence in bits: 0 for equal shares, 1 without a common bin (Lin, 1991)."""
    p, q = _shares(expected), _shares(found)
    middle = (p + q) / 2
    return float(max(0.0, (_kullback(p, middle) + _kullback(q, middle)) / 2))


def drifts(profile: Profile, features: Sequence[str], matrix: Matrix) -> list[Drift]:
    """Drift of the columns of `matrix` (coded, in the order of `features`), the largest first."""
    found = [
        _drift(name, profile.features[name], matrix[:, place])
        for place, name in enumerate(features)
        if name in profile.features
    ]
    return sorted(found, key=lambda one: (-one.psi, one.feature))


def score_drift(profile: Profile, scores: Scores) -> Drift:
    """Drift of the scores against those of held-out rows."""
    return _drift(SCORE, profile.scores, scores)


def label_drift(labels: Bins, places: Scores) -> Drift:
    """Drift of the labels by class, given as positions, against those of held-out rows."""
    return _drift(LABEL, labels, places)


def _drift(feature: str, bins: Bins, column: Matrix | Scores) -> Drift:
    counts = bins.count(column)
    shares = [tuple(_shares(each).tolist()) for each in (bins.counts, counts)]
    return Drift(
        feature=feature,
        psi=psi(bins.counts, counts),
        js=jensen_shannon(bins.counts, counts),
        rows=len(column),
        names=bins.names,
        expected=shares[0],
        found=shares[1],
    )


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(counts, dtype=np.float64)
    return found / max(float(found.sum()), 1.0)


def _kullback(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    present = p > 0
    return float(np.sum(p[present] * np.log2(p[present] / q[present])))
