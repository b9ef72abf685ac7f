"""Fairness by declared slices: how often a model of two classes says 1, rightly and wrongly, in each part.

Intervals are Wilson's, which stay honest for shares of 0 and 1 and few rows; rows of one key are one
observation of them, as they are drawn together where intervals are by bootstrap (assessment.py). Differences
have Newcombe's hybrid score interval (method 10 of Newcombe, Statistics in Medicine 17, 1998).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import Slice
from batch.evaluation.assessment import JudgedRows, slice_parts

RATES = {
    "selection_rate": "selection rate",
    "true_positive_rate": "true positive rate",
    "false_positive_rate": "false positive rate",
}
"""The rates by their names in reports, with their names for people."""
_ERROR = 0.05  # 95% intervals


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of `rows` rows of `keys` keys with its 95% interval; `value` is None without rows."""

    rows: int
    keys: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class SliceRates:
    """The rates of a part of a slice: class 1 said of all rows, of those of class 1, of those of class 0."""

    feature: str
    part: str
    selection_rate: Share
    true_positive_rate: Share
    false_positive_rate: Share


@dataclass(frozen=True, kw_only=True)
class Disparity:
    """The difference of a rate between two parts of a slice: that pair whose interval begins highest.

    The intervals of all pairs, rates and slices hold together with 95% (Bonferroni), so that among many parts
    none stands out by chance alone.
    """

    feature: str
    rate: str
    higher: str
    lower: str
    difference: float
    low: float
    high: float

    @property
    def said(self) -> str:
        """The difference for people."""
        return (
            f"{RATES[self.rate]} where {self.feature} is {self.higher} less that where it is {self.lower}: "
            f"{self.difference:.3f} [{self.low:.3f}, {self.high:.3f}]"
        )


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """The rates of every part, and the differences: one for each slice and rate that has two parts."""

    rates: tuple[SliceRates, ...]
    disparities: tuple[Disparity, ...]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Fairness":
        """The rates from their fields, as JSON has them."""
        rates = [
            SliceRates(**{**one, **{name: Share(**one[name]) for name in RATES}}) for one in content["rates"]
        ]
        return cls(rates=tuple(rates), disparities=tuple(Disparity(**one) for one in content["disparities"]))

    @property
    def largest(self) -> Disparity | None:
        """The difference whose interval begins highest."""
        return max(self.disparities, key=lambda one: one.low, default=None)

    @property
    def said(self) -> str:
        """The largest difference in one sentence, for people."""
        largest = self.largest
        return "no slice has two parts to compare" if largest is None else largest.said


def fairness(
    slices: Sequence[Slice],
    columns: Mapping[str, NDArray[np.object_] | NDArray[np.float64]],
    rows: JudgedRows,
) -> Fairness:
    """The rates of every part of every slice; `columns` are the features of the rows."""
    parts = [
        (one.feature, name, rows.part(mask))
        for one in slices
        for name, mask in slice_parts(one, columns[one.feature])
    ]
    return fairness_of(parts)


def fairness_of(parts: Sequence[tuple[str, str, JudgedRows]]) -> Fairness:
    """The rates of parts, given as feature, part and rows; those of one feature lie together."""
    rates = [slice_rates(feature, part, rows) for feature, part, rows in parts]
    return Fairness(rates=tuple(rates), disparities=tuple(_disparities(rates)))


def slice_rates(feature: str, part: str, rows: JudgedRows) -> SliceRates:
    """The rates of one part."""
    selected, ones = rows.scores >= rows.threshold, rows.target == 1
    everyone = np.ones(len(ones), dtype=bool)
    found = {
        name: _rate(selected[among], rows.groups[among])
        for name, among in zip(RATES, (everyone, ones, ~ones), strict=True)
    }
    return SliceRates(feature=feature, part=part, **found)


def _rate(selected: NDArray[np.bool_], groups: NDArray[np.int64]) -> Share:
    rows, keys = len(selected), len(np.unique(groups))
    if not rows:
        return Share(rows=0, keys=0)
    value = float(selected.mean())
    low, high = wilson(value, keys, _ERROR)
    return Share(rows=rows, keys=keys, value=value, low=low, high=high)


def wilson(share: float, count: int, error: float) -> tuple[float, float]:
    """The bounds between which a share of `count` observations lies but for `error` of all cases."""
    z = NormalDist().inv_cdf(1 - error / 2)
    middle = share + z * z / (2 * count)
    wide = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - wide) / scale), min(1.0, (middle + wide) / scale)


def _disparities(rates: Sequence[SliceRates]) -> Iterator[Disparity]:
    compared: list[tuple[str, str, list[tuple[str, Share]]]] = []
    for feature, parts in groupby(rates, key=lambda one: one.feature):
        here = list(parts)
        for name in RATES:
            known = [(one.part, rate) for one in here if (rate := getattr(one, name)).value is not None]
            compared.append((feature, name, known))
    pairs = sum(len(known) * (len(known) - 1) // 2 for _, _, known in compared)
    for feature, name, known in compared:
        found = [
            _difference(feature, name, one, other, _ERROR / pairs)
            for one, other in permutations(known, 2)
            if (one[1].value or 0.0) >= (other[1].value or 0.0)
        ]
        if found:
            yield max(found, key=lambda one: (one.low, one.difference))


def _difference(
    feature: str, name: str, higher: tuple[str, Share], lower: tuple[str, Share], error: float
) -> Disparity:
    (part, one), (other, two) = higher, lower
    p1, p2 = one.value or 0.0, two.value or 0.0
    (low1, high1), (low2, high2) = wilson(p1, one.keys, error), wilson(p2, two.keys, error)
    difference = p1 - p2
    return Disparity(
        feature=feature,
        rate=name,
        higher=part,
        lower=other,
        difference=difference,
        low=difference - sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2),
        high=difference + sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2),
    )
