"""LightGBM, on the driver: leaf-wise trees. They are kept as a graph, so nothing that scores needs LightGBM."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import Design, tree_design
from batch.trainers.graphs import OUTPUT, Tree, check_parity, run, tree_model
from batch.trainers.rows import SMALL, Trainer, TrainingRows, check_params, chosen_categories, pins, whole

_KNOWN = {
    "rounds", "categories", "num_leaves", "max_depth", "eta", "min_child_samples", "min_child_weight", "subsample", "colsample_bytree", "reg_alpha",
    "reg_lambda", "max_bin", "min_split_gain", "extra_trees", "path_smooth",
}  # fmt: skip


class LearntLight:
    """A booster over a design's columns."""

    def __init__(
        self, booster: Any, design: Design, rows: TrainingRows, parameters: Mapping[str, object]
    ) -> None:
        self.booster, self.rows, self.parameters, self.design = booster, rows, parameters, design
        trees = [_tree(one["tree_structure"]) for one in booster.dump_model()["tree_info"]]
        self.onnx = tree_model(
            design, trees, [1.0] * len(trees), len(rows.inputs), probability=rows.task == "class"
        )

    def scores(self, matrix: Matrix) -> Scores:
        """Of the graph."""
        return run(self.onnx, OUTPUT, matrix)

    def fitted(self) -> Fitted:
        """The graph, which must say what LightGBM says."""
        said = np.asarray(
            self.booster.predict(self.design.columns(self.rows.matrix), num_threads=1), dtype=np.float64
        )
        check_parity(self.onnx, OUTPUT, self.rows.matrix, said)
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=self.onnx,
            output=OUTPUT,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def _learn_lightgbm(rows: TrainingRows) -> LearntLight:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise AnabranchError(
            f"trainer 'lightgbm' needs the package lightgbm and the system's libgomp ({error}): install both, or use 'xgboost'"
        ) from error
    check_params("lightgbm", rows.params, _KNOWN)
    few = len(rows.target) < SMALL
    size: dict[str, Any] = (
        {
            "rounds": 150,
            "num_leaves": 4,
            "colsample_bytree": 0.3,
            "subsample": 0.6,
            "reg_lambda": 10.0,
            "min_child_samples": 10,
        }
        if few
        else {
            "rounds": 300,
            "num_leaves": 63,
            "colsample_bytree": 0.8,
            "subsample": 0.8,
            "reg_lambda": 2.0,
            "min_child_samples": 20,
        }
    )
    params = {"eta": 0.05, **size, **rows.params}
    # One thread and rows by rows: sums are added in one order, so the same rows give the same trees to the bit.
    fixed = {
        "objective": "binary" if rows.task == "class" else "regression",
        "verbosity": -1,
        "num_threads": 1,
        "deterministic": True,
    }
    fixed |= {"force_row_wise": True, "seed": rows.seed, "subsample_freq": 1, "boost_from_average": True}
    design = tree_design(rows, chosen_categories(rows, rows.params))
    learner = {name: value for name, value in params.items() if name not in ("rounds", "categories")}
    data = lightgbm.Dataset(
        design.columns(rows.matrix), rows.target, weight=rows.weights, params={"verbosity": -1}
    )
    try:
        booster = lightgbm.train({**fixed, **learner}, data, whole(params, "rounds"))
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise AnabranchError(
            f"lightgbm could not train: {str(error).splitlines()[0]}: check Model(params=...)"
        ) from error
    return LearntLight(booster, design, rows, params)


def _tree(root: Mapping[str, Any]) -> Tree:
    nodes: list[tuple[int, float, int, int, bool, float]] = []

    def grow(node: Mapping[str, Any]) -> int:
        place = len(nodes)
        if "split_feature" not in node:
            nodes.append((-1, 0.0, 0, 0, True, float(node["leaf_value"])))
            return place
        if node["decision_type"] != "<=":
            raise AnabranchError(
                f"LightGBM describes a split as {node['decision_type']!r}, which is unknown here: use the trainer 'xgboost'"
            )
        nodes.append((0, 0.0, 0, 0, True, 0.0))
        threshold = float(node["threshold"])
        # A column that was never missing in training takes a missing value for 0.
        missing_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0
        left = grow(node["left_child"])
        nodes[place] = (
            int(node["split_feature"]),
            threshold,
            left,
            grow(node["right_child"]),
            missing_left,
            0.0,
        )
        return place

    grow(root)
    feature, threshold, left, right, missing_left, value = (
        np.array(column) for column in zip(*nodes, strict=True)
    )
    return Tree(
        feature=feature, threshold=threshold, left=left, right=right, missing_left=missing_left, value=value
    )


LIGHTGBM = Trainer(
    tasks=("class", "number"),
    learn=_learn_lightgbm,
    space={
        "rounds": [50, 100, 200, 300],
        "num_leaves": (2, 63, "log"),
        "eta": (0.02, 0.3, "log"),
        "min_child_samples": (5, 50, "log"),
        "subsample": (0.5, 1.0),
        "colsample_bytree": (0.3, 1.0),
        "reg_lambda": (0.3, 30.0, "log"),
    },
)
