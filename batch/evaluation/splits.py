"""Which labels train and which test: by time, by key, or in folds. Labels of one key stay together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import AnabranchError

SHARE = 0.25
"""The share of keys, or of labels by time, that is held out."""
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Masks over the labels; a label in neither is left out, because its key is on the other side.

    `kind` is ``time`` or ``key``; `how` describes the split to people.
    """

    train: Mask
    test: Mask
    kind: str
    how: str

    @property
    def left_out(self) -> int:
        """The number of labels on neither side."""
        return int((~self.train & ~self.test).sum())


def split(
    wanted: str, keys: NDArray[np.object_], times: NDArray[np.int64], target: Floats, task: str
) -> Split:
    """Train on the labels before a moment and test on those from then on.

    By key when `wanted` is ``key``, or when one side in time would be too small or of one class. A key with
    labels on both sides of the moment tests when its hash says so (see `held_out`) and trains otherwise; its
    labels on the wrong side of the moment are left out. Raises AnabranchError when there are too few labels
    for two sides.
    """
    _check(target, task)
    why = ""
    if wanted == "time":
        found = _by_time(keys, times)
        if isinstance(found, Split):
            if _large_enough(found, target, task):
                return found
            found = "the earlier or the later labels are too few or of one class"
        why = f" ({found})"
    mask = held_out(keys, target, task)
    return Split(train=~mask, test=mask, kind="key", how=f"by key: a quarter of the keys is held out{why}")


def held_out(keys: NDArray[np.object_], target: Floats, task: str) -> Mask:
    """True for the labels held out: about a quarter of the keys, each key with all its labels on one side.

    A key's side is a hash of its text, so it stays there when data grows. Where that leaves a side without
    one of the classes (tiny data), a quarter of the keys of each class is taken in the order of their hashes
    instead. Raises AnabranchError when neither gives two usable sides.
    """
    unique, position = np.unique(keys, return_inverse=True)
    hashes = _hashes(keys)
    _check(target, task)
    mask: Mask = (hashes < SHARE)[position]
    if not both_usable(target[mask], target[~mask], task):
        mask = _by_rank(hashes, _strata(position, len(unique), target, task))[position]
    if not both_usable(target[mask], target[~mask], task):
        raise AnabranchError(_too_few(position, target, task))
    return mask


def folds(
    target: Floats, groups: NDArray[np.int64] | None, task: str, count: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each row, 0 to `count` - 1: rows of one group together, classes spread evenly.

    Raises AnabranchError when one of two classes (otherwise the data) is in fewer groups than folds. One of
    several classes may be in fewer folds.
    """
    unique, position = np.unique(np.arange(len(target)) if groups is None else groups, return_inverse=True)
    strata, smallest = _strata(position, len(unique), target, task), len(unique)
    if task == "class":
        # Groups of both classes lie between those of one, so that each class is dealt out without a gap.
        zero = np.zeros(len(unique), dtype=bool)
        zero[position[target == 0]] = True
        smallest = min(int(zero.sum()), int(strata.sum()))
        strata = strata + (strata & ~zero)
    order = np.random.default_rng(seed).permutation(len(unique))
    # Dealt out like cards, one stratum after the other.
    dealt = order[np.argsort(strata[order], kind="stable")]
    if smallest < count:
        what = "keys of the rarer class" if task == "class" else "keys"
        raise AnabranchError(
            f"there are {smallest} {what} for {count} folds: bring in more labels, or use fewer folds"
        )
    fold = np.empty(len(unique), dtype=np.int64)
    fold[dealt] = np.arange(len(unique)) % count
    return fold[position]


def both_usable(first: Floats, second: Floats, task: str) -> bool:
    """Whether both sides can be learnt from and judged on: two classes each or more, or two numbers each."""
    if task != "number":
        return all(len(np.unique(side)) >= 2 for side in (first, second))
    return all(len(side) >= 2 for side in (first, second))


def _by_time(keys: NDArray[np.object_], times: NDArray[np.int64]) -> Split | str:
    """The split by time, or why there is none."""
    if len(np.unique(times)) < 2:
        return "all labels have one time"
    moment = np.quantile(times, 1 - SHARE, method="higher")
    later = times >= moment
    _, position = np.unique(keys, return_inverse=True)
    count = position.max() + 1
    seen_later = np.bincount(position, later, count) > 0
    seen_earlier = np.bincount(position, ~later, count) > 0
    tests = np.where(seen_later & seen_earlier, _hashes(keys) < SHARE, seen_later)[position]
    train, test = ~later & ~tests, later & tests
    left = int((~train & ~test).sum())
    aside = (
        f"; {left} of {len(keys)} labels ({left / len(keys):.0%}) of keys on both sides are left out, "
        "split='key' uses every label"
        if left
        else ""
    )
    how = f"by time: trained before {np.datetime64(int(moment), 'us')}Z, tested from then on{aside}"
    return Split(train=train, test=test, kind="time", how=how)


def _large_enough(found: Split, target: Floats, task: str) -> bool:
    sides = (target[found.train], target[found.test])
    if not both_usable(*sides, task):
        return False
    return task != "class" or all(np.bincount(side.astype(int)).min() >= 2 for side in sides)


def _hashes(keys: NDArray[np.object_]) -> Floats:
    """A number in [0, 1) for each distinct key, in the order of np.unique; only the key's text decides it."""
    digests = (hashlib.blake2b(str(key).encode(), digest_size=8).digest() for key in np.unique(keys))
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])


def check_classes(found: Sequence[float], labels: int) -> None:
    """Raise AnabranchError unless the targets `found` among so many labels are the two classes 0 and 1."""
    strange = [value for value in found if value not in (0.0, 1.0)]
    if strange:
        raise AnabranchError(
            f"the label's target gives {strange[0]:g}, not 0 or 1: "
            "write a condition such as 'num > 0', or use a metric for numbers"
        )
    if len(found) == 1:
        raise AnabranchError(
            f"all {labels} labels are of class {found[0]:g}: "
            "a model needs examples of both classes, so bring in labels of the other"
        )


def _check(target: Floats, task: str) -> None:
    if task == "class":
        check_classes(np.unique(target).tolist(), len(target))


def _strata(position: NDArray[np.intp], keys: int, target: Floats, task: str) -> NDArray[np.int64]:
    """A number a key: whether any of its rows is of class 1, or the rarest of its several classes."""
    found = np.zeros(keys, dtype=np.int64)
    if task == "class":
        np.maximum.at(found, position, target.astype(np.int64))
    if task == "classes":
        _, place, counts = np.unique(target, return_inverse=True, return_counts=True)
        rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
        np.maximum.at(found, position, rank[place])
    return found


def _by_rank(hashes: Floats, strata: NDArray[np.int64]) -> Mask:
    mask = np.zeros(len(hashes), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        if len(members) == 1 and strata.max() > 1:
            continue  # the only key of one of several classes is to be learnt from
        chosen = members[np.argsort(hashes[members])]
        mask[chosen[: max(2 if len(np.unique(strata)) == 1 else 1, round(SHARE * len(members)))]] = True
    return mask


def _too_few(position: NDArray[np.intp], target: Floats, task: str) -> str:
    keys = len(np.unique(position))
    if task == "number":
        return (
            f"{len(target)} labels of {keys} keys are too few to train and to test on: "
            "at least 4 keys are needed, bring in more labels"
        )
    if task == "classes":
        return (
            f"{len(target)} labels of {keys} keys are too few to train and to test on: "
            "at least 2 keys of each of two classes are needed, bring in more labels"
        )
    counts = [len(np.unique(position[target == value])) for value in (0.0, 1.0)]
    return (
        f"labels are too few to train and to test on: {counts[0]} keys have class 0 and {counts[1]} have "
        "class 1, "
        "where at least 2 of each are needed: bring in more labels"
    )
