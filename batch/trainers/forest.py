"""`forest`: scikit-learn's random forest. Missing values go the way that each split has learnt for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from anabranch.stores.models.explaining.explanation import NUMBER, PROBABILITY
from anabranch.stores.models.explaining.kept import kept_trees
from anabranch.stores.models.explaining.trees import Tree
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import tree_design
from batch.trainers.graphs import tree_model
from batch.trainers.rows import SMALL, TrainingRows
from batch.trainers.trainer import LearntGraph, Trainer, training_with


def _defaults(task: str, count: int) -> Mapping[str, object]:
    size: dict[str, object] = (
        {"trees": 200, "min_samples_leaf": 5}
        if count < SMALL
        else {"trees": 100, "min_samples_leaf": 20, "max_samples": 0.5}
    )
    return {**size, "max_features": 0.4 if task == "number" else "sqrt", "categories": ()}


def _learn_forest(rows: TrainingRows) -> LearntGraph:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    design = tree_design(rows)
    params: dict[str, Any] = {
        name: value for name, value in rows.params.items() if name not in ("trees", "categories")
    }
    kind = RandomForestRegressor if rows.task == "number" else RandomForestClassifier
    forest = kind(n_estimators=rows.whole("trees"), random_state=rows.seed, n_jobs=1, **params)
    with training_with("forest"):
        forest.fit(design.columns(rows.matrix), rows.target, sample_weight=rows.weights)

    def graph() -> bytes:
        # Scikit-learn's own prediction refuses missing values in columns that had none in training; the graph
        # takes them.
        return tree_model(design, *trees(), len(rows.inputs), classes=len(rows.classes))

    def trees() -> tuple[list[Tree], list[float]]:
        found = [_tree(each.tree_, rows.task) for each in forest.estimators_]
        return found, [1 / len(found)] * len(found)

    def exact() -> bytes:
        space = PROBABILITY if rows.task == "class" else NUMBER
        return kept_trees(design, *trees(), rows.matrix, 0.0, space)

    def library(matrix: Matrix) -> Scores:
        columns = design.columns(matrix)
        if rows.task == "number":
            return np.asarray(forest.predict(columns), dtype=np.float64)
        found = np.asarray(forest.predict_proba(columns), dtype=np.float64)
        return found if rows.task == "classes" else found[:, 1]

    return LearntGraph(rows, graph, library, exact=exact)


def _tree(found: Any, task: str) -> Tree:
    value = found.value[:, 0, :]
    share = value if task == "number" else value / value.sum(axis=1, keepdims=True)
    return Tree(
        feature=np.asarray(found.feature, dtype=np.int64),
        threshold=np.asarray(found.threshold, dtype=np.float64),
        left=np.asarray(found.children_left, dtype=np.int64),
        right=np.asarray(found.children_right, dtype=np.int64),
        missing_left=np.asarray(found.missing_go_to_left, dtype=bool),
        value=np.asarray(share if task == "classes" else share[:, -1], dtype=np.float64),
        cover=np.asarray(found.weighted_n_node_samples, dtype=np.float64),
    )


FOREST = Trainer(
    name="forest",
    tasks=("class", "classes", "number"),
    learn=_learn_forest,
    defaults=_defaults,
    parameters=frozenset({"max_depth", "max_samples"}),
    space={"trees": [100, 200, 400], "min_samples_leaf": (1, 30, "log"), "max_features": (0.1, 1.0)},
    larger="spark-forest",
)
