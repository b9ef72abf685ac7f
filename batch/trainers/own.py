"""The user's own trainer, ``module:function``, from a file in a folder of projects.

The function is called as ``function(matrix, target, inputs)``: `matrix` (n, k) float32 with NaN for missing, `target` (n,) float64, `inputs`
the k ModelInputs (name, kind, categories) in order. It returns one of three things that have an exact description:
a fitted estimator of scikit-learn over the matrix, an xgboost.Booster over the matrix, or an ONNX model (ModelProto or bytes) whose input
is (n, k) float32 and whose last output gives the score (the probability of class 1, or the number) as its last column.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import xgboost

from anabranch.declare.loading import load_function
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.boosted import LearntBooster
from batch.trainers.design import Design
from batch.trainers.graphs import run
from batch.trainers.rows import Learnt, Trainer, TrainingRows, pins
from batch.trainers.scikit import LearntEstimator


class LearntGraph:
    """An ONNX model as it was given."""

    def __init__(
        self, model: bytes, output: str, rows: TrainingRows, parameters: Mapping[str, object]
    ) -> None:
        self.model, self.output, self.rows, self.parameters = model, output, rows, parameters

    def scores(self, matrix: Matrix) -> Scores:
        """Of ONNX Runtime."""
        return run(self.model, self.output, matrix)

    def fitted(self) -> Fitted:
        """The model itself."""
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=self.model,
            output=self.output,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def own_trainer(name: str) -> Trainer:
    """The function `name` as a trainer."""
    return Trainer(tasks=("class", "number"), learn=lambda rows: _learn(name, rows))


def _learn(name: str, rows: TrainingRows) -> Learnt:
    function = load_function(name, rows.folders)
    given = (rows.matrix.copy(), rows.target.copy(), rows.inputs)
    try:
        made = function(*given, **rows.params)
    except Exception as error:
        # Whatever the user's code raises, the user needs to know whose it is.
        raise AnabranchError(
            f"trainer {name!r} failed: {type(error).__name__}: {error}: correct the function"
        ) from error
    learnt = _learnt(name, made, rows)
    scores = learnt.scores(rows.matrix)
    if (
        scores.shape != rows.target.shape
        or not np.isfinite(scores).all()
        or (rows.task == "class" and (scores.min() < 0 or scores.max() > 1))
    ):
        wanted = "a probability from 0 to 1" if rows.task == "class" else "a finite number"
        raise AnabranchError(
            f"trainer {name!r} gave a model whose scores are not {wanted} for every row: correct the function"
        )
    return learnt


def _learnt(name: str, made: Any, rows: TrainingRows) -> Learnt:
    if isinstance(made, xgboost.Booster):
        return LearntBooster(made, Design(plain=tuple(range(len(rows.inputs))), equal=()), rows, rows.params)
    if isinstance(made, (bytes, onnx.ModelProto)):
        model = onnx.load_model_from_string(made) if isinstance(made, bytes) else made
        return LearntGraph(model.SerializeToString(), model.graph.output[-1].name, rows, rows.params)
    if hasattr(made, "predict_proba" if rows.task == "class" else "predict"):
        return LearntEstimator(made, rows, rows.params)
    raise AnabranchError(
        f"trainer {name!r} returned {type(made).__name__}: return an estimator of scikit-learn, an xgboost.Booster or an ONNX model"
    )
