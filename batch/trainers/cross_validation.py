"""Choices made by validation inside the training rows: folds by key, and how well a way to learn does on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from anabranch.declare.models import SMALLER_IS_BETTER
from anabranch.errors import AnabranchError
from batch.evaluation.measures import measure
from batch.trainers.rows import SMALL, Learnt, TrainingRows

FOLDS, REPEATS = 5, 2
_LARGE_SHARE = 5  # one part in so many validates when there is plenty


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """One way to learn on the same folds as the others: the metric by fold, turned so that larger is better."""

    name: str
    found: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return float(np.mean(self.found))


def folds(
    target: NDArray[np.float64], groups: NDArray[np.int64] | None, task: str, count: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each row, 0 to `count` - 1: rows of one group together, classes spread evenly.

    Raises AnabranchError when a class (or, for numbers, the data) has fewer groups than folds.
    """
    unique, position = np.unique(np.arange(len(target)) if groups is None else groups, return_inverse=True)
    strata = np.zeros(len(unique), dtype=np.int64)
    if task == "class":
        np.maximum.at(strata, position, target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(unique))
    # Dealt out like cards, one stratum after the other.
    dealt = order[np.argsort(strata[order], kind="stable")]
    smallest = int(np.bincount(strata).min()) if task == "class" and strata.any() else len(unique)
    if smallest < count or (task == "class" and len(np.unique(strata)) < 2):
        what = "keys of the rarer class" if task == "class" else "keys"
        raise AnabranchError(
            f"there are {smallest} {what} for {count} folds: bring in more labels, or use fewer folds"
        )
    fold = np.empty(len(unique), dtype=np.int64)
    fold[dealt] = np.arange(len(unique)) % count
    return fold[position]


def judge(
    ways: Sequence[tuple[str, Callable[[TrainingRows], Learnt]]], rows: TrainingRows
) -> list[FoldScores]:
    """Every way on the same folds: repeated cross-validation for few rows, one split for many."""
    found: dict[str, list[float]] = {name: [] for name, _ in ways}
    # Many small fits: threads of linear algebra would cost more in waiting than they give.
    with threadpool_limits(1 if len(rows.target) < SMALL else None):
        for mask in _parts(rows):
            learning, judging = rows.part(~mask), rows.part(mask)
            for name, learn in ways:
                found[name].append(_scored(learn(learning), judging))
    return [FoldScores(name=name, found=tuple(values)) for name, values in found.items()]


def _parts(rows: TrainingRows) -> list[NDArray[np.bool_]]:
    if len(rows.target) >= SMALL:
        fold = folds(rows.target, rows.groups, rows.task, _LARGE_SHARE, rows.seed)
        return [fold == 0]
    parts = []
    for repeat in range(REPEATS):
        fold = folds(rows.target, rows.groups, rows.task, most_folds(rows), rows.seed + repeat)
        parts += [fold == number for number in np.unique(fold)]
    return [part for part in parts if _judgeable(rows, part)]


def most_folds(rows: TrainingRows) -> int:
    """As many folds as the rarer class has keys for, at most FOLDS; raises AnabranchError below 2."""
    for count in range(FOLDS, 2, -1):
        try:
            folds(rows.target, rows.groups, rows.task, count, rows.seed)
        except AnabranchError:
            continue
        return count
    folds(rows.target, rows.groups, rows.task, 2, rows.seed)
    return 2


def _judgeable(rows: TrainingRows, part: NDArray[np.bool_]) -> bool:
    sides = (rows.target[part], rows.target[~part])
    return (
        all(len(np.unique(side)) == 2 for side in sides)
        if rows.task == "class"
        else all(len(side) >= 2 for side in sides)
    )


def _scored(learnt: Learnt, rows: TrainingRows) -> float:
    value = measure(rows.judged_by, rows.target, learnt.scores(rows.matrix))
    return -value if rows.judged_by in SMALLER_IS_BETTER else value
