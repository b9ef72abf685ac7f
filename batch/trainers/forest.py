"""`forest`: scikit-learn's random forest, kept as an ONNX tree ensemble. Missing values go the way each split has learnt."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.design import Design, tree_design
from batch.trainers.graphs import OUTPUT, Tree, check_parity, run, tree_model
from batch.trainers.rows import SMALL, Trainer, TrainingRows, check_params, chosen_categories, pins, whole

_PARAMS = {"trees", "max_depth", "min_samples_leaf", "max_features", "max_samples", "categories"}


class LearntForest:
    """A forest over a design's columns."""

    def __init__(
        self, forest: Any, design: Design, rows: TrainingRows, parameters: Mapping[str, object]
    ) -> None:
        self.forest, self.design, self.rows, self.parameters = forest, design, rows, parameters

    @cached_property
    def onnx(self) -> bytes:
        """The forest as a graph. Scikit-learn's own refuses missing values in columns that had none in training."""
        trees = [_tree(found.tree_) for found in self.forest.estimators_]
        return tree_model(self.design, trees, [1 / len(trees)] * len(trees), len(self.rows.inputs))

    def scores(self, matrix: Matrix) -> Scores:
        """Of the graph."""
        return run(self.onnx, OUTPUT, matrix)

    def fitted(self) -> Fitted:
        """The graph, compared with scikit-learn's forest."""
        columns = self.design.columns(self.rows.matrix)
        found = (
            self.forest.predict_proba(columns)[:, 1]
            if self.rows.task == "class"
            else self.forest.predict(columns)
        )
        check_parity(self.onnx, OUTPUT, self.rows.matrix, np.asarray(found, dtype=np.float64))
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=self.onnx,
            output=OUTPUT,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def _tree(found: Any) -> Tree:
    value = found.value[:, 0, :]
    share = value[:, -1] / value.sum(axis=1) if value.shape[1] > 1 else value[:, 0]
    return Tree(
        feature=np.asarray(found.feature, dtype=np.int64),
        threshold=np.asarray(found.threshold, dtype=np.float64),
        left=np.asarray(found.children_left, dtype=np.int64),
        right=np.asarray(found.children_right, dtype=np.int64),
        missing_left=np.asarray(found.missing_go_to_left, dtype=bool),
        value=np.asarray(share, dtype=np.float64),
    )


def _learn_forest(rows: TrainingRows) -> LearntForest:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    check_params("forest", rows.params, _PARAMS)
    size: dict[str, object] = (
        {"trees": 200, "min_samples_leaf": 5}
        if len(rows.target) < SMALL
        else {"trees": 100, "min_samples_leaf": 20, "max_samples": 0.5}
    )
    size |= {"max_features": "sqrt" if rows.task == "class" else 0.4}
    params: dict[str, Any] = {**size, "categories": (), **rows.params}
    design = tree_design(rows, chosen_categories(rows, params))
    chosen = {name: value for name, value in params.items() if name not in ("trees", "categories")}
    kind = RandomForestClassifier if rows.task == "class" else RandomForestRegressor
    forest = kind(n_estimators=whole(params, "trees"), random_state=rows.seed, n_jobs=1, **chosen)
    try:
        forest.fit(design.columns(rows.matrix), rows.target, sample_weight=rows.weights)
    except ValueError as error:
        raise AnabranchError(
            f"forest could not train: {str(error).splitlines()[0]}: check Model(params=...)"
        ) from error
    return LearntForest(forest, design, rows, params)


FOREST = Trainer(
    tasks=("class", "number"),
    learn=_learn_forest,
    space={"trees": [100, 200, 400], "min_samples_leaf": (1, 30, "log"), "max_features": (0.1, 1.0)},
    larger="spark-forest",
)
