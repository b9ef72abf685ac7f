"""Trainers on Spark's workers: their graphs score as Spark does, and a frame trains as rows in memory do."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from pyspark.ml.base import Estimator
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from anabranch.declare.models import Model
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted, ModelInput
from batch.trainers.distributed import parse_trees
from batch.trainers.frames import TrainingFrame
from batch.trainers.registry import TRAINERS, fit, learn
from batch.trainers.rows import TrainingRows
from batch.training.spreading import _split


def rows(task: str = "class", count: int = 400) -> TrainingRows:
    """A number with holes, a town as text and a noise; the target goes by the first two."""
    random = np.random.default_rng(3)
    pages, town = (
        random.integers(0, 20, count).astype(np.float32),
        random.integers(0, 3, count).astype(np.float32),
    )
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


SMALL: dict[str, dict[str, object]] = {
    "spark-forest": {"trees": 5, "max_depth": 4},
    "spark-gbt": {"rounds": 5},
    "xgboost": {"rounds": 20, "max_depth": 3},
    "spark-logistic": {},
    "spark-linear": {},
}
Frames = dict[tuple[str, int], DataFrame]


@pytest.fixture(scope="module")
def frames(spark: SparkSession) -> Iterator[Frames]:
    """The rows of each task as training sets come from Spark, in two orders; a key has four labels."""
    made: Frames = {}
    for task in ("class", "number"):
        given = rows(task)
        count = len(given.target)
        texts = [None if np.isnan(code) else "abc"[int(code)] for code in given.matrix[:, 1]]
        numbers = {
            name: pa.array(given.matrix[:, at].astype(float), mask=np.isnan(given.matrix[:, at]))
            for name, at in (("pages", 0), ("noise", 2))
        }
        table = pa.table(
            {
                "_key": [f"k{i // 4}" for i in range(count)],
                "_time": list(range(count)),
                "_target": given.target,
                "town": pa.array(texts, pa.string()),
                **numbers,
            }
        )
        for seed in (0, 1):
            shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(count)))
            made[task, seed] = spark.createDataFrame(shuffled).repartition(3 + seed).persist()
    yield made
    for frame in made.values():
        frame.unpersist()


def spread(frames: Frames, trainer: str, given: TrainingRows, seed: int = 0) -> Fitted:
    """What a trainer of the workers learns from a frame, laid out as training lays it out."""
    given = replace(given, params=SMALL[trainer])
    frame = TrainingFrame(frame=frames[given.task, seed], count=len(given.target), rows=given, parts=2)
    return TRAINERS[trainer].train_frame(frame).fitted()


@pytest.mark.parametrize(
    ("trainer", "task"),
    [
        ("spark-logistic", "class"),
        ("spark-linear", "number"),
        *[(name, task) for name in ("spark-forest", "spark-gbt", "xgboost") for task in ("class", "number")],
    ],
)
def test_the_same_rows_in_another_order_and_other_parts_give_the_same_model(
    frames: Frames, trainer: str, task: str
) -> None:
    given = replace(rows(task), class_weight="balanced" if task == "class" else None)
    first, second = (spread(frames, trainer, given, seed) for seed in (0, 1))
    assert (first.native, first.parameters) == (second.native, second.parameters)
    assert (first.ubj, first.onnx) == (second.ubj, second.onnx)
    found = first.scores(given.matrix)
    if task == "class":
        assert roc_auc_score(given.target, found) > 0.88
    else:
        assert np.sqrt(np.mean((found - given.target) ** 2)) < 0.9 * given.target.std()
        assert found.mean() == pytest.approx(given.target.mean(), abs=1)


def test_spark_linear_learns_what_ridge_does(frames: Frames) -> None:
    given = rows("number")
    np.testing.assert_allclose(
        spread(frames, "spark-linear", given).scores(given.matrix),
        fit("linear", given).scores(given.matrix),
        rtol=1e-6,
    )


@pytest.mark.parametrize("trainer", ["spark-logistic", "spark-forest", "spark-gbt", "xgboost"])
def test_weights_of_classes_move_the_scores_on_the_workers_too(frames: Frames, trainer: str) -> None:
    plain, heavy = (
        spread(frames, trainer, replace(rows(), class_weight=weight)).scores(rows().matrix).mean()
        for weight in (None, {0: 1.0, 1: 6.0})
    )
    assert heavy > plain + 0.05


@pytest.mark.parametrize("split", ["key", "time"])
def test_no_key_is_on_both_sides_of_a_frame_and_times_are_kept_apart(frames: Frames, split: str) -> None:
    model = Model(split=split)
    sided, how, counts = _split(model, frames["class", 0])
    assert how.startswith(f"by {split}")
    found = sided.select("_key", "_time", "_side").where("_side IS NOT NULL").toArrow()
    keys = {
        side: set(found.filter(pa.compute.equal(found["_side"], side))["_key"].to_pylist())
        for side in ("train", "test")
    }
    times = {
        side: found.filter(pa.compute.equal(found["_side"], side))["_time"].to_numpy()
        for side in ("train", "test")
    }
    assert not keys["train"] & keys["test"]
    assert counts == {side: len(one) for side, one in times.items()}
    assert 0.15 < counts["test"] / 400 < 0.35
    if split == "time":
        assert times["train"].max() < times["test"].min()


def test_labels_nothing_can_be_learnt_from_are_explained_on_the_workers_too(frames: Frames) -> None:
    frame = frames["class", 0]
    with pytest.raises(AnabranchError, match="labels are too few to train and to test on, or of one class"):
        _split(Model(), frame.where("_target = 1"))
    with pytest.raises(AnabranchError, match="labels are too few"):
        _split(Model(metric="rmse"), frame.limit(3))


@pytest.mark.parametrize("trainer", ["spark-logistic", "spark-forest", "spark-gbt"])
def test_spark_learns_a_class_that_scores_without_a_jvm(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
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
    told = said.select(
        "prediction" if trainer == "spark-forest" else vector_to_array(said["probability"])[1]
    ).collect()
    np.testing.assert_allclose(found.scores(given.matrix), [row[0] for row in told], rtol=0, atol=1e-6)
    assert roc_auc_score(given.target, found.scores(given.matrix)) > 0.88
    if trainer == "spark-logistic":
        alone = fit("logistic", rows()).scores(given.matrix)
        np.testing.assert_allclose(found.scores(given.matrix), alone, atol=2e-3)


def test_the_trees_of_spark_say_in_the_graph_what_they_say_in_spark(spark: SparkSession) -> None:
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.regression import GBTRegressor

    given = rows("number")
    matrix = np.nan_to_num(given.matrix, nan=-3.0e38).astype(float)
    frame = spark.createDataFrame(
        [[*row, target] for row, target in zip(matrix.tolist(), given.target.tolist(), strict=True)],
        "a DOUBLE, b DOUBLE, c DOUBLE, _target DOUBLE",
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
def test_xgboost_on_spark_learns_classes_and_numbers_as_the_driver_does(
    spark: SparkSession, task: str
) -> None:
    trainer = TRAINERS["xgboost"]
    assert not trainer.spreads(1000, {})
    assert trainer.spreads(3_000_000, {})
    assert trainer.spreads(10, {"distributed": True})
    assert trainer.spreads(10, {}, large=True)
    assert not trainer.spreads(10, {"distributed": False}, large=True)
    given = replace(rows(task), params=SMALL["xgboost"])
    names = ["_target", "pages", "town", "noise"]
    texts = [None if np.isnan(code) else "abc"[int(code)] for code in given.matrix[:, 1]]
    data = zip(
        given.target.tolist(), given.matrix[:, 0].tolist(), texts, given.matrix[:, 2].tolist(), strict=True
    )
    frame = spark.createDataFrame(
        [list(row) for row in data], "_target DOUBLE, pages DOUBLE, town STRING, noise DOUBLE"
    ).select(*names)
    spread = trainer.train_frame(TrainingFrame(frame=frame, count=len(given.target), rows=given)).fitted()
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
