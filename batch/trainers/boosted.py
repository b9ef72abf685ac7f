"""XGBoost, on the driver: shallow trees for few rows, deeper ones for many."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xgboost

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import Design, tree_design
from batch.trainers.graphs import OUTPUT, behind_design, check_parity
from batch.trainers.rows import SMALL, Trainer, TrainingRows, check_params, chosen_categories, pins, whole

_OPSET = 15
_OWN = {"rounds", "categories", "distributed"}


class LearntBooster:
    """A booster over a design's columns; `shift` is added to what it says."""

    def __init__(
        self,
        booster: xgboost.Booster,
        design: Design,
        rows: TrainingRows,
        parameters: Mapping[str, object],
        shift: float = 0.0,
    ) -> None:
        # Names stay out of the stored booster: its inputs go by position, and features.json names them.
        booster.feature_names = None
        self.booster, self.design, self.rows, self.parameters, self.shift = (
            booster,
            design,
            rows,
            parameters,
            shift,
        )

    def scores(self, matrix: Matrix) -> Scores:
        """Of the booster itself."""
        found = self.booster.inplace_predict(
            self.design.columns(matrix), missing=np.nan, validate_features=False
        )
        return np.asarray(found, dtype=np.float64) + self.shift

    def fitted(self) -> Fitted:
        """In XGBoost's own format, with an ONNX twin."""
        onnx, output = _twin(self.booster, self.design, self.rows, self.shift)
        check_parity(onnx, output, self.rows.matrix, self.scores(self.rows.matrix))
        return Fitted(
            native="xgboost",
            inputs=self.rows.inputs,
            task=self.rows.task,
            ubj=bytes(self.booster.save_raw("ubj")),
            onnx=onnx,
            output=output,
            columns=self.design.described,
            shift=self.shift,
            parameters=self.parameters,
            pip_requirements=pins("xgboost-cpu"),
        )


def learn_xgboost(rows: TrainingRows) -> LearntBooster:
    """Train; raises AnabranchError with XGBoost's own words for values of parameters that it refuses."""
    params = xgboost_params(rows, len(rows.target))
    rounds = whole(params, "rounds")
    design = tree_design(rows, chosen_categories(rows, rows.params))
    learner = {key: value for key, value in params.items() if key not in _OWN}
    shift = centre(rows, float(rows.target.mean()))
    learner |= {} if rows.task == "class" else {"base_score": rows.params.get("base_score", 0.0)}
    data = xgboost.DMatrix(
        design.columns(rows.matrix), rows.target - shift, weight=rows.weights, missing=np.nan
    )
    try:
        booster = xgboost.train(learner, data, rounds)
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise AnabranchError(
            f"xgboost could not train: {str(error).splitlines()[0]}: check Model(params=...)"
        ) from error
    return LearntBooster(booster, design, rows, params, shift)


def centre(rows: TrainingRows, mean: float) -> float:
    """What numbers are learnt less: sums of float32 leaves are exact to the last digits when they are around zero."""
    return 0.0 if rows.task == "class" or "base_score" in rows.params else float(np.float32(mean))


def xgboost_params(rows: TrainingRows, count: int) -> dict[str, Any]:
    """Defaults by the number of rows, then the declaration's. Few rows want shallow trees, each of a few columns."""
    size: dict[str, object] = (
        {"rounds": 200, "max_depth": 2, "colsample_bytree": 0.3, "subsample": 0.6, "reg_lambda": 10.0}
        if count < SMALL
        else {"rounds": 300, "max_depth": 6, "colsample_bytree": 0.8, "subsample": 0.8, "reg_lambda": 2.0}
    )
    objective = "binary:logistic" if rows.task == "class" else "reg:squarederror"
    fixed = {"objective": objective, "tree_method": "hist", "seed": rows.seed, "verbosity": 0}
    known = {*xgboost.XGBClassifier().get_params(), "eta", "lambda", "alpha", "seed", "nthread", *_OWN}
    check_params(
        "xgboost", rows.params, known - {"objective", "missing", "enable_categorical", "n_estimators"}
    )
    if rows.params.get("booster") == "gblinear":
        raise DeclarationError(
            "model: xgboost's booster 'gblinear' is no ensemble of trees: use the trainer 'logistic' or 'linear'"
        )
    # One thread: sums over rows are then added in one order, so the same rows give the same trees to the bit.
    return {**fixed, "nthread": 1, "eta": 0.05, "min_child_weight": 5.0, **size, **rows.params}


def _twin(
    booster: xgboost.Booster, design: Design, rows: TrainingRows, shift: float
) -> tuple[bytes | None, str]:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    shape = [("features", FloatTensorType([None, design.width]))]
    output = "probabilities" if rows.task == "class" else "variable"
    try:
        converted = convert_xgboost(booster, initial_types=shape, target_opset=_OPSET).SerializeToString()
    except (RuntimeError, NotImplementedError, KeyError):
        return None, ""  # a booster that ONNX cannot say serves natively
    if design.described is None and not shift:
        return converted, output
    return behind_design(converted, output, design, len(rows.inputs), shift), OUTPUT


XGBOOST = Trainer(
    tasks=("class", "number"),
    learn=learn_xgboost,
    space={
        "rounds": [50, 100, 200, 300],
        "max_depth": (1, 6),
        "eta": (0.02, 0.3, "log"),
        "min_child_weight": (1.0, 20.0, "log"),
        "subsample": (0.5, 1.0),
        "colsample_bytree": (0.3, 1.0),
        "reg_lambda": (0.3, 30.0, "log"),
    },
)
