"""Which rows are held out, and what is measured on them. Plain arrays; nothing of Spark or MLflow."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as measures

from features.errors import AnabranchError

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
    place = np.array([_place(str(key)) for key in unique])
    if task == "class":
        _check_classes(target)
    mask: Mask = (place < SHARE)[position]
    if not _usable(mask, target, task):
        mask = _by_rank(place, _strata(position, len(unique), target, task))[position]
    if not _usable(mask, target, task):
        raise AnabranchError(_too_few(position, target, task))
    return mask


def evaluate(metric: str, task: str, target: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The usual metrics of the task, the declared one first."""
    found = _of_classes(target, scores, threshold) if task == "class" else _of_numbers(target, scores)
    return {metric: found[metric], **found}


def _of_classes(target: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    labels = scores >= threshold
    return {
        "roc_auc": float(measures.roc_auc_score(target, scores)),
        "average_precision": float(measures.average_precision_score(target, scores)),
        "log_loss": float(measures.log_loss(target, np.clip(scores, 1e-7, 1 - 1e-7), labels=[0, 1])),
        "accuracy": float(measures.accuracy_score(target == 1, labels)),
        "f1": float(measures.f1_score(target == 1, labels, zero_division=0.0)),
    }


def _of_numbers(target: Floats, scores: Floats) -> dict[str, float]:
    return {
        "rmse": float(measures.root_mean_squared_error(target, scores)),
        "mae": float(measures.mean_absolute_error(target, scores)),
        "r2": float(measures.r2_score(target, scores)),
    }


def _place(key: str) -> float:
    """A number in [0, 1) that only the key decides."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def _check_classes(target: Floats) -> None:
    found = np.unique(target)
    strange = [value for value in found.tolist() if value not in (0.0, 1.0)]
    if strange:
        raise AnabranchError(f"the label's target gives {strange[0]:g}, not 0 or 1: write a condition such as 'num > 0', or use a metric for numbers")
    if len(found) < 2:
        raise AnabranchError(f"all {len(target)} labels are of class {found[0]:g}: a model needs examples of both classes, so bring in labels of the other")


def _usable(mask: Mask, target: Floats, task: str) -> bool:
    sides = (target[mask], target[~mask])
    return all(len(np.unique(side)) == 2 for side in sides) if task == "class" else all(len(side) >= 2 for side in sides)


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
