"""Scores of training rows by models that did not see them: what a map or an interval is fitted on.

The model that is released learns from all training rows; models with its trainer and parameters learn from
parts of them, with the rows of a key kept together, and score the rest. Held-out rows take no part.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from anabranch.stores.models.scoring import Scores
from batch.evaluation.splits import both_usable, folds
from batch.trainers.choice import MOST_WEIGHED, Chosen, most_folds
from batch.trainers.registry import trainer
from batch.trainers.rows import SMALL, TrainingRows
from batch.trainers.trainer import Learnt

Refit = Callable[[TrainingRows], Learnt]


def refit_of(learnt: Learnt, name: str) -> Refit:
    """How a model of trainer `name` is trained again on other rows, without choosing or searching again."""
    return learnt.refit if isinstance(learnt, Chosen) else trainer(name).train


def out_of_fold(rows: TrainingRows, refit: Refit) -> tuple[NDArray[np.float64], Scores]:
    """Targets and scores of rows that the scoring model did not see.

    Each row once, in five parts, or of many rows one part in five. Raises AnabranchError when there are too
    few keys for two parts.
    """
    fold = folds(rows.target, rows.groups, rows.task, most_folds(rows), rows.seed)
    many = len(rows.target) > MOST_WEIGHED
    targets, scores = [], []
    with threadpool_limits(1 if len(rows.target) < SMALL else None):
        for number in [0] if many else np.unique(fold).tolist():
            part = fold == number
            # Of classes the part itself may have one: only what it is scored by must know two.
            if both_usable(rows.target[~part], rows.target[~part], rows.task):
                targets.append(rows.target[part])
                scores.append(refit(rows.part(~part)).scores(rows.matrix[part]))
    return np.concatenate(targets), np.concatenate(scores)
