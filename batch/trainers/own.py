"""The user's own trainer: ``module:function``, from a file in a folder of projects.

The function is called as ``function(matrix, target, inputs)``: `matrix` (n, k) float32 with NaN for missing,
`target` (n,) float64, `inputs` the k ModelInputs (name, kind, categories) in order. It returns one of three
things that have an exact description: a fitted estimator of scikit-learn over the matrix, an xgboost.Booster
over the matrix, or an ONNX model (ModelProto or bytes) whose input is (n, k) float32 and whose last output
has the score (the probability of class 1, or the number) in its last column. Of several classes `target` has
the position of each row's class, and scores are the probabilities (n, classes) in the order of the classes:
a booster's objective is ``multi:softprob``.
"""

from typing import Any

import numpy as np

from anabranch.declare.loading import load_function
from anabranch.errors import AnabranchError
from anabranch.stores.models.design import Design
from batch.trainers.boosted import LearntBooster
from batch.trainers.rows import TrainingRows
from batch.trainers.scikit import LearntEstimator
from batch.trainers.trainer import Learnt, LearntGraph, Trainer


def own_trainer(name: str) -> Trainer:
    """The function `name` as a trainer."""
    return Trainer(
        name=name,
        tasks=("class", "classes", "number"),
        learn=lambda rows: _learn(name, rows),
        parameters=None,
    )


def _learn(name: str, rows: TrainingRows) -> Learnt:
    function = load_function(name, rows.folders)
    given = (rows.matrix.copy(), rows.target.copy(), rows.inputs)
    try:
        returned = function(*given, **rows.params)
    except Exception as error:
        # The user's code may raise anything; the message names the function as the cause.
        raise AnabranchError(
            f"trainer {name!r} failed: {type(error).__name__}: {error}: correct the function"
        ) from error
    learnt = _learnt(name, returned, rows)
    scores, classes = learnt.scores(rows.matrix), rows.task != "number"
    wide = (*rows.target.shape, len(rows.classes)) if rows.classes else rows.target.shape
    sound = scores.shape == wide and bool(np.isfinite(scores).all())
    if not sound or (classes and (scores.min() < 0 or scores.max() > 1)):
        wanted = "a probability from 0 to 1" if classes else "a finite number"
        wanted += f" for each of {len(rows.classes)} classes" if rows.classes else ""
        raise AnabranchError(
            f"trainer {name!r} gave a model whose scores are not {wanted} for every row: correct the function"
        )
    return learnt


def _learnt(name: str, returned: Any, rows: TrainingRows) -> Learnt:
    import onnx
    import xgboost

    if isinstance(returned, xgboost.Booster):
        as_they_are = Design(plain=tuple(range(len(rows.inputs))), equal=())
        return LearntBooster(returned, as_they_are, rows, rows.params)
    if isinstance(returned, (bytes, onnx.ModelProto)):
        model = onnx.load_model_from_string(returned) if isinstance(returned, bytes) else returned
        return LearntGraph(rows, model.SerializeToString, output=model.graph.output[-1].name)
    if hasattr(returned, "predict" if rows.task == "number" else "predict_proba"):
        return LearntEstimator(returned, rows, rows.params)
    raise AnabranchError(
        f"trainer {name!r} returned {type(returned).__name__}: "
        "return an estimator of scikit-learn, an xgboost.Booster or an ONNX model"
    )
