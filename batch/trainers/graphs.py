"""ONNX graphs: a design's columns, linear models, trees, and models put together.

Input ``features``, output ``score``: one column, or one a class of several.

Splits of trees are exact: a float32 is at most a float64 threshold when it is at most the largest float32
that is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anabranch.errors import AnabranchError
from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.trees import Tree, at_most
from anabranch.stores.models.scoring import Matrix, Scores, apart

PARITY = 1e-5
OUTPUT = "score"
_INPUT, _COLUMNS, _RAW = "features", "columns", "raw"
_OPSET, _ML_OPSET = 15, 1


class Graph:
    """A graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A named constant tensor; returns its name."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def model(self, width: int, output: str = OUTPUT, scores: int = 1) -> bytes:
        """The finished model of `width` inputs and so many `scores` a row, checked."""
        given = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, [None, width])
        scored = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, scores])
        graph = helper.make_graph(self.nodes, "anabranch", [given], [scored], self.constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="anabranch")
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())


def add_design(graph: Graph, design: Design) -> str:
    """The design's columns of the graph's input; returns their name."""
    if design.described is None:
        return _INPUT
    parts = [_numbers(graph, design)] if design.plain else []
    if design.equal:
        position = graph.constant(
            "equal_position", np.array([position for position, _ in design.equal], dtype=np.int64)
        )
        values = np.array([value for _, value in design.equal], dtype=np.float32)
        found = graph.node("Gather", [_INPUT, position], "equal_input", axis=1)
        same = graph.node(
            "Equal", [found, graph.constant("equal_value", np.nan_to_num(values, nan=0.0))], "equal_same"
        )
        known = graph.node("And", [same, graph.constant("equal_known", ~np.isnan(values))], "equal_told")
        gone = graph.node(
            "And",
            [graph.node("IsNaN", [found], "equal_nan"), graph.constant("equal_missing", np.isnan(values))],
            "equal_gone",
        )
        parts.append(
            graph.node(
                "Cast", [graph.node("Or", [known, gone], "equal_either")], "equal", to=TensorProto.FLOAT
            )
        )
    return graph.node("Concat", parts, _COLUMNS, axis=1)


def _numbers(graph: Graph, design: Design) -> str:
    found = graph.node(
        "Gather",
        [_INPUT, graph.constant("plain_position", np.array(design.plain, dtype=np.int64))],
        "plain",
        axis=1,
    )
    if design.fill is None or design.shift is None or design.scale is None:
        return found
    gone = graph.node("IsNaN", [found], "plain_nan")
    full = graph.node("Where", [gone, graph.constant("fill", design.fill), found], "plain_full")
    moved = graph.node("Sub", [full, graph.constant("shift", design.shift)], "plain_moved")
    return graph.node("Div", [moved, graph.constant("scale", design.scale)], "plain_scaled")


def linear_model(
    design: Design,
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    width: int,
    *,
    probability: bool,
) -> bytes:
    """``columns @ weights + bias``, through a sigmoid or, of several classes, a softmax when `probability`.

    `weights` are (columns,) with `bias` (1,), or (columns, classes) with `bias` (classes,).
    """
    graph = Graph()
    columns, scores = add_design(graph, design), len(bias)
    product = graph.node(
        "MatMul",
        [columns, graph.constant("weights", weights.astype(np.float32).reshape(-1, scores))],
        "product",
    )
    total = graph.node(
        "Add",
        [product, graph.constant("bias", bias.astype(np.float32))],
        _RAW if probability else OUTPUT,
    )
    if probability:
        _add_probabilities(graph, total, scores)
    return graph.model(width, scores=scores)


def _add_probabilities(graph: Graph, raw: str, scores: int) -> None:
    if scores == 1:
        graph.node("Sigmoid", [raw], OUTPUT)
    else:
        graph.node("Softmax", [raw], OUTPUT, axis=1)


def tree_model(
    design: Design,
    trees: Sequence[Tree],
    weights: Sequence[float],
    width: int,
    *,
    bias: float = 0.0,
    probability: bool = False,
    classes: int = 0,
) -> bytes:
    """The weighted sum of the trees' leaves plus `bias`, through a sigmoid when `probability`.

    Of several `classes` there is a sum for each, through a softmax when `probability`.
    """
    graph = Graph()
    columns = add_design(graph, design)
    total = _RAW if probability else OUTPUT
    graph.node(
        "TreeEnsembleRegressor",
        [columns],
        total,
        domain="ai.onnx.ml",
        n_targets=classes or 1,
        base_values=[bias] * (classes or 1),
        **_ensemble(trees, weights),
    )
    if probability:
        _add_probabilities(graph, total, classes or 1)
    return graph.model(width, scores=classes or 1)


def _ensemble(trees: Sequence[Tree], weights: Sequence[float]) -> dict[str, Any]:
    sizes = [len(tree.feature) for tree in trees]
    feature = np.concatenate([tree.feature for tree in trees])
    leaf = feature < 0
    number = np.repeat(np.arange(len(trees)), sizes)
    node = np.concatenate([np.arange(size) for size in sizes])
    values = [tree.value * weight for tree, weight in zip(trees, weights, strict=True)]
    value = np.concatenate([one.reshape(len(one), -1) for one in values])[leaf]  # (leaves, targets)
    columns = value.shape[1]
    target = np.repeat([tree.target for tree in trees], sizes)[leaf][:, None] + np.arange(columns)
    threshold = np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees]))
    return {
        "nodes_treeids": number.tolist(),
        "nodes_nodeids": node.tolist(),
        "nodes_featureids": np.where(leaf, 0, feature).tolist(),
        "nodes_values": at_most(threshold).tolist(),
        "nodes_hitrates": [1.0] * len(node),
        "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf.tolist()],
        "nodes_truenodeids": np.where(leaf, 0, np.concatenate([tree.left for tree in trees])).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, np.concatenate([tree.right for tree in trees])).tolist(),
        "nodes_missing_value_tracks_true": (~leaf & np.concatenate([tree.missing_left for tree in trees]))
        .astype(int)
        .tolist(),
        "target_treeids": np.repeat(number[leaf], columns).tolist(),
        "target_nodeids": np.repeat(node[leaf], columns).tolist(),
        "target_ids": target.ravel().tolist(),
        "target_weights": value.ravel().astype(np.float32).tolist(),
    }


def behind_design(
    model: bytes, output: str, design: Design, width: int, shift: float = 0.0, classes: int = 0
) -> bytes:
    """`model`, which takes the design's columns, as a model of the inputs.

    Its output plus `shift` becomes ``score`` (n, 1), or that of several `classes` ``score`` (n, classes).
    """
    graph, score = Graph(), _RAW if shift else OUTPUT
    found = add_part(graph, model, output, "model_", add_design(graph, design), score, classes)
    if shift:
        graph.node("Add", [found, graph.constant("shift_score", np.array([shift], dtype=np.float32))], OUTPUT)
    return graph.model(width, scores=classes or 1)


def add_part(
    graph: Graph, model: bytes, output: str, prefix: str, given: str, score: str, classes: int = 0
) -> str:
    """Put `model` into the graph, fed with `given`; its last output column becomes `score` (n, 1).

    Of several `classes` all columns do, (n, classes).
    """
    part = onnx.load_model_from_string(model)
    names = {part.graph.input[0].name: given}
    _rename(part.graph, names, prefix)
    graph.nodes += part.graph.node
    graph.constants += part.graph.initializer
    if classes:
        return graph.node("Flatten", [f"{prefix}{output}"], score, axis=1)
    flat = graph.node("Flatten", [f"{prefix}{output}"], f"{prefix}flat", axis=1)
    last = graph.constant(f"{prefix}last", np.array([-1], dtype=np.int64))
    return graph.node("Gather", [flat, last], score, axis=1)


def _rename(part: Any, names: Mapping[str, str], prefix: str) -> None:
    """Give every value of a graph, and of the branches in it, a name with the prefix or one of `names`."""
    for i, node in enumerate(part.node):
        node.name = f"{prefix}{i}"
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, f"{prefix}{name}") if name else "" for name in listed]
        for branch in (one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH):
            _rename(branch, names, prefix)
            for value in branch.output:
                value.name = f"{prefix}{value.name}"
    for constant in part.initializer:
        constant.name = f"{prefix}{constant.name}"


def check_parity(
    onnx_model: bytes | None, output: str, matrix: Matrix, scores: Scores, classes: int = 0
) -> None:
    """Raises AnabranchError when the ONNX form differs from the model itself on the training rows."""
    if onnx_model is None:
        return
    worst = apart(run(onnx_model, output, matrix, classes), scores)
    if not worst <= PARITY:
        raise AnabranchError(
            f"the ONNX form of the model differs from the model by {worst:.2g}, where {PARITY} is allowed: "
            "no version was made; use another trainer or other params"
        )


def run(onnx_model: bytes, output: str, matrix: Matrix, classes: int = 0) -> Scores:
    """Scores of coded rows by an ONNX model: the last column of its `output`, or all of several `classes`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run([output], {session.get_inputs()[0].name: matrix})[0]
    columns = found.reshape(len(matrix), classes or -1).astype(np.float64)
    return columns if classes else columns[:, -1]
