"""Several classes from labels in Spark to a promoted version, mass scoring by every path, later labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from sklearn.datasets import load_wine

from anabranch import FeatureView, Label, Last, Model, Project, Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.values.times import from_micros
from batch.evaluation.assessment import JudgedRows
from batch.scoring.data_sets import score_data_set
from batch.scoring.parts import ScoringOrder
from batch.settings import ScoringSettings
from batch.training.job import TrainingJob, TrainingSet
from batch.training.served import join_labels
from batch.training.train import Trained, fit_and_log
from batch.training.training_sets import label_rows
from batch.watching.outcomes import JudgedPredictions, _collected, accuracies
from tests.support.stores import stores

NAMES = ("f0", "f1", "f2", "f3", "f4", "f5")
wines = Source(
    name="wines", id="id", time="at",
    schema="id STRING, wine STRING, at TIMESTAMP, cultivar STRING, grade INT, "
    + ", ".join(f"{name} DOUBLE" for name in NAMES),
)  # fmt: skip
latest = FeatureView(name="latest", source=wines, key="wine", features={name: Last(name) for name in NAMES})
project = Project(
    name="wines",
    views=(latest,),
    label=Label(source=wines, key="wine", target="cultivar"),
    model=Model(trainer="xgboost", metric="log_loss", params={"rounds": 30}),
)
graded = replace(
    project,
    label=Label(source=wines, key="wine", target="grade", classes=(3, 10, 2)),
    model=Model(trainer="logistic", metric="macro_f1"),
)


def wine_rows(target: list[Any]) -> pa.Table:
    """The training set as Spark hands it over."""
    matrix, _ = load_wine(return_X_y=True)
    columns = {name: pa.array(matrix[:, place]) for place, name in enumerate(NAMES)}
    times = pa.array((np.arange(178) * 73 % 178 * 3_600_000_000).astype(np.int64))
    keys = pa.array([f"w{i}" for i in range(178)])
    return pa.table({"_key": keys, "_time": times, "_target": pa.array(target), **columns})


CULTIVARS = [f"class_{place}" for place in load_wine(return_X_y=True)[1]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def trained_on(models: Models, declared: Project, target: list[Any]) -> Trained:
    return fit_and_log(
        stores(models=models), TrainingJob(project=declared), TrainingSet(table=wine_rows(target))
    )


@pytest.fixture(scope="module")
def trained(models: Models) -> Trained:
    return trained_on(models, project, CULTIVARS)


def test_a_version_of_three_classes_passes_gate_and_parity(models: Models, trained: Trained) -> None:
    assert trained.champion
    assert [check.name for check in trained.checks] == ["parity", "champion"]
    assert list(trained.metrics)[:3] == ["log_loss", "log_loss_low", "log_loss_high"]
    scorer = models.scorer("wines")
    assert (scorer.task, scorer.classes) == ("classes", ("class_0", "class_1", "class_2"))
    files = models.files("wines", trained.version, ["report/confusion.png", "report/model_card.html"])
    assert files["report/confusion.png"][:4] == b"\x89PNG"
    assert b"top_2_accuracy" in files["report/model_card.html"]
    assert models.entry("wines", trained.version).parameters["classes"] == "class_0, class_1, class_2"


def test_a_challenger_with_another_class_is_compared_on_the_classes_of_both(models: Models) -> None:
    renamed = [name if place % 20 else "class_9" for place, name in enumerate(CULTIVARS)]
    declared = replace(project, name="wines_renamed")
    first, second = trained_on(models, declared, CULTIVARS), trained_on(models, declared, renamed)
    assert (first.champion, second.version) == (True, "2")
    (found,) = [check for check in second.checks if check.name == "champion"]
    assert "of version 1 on the same rows" in found.said
    assert models.scorer("wines_renamed", "2").classes == ("class_0", "class_1", "class_2", "class_9")


def test_whole_numbers_are_classes_in_the_declared_order(models: Models) -> None:
    declared = replace(graded, name="grades")
    trained_on(
        models, declared, [{"class_0": "3", "class_1": "10", "class_2": "2"}[one] for one in CULTIVARS]
    )
    scorer = models.scorer("grades")
    assert scorer.classes == (3, 10, 2)
    (row,) = scorer.outcomes(scorer.score({name: [1.0] for name in NAMES}))
    assert (list(row.scores or {}), row.label in (3, 10, 2)) == (["3", "10", "2"], True)


def test_labels_in_spark_are_names_and_their_faults_are_told(spark: SparkSession, models: Models) -> None:
    events = spark.createDataFrame(
        [("1", "w1", from_micros(5), "a", 3), ("2", "w2", from_micros(6), "", None)],
        "id STRING, wine STRING, at TIMESTAMP, cultivar STRING, grade INT",
    )
    for declared, wanted in ((project, ["a", None]), (graded, ["3", None])):
        assert declared.label is not None
        rows = label_rows(declared.label, events, task=declared.task)
        assert (dict(rows.dtypes)["_target"], [row["_target"] for row in rows.collect()]) == (
            "string",
            wanted,
        )
    faults = {
        "gives 101 classes .'c0', 'c1', 'c10', ....": [f"c{i % 101}" for i in range(178)],
        "all 178 labels are of class 'a'": ["a"] * 178,
        "at least 2 keys of each of two classes are needed": ["a"] * 177 + ["b"],
    }
    for said, target in faults.items():
        with pytest.raises(AnabranchError, match=said):
            trained_on(models, replace(project, name="faulty"), target)
    with pytest.raises(AnabranchError, match="gives '4', which is none of the declared classes 3, 10, 2"):
        trained_on(models, graded, ["4"] * 178)


def test_mass_scoring_gives_the_same_by_every_path(
    spark: SparkSession, models: Models, trained: Trained, tmp_path: Path
) -> None:
    rows = wine_rows(CULTIVARS).select(list(NAMES)).append_column("wine", wine_rows(CULTIVARS)["_key"])
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=50)
    spark.read.parquet(str(tmp_path / "rows.parquet")).selectExpr("*", "array(1) AS list").write.parquet(
        str(tmp_path / "lists")
    )
    opened = stores(spark=spark, models=models, lake=Lake(LakeSettings(root=str(tmp_path / "lake"))))
    keep = ("wine",)
    orders = {
        "fast": ScoringOrder(
            source=str(tmp_path / "rows.parquet"), out=str(tmp_path / "fast"), keep=keep,
            sizes=ScoringSettings(part_rows=100),
        ),
        "columns": ScoringOrder(source=str(tmp_path / "lists"), out=str(tmp_path / "columns"), keep=keep),
        "pyfunc": ScoringOrder(
            source=str(tmp_path / "rows.parquet"), out=str(tmp_path / "pyfunc"), keep=keep, pyfunc=True
        ),
        "csv": ScoringOrder(
            source=str(tmp_path / "rows.parquet"), out=str(tmp_path / "out.csv"), keep=keep
        ),
    }  # fmt: skip
    found = {}
    for name, order in orders.items():
        assert score_data_set(opened, project, order, Silent()).rows == 178
        read = spark.read.options(header="true", escape='"').csv if name == "csv" else spark.read.parquet
        found[name] = {row["wine"]: row.asDict() for row in read(order.out).collect()}
    assert found["columns"] == found["pyfunc"] == found["fast"]
    scorer = models.scorer("wines")
    scores = scorer.score({name: rows[name].to_numpy() for name in NAMES})
    for place, row in enumerate(scorer.outcomes(scores)):
        mine = found["fast"][f"w{place}"]
        assert (mine["score"], mine["label"], mine["scores"]) == (row.score, row.label, row.scores)
    assert json.loads(found["csv"]["w3"]["scores"]) == pytest.approx(found["fast"]["w3"]["scores"])
    words = replace(
        project, model=replace(project.model or Model(), reasons={"f0": "strong", "f4": "rich in magnesium"})
    )
    told = replace(orders["fast"], out=str(tmp_path / "told"), explain=True)
    assert score_data_set(opened, words, told, Silent()).rows == 178
    explained = {row["wine"]: row.asDict() for row in spark.read.parquet(told.out).collect()}
    assert {row["label"] for row in explained.values()} == set(scorer.classes)
    for place, row in enumerate(scorer.outcomes(scores)):
        mine = explained[f"w{place}"]
        parts = [mine[f"contribution_{name}"] for name in NAMES]
        assert (mine["score"], mine["label"]) == (row.score, row.label)
        assert mine["explanation_base"] + sum(parts) == pytest.approx(row.score, abs=1e-5)
        if place % 60 == 0:
            alone = scorer.explain(
                {name: [rows[name][place].as_py()] for name in NAMES}, scorer.classes.index(row.label or "")
            )
            assert parts == pytest.approx(alone.contributions[0].tolist(), abs=1e-5)
        raised = sorted(one for one in ((parts[0], "strong"), (parts[4], "rich in magnesium")) if one[0] > 0)
        assert [mine["reason_1"], mine["reason_2"]] == [
            *(text for _, text in reversed(raised)), *[None] * (2 - len(raised)),
        ]  # fmt: skip
    declared = replace(project, label=Label(source=wines, key="wine", target="grade > 3"))
    with pytest.raises(
        MisuseError, match="gives several classes, and the label is declared with two classes"
    ):
        score_data_set(opened, declared, orders["fast"], Silent())


def test_a_later_label_is_judged_by_the_scores_of_all_classes(spark: SparkSession) -> None:
    made = [
        (f"p{i}", from_micros(i), f"k{i % 3}", 0.7, "1", '{"f0": 1}', {"a": 0.7, "b": 0.3}) for i in range(9)
    ]
    predictions = spark.createDataFrame(
        made,
        "prediction_id STRING, at TIMESTAMP, key STRING, score DOUBLE, model_version STRING, used STRING, "
        "scores MAP<STRING, DOUBLE>",
    )
    later = [("k0", 20, "a"), ("k1", 20, "b"), ("k2", 20, "z"), ("k9", 20, "a")]
    labels = spark.createDataFrame(later, "key STRING, time BIGINT, target STRING")
    found = _collected(join_labels(predictions, labels, 50).orderBy("key").toArrow())
    assert isinstance(found, JudgedPredictions)
    rows = found.rows(np.array([True] * 3), 0.5, ("a", "b"))
    assert isinstance(rows, JudgedRows)
    assert (rows.target.tolist(), rows.scores.tolist()) == ([0.0, 1.0, -1.0], [[0.7, 0.3]] * 3)
    (whole, *_) = accuracies(Model(metric="accuracy"), found, {}, 100, {"1": ("a", "b")})
    assert whole.labels == 3
    assert whole.value == pytest.approx(1 / 3)
    assert accuracies(Model(metric="accuracy"), found, {}, 100, {}) == []
