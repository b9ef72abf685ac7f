"""A trained model with calibrated scores, or with intervals, as the declaration asks for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import Model
from anabranch.errors import AnabranchError
from anabranch.stores.models.explaining.explanation import PROBABILITY
from anabranch.stores.models.explaining.kept import kept_background, kept_before_calibration
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Interval, Matrix, Scores
from batch.calibration.maps import ScoreMap, fitted_maps, mapped, mapped_model
from batch.calibration.out_of_fold import out_of_fold, refit_of
from batch.trainers.choice import tried
from batch.trainers.graphs import OUTPUT, check_parity, run
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import Learnt


class CalibratedModel:
    """A model whose scores are mapped to observed shares; `learnt` is the model without the maps."""

    def __init__(self, learnt: Learnt, maps: Sequence[ScoreMap], rows: TrainingRows, how: str) -> None:
        self.learnt, self.trials = learnt, tried(learnt)
        self.parameters: Mapping[str, object] = {**learnt.parameters, "calibrated": how}
        self._maps, self._rows, self._how = maps, rows, how

    def scores(self, matrix: Matrix) -> Scores:
        return mapped(self.learnt.scores(matrix), self._maps)

    def fitted(self) -> Fitted:
        """The model with its maps as one ONNX graph; raises AnabranchError when it has no ONNX form."""
        plain, rows = self.learnt.fitted(), self._rows
        if plain.onnx is None:
            raise AnabranchError(
                "the model has no ONNX form, of which its calibration would be a part: "
                "use another trainer or other params, or leave out Model(calibrate=...)"
            )
        classes = len(rows.classes)
        onnx = mapped_model(plain.onnx, plain.output, self._maps, len(rows.inputs))
        right = mapped(run(plain.onnx, plain.output, rows.matrix, classes), self._maps)
        check_parity(onnx, OUTPUT, rows.matrix, right, classes)
        exact = plain.explainer and kept_before_calibration(plain.explainer)
        return replace(
            plain, native="onnx", onnx=onnx, output=OUTPUT, ubj=None, skops=None, columns=None, shift=0.0,
            explainer=exact or kept_background(rows.matrix, PROBABILITY),
            parameters={**plain.parameters, "calibrated": self._how},
        )  # fmt: skip


class IntervalModel:
    """A model of numbers with an interval around each."""

    def __init__(self, learnt: Learnt, interval: Interval) -> None:
        self.learnt, self.interval, self.trials = learnt, interval, tried(learnt)
        self.parameters = learnt.parameters

    def scores(self, matrix: Matrix) -> Scores:
        return self.learnt.scores(matrix)

    def fitted(self) -> Fitted:
        """The model with its interval."""
        return replace(self.learnt.fitted(), interval=self.interval)


def adjusted(learnt: Learnt, model: Model, rows: TrainingRows) -> Learnt:
    """`learnt`, a model of `rows`, with calibrated scores or intervals where `model` declares them."""
    if model.calibrate is None and model.interval is None:
        return learnt
    target, scores = out_of_fold(rows, refit_of(learnt, model.trainer))
    if model.calibrate is not None:
        return CalibratedModel(learnt, fitted_maps(model.calibrate, scores, target), rows, model.calibrate)
    return IntervalModel(learnt, conformal(target - scores, model.interval or 0.9))


def conformal(misses: NDArray[np.float64], level: float) -> Interval:
    """The interval around a prediction that holds a share `level` of `misses` (target minus prediction, n).

    Half of the others lie on each side; for n + 1 exchangeable rows the next one is inside at least as often.
    Raises AnabranchError when there are too few rows for the level.
    """
    count, outside = len(misses), round((1 - level) / 2, 12)
    low = math.floor((count + 1) * outside)
    if low < 1:
        least = math.ceil(1 / outside) - 1
        raise AnabranchError(
            f"an interval of {level:g} needs {least} training rows, and there are {count}: "
            "bring in more labels, or declare a smaller interval"
        )
    ordered = np.sort(misses)
    return Interval(level=level, low=float(ordered[low - 1]), high=float(ordered[count - low]))
