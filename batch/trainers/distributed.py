"""Trainers of Spark's own library: `spark-logistic`, `spark-linear`, `spark-forest` and `spark-gbt`.

The trained model becomes an ONNX graph and scores without a JVM. Columns are designed on a sample: medians,
scales, and which values of a category get a column. Spark's trees take no missing values, so to them missing
is below every number.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.explaining.explanation import LOG_ODDS, NUMBER, PROBABILITY
from anabranch.stores.models.explaining.kept import kept_trees
from anabranch.stores.models.explaining.trees import Tree
from batch.trainers.design import linear_design, tree_design
from batch.trainers.frames import COLUMNS, TARGET, WEIGHT, TrainingFrame, designed, from_memory
from batch.trainers.graphs import tree_model
from batch.trainers.linear import LearntLinear
from batch.trainers.trainer import Learnt, LearntGraph, Trainer

_MISSING = -3.0e38
_BOTH = ("class", "number")
_NAMED: dict[str, Any] = {"featuresCol": COLUMNS, "labelCol": TARGET, "weightCol": WEIGHT}


def _learn_logistic(given: TrainingFrame) -> LearntLinear:
    from pyspark.ml.classification import LogisticRegression

    # Spark takes the mean of the losses where scikit-learn's C weighs their sum.
    strength: Any = given.rows.params["C"]
    learner = LogisticRegression(
        **_NAMED, regParam=1 / (float(strength) * given.count), standardization=False, maxIter=200, tol=1e-9
    )
    return _linear(given, learner)


def _learn_linear(given: TrainingFrame) -> LearntLinear:
    from pyspark.ml.regression import LinearRegression

    # Spark takes the mean of the squares where scikit-learn's alpha is weighed against their sum, and weighs
    # by the target's deviation.
    alpha: Any = given.rows.params["alpha"]
    strength = float(alpha) / given.count * float(given.rows.target.std())
    return _linear(given, LinearRegression(**_NAMED, regParam=strength, standardization=False))


def _linear(given: TrainingFrame, learner: Any) -> LearntLinear:
    design = linear_design(given.rows)
    model = learner.fit(designed(given, design, missing=None))
    weights = np.asarray(model.coefficients.toArray())
    return LearntLinear(given.rows, design, weights, np.array([float(model.intercept)]))


def _learn_forest(given: TrainingFrame) -> LearntGraph:
    from pyspark.ml.regression import RandomForestRegressor

    # A regression of 0 and 1: its leaves are the share of class 1, and its splits are those of the Gini
    # impurity.
    rows = given.rows
    learner = RandomForestRegressor(
        **_NAMED, numTrees=rows.whole("trees"), maxDepth=rows.whole("max_depth"),
        minInstancesPerNode=rows.whole("min_samples_leaf"), maxBins=rows.whole("max_bins"),
        featureSubsetStrategy="sqrt", seed=rows.seed,
    )  # fmt: skip
    return _trees(given, learner, lambda weights: [1 / len(weights)] * len(weights), probability=False)


def _learn_gbt(given: TrainingFrame) -> LearntGraph:
    from pyspark.ml.classification import GBTClassifier
    from pyspark.ml.regression import GBTRegressor

    rows, classes, params = given.rows, given.rows.task == "class", dict[str, Any](given.rows.params)
    learner = (GBTClassifier if classes else GBTRegressor)(
        **_NAMED, maxIter=rows.whole("rounds"), maxDepth=rows.whole("max_depth"), seed=rows.seed,
        maxBins=rows.whole("max_bins"), stepSize=float(params["eta"]),
        subsamplingRate=float(params["subsample"]),
    )  # fmt: skip
    factor = 2.0 if classes else 1.0  # Spark's margin is half the log odds
    return _trees(given, learner, lambda weights: [factor * one for one in weights], probability=classes)


def _trees(
    given: TrainingFrame, learner: Any, weigh: Callable[[list[float]], list[float]], *, probability: bool
) -> LearntGraph:
    """The trees that `learner` learns, as a graph; `weigh` makes the graph's weights from Spark's."""
    design = tree_design(given.rows)
    trees, weights = parse_trees(learner.fit(designed(given, design, missing=_MISSING)).toDebugString)
    width, numbers = len(given.rows.inputs), given.rows.task == "number"
    space = LOG_ODDS if probability else NUMBER if numbers else PROBABILITY
    return LearntGraph(
        given.rows,
        lambda: tree_model(design, trees, weigh(weights), width, probability=probability),
        # Spark's description has no covers: they are those of the sample.
        exact=lambda: kept_trees(design, trees, weigh(weights), given.rows.matrix, 0.0, space),
    )


def parse_trees(text: str) -> tuple[list[Tree], list[float]]:
    """Trees and their weights from Spark's own description, which has every threshold and leaf in full.

    Raises AnabranchError for a description in an unknown form.
    """
    trees, weights = [], []
    for part in re.split(r"\n\s*Tree \d+ ", text)[1:]:
        head, *lines = part.splitlines()
        found = re.search(r"weight ([-\d.eE]+)", head)
        weights.append(float(found.group(1)) if found else 1.0)
        trees.append(_parse_tree(iter([line.strip() for line in lines if line.strip()])))
    if not trees:
        raise AnabranchError(
            "Spark describes its trees in an unknown way: use the trainer 'forest' or 'xgboost'"
        )
    return trees, weights


def _parse_tree(lines: Iterator[str]) -> Tree:
    nodes: list[tuple[int, float, int, int, float]] = []

    def grow() -> int:
        line, place = next(lines), len(nodes)
        if line.startswith("Predict:"):
            nodes.append((-1, 0.0, 0, 0, float(line.split(":")[1])))
            return place
        split = re.fullmatch(r"If \(feature (\d+) <= (\S+)\)", line)
        if split is None:
            raise AnabranchError(
                f"Spark describes a split as {line!r}, which is unknown here: "
                "use the trainer 'forest' or 'xgboost'"
            )
        nodes.append((0, 0.0, 0, 0, 0.0))
        left = grow()
        next(lines)  # Else (...)
        nodes[place] = (int(split.group(1)), float(split.group(2)), left, grow(), 0.0)
        return place

    grow()
    feature, threshold, left, right, value = (np.array(column) for column in zip(*nodes, strict=True))
    return Tree(
        feature=feature.astype(np.int64),
        threshold=threshold.astype(np.float64),
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        missing_left=np.ones(len(feature), dtype=bool),
        value=value.astype(np.float64),
    )


def _trainer(
    name: str, tasks: tuple[str, ...], learn: Callable[[TrainingFrame], Learnt], **defaults: object
) -> Trainer:
    def filled(_task: str, _count: int) -> Mapping[str, object]:
        return {**defaults, "categories": ()}

    return Trainer(
        name=name, tasks=tasks, learn=from_memory(learn), defaults=filled, learn_frame=learn, spread="always"
    )


SPARK_TRAINERS = (
    _trainer("spark-logistic", ("class",), _learn_logistic, C=0.3),
    _trainer("spark-linear", ("number",), _learn_linear, alpha=1.0),
    _trainer("spark-forest", _BOTH, _learn_forest, trees=100, max_depth=8, min_samples_leaf=5, max_bins=64),
    _trainer("spark-gbt", _BOTH, _learn_gbt, rounds=50, max_depth=3, eta=0.1, subsample=0.8, max_bins=64),
)
