"""Training sets too large for the process: they train on Spark's workers, or are refused with advice."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch import Label, Model, Project, Search
from anabranch.errors import AnabranchError
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from batch.training.job import TrainingJob
from batch.training.spreading import training_size
from batch.training.train import lake_run, reproduce, train
from batch.training.training_sets import lake_training_set
from projects.heart_disease import ATTRIBUTES, diagnoses, project
from tests.support.heart import fill, read
from tests.support.stores import stores

TIGHT = 24 * 1024
"""Bytes that hold less than half of the patients."""


def tight(declared: Project) -> TrainingJob:
    return TrainingJob(project=declared, local_bytes=TIGHT)


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = Lake(LakeSettings(root=str(tmp_path_factory.mktemp("lake"))))
    for source in ("exams", "diagnoses"):
        fill(spark, made, source, read(f"{source}.csv"))
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def declared(model: Model) -> Project:
    """The heart project over the attributes of the exam alone."""
    assert project.model is not None
    return replace(
        project, model=replace(model, features=tuple(ATTRIBUTES), categories=project.model.categories)
    )


def persisted(spark: SparkSession) -> int:
    """Frames that are kept on the workers; what Delta keeps of a table's log is its own."""
    kept = spark.sparkContext._jsc.getPersistentRDDs().values()
    return sum("Delta Table State" not in str(one.name()) for one in kept)


def test_the_default_trainer_chooses_on_a_sample_and_learns_from_all_rows_on_the_workers(
    spark: SparkSession, lake: Lake, models: Models
) -> None:
    mine, before = declared(Model()), persisted(spark)
    size = training_size(mine, 303)
    assert size.bytes > TIGHT
    trained = train(stores(spark=spark, lake=lake, models=models), tight(mine))
    assert persisted(spark) == before
    assert (trained.rows, trained.metrics["rows_train"]) == (303, 227)
    assert trained.metrics["rows_test"] < 76  # judged on a sample too
    assert trained.metrics["roc_auc"] > 0.8
    assert trained.split.startswith("by time")
    found = models.client.get_run(models.entry(mine.name, trained.version).run).data.params
    assert found["trained_on"] == "Spark's workers"
    assert 20 < int(found["rows_on_driver"]) <= 0.75 * TIGHT // size.row_bytes
    assert found["chosen"] in ("logistic", "xgboost", "forest")
    assert float(found["validated"]) > 0.7
    again = reproduce(stores(spark=spark, lake=lake, models=models), tight(mine), trained.version)
    assert again.different == ()


def test_the_default_trainer_learns_numbers_of_any_size(spark: SparkSession, lake: Lake) -> None:
    label = Label(source=diagnoses, key="patient_id", target="num * 10.0")
    mine = replace(declared(Model(metric="rmse")), label=label)
    run = lake_run(stores(spark=spark, lake=lake), tight(mine), versions(spark, lake))
    assert (run.rows, run.left_out, run.parameters["trained_on"]) == (303, 0, "Spark's workers")
    assert run.fitted.parameters["chosen"] in ("linear", "xgboost", "forest")
    assert run.metrics["rmse"] < 4.9  # that of the mean is 5


def versions(spark: SparkSession, lake: Lake) -> Mapping[str, int]:
    return lake.versions(spark, project)


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (Model(trainer="forest"), "use trainer='spark-forest', which learns on Spark's workers"),
        (Model(trainer="logistic"), "use trainer='spark-logistic'"),
        (
            Model(trainer="sklearn", params={"estimator": "sklearn.naive_bayes.GaussianNB"}),
            "use trainer='xgboost'",
        ),
        (Model(trainer="mine:function"), "use trainer='xgboost'"),
        (Model(trainer="xgboost", search=Search(trials=2)), "leave out the search"),
        (Model(trainer="xgboost", params={"distributed": False}), "leave out the parameter 'distributed'"),
    ],
    ids=["forest", "logistic", "sklearn", "own", "search", "insisting"],
)
def test_what_learns_in_memory_refuses_more_than_fits_before_collecting_anything(
    spark: SparkSession, lake: Lake, model: Model, advice: str
) -> None:
    with pytest.raises(
        AnabranchError, match=r"training set of 'heart_disease' is 303 rows of 16 columns, 0 MB"
    ) as caught:
        lake_run(stores(spark=spark, lake=lake), tight(declared(model)), versions(spark, lake))
    assert advice in str(caught.value)
    assert "training.local_megabytes" in str(caught.value)


def test_a_comparison_of_trainers_is_held_to_the_same_bound(spark: SparkSession, lake: Lake) -> None:
    mine, opened = declared(Model()), stores(spark=spark, lake=lake)
    with pytest.raises(AnabranchError, match=r"training\.local_megabytes"):
        lake_training_set(opened, tight(mine), versions(spark, lake))
    assert lake_training_set(opened, TrainingJob(project=mine), versions(spark, lake)).num_rows == 303


def test_labels_without_any_use_are_explained_on_the_workers(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    nothing = replace(
        declared(Model(trainer="spark-logistic")),
        label=Label(source=diagnoses, key="patient_id", target="CAST(NULL AS DOUBLE)"),
    )
    before = persisted(spark)
    with pytest.raises(AnabranchError, match="no labels to learn from: all 303 have no key, time or target"):
        lake_run(stores(spark=spark, lake=lake), tight(nothing), versions(spark, lake))
    ones = replace(
        declared(Model(trainer="spark-logistic")),
        label=Label(source=diagnoses, key="patient_id", target="num >= 0"),
    )
    with pytest.raises(AnabranchError, match="all 303 labels are of class 1: a model needs examples of both"):
        lake_run(stores(spark=spark, lake=lake), tight(ones), versions(spark, lake))
    assert persisted(spark) == before
    empty = Lake(LakeSettings(root=str(tmp_path)))
    with pytest.raises(AnabranchError, match="ingest or land 'diagnoses' first"):
        train(stores(spark=spark, lake=empty), TrainingJob(project=declared(Model())))
