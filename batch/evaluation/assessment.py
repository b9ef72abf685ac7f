"""What is known of a model after training: metrics with intervals, slices, importance of features. Plain arrays in, plain values out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER, Slice
from anabranch.stores.models.scoring import Matrix, Scores
from batch.evaluation.measures import evaluate, measure

Floats = NDArray[np.float64]
RESAMPLES = 200
_LARGE = 20_000  # rows; above, intervals of the declared metric alone, with fewer resamples
_MOST_VALUES = 20


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """One part of the held-out rows; `value` is None where the metric says nothing (one class alone)."""

    feature: str
    part: str
    rows: int
    value: float | None
    low: float | None
    high: float | None


def resamples(groups: NDArray[np.int64], count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions of rows, drawn with replacement by group: rows of one key stay together."""
    _, position = np.unique(groups, return_inverse=True)
    keys = int(position.max()) + 1
    random = np.random.default_rng(seed)
    rows = np.arange(len(groups))
    for _ in range(count):
        yield np.repeat(rows, np.bincount(random.integers(keys, size=keys), minlength=keys)[position])


def intervals(
    names: Sequence[str],
    target: Floats,
    scores: Scores,
    threshold: float,
    groups: NDArray[np.int64],
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95% percentile bootstrap by name of metric; resamples of one class alone are passed over."""
    large = len(target) > _LARGE
    found: dict[str, list[float]] = {name: [] for name in (names[:1] if large else names)}
    for drawn in resamples(groups, RESAMPLES // 2 if large else RESAMPLES, seed):
        there = target[drawn]
        if len(np.unique(there)) < 2:
            continue
        for name, values in found.items():
            values.append(measure(name, there, scores[drawn], threshold))
    bounds = {name: np.quantile(values, (0.025, 0.975)) for name, values in found.items() if values}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def measured(
    metric: str,
    task: str,
    target: Floats,
    scores: Scores,
    threshold: float,
    groups: NDArray[np.int64],
    seed: int,
) -> dict[str, float]:
    """The task's metrics, the declared one first, each followed by its ``_low`` and ``_high`` where there is an interval."""
    found = evaluate(metric, task, target, scores, threshold)
    bounds = intervals(list(found), target, scores, threshold, groups, seed)
    told: dict[str, float] = {}
    for name, value in found.items():
        told[name] = value
        if name in bounds:
            told[f"{name}_low"], told[f"{name}_high"] = bounds[name]
    return told


def slice_results(
    slices: Sequence[Slice], columns: Mapping[str, NDArray[np.object_] | Floats], metric: str, target: Floats, scores: Scores,
    threshold: float, groups: NDArray[np.int64], seed: int,
) -> list[SliceResult]:  # fmt: skip
    """The declared metric on every part of every slice."""
    found = []
    for one in slices:
        for part, mask in slice_parts(one, columns[one.feature]):
            there = target[mask]
            usable = len(there) >= 2 and len(np.unique(there)) >= 2
            value = measure(metric, there, scores[mask], threshold) if usable else None
            low, high = (
                intervals([metric], there, scores[mask], threshold, groups[mask], seed).get(
                    metric, (None, None)
                )
                if usable
                else (None, None)
            )
            found.append(
                SliceResult(
                    feature=one.feature, part=part, rows=int(mask.sum()), value=value, low=low, high=high
                )
            )
    return found


def slice_parts(one: Slice, values: NDArray[np.object_] | Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """Name and mask of each part that has rows: bands, or the most frequent values with the others together; missing last."""
    gone = np.array([value is None or value != value for value in values.tolist()], dtype=bool)  # noqa: PLR0124 - NaN alone differs from itself
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
        return f"below {high:g}"
    return f"{low:g} and more" if np.isinf(high) else f"{low:g} to below {high:g}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def importance(
    predict: Callable[[Matrix], Scores],
    matrix: Matrix,
    target: Floats,
    names: Sequence[str],
    metric: str,
    threshold: float,
    seed: int,
) -> dict[str, float]:
    """How much worse the metric gets, in the mean of five shuffles, when one feature's values are shuffled among the rows."""
    random = np.random.default_rng(seed)
    if len(target) > 5_000:
        some = random.choice(len(target), 5_000, replace=False)
        matrix, target = matrix[some], target[some]
    if len(np.unique(target)) < 2:
        return {}
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    whole = measure(metric, target, predict(matrix), threshold)
    found = {}
    for place, name in enumerate(names):
        worse = []
        shuffled = matrix.copy()
        for _ in range(5):
            shuffled[:, place] = random.permutation(matrix[:, place])
            worse.append(sign * (whole - measure(metric, target, predict(shuffled), threshold)))
        found[name] = float(np.mean(worse))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
