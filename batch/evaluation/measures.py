"""The metrics of a model's scores: plain arrays in, numbers out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import METRICS

Floats = NDArray[np.float64]


def evaluate(metric: str, task: str, target: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The usual metrics of the task, the declared one first."""
    names = dict.fromkeys([metric, *[name for name, learns in METRICS.items() if learns == task]])
    return {name: measure(name, target, scores, threshold) for name in names}


def measure(metric: str, target: Floats, scores: Floats, threshold: float = 0.5) -> float:
    """The value of one metric."""
    return _MEASURES[metric](target, scores, threshold)


# Plain NumPy, equal to scikit-learn's to rounding: intervals measure thousands of resamples, and
# scikit-learn's checks of arguments cost more than the sums.
def _roc_auc(target: Floats, scores: Floats, _threshold: float) -> float:
    """By ranks (Mann and Whitney); ties count half."""
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
    ones = target == 1
    count = int(ones.sum())
    return float((ranks[ones].sum() - count * (count + 1) / 2) / (count * (len(target) - count)))


def _average_precision(target: Floats, scores: Floats, _threshold: float) -> float:
    """Precision at each distinct score, weighted by the recall it adds."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    right = np.cumsum(target[order] == 1)[last]
    return float(np.sum(np.diff(right, prepend=0) / right[-1] * right / (last + 1)))


def _log_loss(target: Floats, scores: Floats, _threshold: float) -> float:
    sure = np.clip(scores, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(target == 1, np.log(sure), np.log1p(-sure))))


def _f1(target: Floats, scores: Floats, threshold: float) -> float:
    ones, positive = target == 1, scores >= threshold
    total = int(ones.sum() + positive.sum())
    return float(2 * np.sum(ones & positive) / total) if total else 0.0


def _r2(target: Floats, scores: Floats, _threshold: float) -> float:
    around = float(np.sum((target - target.mean()) ** 2))
    missed = float(np.sum((target - scores) ** 2))
    return 1 - missed / around if around else float(missed == 0)


_MEASURES: dict[str, Callable[[Floats, Floats, float], float]] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "log_loss": _log_loss,
    "accuracy": lambda target, scores, threshold: float(np.mean((target == 1) == (scores >= threshold))),
    "f1": _f1,
    "rmse": lambda target, scores, _: float(np.sqrt(np.mean((target - scores) ** 2))),
    "mae": lambda target, scores, _: float(np.mean(np.abs(target - scores))),
    "r2": _r2,
}
