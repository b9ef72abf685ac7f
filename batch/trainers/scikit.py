"""`sklearn`: any estimator by its import path.

Estimators are stored by skops, an exact description, never a pickle.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import TRUSTED, Matrix, Scores, apart
from anabranch.values.names import listed
from batch.trainers.graphs import run
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import Trainer, stored, training_with

_OPSET = 15
_PARITY = 1e-6


class LearntEstimator:
    """A fitted estimator over the inputs as they are (its own first steps fill and code them)."""

    def __init__(self, estimator: Any, rows: TrainingRows, parameters: Mapping[str, object]) -> None:
        self.estimator, self.rows, self.parameters = estimator, rows, parameters

    def scores(self, matrix: Matrix) -> Scores:
        if self.rows.task == "number":
            return np.asarray(self.estimator.predict(matrix), dtype=np.float64).reshape(len(matrix))
        found = np.asarray(self.estimator.predict_proba(matrix), dtype=np.float64)
        return found if self.rows.task == "classes" else found[:, 1]

    def fitted(self) -> Fitted:
        content, matrix = trusted_bytes(self.estimator), self.rows.matrix
        onnx, output = self._onnx()
        # The ONNX form is for speed: where float32 rounds across a boundary the estimator alone scores.
        found = None if onnx is None else run(onnx, output, matrix, len(self.rows.classes))
        if found is not None and not apart(found, self.scores(matrix)) <= _PARITY:
            onnx, output = None, ""
        parameters = {**self.parameters, "onnx": onnx is not None}
        return stored(
            self.rows, parameters, "scikit-learn", "skops",
            native="skops", skops=content, onnx=onnx, output=output,
        )  # fmt: skip

    def _onnx(self) -> tuple[bytes | None, str]:
        """The ONNX form and its output; none for an estimator that the converter does not know."""
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        shape = [("features", FloatTensorType([None, len(self.rows.inputs)]))]
        options = None if self.rows.task == "number" else {"zipmap": False}
        try:
            model = to_onnx(
                self.estimator,
                initial_types=shape,
                options={id(self.estimator): options} if options else None,
                target_opset=_OPSET,
            )
        except Exception:  # noqa: BLE001 - converters fail in many ways; the version records it
            return None, ""
        return model.SerializeToString(), model.graph.output[-1].name


def trusted_bytes(estimator: Any) -> bytes:
    """The estimator as skops writes it; raises AnabranchError when loading it needs an untrusted type."""
    from skops.io import dumps, get_untrusted_types

    try:
        content = bytes(dumps(estimator))
        strange = sorted(set(get_untrusted_types(data=content)) - set(TRUSTED))
    except Exception as error:
        # skops raises what the object's own reduction raises.
        raise AnabranchError(
            f"{type(estimator).__name__} cannot be kept without pickle: {error}: "
            "use an estimator of scikit-learn"
        ) from error
    if strange:
        raise AnabranchError(
            f"{type(estimator).__name__} has {strange[0]}, which is not trusted when a model is loaded: "
            "no version was made; use scikit-learn's own types"
        )
    return content


def _learn_sklearn(rows: TrainingRows) -> LearntEstimator:
    path = rows.params.get("estimator")
    kind = _estimator(path)
    taken = inspect.signature(kind).parameters
    params = {name: value for name, value in rows.params.items() if name not in ("estimator", "categories")}
    unknown = [name for name in params if name not in taken]
    if unknown:
        raise DeclarationError(
            f"model: {path} has no parameter {unknown[0]!r}: {listed(unknown[0], sorted(taken), 'it takes')}"
        )
    if "random_state" in taken:
        params.setdefault("random_state", rows.seed)
    estimator, classes = kind(**params), rows.task != "number"
    needed = "predict_proba" if classes else "predict"
    if not hasattr(estimator, needed):
        raise DeclarationError(
            f"model: {path} has no {needed}, which a model of a {rows.task} needs: "
            "use another estimator (SVC needs probability=True)"
        )
    pipeline = _pipeline(estimator, rows)
    weights = {} if rows.weights is None else {"learn__sample_weight": rows.weights}
    with training_with(str(path), TypeError):
        pipeline.fit(rows.matrix, rows.target.astype(np.int64) if classes else rows.target, **weights)
    return LearntEstimator(pipeline, rows, {"estimator": path, **params})


def _estimator(path: object) -> Any:
    if not isinstance(path, str) or "." not in path:
        raise DeclarationError(
            f"model: params 'estimator' is {path!r}: "
            "give an import path such as 'sklearn.ensemble.ExtraTreesClassifier'"
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DeclarationError(
            f"model: params 'estimator' {path!r} cannot be imported ({error}): "
            "give the import path of an estimator's class"
        ) from error


def _pipeline(estimator: Any, rows: TrainingRows) -> Any:
    """`estimator` behind the coding of its inputs.

    Missing numbers stay NaN for an estimator that accepts NaN, and become the median otherwise; categories
    become one column a value.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories = rows.category_positions
    numbers = [i for i in range(len(rows.inputs)) if i not in categories]
    middle = Pipeline(
        [("fill", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
    )
    unknown = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    knows_missing = bool(estimator.__sklearn_tags__().input_tags.allow_nan)
    steps = [
        ("numbers", "passthrough" if knows_missing else middle, numbers),
        ("categories", Pipeline([("fill", unknown), ("encode", encoder)]), list(categories)),
    ]
    prepare = ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)
    return Pipeline([("prepare", prepare), ("learn", estimator)])


SKLEARN = Trainer(name="sklearn", tasks=("class", "classes", "number"), learn=_learn_sklearn, parameters=None)
