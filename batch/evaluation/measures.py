"""The metrics of a model's scores: plain arrays in, numbers out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import METRICS

Floats = NDArray[np.float64]


def evaluate(metric: str, task: str, target: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The usual metrics of the task, the declared one first; without those that many classes give alone."""
    most = scores.shape[1] if scores.ndim == 2 else 0
    usual = [name for name, tasks in METRICS.items() if task in tasks and _top(name) < max(most, 2)]
    names = dict.fromkeys([metric, *usual])
    return {name: measure(name, target, scores, threshold) for name in names}


def measure(metric: str, target: Floats, scores: Floats, threshold: float = 0.5) -> float:
    """The value of one metric.

    Of several classes `scores` are (n, classes) and `target` the positions of the classes; a position that
    is no column, of a class that the model does not know, counts as predicted with probability 0.
    """
    if scores.ndim == 2:
        return _OF_CLASSES[metric](target, scores)
    return _MEASURES[metric](target, scores, threshold)


def _top(metric: str) -> int:
    """The k of ``top_k_accuracy``, 0 for another metric; with k classes or fewer it is always 1."""
    return int(metric.split("_")[1]) if metric.startswith("top_") else 0


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


def _known(target: Floats, scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions that are columns of the scores, and which of the targets have one."""
    places = target.astype(np.int64)
    known = (places >= 0) & (places < scores.shape[1])
    return np.where(known, places, 0), known


def _classes_log_loss(target: Floats, scores: Floats) -> float:
    places, known = _known(target, scores)
    sure = np.where(known, scores[np.arange(len(target)), places], 0.0)
    return float(np.mean(-np.log(np.clip(sure, 1e-7, 1.0))) + 0.0)


def _macro_f1(target: Floats, scores: Floats) -> float:
    """The mean F1 of the classes that are among the targets or predicted."""
    names, both = np.unique(
        np.concatenate([target.astype(np.int64), scores.argmax(axis=1)]), return_inverse=True
    )
    true, predicted = both[: len(target)], both[len(target) :]
    right = np.bincount(true[true == predicted], minlength=len(names))
    total = np.bincount(true, minlength=len(names)) + np.bincount(predicted, minlength=len(names))
    return float(np.mean(2 * right / total))


def _macro_roc_auc(target: Floats, scores: Floats) -> float:
    """The mean over the classes that have rows and whose rest has some, each against the rest."""
    found = []
    for place in np.unique(target).astype(np.int64).tolist():
        ones = (target == place).astype(np.float64)
        if 0 <= place < scores.shape[1] and ones.min() == 0:
            found.append(_roc_auc(ones, scores[:, place], 0.5))
    return float(np.mean(found)) if found else 0.5


def _top_accuracy(most: int) -> Callable[[Floats, Floats], float]:
    def accuracy(target: Floats, scores: Floats) -> float:
        """The share of rows with fewer than `most` classes ahead of their own."""
        places, known = _known(target, scores)
        own = scores[np.arange(len(target)), places]
        order = np.arange(scores.shape[1])[None, :]
        # Of equal scores the first class is the first, as it is the label.
        ahead = (scores > own[:, None]) | ((scores == own[:, None]) & (order < places[:, None]))
        return float(np.mean(known & (ahead.sum(axis=1) < most)))

    return accuracy


_OF_CLASSES: dict[str, Callable[[Floats, Floats], float]] = {
    "log_loss": _classes_log_loss,
    "macro_f1": _macro_f1,
    "roc_auc": _macro_roc_auc,
    "accuracy": _top_accuracy(1),
    **{f"top_{most}_accuracy": _top_accuracy(most) for most in (2, 3, 5)},
}
