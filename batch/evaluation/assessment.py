"""The assessment of a trained model: metrics with intervals, slices, importance of features.

Arrays in, values out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER, Slice
from anabranch.pages.formats import plain
from anabranch.stores.models.scoring import Matrix, Scores
from batch.evaluation.measures import evaluate, measure

Floats = NDArray[np.float64]
RESAMPLES = 200
_LARGE = 20_000  # rows; above, intervals of the declared metric alone, with fewer resamples
_MOST_VALUES = 20


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """The metric on one part of the held-out rows; None where it is not defined, as on rows of one class."""

    feature: str
    part: str
    rows: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """Rows with their true targets (n,) and a model's scores: (n,), or of several classes (n, classes).

    Of several classes a target is the position of the class among the model's, -1 for one it does not know.
    `groups` (n,) number the keys: rows of one key are drawn together. A score of `threshold` or more means
    class 1.
    """

    target: Floats
    scores: Scores
    groups: NDArray[np.int64]
    threshold: float = 0.5

    def part(self, mask: NDArray[np.bool_] | NDArray[np.int64]) -> "JudgedRows":
        """The rows of a mask, or at positions."""
        return replace(self, target=self.target[mask], scores=self.scores[mask], groups=self.groups[mask])

    def measure(self, metric: str) -> float:
        """The value of one metric."""
        return measure(metric, self.target, self.scores, self.threshold)


def resamples(groups: NDArray[np.int64], count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions of rows, drawn with replacement by group: rows of one key stay together."""
    _, position = np.unique(groups, return_inverse=True)
    keys = int(position.max()) + 1
    random = np.random.default_rng(seed)
    rows = np.arange(len(groups))
    for _ in range(count):
        yield np.repeat(rows, np.bincount(random.integers(keys, size=keys), minlength=keys)[position])


def intervals(names: Sequence[str], rows: JudgedRows, seed: int) -> dict[str, tuple[float, float]]:
    """The 95% interval of each metric by the percentile bootstrap; resamples of one class are passed over."""
    large = len(rows.target) > _LARGE
    found: dict[str, list[float]] = {name: [] for name in (names[:1] if large else names)}
    for drawn in resamples(rows.groups, RESAMPLES // 2 if large else RESAMPLES, seed):
        target, scores = rows.target[drawn], rows.scores[drawn]
        if len(np.unique(target)) < 2:
            continue
        for name, values in found.items():
            values.append(measure(name, target, scores, rows.threshold))
    bounds = {name: np.quantile(values, (0.025, 0.975)) for name, values in found.items() if values}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def measured(metric: str, task: str, rows: JudgedRows, seed: int) -> dict[str, float]:
    """The task's metrics, the declared one first, each followed by the bounds ``_low`` and ``_high``."""
    values = evaluate(metric, task, rows.target, rows.scores, rows.threshold)
    bounds = intervals(list(values), rows, seed)
    found: dict[str, float] = {}
    for name, value in values.items():
        found[name] = value
        if name in bounds:
            found[f"{name}_low"], found[f"{name}_high"] = bounds[name]
    return found


def slice_results(
    slices: Sequence[Slice],
    columns: Mapping[str, NDArray[np.object_] | Floats],
    metric: str,
    rows: JudgedRows,
    seed: int,
) -> list[SliceResult]:
    """The declared metric on every part of every slice; `columns` are the features of the rows."""
    found = []
    for one in slices:
        for name, mask in slice_parts(one, columns[one.feature]):
            part, value, bounds = rows.part(mask), None, None
            if len(np.unique(part.target)) >= 2:
                value, bounds = part.measure(metric), intervals([metric], part, seed).get(metric)
            low, high = bounds or (None, None)
            found.append(
                SliceResult(
                    feature=one.feature, part=name, rows=len(part.target), value=value, low=low, high=high
                )
            )
    return found


def slice_parts(one: Slice, values: NDArray[np.object_] | Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """Name and mask of each part that has rows: bands, or the most frequent values; missing last."""
    # NaN alone differs from itself.
    missing = [value is None or value != value for value in values.tolist()]  # noqa: PLR0124 - NaN
    gone = np.array(missing, dtype=bool)
    parts: list[tuple[str, NDArray[np.bool_]]] = []
    if one.bands:
        numbers = np.array(
            [
                np.nan if missing else float(value)
                for value, missing in zip(values.tolist(), gone, strict=True)
            ]
        )
        bounds = [-np.inf, *one.bands, np.inf]
        parts = [(_band(low, high), (numbers >= low) & (numbers < high)) for low, high in pairwise(bounds)]
    else:
        texts = np.array([_text(value) for value in values.tolist()], dtype=object)
        names, counts = np.unique(texts[~gone].astype(str), return_counts=True)
        kept = sorted(names[np.argsort(-counts, kind="stable")][:_MOST_VALUES].tolist())
        parts = [(name, (texts == name) & ~gone) for name in kept]
        parts.append(("other values", ~gone & ~np.isin(texts.astype(str), kept)))
    return [(name, mask) for name, mask in [*parts, ("missing", gone)] if mask.any()]


def _band(low: float, high: float) -> str:
    if np.isinf(low):
        return f"below {plain(high)}"
    return f"{plain(low)} and more" if np.isinf(high) else f"{plain(low)} to below {plain(high)}"


def _text(value: object) -> str:
    return plain(value) if isinstance(value, float) else str(value)


def importance(
    predict: Callable[[Matrix], Scores],
    matrix: Matrix,
    rows: JudgedRows,
    names: Sequence[str],
    metric: str,
    seed: int,
) -> dict[str, float]:
    """How much worse the metric gets, in the mean of five shuffles of one feature's values among the rows.

    `matrix` has the coded inputs of `rows`, one column for each of `names`.
    """
    random, target = np.random.default_rng(seed), rows.target
    if len(target) > 5_000:
        some = random.choice(len(target), 5_000, replace=False)
        matrix, target = matrix[some], target[some]
    if len(np.unique(target)) < 2:
        return {}
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0

    def judged(inputs: Matrix) -> float:
        return sign * measure(metric, target, predict(inputs), rows.threshold)

    whole, found = judged(matrix), {}
    for place, name in enumerate(names):
        worse = []
        shuffled = matrix.copy()
        for _ in range(5):
            shuffled[:, place] = random.permutation(matrix[:, place])
            worse.append(whole - judged(shuffled))
        found[name] = float(np.mean(worse))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
