"""Which labels train and which test: by time where that can be, else by key; never a key on both sides."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.evaluation.measures import SHARE, Floats, Mask, check_classes, held_out, places


@dataclass(frozen=True, kw_only=True)
class Split:
    """Masks over the labels; a label in neither is left out, because its key is on the other side. `how` is for people."""

    train: Mask
    test: Mask
    kind: str
    how: str


def split(
    wanted: str, keys: NDArray[np.object_], times: NDArray[np.int64], target: Floats, task: str
) -> Split:
    """Train on the labels before a moment and test on those after it; by key when `wanted` says so or time cannot tell.

    A key with labels on both sides of the moment tests when its hash says so (see `held_out`) and trains otherwise; its labels on the
    wrong side of the moment are left out. Raises AnabranchError when there are too few labels for two sides.
    """
    if task == "class":
        check_classes(target)
    why = ""
    if wanted == "time":
        found = _by_time(keys, times)
        if isinstance(found, Split):
            if _usable(found, target, task):
                return found
            found = "the earlier or the later labels are too few or of one class"
        why = f" ({found})"
    mask = held_out(keys, target, task)
    return Split(train=~mask, test=mask, kind="key", how=f"by key: a quarter of the keys is held out{why}")


def _by_time(keys: NDArray[np.object_], times: NDArray[np.int64]) -> Split | str:
    if len(np.unique(times)) < 2:
        return "all labels have one time"
    moment = np.quantile(times, 1 - SHARE, method="higher")
    later = times >= moment
    _, position = np.unique(keys, return_inverse=True)
    count = position.max() + 1
    seen_later, seen_earlier = (
        np.bincount(position, later, count) > 0,
        np.bincount(position, ~later, count) > 0,
    )
    tests = np.where(seen_later & seen_earlier, places(keys) < SHARE, seen_later)[position]
    found = Split(train=~later & ~tests, test=later & tests, kind="time", how="")
    left = int((~found.train & ~found.test).sum())
    aside = f"; {left} labels of keys on the other side are left out" if left else ""
    text = f"by time: trained before {np.datetime64(int(moment), 'us')}Z, tested from then on{aside}"
    return Split(train=found.train, test=found.test, kind="time", how=text)


def _usable(found: Split, target: Floats, task: str) -> bool:
    sides = (target[found.train], target[found.test])
    if task == "class":
        return all(len(np.unique(side)) == 2 and np.bincount(side.astype(int)).min() >= 2 for side in sides)
    return all(len(side) >= 2 for side in sides)
