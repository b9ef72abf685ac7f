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
    """Weights over a design's columns. Scores are computed in float64, without building the graph.

    `weights` are (columns,) with `bias` (1,), or of several classes (columns, classes) with (classes,).
    """

    def __init__(
        self,
        rows: TrainingRows,
        design: Design,
        weights: NDArray[np.float64],
        bias: NDArray[np.float64],
    ) -> None:
        classes = rows.task != "number"
        super().__init__(
            rows,
            lambda: linear_model(design, weights, bias, len(rows.inputs), probability=classes),
            self.scores,
            exact=lambda: kept_linear(
                design, weights, rows.matrix, float(bias[0]), LOG_ODDS if classes else NUMBER
            ),
        )
        self.design, self.weights, self.bias = design, weights, bias

    def scores(self, matrix: Matrix) -> Scores:
        found = self.design.columns(matrix).astype(np.float64) @ self.weights + self.bias
        if self.rows.task == "classes":
            from scipy.special import softmax

            return np.asarray(softmax(found, axis=1))
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
    weights, bias = np.atleast_2d(learner.coef_), np.ravel(learner.intercept_)
    if rows.task != "classes":
        return LearntLinear(rows, design, np.ravel(weights), bias)
    if len(bias) == 1:  # of two classes scikit-learn keeps the weights of the second alone
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.append(0.0, bias)
    return LearntLinear(rows, design, weights.T, bias)


LOGISTIC = Trainer(
    name="logistic",
    tasks=("class", "classes"),
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
