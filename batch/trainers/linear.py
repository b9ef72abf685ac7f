"""Regularised linear models: `logistic` for classes, `linear` (ridge) for numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import LOG_ODDS, NUMBER
from anabranch.stores.models.explaining.kept import kept_linear
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import linear_design
from batch.trainers.graphs import linear_model
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import LearntGraph, Trainer, training_with


class LearntLinear(LearntGraph):
    """Weights over a design's columns. Scores are computed in float64, without building the graph."""

    def __init__(self, rows: TrainingRows, design: Design, weights: NDArray[np.float64], bias: float) -> None:
        classes = rows.task == "class"
        super().__init__(
            rows,
            lambda: linear_model(design, weights, bias, len(rows.inputs), probability=classes),
            self.scores,
            exact=lambda: kept_linear(design, weights, rows.matrix, bias, LOG_ODDS if classes else NUMBER),
        )
        self.design, self.weights, self.bias = design, weights, bias

    def scores(self, matrix: Matrix) -> Scores:
        found = self.design.columns(matrix).astype(np.float64) @ self.weights + self.bias
        return np.asarray(0.5 * (1 + np.tanh(found / 2)) if self.rows.task == "class" else found)


def _learn_logistic(rows: TrainingRows) -> LearntLinear:
    from sklearn.linear_model import LogisticRegression

    return _learn("logistic", rows, LogisticRegression(C=rows.params["C"], max_iter=5_000))


def _learn_linear(rows: TrainingRows) -> LearntLinear:
    from sklearn.linear_model import Ridge

    return _learn("linear", rows, Ridge(alpha=rows.params["alpha"]))


def _learn(name: str, rows: TrainingRows, learner: Any) -> LearntLinear:
    design = linear_design(rows)
    with training_with(name):
        learner.fit(design.columns(rows.matrix).astype(np.float64), rows.target, sample_weight=rows.weights)
    return LearntLinear(rows, design, np.ravel(learner.coef_), float(np.ravel(learner.intercept_)[0]))


LOGISTIC = Trainer(
    name="logistic",
    tasks=("class",),
    learn=_learn_logistic,
    defaults=lambda _task, _count: {"C": 0.3, "categories": ()},
    space={"C": (0.003, 10.0, "log")},
    larger="spark-logistic",
)
LINEAR = Trainer(
    name="linear",
    tasks=("number",),
    learn=_learn_linear,
    defaults=lambda _task, _count: {"alpha": 1.0, "categories": ()},
    space={"alpha": (0.01, 1000.0, "log")},
    larger="spark-linear",
)
