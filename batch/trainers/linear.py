"""Regularised linear models: `logistic` for classes, `linear` (ridge) for numbers. Their ONNX form is the model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import Design, linear_design
from batch.trainers.graphs import OUTPUT, check_parity, linear_model
from batch.trainers.rows import Trainer, TrainingRows, check_params, chosen_categories, pins


class LearntLinear:
    """Weights over a design's columns."""

    def __init__(
        self,
        design: Design,
        weights: NDArray[np.float64],
        bias: float,
        rows: TrainingRows,
        parameters: Mapping[str, object],
    ) -> None:
        self.design, self.weights, self.bias, self.rows, self.parameters = (
            design,
            weights,
            bias,
            rows,
            parameters,
        )

    def scores(self, matrix: Matrix) -> Scores:
        """In float64."""
        found = self.design.columns(matrix).astype(np.float64) @ self.weights + self.bias
        return np.asarray(0.5 * (1 + np.tanh(found / 2)) if self.rows.task == "class" else found)

    def fitted(self) -> Fitted:
        """As ONNX."""
        onnx = linear_model(
            self.design, self.weights, self.bias, len(self.rows.inputs), probability=self.rows.task == "class"
        )
        check_parity(onnx, OUTPUT, self.rows.matrix, self.scores(self.rows.matrix))
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=onnx,
            output=OUTPUT,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def _learn_logistic(rows: TrainingRows) -> LearntLinear:
    from sklearn.linear_model import LogisticRegression

    params = {"C": 0.3, "categories": (), **rows.params}
    return _learn("logistic", rows, LogisticRegression(C=params["C"], max_iter=5_000), params)


def _learn_linear(rows: TrainingRows) -> LearntLinear:
    from sklearn.linear_model import Ridge

    params = {"alpha": 1.0, "categories": (), **rows.params}
    return _learn("linear", rows, Ridge(alpha=params["alpha"]), params)


def _learn(name: str, rows: TrainingRows, learner: Any, params: dict[str, Any]) -> LearntLinear:
    check_params(name, rows.params, {"C" if name == "logistic" else "alpha", "categories"})
    design = linear_design(rows, chosen_categories(rows, params))
    try:
        learner.fit(design.columns(rows.matrix).astype(np.float64), rows.target, sample_weight=rows.weights)
    except ValueError as error:
        raise AnabranchError(
            f"{name} could not train: {str(error).splitlines()[0]}: check Model(params=...)"
        ) from error
    return LearntLinear(design, np.ravel(learner.coef_), float(np.ravel(learner.intercept_)[0]), rows, params)


LOGISTIC = Trainer(
    tasks=("class",), learn=_learn_logistic, space={"C": (0.003, 10.0, "log")}, larger="spark-logistic"
)
LINEAR = Trainer(
    tasks=("number",), learn=_learn_linear, space={"alpha": (0.01, 1000.0, "log")}, larger="spark-linear"
)
