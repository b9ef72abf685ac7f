"""`lightgbm`: leaf-wise boosted trees by LightGBM."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.explaining.explanation import LOG_ODDS, NUMBER
from anabranch.stores.models.explaining.kept import kept_trees
from anabranch.stores.models.explaining.trees import Tree
from batch.trainers.design import tree_design
from batch.trainers.graphs import tree_model
from batch.trainers.rows import SMALL, TrainingRows
from batch.trainers.trainer import LearntGraph, Trainer, training_with

_FEW: dict[str, object] = {"rounds": 150, "num_leaves": 4, "min_child_samples": 10}
_FEW |= {"colsample_bytree": 0.3, "subsample": 0.6, "reg_lambda": 10.0}
_MANY: dict[str, object] = {"rounds": 300, "num_leaves": 63, "min_child_samples": 20}
_MANY |= {"colsample_bytree": 0.8, "subsample": 0.8, "reg_lambda": 2.0}
_OPTIONAL = frozenset(
    {"categories", "max_depth", "min_child_weight", "reg_alpha", "max_bin", "min_split_gain", "extra_trees"}
)


def _learn_lightgbm(rows: TrainingRows) -> LearntGraph:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise AnabranchError(
            f"trainer 'lightgbm' needs the package lightgbm and the system's libgomp ({error}): "
            "install both, or use 'xgboost'"
        ) from error
    classes, design = len(rows.classes), tree_design(rows)
    objective = {"class": "binary", "classes": "multiclass", "number": "regression"}[rows.task]
    # One thread and rows by rows: sums are added in one order, so the same rows give the same trees to the
    # bit.
    fixed: dict[str, object] = {
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": rows.seed,
    }
    fixed |= {"objective": objective, "boost_from_average": True, "verbosity": -1, "subsample_freq": 1}
    fixed |= {"num_class": classes} if classes else {}
    params = {name: value for name, value in rows.params.items() if name not in ("rounds", "categories")}
    data = lightgbm.Dataset(
        design.columns(rows.matrix), rows.target, weight=rows.weights, params={"verbosity": -1}
    )
    with training_with("lightgbm", lightgbm.basic.LightGBMError):
        booster = lightgbm.train({**fixed, **params}, data, rows.whole("rounds"))
    # Of several classes each round has a tree a class, in the order of the classes.
    trees = [
        replace(_tree(one["tree_structure"]), target=place % max(1, classes))
        for place, one in enumerate(booster.dump_model()["tree_info"])
    ]
    weights, probability = [1.0] * len(trees), rows.task != "number"
    return LearntGraph(
        rows,
        lambda: tree_model(
            design, trees, weights, len(rows.inputs), probability=probability, classes=classes
        ),
        lambda matrix: np.asarray(booster.predict(design.columns(matrix), num_threads=1), dtype=np.float64),
        exact=lambda: kept_trees(
            design, trees, weights, rows.matrix, 0.0, NUMBER if rows.task == "number" else LOG_ODDS
        ),
    )


def _tree(root: Mapping[str, Any]) -> Tree:
    nodes: list[tuple[int, float, int, int, bool, float, float]] = []

    def grow(node: Mapping[str, Any]) -> int:
        place = len(nodes)
        if "split_feature" not in node:
            # A tree of one leaf does not say how many rows reached it: all did.
            nodes.append((-1, 0.0, 0, 0, True, float(node["leaf_value"]), float(node.get("leaf_count", 1))))
            return place
        if node["decision_type"] != "<=":
            raise AnabranchError(
                f"LightGBM describes a split as {node['decision_type']!r}, "
                "and only '<=' can be written as a graph: "
                "use the trainer 'xgboost'"
            )
        nodes.append((0, 0.0, 0, 0, True, 0.0, 0.0))
        threshold = float(node["threshold"])
        # A column that was never missing in training takes a missing value for 0.
        missing_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0
        left, right = grow(node["left_child"]), grow(node["right_child"])
        count = float(node["internal_count"])
        nodes[place] = (int(node["split_feature"]), threshold, left, right, missing_left, 0.0, count)
        return place

    grow(root)
    names = ("feature", "threshold", "left", "right", "missing_left", "value", "cover")
    found: dict[str, Any] = dict(zip(names, map(np.array, zip(*nodes, strict=True)), strict=True))
    return Tree(**found)


LIGHTGBM = Trainer(
    name="lightgbm",
    tasks=("class", "classes", "number"),
    learn=_learn_lightgbm,
    defaults=lambda _task, count: {"eta": 0.05, **(_FEW if count < SMALL else _MANY)},
    parameters=_OPTIONAL | {"path_smooth"},
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
