"""`xgboost`, on the driver or on Spark's workers: shallow trees for few rows, deeper ones for many."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import LOG_ODDS, NUMBER
from anabranch.stores.models.explaining.kept import kept_trees, read_explainer
from anabranch.stores.models.explaining.trees import Tree
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores, both_classes
from batch.trainers.design import tree_design
from batch.trainers.frames import COLUMNS, TARGET, WEIGHT, TrainingFrame, designed
from batch.trainers.graphs import OUTPUT, behind_design, check_parity
from batch.trainers.rows import SMALL, TrainingRows
from batch.trainers.trainer import Trainer, explainer, stored, training_with

if TYPE_CHECKING:
    import xgboost

_OPSET = 15
_ROUNDED = 1_000  # training rows
_OBJECTIVES = {"class": "binary:logistic", "classes": "multi:softprob", "number": "reg:squarederror"}
_OURS = frozenset({"rounds", "categories", "distributed"})
_REFUSED = {"objective", "missing", "enable_categorical", "n_estimators"}
_SPARK_NAMES = {"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "seed": "random_state"}
XGBOOST_PARAMETERS = frozenset(
    {
        "base_score", "booster", "callbacks", "colsample_bylevel", "colsample_bynode", "colsample_bytree",
        "device", "early_stopping_rounds", "enable_categorical", "eval_metric", "feature_types",
        "feature_weights", "gamma", "grow_policy", "importance_type", "interaction_constraints",
        "learning_rate", "max_bin", "max_cat_threshold", "max_cat_to_onehot", "max_delta_step", "max_depth",
        "max_leaves", "min_child_weight", "missing", "monotone_constraints", "multi_strategy",
        "n_estimators", "n_jobs", "num_parallel_tree", "objective", "random_state", "reg_alpha",
        "reg_lambda", "sampling_method", "scale_pos_weight", "subsample", "tree_method",
        "validate_parameters", "verbosity",
    }
)  # fmt: skip
"""The parameters of xgboost.XGBClassifier, written down: importing XGBoost takes longer than any check."""


class LearntBooster:
    """A booster over a design's columns; `shift` is added to its predictions."""

    def __init__(
        self,
        booster: "xgboost.Booster",
        design: Design,
        rows: TrainingRows,
        parameters: Mapping[str, object],
        shift: float = 0.0,
    ) -> None:
        # Names stay out of the stored booster: its inputs go by position, and features.json names them.
        booster.feature_names = None
        self.booster, self.design, self.rows = booster, design, rows
        self.parameters, self.shift = parameters, shift

    def scores(self, matrix: Matrix) -> Scores:
        columns = self.design.columns(matrix)
        found = self.booster.inplace_predict(columns, missing=np.nan, validate_features=False)
        scores = np.asarray(found, dtype=np.float64) + self.shift
        return both_classes(scores) if len(self.rows.classes) == 2 and scores.ndim == 1 else scores

    def fitted(self) -> Fitted:
        onnx, output = self._onnx()
        found = self.scores(self.rows.matrix)
        check_parity(onnx, output, self.rows.matrix, found, len(self.rows.classes))
        return stored(
            self.rows, self.parameters, "xgboost-cpu",
            native="xgboost", ubj=bytes(self.booster.save_raw("ubj")), onnx=onnx, output=output,
            columns=self.design.described, shift=self.shift,
            explainer=explainer(self.rows, self._explained, self.scores),
        )  # fmt: skip

    def _explained(self) -> bytes:
        """What explains the scores: the booster's own trees and covers."""
        import xgboost

        trees, weights = booster_trees(self.booster)
        # The rest is the base score, of which each objective has its own form; the mean of many margins takes
        # their rounding to float32 away.
        matrix = self.rows.matrix[:_ROUNDED]
        data = xgboost.DMatrix(self.design.columns(matrix), missing=np.nan, nthread=1)
        margins = self.booster.predict(data, output_margin=True, validate_features=False)
        space = NUMBER if self.rows.task == "number" else LOG_ODDS
        none = read_explainer(kept_trees(self.design, trees, weights, matrix, 0.0, space), self.scores)
        bias = float(np.mean(margins.astype(np.float64) - none.explain(matrix).margins)) + self.shift
        return kept_trees(self.design, trees, weights, matrix, bias, space)

    def _onnx(self) -> tuple[bytes | None, str]:
        """The ONNX form and its output; none for a booster that cannot be converted and serves natively."""
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        shape = [("features", FloatTensorType([None, self.design.width]))]
        output = "variable" if self.rows.task == "number" else "probabilities"
        try:
            converted = convert_xgboost(self.booster, initial_types=shape, target_opset=_OPSET)
            model = converted.SerializeToString()
        except (RuntimeError, NotImplementedError, KeyError):
            return None, ""
        if self.design.described is None and not self.shift:
            return model, output
        width, classes = len(self.rows.inputs), len(self.rows.classes)
        return behind_design(model, output, self.design, width, self.shift, classes), OUTPUT


def booster_trees(booster: "xgboost.Booster") -> tuple[list[Tree], list[float]]:
    """The trees of a booster and their weights, which are not 1 for the booster 'dart'.

    Raises AnabranchError for a booster of other splits than numbers below a threshold.
    """
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    model, weights = (model["gbtree"], model["weight_drop"]) if "gbtree" in model else (model, None)
    described = model.get("model", {}).get("trees", ())
    if not described or any(any(tree["split_type"]) for tree in described):
        raise AnabranchError("the booster has other splits than numbers below a threshold")
    return [_tree(tree) for tree in described], weights or [1.0] * len(described)


def _tree(found: Mapping[str, Any]) -> Tree:
    left, right = (np.array(found[name], dtype=np.int64) for name in ("left_children", "right_children"))
    leaf, condition = left < 0, np.array(found["split_conditions"], dtype=np.float32)
    # XGBoost goes left below the threshold.
    below = np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)
    return Tree(
        feature=np.where(leaf, -1, np.array(found["split_indices"], dtype=np.int64)),
        threshold=np.where(leaf, 0.0, below),
        left=np.where(leaf, 0, left),
        right=np.where(leaf, 0, right),
        missing_left=np.array(found["default_left"], dtype=bool),
        value=np.where(leaf, condition.astype(np.float64), 0.0),
        cover=np.array(found["sum_hessian"], dtype=np.float64),
    )


def xgboost_params(rows: TrainingRows) -> dict[str, Any]:
    """Parameters of `xgboost.train` for rows with complete `params`, beside `rounds` and `categories`."""
    if rows.params.get("booster") == "gblinear":
        raise DeclarationError(
            "model: xgboost's booster 'gblinear' is no ensemble of trees: "
            "use the trainer 'logistic' or 'linear'"
        )
    # Two named classes are learnt as 0 and 1 are: the ONNX converter knows no softmax of two.
    several = len(rows.classes) > 2
    objective = _OBJECTIVES["class" if rows.classes and not several else rows.task]
    # One thread: sums over rows are then added in one order, so the same rows give the same trees to the bit.
    fixed = {"objective": objective, "tree_method": "hist", "seed": rows.seed, "verbosity": 0, "nthread": 1}
    fixed |= {"num_class": len(rows.classes)} if several else {}
    return {**fixed, **rows.params}


def _defaults(_task: str, count: int) -> Mapping[str, object]:
    """Few rows want shallow trees, each of a few columns."""
    size: dict[str, object] = (
        {"rounds": 200, "max_depth": 2, "colsample_bytree": 0.3, "subsample": 0.6, "reg_lambda": 10.0}
        if count < SMALL
        else {"rounds": 300, "max_depth": 6, "colsample_bytree": 0.8, "subsample": 0.8, "reg_lambda": 2.0}
    )
    return {"eta": 0.05, "min_child_weight": 5.0, **size}


def _centre(rows: TrainingRows) -> float:
    """What numeric targets are reduced by: sums of float32 leaves are the more exact, the nearer to zero."""
    centred = rows.task == "number" and "base_score" not in rows.params
    return float(np.float32(rows.target.mean())) if centred else 0.0


def _base_score(rows: TrainingRows) -> dict[str, Any]:
    return {} if rows.task != "number" else {"base_score": rows.params.get("base_score", 0.0)}


def _learn_xgboost(rows: TrainingRows) -> LearntBooster:
    import xgboost

    params, design, shift = xgboost_params(rows), tree_design(rows), _centre(rows)
    learner = {name: value for name, value in params.items() if name not in _OURS} | _base_score(rows)
    with training_with("xgboost", xgboost.core.XGBoostError):
        data = xgboost.DMatrix(
            design.columns(rows.matrix), rows.target - shift, weight=rows.weights, missing=np.nan
        )
        booster = xgboost.train(learner, data, rows.whole("rounds"))
    return LearntBooster(booster, design, rows, params, shift)


def _learn_frame(given: TrainingFrame) -> LearntBooster:
    from pyspark.sql import functions as F
    from xgboost.spark import SparkXGBClassifier, SparkXGBRegressor

    rows = given.rows
    params, design, shift = xgboost_params(rows), tree_design(rows), _centre(rows)
    # XGBoost takes parts as they are when there is one for each worker, and deals rows out anew otherwise.
    workers = max(1, min(int(given.frame.sparkSession.sparkContext.defaultParallelism), 8))
    frame = designed(given, design, missing=float("nan"), vector=False, parts=workers)
    left = _OURS | {"objective", "nthread", "verbosity"}
    chosen = {_SPARK_NAMES.get(name, name): value for name, value in params.items() if name not in left}
    learner = (SparkXGBClassifier if rows.task == "class" else SparkXGBRegressor)(
        features_col=COLUMNS, label_col=TARGET, weight_col=WEIGHT, num_workers=workers,
        n_estimators=rows.whole("rounds"), missing=float("nan"), **_base_score(rows), **chosen,
    )  # fmt: skip
    try:
        booster = learner.fit(frame.withColumn(TARGET, F.col(TARGET) - F.lit(shift))).get_booster()
    except Exception as error:
        # What fails on a worker comes back as an error of Spark, of Py4J or of XGBoost.
        first = str(error).splitlines()[0]
        raise AnabranchError(f"xgboost could not train on Spark: {first}: check Model(params=...)") from error
    return LearntBooster(booster, design, rows, {**params, "workers": workers}, shift)


XGBOOST = Trainer(
    name="xgboost",
    tasks=("class", "classes", "number"),
    learn=_learn_xgboost,
    defaults=_defaults,
    parameters=_OURS | {"eta", "lambda", "alpha", "seed", "nthread"} | (XGBOOST_PARAMETERS - _REFUSED),
    learn_frame=_learn_frame,
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
