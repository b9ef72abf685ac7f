"""Coding of inputs and running of models; this file is copied into each model version (see model_code.py).

So it imports nothing of Anabranch, and a version stays as it was when this file changes later. It imports no
MLflow either: a server scores with it directly. Beside it in a version's folder lie

    features.json   names, kinds and categories of the inputs, task, threshold or classes, which file it is
    model.ubj       XGBoost's own format, or
    model.skops     a scikit-learn estimator, read without running anything from it, or
    model.onnx      the model itself, or the twin of one of the others for small requests and the edge

Inputs are coded as float32: numbers and booleans as they are, DATE as days and TIMESTAMP as microseconds
since 1970 UTC, texts as their position among the categories seen in training (an unknown text is missing).
None, NaN and infinities are missing.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]
Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
_PLAIN = ("number", "boolean")


class InputCoder:
    """Feature columns to a float32 matrix, as `inputs` of features.json say."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        self.names = tuple(str(given["name"]) for given in inputs)
        self._kinds = tuple(str(given["kind"]) for given in inputs)
        self._codes = [
            {text: float(code) for code, text in enumerate(given.get("categories", ()))} for given in inputs
        ]
        self._plain = all(kind in _PLAIN for kind in self._kinds)

    def matrix(self, columns: Columns) -> Matrix:
        """Shape (rows, inputs); raises ValueError for a missing column or a value that cannot be coded."""
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise ValueError(
                f"the model's input lacks {', '.join(missing)}: give every feature (a value may be null)"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            coded = self._arrays(columns)
            if coded is None:
                coded = self._coded(columns).astype(np.float32)
        coded[~np.isfinite(coded)] = np.nan
        return coded

    def _arrays(self, columns: Columns) -> Matrix | None:
        """Arrays of numbers, each copied once: this is the path of many rows.

        None when some column is no such array.
        """
        given = [columns[name] for name in self.names]
        if not self._plain or not all(
            isinstance(column, np.ndarray) and column.dtype.kind in "biuf" for column in given
        ):
            return None
        coded = np.empty((len(given[0]), len(given)), dtype=np.float32)
        for place, column in enumerate(given):
            coded[:, place] = np.asarray(column, dtype=np.float64)
        return coded

    def _coded(self, columns: Columns) -> Scores:
        if self._plain:
            try:  # all columns at once: this is the path of a single answer
                return np.array([columns[name] for name in self.names], dtype=np.float64).T
            except (TypeError, ValueError):
                pass  # some value is no number: the slow path names it
        parts = zip(self.names, self._kinds, self._codes, strict=True)
        return np.column_stack([_column(name, kind, codes, columns[name]) for name, kind, codes in parts])


def _column(name: str, kind: str, codes: Mapping[str, float], values: Sequence[Any] | NDArray[Any]) -> Scores:
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        unit = "datetime64[D]" if kind == "date" else "datetime64[us]"
        whole = values.astype(unit).astype(np.int64).astype(np.float64)
        return np.where(np.isnat(values), np.nan, whole)
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and kind != "text":
        return values.astype(np.float64)
    return np.array([_value(name, kind, codes, value) for value in values], dtype=np.float64)


def _value(name: str, kind: str, codes: Mapping[str, float], value: Any) -> float:
    if value is None or type(value).__name__ in (
        "NAType",
        "NaTType",
    ):  # pandas' own nulls, without importing pandas
        return np.nan
    try:
        if kind == "text":
            return codes.get(value, np.nan) if isinstance(value, str) else np.nan
        if kind in ("date", "timestamp") and isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date):
            return _time(kind, value)
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"feature {name!r} is {value!r}: it must be a {kind} or null") from error


def _time(kind: str, value: date) -> float:
    moment = (
        value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    )
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if kind == "date":
        return float((moment.date() - date(1970, 1, 1)).days)
    return float((moment - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution))


def expanded(matrix: Matrix, columns: Mapping[str, Any]) -> Matrix:
    """The inputs at `plain`, then a column a pair of `equal`: 1 where the input equals the value, else 0.

    A value of null stands for missing.
    """
    plain, equal = columns["plain"], columns["equal"]
    found = np.empty((len(matrix), len(plain) + len(equal)), dtype=np.float32)
    found[:, : len(plain)] = matrix[:, plain]
    for place, (position, value) in enumerate(equal, len(plain)):
        found[:, place] = (
            np.isnan(matrix[:, position]) if value is None else matrix[:, position] == np.float32(value)
        )
    return found


TRUSTED = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss._loss.CyHalfSquaredError",
)
"""Parts of scikit-learn's own estimators that skops trusts only by name: compiled classes with arrays."""


class SkopsModel:
    """A scikit-learn estimator.

    The file is data: types outside scikit-learn, NumPy, SciPy and `TRUSTED` are refused.
    """

    def __init__(self, path: Path, task: str) -> None:
        from skops.io import load

        self._estimator, self._task = load(path, trusted=list(TRUSTED)), task

    def predict(self, matrix: Matrix) -> Scores:
        """One score a row: the probability of class 1, of each class (n, classes), or a number."""
        if self._task == "number":
            return np.asarray(self._estimator.predict(matrix), dtype=np.float64).reshape(len(matrix))
        found = np.asarray(self._estimator.predict_proba(matrix), dtype=np.float64)
        return found if self._task == "classes" else found[:, 1]


class NativeModel:
    """XGBoost itself: fastest for many rows.

    It was trained on `columns`, None for the inputs; `shift` is added.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Any] | None = None,
        shift: float = 0.0,
        classes: int = 0,
    ) -> None:
        import xgboost  # only versions that need it

        # One thread: Spark and the server already run one process a core.
        self._booster, self._columns, self._shift = (
            xgboost.Booster({"nthread": 1}, model_file=str(path)),
            columns,
            shift,
        )
        self._classes = classes

    def predict(self, matrix: Matrix) -> Scores:
        """One score a row: the probability of class 1, of each class (n, classes), or a number."""
        columns = matrix if self._columns is None else expanded(matrix, self._columns)
        found = self._booster.inplace_predict(columns, missing=np.nan, validate_features=False)
        scores = np.asarray(found, dtype=np.float64) + self._shift
        return both_classes(scores) if self._classes == 2 and scores.ndim == 1 else scores


class OnnxModel:
    """A model under ONNX Runtime: fastest for few rows.

    `output` names the graph's output that holds the scores; of several `classes` it has a column each.
    """

    def __init__(self, path: Path, output: str, classes: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._output, self._input = [output], self._session.get_inputs()[0].name
        self._classes = classes

    def predict(self, matrix: Matrix) -> Scores:
        """One score a row: the probability of class 1 (the last of the output's columns), or a number.

        Of several classes the probabilities of all (n, classes).
        """
        found: NDArray[np.float32] = self._session.run(self._output, {self._input: matrix})[0]
        if self._classes:
            return found.reshape(len(matrix), self._classes).astype(np.float64)
        return found.reshape(len(matrix), -1)[:, -1].astype(np.float64)


def both_classes(scores: Scores) -> Scores:
    """Probabilities of the second of two classes (n,) as those of both (n, 2)."""
    return np.column_stack([1 - scores, scores])


class Interval(NamedTuple):
    """What is added to a predicted number for the ends of an interval that holds a share `level` of rows."""

    level: float
    low: float
    high: float


def apart(found: Scores, right: Scores) -> float:
    """The largest difference of scores, relative to the largest of 1, the right score and their usual size.

    A model that computes in 32 bits cannot be nearer for a score near 0 among large ones. No number is
    infinitely far away.
    """
    sizes = np.abs(right)
    usual = float(np.median(sizes)) if len(sizes) else 0.0
    differences = np.abs(found - right) / np.maximum(max(1.0, usual), sizes)
    return float(np.max(np.where(np.isnan(differences), np.inf, differences), initial=0.0))


def open_model(folder: Path, described: Mapping[str, Any]) -> NativeModel | SkopsModel | OnnxModel:
    """The model for many rows."""
    if described["native"] == "onnx":
        return _onnx(folder, described)
    if described["native"] == "skops":
        return SkopsModel(folder / "model.skops", str(described["task"]))
    shift, classes = float(described.get("shift", 0.0)), len(described.get("classes", ()))
    return NativeModel(folder / "model.ubj", described.get("columns"), shift, classes)


def open_models(
    folder: Path, described: Mapping[str, Any]
) -> tuple[NativeModel | SkopsModel | OnnxModel, OnnxModel | None]:
    """The model for many rows, and its ONNX form for few (None when it could not be converted)."""
    few = _onnx(folder, described) if (folder / "model.onnx").exists() else None
    return open_model(folder, described), few


def _onnx(folder: Path, described: Mapping[str, Any]) -> OnnxModel:
    return OnnxModel(folder / "model.onnx", str(described["output"]), len(described.get("classes", ())))
