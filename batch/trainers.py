"""Trainers by name: rows in, a fitted model as bytes out, with a check that its ONNX form says the same.

A trainer knows nothing of Spark, of MLflow or of where rows come from. The same rows and seed give the same model.
"""

# ruff: noqa: PLC0415 - each trainer needs other libraries, all slow to import

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime
import xgboost
from numpy.typing import NDArray

from features.errors import AnabranchError, DeclarationError
from stores.model_inputs import Fitted, ModelInput
from stores.model_scoring import Matrix, Scores

PARITY = 1e-5
SEED = 7
_OPSET = 15
_SMALL = 5_000  # rows; below, deep trees only learn noise


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Coded rows: `matrix` (n, inputs) float32 with NaN for missing, `target` (n,) 0/1 or numbers."""

    matrix: Matrix
    target: NDArray[np.float64]
    inputs: tuple[ModelInput, ...]
    task: str
    params: Mapping[str, object] = field(default_factory=dict)


Trainer = Callable[[TrainingRows], Fitted]


def fit(name: str, rows: TrainingRows) -> Fitted:
    """Train with trainer `name`; raises DeclarationError for an unknown trainer or parameter."""
    check_trainer(name, rows.task)
    return TRAINERS[name][1](rows)


def check_trainer(name: str, task: str | None = None) -> None:
    """Raises DeclarationError, listing the trainers, unless `name` is one (and learns `task`, when given)."""
    if name not in TRAINERS:
        raise DeclarationError(f"model: trainer {name!r} is unknown: use {', '.join(TRAINERS)}")
    tasks = TRAINERS[name][0]
    if task is not None and task not in tasks:
        fitting = ", ".join(other for other, (learns, _) in TRAINERS.items() if task in learns)
        raise DeclarationError(f"model: trainer {name!r} cannot learn a {task}, which the metric asks for: use {fitting} or another metric")


def _fit_xgboost(rows: TrainingRows) -> Fitted:
    params = _xgboost_params(rows)
    rounds = _whole(params, "rounds")
    names = [given.name for given in rows.inputs]
    learner = {key: value for key, value in params.items() if key != "rounds"}
    data = xgboost.DMatrix(rows.matrix, rows.target, missing=np.nan, feature_names=names)
    try:
        booster = xgboost.train(learner, data, rounds)
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise AnabranchError(f"xgboost could not train: {str(error).splitlines()[0]}: check Model(params=...)") from error
    # Names stay out of the stored booster: its inputs go by position, and features.json names them.
    booster.feature_names = None
    onnx, output = _xgboost_twin(booster, rows)
    scores = np.asarray(booster.inplace_predict(rows.matrix, missing=np.nan), dtype=np.float64)
    _check_parity(onnx, output, rows.matrix, scores)
    return Fitted(
        native="xgboost",
        inputs=rows.inputs,
        task=rows.task,
        ubj=bytes(booster.save_raw("ubj")),
        onnx=onnx,
        output=output,
        parameters=params,
        pip_requirements=(_pin("xgboost-cpu"), *_COMMON),
    )


def _xgboost_params(rows: TrainingRows) -> dict[str, object]:
    """Defaults by the number of rows, then the declaration's. Few rows want shallow trees, each of a few columns."""
    small = len(rows.target) < _SMALL
    size: dict[str, object] = (
        {"rounds": 200, "max_depth": 2, "colsample_bytree": 0.3, "subsample": 0.6, "reg_lambda": 10.0}
        if small
        else {"rounds": 300, "max_depth": 6, "colsample_bytree": 0.8, "subsample": 0.8, "reg_lambda": 2.0}
    )
    objective = "binary:logistic" if rows.task == "class" else "reg:squarederror"
    fixed = {"objective": objective, "tree_method": "hist", "seed": SEED, "verbosity": 0}
    known = {*xgboost.XGBClassifier().get_params(), "rounds", "eta", "lambda", "alpha", "seed", "nthread"}
    _check_params("xgboost", rows.params, known - {"objective", "missing", "enable_categorical", "n_estimators"})
    # One thread: sums over rows are then added in one order, so the same rows give the same trees to the bit.
    return {**fixed, "nthread": 1, "eta": 0.05, "min_child_weight": 5.0, **size, **rows.params}


def _xgboost_twin(booster: xgboost.Booster, rows: TrainingRows) -> tuple[bytes | None, str]:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    shape = [("features", FloatTensorType([None, len(rows.inputs)]))]
    output = "probabilities" if rows.task == "class" else "variable"
    try:
        return convert_xgboost(booster, initial_types=shape, target_opset=_OPSET).SerializeToString(), output
    except (RuntimeError, NotImplementedError, KeyError):
        return None, ""  # a booster that ONNX cannot say (params such as booster="gblinear") serves natively


def _fit_logistic(rows: TrainingRows) -> Fitted:
    from sklearn.linear_model import LogisticRegression

    params = _linear_params("logistic", rows, {"C": 0.3})
    return _fit_pipeline(rows, LogisticRegression(C=params["C"], max_iter=5_000), params)


def _fit_linear(rows: TrainingRows) -> Fitted:
    from sklearn.linear_model import Ridge

    params = _linear_params("linear", rows, {"alpha": 1.0})
    return _fit_pipeline(rows, Ridge(alpha=params["alpha"]), params)


def _linear_params(name: str, rows: TrainingRows, defaults: dict[str, object]) -> dict[str, Any]:
    _check_params(name, rows.params, {*defaults, "categories"})
    params = {**defaults, "categories": (), **rows.params}
    chosen = params["categories"]
    known = [given.name for given in rows.inputs]
    if isinstance(chosen, str) or not isinstance(chosen, (list, tuple)) or not set(chosen) <= set(known):
        raise DeclarationError(f"model: params 'categories' is {chosen!r}: it must list features among {', '.join(known)}")
    return params


def _fit_pipeline(rows: TrainingRows, learner: Any, params: dict[str, Any]) -> Fitted:
    """Median and scale for numbers, one column a value for texts and `categories`; stored as ONNX, never pickled."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.pipeline import Pipeline

    apart = [i for i, given in enumerate(rows.inputs) if given.kind == "text" or given.name in params["categories"]]
    pipeline = Pipeline([("prepare", _preparation(rows, apart)), ("learn", learner)])
    pipeline.fit(rows.matrix, rows.target.astype(np.int64) if rows.task == "class" else rows.target)
    shape = [("features", FloatTensorType([None, len(rows.inputs)]))]
    options = {id(learner): {"zipmap": False}} if rows.task == "class" else None
    onnx = to_onnx(pipeline, initial_types=shape, options=options, target_opset=_OPSET).SerializeToString()
    output = "probabilities" if rows.task == "class" else "variable"
    scores = pipeline.predict_proba(rows.matrix)[:, 1] if rows.task == "class" else pipeline.predict(rows.matrix)
    _check_parity(onnx, output, rows.matrix, np.asarray(scores, dtype=np.float64))
    return Fitted(
        native="onnx",
        inputs=rows.inputs,
        task=rows.task,
        onnx=onnx,
        output=output,
        parameters=params,
        pip_requirements=_COMMON,
    )


def _preparation(rows: TrainingRows, apart: list[int]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [i for i in range(len(rows.inputs)) if i not in apart]
    middle = SimpleImputer(strategy="median", keep_empty_features=True)
    unknown = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    steps = [
        ("numbers", Pipeline([("fill", middle), ("scale", StandardScaler())]), numbers),
        ("categories", Pipeline([("fill", unknown), ("encode", encoder)]), apart),
    ]
    return ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)


def _check_parity(onnx: bytes | None, output: str, matrix: Matrix, scores: Scores) -> None:
    """Raises AnabranchError when the ONNX form differs from the model itself on the training rows."""
    if onnx is None:
        return
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    found = session.run([output], {"features": matrix})[0].reshape(len(matrix), -1)[:, -1]
    worst = float(np.max(np.abs(found - scores) / np.maximum(1.0, np.abs(scores)), initial=0.0))
    if not worst <= PARITY:
        raise AnabranchError(
            f"the ONNX form of the model differs from the model by {worst:.2g}, where {PARITY} is allowed: "
            "no version was made; use another trainer or other params"
        )


def _check_params(trainer: str, given: Mapping[str, object], known: set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise DeclarationError(f"model: trainer {trainer!r} has no parameter {unknown[0]!r}: it takes {', '.join(sorted(known))}")


def _whole(params: Mapping[str, object], name: str) -> int:
    value = params[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DeclarationError(f"model: params {name!r} is {value!r}: it must be a whole number above 0")
    return value


def _pin(package: str) -> str:
    return f"{package}=={version(package)}"


_COMMON = tuple(_pin(package) for package in ("mlflow", "numpy", "pandas", "onnxruntime"))

TRAINERS: dict[str, tuple[tuple[str, ...], Trainer]] = {
    "xgboost": (("class", "number"), _fit_xgboost),
    "logistic": (("class",), _fit_logistic),
    "linear": (("number",), _fit_linear),
}
