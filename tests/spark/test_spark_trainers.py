"""Trainers on Spark's workers: what they learn is turned into a graph that says what Spark says, and a frame trains as rows do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyspark.ml.base import Estimator
from pyspark.ml.functions import vector_to_array
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from batch.trainers import TRAINERS, TrainingRows, fit, learn
from batch.trainers.distributed import parse_trees
from features.errors import AnabranchError
from stores.model_inputs import ModelInput


def rows(task: str = "class", count: int = 400) -> TrainingRows:
    """A number with holes, a town as text and a noise; the target goes by the first two."""
    random = np.random.default_rng(3)
    pages, town = random.integers(0, 20, count).astype(np.float32), random.integers(0, 3, count).astype(np.float32)
    strength = pages + 6 * (town == 1) + random.normal(0, 2, count)
    pages[::11] = np.nan
    town[::13] = np.nan
    matrix = np.column_stack([pages, town, random.normal(0, 1, count)]).astype(np.float32)
    inputs = (
        ModelInput(name="pages", kind="number"),
        ModelInput(name="town", kind="text", categories=("a", "b", "c")),
        ModelInput(name="noise", kind="number"),
    )
    target = (strength > 11).astype(float) if task == "class" else 1000 + strength
    return TrainingRows(matrix=matrix, target=target, inputs=inputs, task=task)


SMALL = {"spark-forest": {"trees": 5, "max_depth": 4}, "spark-gbt": {"rounds": 5}, "xgboost": {"rounds": 20, "max_depth": 3}, "spark-logistic": {}}


@pytest.mark.parametrize("trainer", ["spark-logistic", "spark-forest", "spark-gbt"])
def test_spark_learns_a_class_that_scores_without_a_jvm(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, trainer: str) -> None:
    kept: list[tuple[Any, Any]] = []
    fit_by_spark = Estimator.fit

    def fit_and_keep(self: Any, frame: Any, params: Any = None) -> Any:
        kept.append((fit_by_spark(self, frame, params), frame))
        return kept[-1][0]

    monkeypatch.setattr(Estimator, "fit", fit_and_keep)
    given = replace(rows(), params=SMALL[trainer])
    found = fit(trainer, given)
    assert found.native == "onnx"
    # What Spark itself says of the same rows; its forest is a regression of 0 and 1.
    ((model, frame),) = kept
    said = model.transform(frame)
    told = said.select("prediction" if trainer == "spark-forest" else vector_to_array(said["probability"])[1]).collect()
    np.testing.assert_allclose(found.scores(given.matrix), [row[0] for row in told], rtol=0, atol=1e-6)
    assert roc_auc_score(given.target, found.scores(given.matrix)) > 0.88
    if trainer == "spark-logistic":
        alone = fit("logistic", rows()).scores(given.matrix)
        np.testing.assert_allclose(found.scores(given.matrix), alone, atol=2e-3)


def test_the_trees_of_spark_say_in_the_graph_what_they_say_in_spark(spark: SparkSession) -> None:
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.regression import GBTRegressor
    from pyspark.sql import functions as F

    given = rows("number")
    matrix = np.nan_to_num(given.matrix, nan=-3.0e38).astype(float)
    frame = spark.createDataFrame(
        [[*row, target] for row, target in zip(matrix.tolist(), given.target.tolist(), strict=True)], "a DOUBLE, b DOUBLE, c DOUBLE, _target DOUBLE"
    )
    frame = frame.select(array_to_vector(F.array("a", "b", "c")).alias("_columns"), "_target")
    model = GBTRegressor(featuresCol="_columns", labelCol="_target", maxIter=4, maxDepth=3, seed=1).fit(frame)
    told = np.array([row["prediction"] for row in model.transform(frame).select("prediction").collect()])
    trees, weights = parse_trees(model.toDebugString)
    assert weights == list(model.treeWeights)
    found = np.zeros(len(matrix))
    for tree, weight in zip(trees, weights, strict=True):
        at = np.zeros(len(matrix), dtype=np.int64)
        for _ in range(4):
            split = tree.feature[at] >= 0
            left = matrix[np.arange(len(matrix)), np.maximum(tree.feature[at], 0)] <= tree.threshold[at]
            at = np.where(split, np.where(left, tree.left[at], tree.right[at]), at)
        found += weight * tree.value[at]
    np.testing.assert_allclose(found, told, rtol=1e-12)


@pytest.mark.parametrize("task", ["class", "number"])
def test_xgboost_on_spark_learns_classes_and_numbers_as_the_driver_does(spark: SparkSession, task: str) -> None:
    trainer = TRAINERS["xgboost"]
    assert not trainer.spreads(1000, {})
    assert trainer.spreads(3_000_000, {})
    assert trainer.spreads(10, {"distributed": True})
    from batch.trainers.distributed import TrainingFrame, learn_xgboost_on_spark

    given = replace(rows(task), params=SMALL["xgboost"])
    names = ["_target", "pages", "town", "noise"]
    texts = [None if np.isnan(code) else "abc"[int(code)] for code in given.matrix[:, 1]]
    data = zip(given.target.tolist(), given.matrix[:, 0].tolist(), texts, given.matrix[:, 2].tolist(), strict=True)
    frame = spark.createDataFrame([list(row) for row in data], "_target DOUBLE, pages DOUBLE, town STRING, noise DOUBLE").select(*names)
    spread = learn_xgboost_on_spark(TrainingFrame(frame=frame, count=len(given.target), rows=given)).fitted()
    alone = learn("xgboost", given).scores(given.matrix)
    found, twin = spread.both_scores(given.matrix)
    assert np.corrcoef(found, alone)[0, 1] > 0.95
    assert twin is not None
    np.testing.assert_allclose(twin, found, rtol=1e-6)
    if task == "class":
        assert ((found > 0) & (found < 1)).all()
        assert roc_auc_score(given.target, found) > 0.88


def test_a_description_of_trees_that_is_not_known_is_refused() -> None:
    with pytest.raises(AnabranchError, match="describes its trees in an unknown way"):
        parse_trees("nothing")
    with pytest.raises(AnabranchError, match=r"describes a split as 'If \(feature 0 in \{1.0\}\)'"):
        parse_trees("Model\n  Tree 0 (weight 1.0):\n    If (feature 0 in {1.0})\n     Predict: 1.0\n")
