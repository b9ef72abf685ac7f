"""What a version keeps to be explained: the file explainer.npz, arrays and no pickle.

about                       a text in JSON: format, kind (trees, linear or sampled), space, bias, inputs
plain, equal, value, ...    the design's columns (stores/models/design.py)
feature, threshold, ...     of trees: their nodes (trees.py)
weights, means              of a linear model
background                  of any other: the rows that it is compared with
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import Arrays, Explainer, Floats
from anabranch.stores.models.explaining.others import (
    ExplainerBeforeCalibration,
    LinearExplainer,
    SampledExplainer,
    background,
)
from anabranch.stores.models.explaining.trees import Tree, TreeExplainer, tree_arrays
from anabranch.stores.models.scoring import Matrix, Scores

FILE = "explainer.npz"
_FORMAT = 1
_SCALED = ("fill", "shift", "scale")


def kept_trees(
    design: Design, trees: Sequence[Tree], weights: Sequence[float], matrix: Matrix, bias: float, space: str
) -> bytes:
    """The file of a weighted sum of trees; `matrix` are coded training rows."""
    arrays = tree_arrays(trees, weights, design.columns(matrix))
    return _file("trees", space, matrix.shape[1], {**_columns(design), **arrays}, bias)


def kept_linear(design: Design, weights: Floats, matrix: Matrix, bias: float, space: str) -> bytes:
    """The file of a linear model over a design's columns."""
    means = design.columns(matrix).astype(np.float64).mean(axis=0)
    arrays: Arrays = {**_columns(design), "weights": weights.astype(np.float64), "means": means}
    return _file("linear", space, matrix.shape[1], arrays, bias)


def kept_background(matrix: Matrix, space: str) -> bytes:
    """The file of any other model."""
    return _file("sampled", space, matrix.shape[1], {"background": background(matrix)})


def kept_before_calibration(content: bytes) -> bytes | None:
    """The file of a model, for that model with calibrated scores; None where it is sampled.

    Sampling explains the calibrated scores themselves.
    """
    about, arrays = _read(content)
    if about["kind"] == "sampled":
        return None
    return _written({**about, "before_calibration": True}, arrays)


def read_explainer(content: bytes, predict: Callable[[Matrix], Scores]) -> Explainer:
    """The explainer of a version, of its file; `predict` gives the scores of the version.

    Raises AnabranchError for a file of a later release.
    """
    about, arrays = _read(content)
    kind, space, inputs, bias = about["kind"], about["space"], int(about["inputs"]), float(about["bias"])
    if about["format"] != _FORMAT:
        raise AnabranchError(
            f"{FILE} has the format {about['format']}, which this release does not know: "
            "use the release that trained the version, or train again"
        )
    if kind == "sampled":
        return SampledExplainer(arrays["background"], predict, space)
    design = _design(arrays)
    exact: Explainer = (
        LinearExplainer(design, arrays["weights"], arrays["means"], bias, inputs, space)
        if kind == "linear"
        else TreeExplainer(arrays, design, inputs, bias, space)
    )
    return ExplainerBeforeCalibration(exact) if about.get("before_calibration") else exact


def _read(content: bytes) -> tuple[dict[str, Any], Arrays]:
    """What a file says of itself, and its arrays."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays: Arrays = {name: file[name] for name in file.files}
    about: dict[str, Any] = json.loads(str(arrays.pop("about")))
    return about, arrays


def _file(kind: str, space: str, inputs: int, arrays: Arrays, bias: float = 0.0) -> bytes:
    return _written({"format": _FORMAT, "kind": kind, "space": space, "bias": bias, "inputs": inputs}, arrays)


def _written(about: dict[str, Any], arrays: Arrays) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    return content.getvalue()


def _columns(design: Design) -> Arrays:
    scaled = {name: getattr(design, name) for name in _SCALED if getattr(design, name) is not None}
    return {
        "plain": np.array(design.plain, dtype=np.int64),
        "equal": np.array([position for position, _ in design.equal], dtype=np.int64),
        "equal_value": np.array([value for _, value in design.equal], dtype=np.float64),
        **scaled,
    }


def _design(arrays: Arrays) -> Design:
    pairs = zip(arrays["equal"].tolist(), arrays["equal_value"].tolist(), strict=True)
    return Design(
        plain=tuple(arrays["plain"].tolist()),
        equal=tuple(pairs),
        **{name: arrays[name] for name in _SCALED if name in arrays},
    )
