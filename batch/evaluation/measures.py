"""Which rows are held out, and what is measured on them. Plain arrays; nothing of Spark or MLflow."""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import METRICS
from anabranch.errors import AnabranchError

SHARE = 0.25
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def held_out(keys: NDArray[np.object_], target: Floats, task: str) -> Mask:
    """True for the rows held out: about a quarter of the keys, each key with all its rows on one side.

    A key's side is a hash of its text, so it stays there when data grows. Where that leaves a side without one of
    the classes (tiny data), a quarter of the keys of each class is taken in the order of their hashes instead. Raises
    AnabranchError when neither gives two usable sides.
    """
    unique, position = np.unique(keys, return_inverse=True)
    place = places(keys)
    if task == "class":
        check_classes(target)
    mask: Mask = (place < SHARE)[position]
    if not _usable(mask, target, task):
        mask = _by_rank(place, _strata(position, len(unique), target, task))[position]
    if not _usable(mask, target, task):
        raise AnabranchError(_too_few(position, target, task))
    return mask


def evaluate(metric: str, task: str, target: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The usual metrics of the task, the declared one first."""
    names = dict.fromkeys([metric, *[name for name, learns in METRICS.items() if learns == task]])
    return {name: measure(name, target, scores, threshold) for name in names}


def measure(metric: str, target: Floats, scores: Floats, threshold: float = 0.5) -> float:
    """One metric alone."""
    return _MEASURES[metric](target, scores, threshold)


# Plain NumPy, equal to scikit-learn's to rounding: intervals measure thousands of resamples, and its checks of arguments cost more than
# the sums.
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
    ones, said = target == 1, scores >= threshold
    total = int(ones.sum() + said.sum())
    return float(2 * np.sum(ones & said) / total) if total else 0.0


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


def places(keys: NDArray[np.object_]) -> Floats:
    """A number from 0 to below 1 for each distinct key, in the order of np.unique: a hash of its text."""
    return np.array([_place(str(key)) for key in np.unique(keys)])


def _place(key: str) -> float:
    """A number in [0, 1) that only the key decides."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def check_classes(target: Floats) -> None:
    """Raises AnabranchError unless the targets are 0 and 1, both."""
    found = np.unique(target)
    strange = [value for value in found.tolist() if value not in (0.0, 1.0)]
    if strange:
        raise AnabranchError(
            f"the label's target gives {strange[0]:g}, not 0 or 1: write a condition such as 'num > 0', or use a metric for numbers"
        )
    if len(found) < 2:
        raise AnabranchError(
            f"all {len(target)} labels are of class {found[0]:g}: a model needs examples of both classes, so bring in labels of the other"
        )


def _usable(mask: Mask, target: Floats, task: str) -> bool:
    sides = (target[mask], target[~mask])
    return (
        all(len(np.unique(side)) == 2 for side in sides)
        if task == "class"
        else all(len(side) >= 2 for side in sides)
    )


def _strata(position: NDArray[np.intp], keys: int, target: Floats, task: str) -> NDArray[np.int64]:
    """A number a key: for classes, whether any of its rows is of class 1."""
    found = np.zeros(keys, dtype=np.int64)
    if task == "class":
        np.maximum.at(found, position, target.astype(np.int64))
    return found


def _by_rank(place: Floats, strata: NDArray[np.int64]) -> Mask:
    mask = np.zeros(len(place), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        chosen = members[np.argsort(place[members])]
        mask[chosen[: max(2 if len(np.unique(strata)) == 1 else 1, round(SHARE * len(members)))]] = True
    return mask


def _too_few(position: NDArray[np.intp], target: Floats, task: str) -> str:
    keys = len(np.unique(position))
    if task == "number":
        return f"{len(target)} labels of {keys} keys are too few to train and to test on: at least 4 keys are needed, bring in more labels"
    counts = [len(np.unique(position[target == value])) for value in (0.0, 1.0)]
    return (
        f"labels are too few to train and to test on: {counts[0]} keys have class 0 and {counts[1]} have class 1, "
        "where at least 2 of each are needed: bring in more labels"
    )
