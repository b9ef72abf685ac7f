"""Training: from a hand-made training set, and whole over a lake of the Cleveland data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.errors import AnabranchError, DeclarationError, MisuseError
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from batch.training.job import TrainingJob, TrainingSet
from batch.training.train import Trained, fit_and_log, reproduce, train
from batch.training.training_sets import label_rows, training_set
from projects.heart_disease import ATTRIBUTES, project
from tests.support.heart import fill, read
from tests.support.heart_table import heart
from tests.support.stores import stores

quick = replace(project, model=Model(trainer="logistic"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def trained_on(models: Models, declared: Project, table: pa.Table, *, promote: bool = True) -> Trained:
    job = TrainingJob(project=declared, promote=promote)
    return fit_and_log(stores(models=models), job, TrainingSet(table=table))


def test_the_heart_model_is_registered_as_champion_with_its_metrics(models: Models) -> None:
    trained = fit_and_log(
        stores(models=models),
        TrainingJob(project=project),
        TrainingSet(table=heart(), lake_versions={"exams": 1, "diagnoses": 1}, left_out=2),
    )
    assert trained.champion
    assert (trained.rows, trained.left_out) == (303, 2)
    assert next(iter(trained.metrics)) == "roc_auc"
    assert trained.metrics["roc_auc"] > 0.85
    assert trained.metrics["roc_auc_low"] < trained.metrics["roc_auc"] < trained.metrics["roc_auc_high"]
    assert trained.metrics["train_roc_auc"] > 0.85
    assert trained.split.startswith("by time: trained before 2024-01-1")
    assert (trained.metrics["rows_train"], trained.metrics["rows_test"]) == (227, 76)
    assert models.champion("heart_disease") == trained.version
    entry = next(entry for entry in models.list("heart_disease") if entry.version == trained.version)
    assert entry.metrics == trained.metrics
    assert entry.lake_versions == {"exams": 1, "diagnoses": 1}
    assert entry.fingerprint == project.fingerprint
    scorer = models.scorer("heart_disease")
    assert scorer.features == project.model_features
    request = dict(zip(ATTRIBUTES, [45, 1, 3, 112, 230, 0, 2, 165, 0, 2.5, 2, 1, 7], strict=True))
    score = scorer.score({name: [request.get(name)] for name in scorer.features})
    assert 0 < score[0] < 1


def test_the_same_rows_in_another_order_give_the_same_model(models: Models) -> None:
    table = heart()
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(303)))
    forest = replace(project, model=Model(trainer="forest", params={"trees": 30}))
    versions = [trained_on(models, forest, rows, promote=False) for rows in (table, shuffled)]
    assert versions[0].metrics == versions[1].metrics
    columns = {name: table.column(name).to_numpy() for name in project.model_features}
    first, second = (models.scorer("heart_disease", trained.version).score(columns) for trained in versions)
    np.testing.assert_array_equal(first, second)


def test_without_promotion_the_champion_stays(models: Models) -> None:
    before = models.champion("heart_disease")
    trained = trained_on(models, quick, heart(), promote=False)
    assert not trained.champion
    assert models.champion("heart_disease") == before != trained.version


def test_chosen_features_and_other_trainers_are_used(models: Models) -> None:
    chosen = replace(
        project,
        model=Model(
            trainer="logistic",
            metric="log_loss",
            features=("age", "thalach", "cp"),
            params={"categories": ("cp",)},
        ),
    )
    trained = trained_on(models, chosen, heart(), promote=False)
    assert next(iter(trained.metrics)) == "log_loss"
    assert models.scorer("heart_disease", trained.version).features == ("age", "thalach", "cp")


def test_labels_of_one_class_and_too_few_labels_are_explained(models: Models) -> None:
    table = heart()
    ones = table.filter(pa.compute.equal(table.column("_target"), 1.0))
    with pytest.raises(AnabranchError, match="all 139 labels are of class 1: a model needs"):
        trained_on(models, project, ones)
    with pytest.raises(AnabranchError, match="labels are too few"):
        trained_on(models, project, table.slice(0, 3))
    nothing = table.select(["_key", "_time", "_target"])
    for name in project.model_features:
        nothing = nothing.append_column(name, pa.nulls(303, pa.float64()))
    with pytest.raises(
        AnabranchError, match="no feature of project 'heart_disease' has a value in any of 227 training rows"
    ):
        trained_on(models, project, nothing)


def test_a_project_without_a_model_says_so(models: Models) -> None:
    with pytest.raises(MisuseError, match="declares no model"):
        trained_on(models, replace(project, model=None, label=None), heart())


visits = Source(
    name="visits",
    id="id",
    time="at",
    schema="id STRING, shop INT, who STRING, at TIMESTAMP, pages INT, town STRING, since DATE, spent DOUBLE",
)
seen = FeatureView(
    name="seen",
    source=visits,
    key=("who", "shop"),
    features={
        "visits": Count(),
        "town": Last("town"),
        "since": Last("since"),
        "came": Last("at"),
        "member": Last("pages > 2"),
    },
)
spending = Project(
    name="spending",
    views=(seen,),
    label=Label(source=visits, key=("who", "shop"), target="spent"),
    model=Model(trainer="xgboost", metric="rmse"),
)


def visit_rows(spark: SparkSession, count: int = 60) -> DataFrame:
    """Each of `count` shoppers comes twice, a day apart, and spends by the town."""
    rows = spark.range(2 * count).withColumn("who", F.concat(F.lit("w"), (F.col("id") / 2).cast("int")))
    return rows.select(
        F.col("id").cast("string").alias("id"),
        F.lit(3).alias("shop"),
        "who",
        F.timestamp_seconds(1_700_000_000 + F.col("id") % 2 * 86_400 + F.col("id")).alias("at"),
        F.when(F.col("id") % 7 != 0, (F.col("id") % 5).cast("int")).alias("pages"),
        F.when(F.floor(F.col("id") / 2) % 3 == 0, "Oslo")
        .when(F.floor(F.col("id") / 2) % 3 == 1, "Bergen")
        .alias("town"),
        F.lit("2020-02-29").cast("date").alias("since"),
        (10.0 * (F.floor(F.col("id") / 2) % 3)).alias("spent"),
        F.lit(None).cast("timestamp").alias("_arrival"),
        F.lit("visits.csv").alias("_file"),
    )


SIGHT = (
    "struct<events:bigint,late:bigint,loaded:bigint,"
    "changed:array<struct<place:int,number:double,text:string>>>"
)


def test_every_type_of_feature_becomes_a_number_or_a_text_strictly_before_the_label(
    spark: SparkSession,
) -> None:
    events = visit_rows(spark, 2)
    rows = (
        training_set(spending, {"visits": events}, label_rows(spending.label, events))
        if spending.label
        else None
    )
    assert rows is not None
    assert dict(rows.dtypes) == {
        "_key": "string", "_time": "bigint", "_target": "double",
        "visits": "double", "town": "string", "since": "double", "came": "double", "member": "double",
        "_sight": SIGHT,
    }  # fmt: skip
    first, second = rows.where("_key = 'w0\x1f3'").orderBy("_time").collect()
    assert (first["visits"], first["town"], first["since"], first["came"]) == (0.0, None, None, None)
    assert (second["visits"], second["town"], second["since"], second["came"], second["member"]) == (
        1.0,
        "Oslo",
        18321.0,
        1_700_000_000e6,
        None,
    )


def test_a_model_of_numbers_over_a_key_of_two_columns_learns_from_texts(
    spark: SparkSession, models: Models
) -> None:
    assert spending.label is not None
    events = visit_rows(spark)
    table = training_set(spending, {"visits": events}, label_rows(spending.label, events)).toArrow()
    trained = trained_on(models, spending, table)
    assert list(trained.metrics)[:3] == ["rmse", "rmse_low", "rmse_high"]
    scorer = models.scorer("spending")
    score = scorer.score(
        {
            "visits": [1, 1],
            "town": ["Bergen", "Oslo"],
            "since": ["2020-02-29"] * 2,
            "came": [1_700_000_000_000_000] * 2,
            "member": [True, None],
        }
    )
    assert score[0] > score[1]
    assert scorer.label(score) == [None, None]


def test_labels_without_key_time_or_target_are_left_out(spark: SparkSession) -> None:
    assert spending.label is not None
    events = visit_rows(spark, 4)
    holes = [
        events.withColumn("who", F.lit(None).cast("string")).limit(1),
        events.withColumn("at", F.lit(None).cast("timestamp")).limit(1),
        events.withColumn("spent", F.lit(float("nan"))).limit(1),
        events.withColumn("spent", F.lit(None).cast("double")).limit(1),
        events.withColumn("spent", F.lit(-1e39)).limit(1),  # beyond the 32 bits in which models compute
    ]
    labels = label_rows(spending.label, events)
    for hole in holes:
        labels = labels.unionByName(label_rows(spending.label, hole))
    assert labels.count() == 13
    assert training_set(spending, {"visits": events}, labels).count() == 8


def test_a_target_that_is_a_day_is_refused(spark: SparkSession) -> None:
    with pytest.raises(DeclarationError, match="'since' gives DATE"):
        label_rows(Label(source=visits, key="who", target="since"), visit_rows(spark, 1))


def test_training_without_any_label_says_what_to_do(
    spark: SparkSession, models: Models, tmp_path: Path
) -> None:
    with pytest.raises(AnabranchError, match="no labels to learn from: ingest or land 'diagnoses' first"):
        train(
            stores(spark=spark, lake=Lake(LakeSettings(root=str(tmp_path))), models=models),
            TrainingJob(project=project),
        )


@pytest.mark.parametrize(
    "declared",
    [Model(trainer="logistic"), Model(trainer="spark-logistic", slices=("sex",))],
    ids=["driver", "workers"],
)
def test_a_version_comes_out_again_whatever_has_landed_since(
    spark: SparkSession, models: Models, tmp_path: Path, declared: Model
) -> None:
    lake, mine = Lake(LakeSettings(root=str(tmp_path))), replace(project, model=declared)
    rows = {"exams": read("exams.csv"), "diagnoses": read("diagnoses.csv")}
    for source, found in rows.items():
        fill(spark, lake, source, found[:200])
    opened, job = stores(spark=spark, lake=lake, models=models), TrainingJob(project=mine)
    trained = train(opened, job)
    assert trained.rows == 200
    assert trained.metrics["rows_train"] + trained.metrics["rows_test"] == 200
    assert trained.split.startswith("by time")
    for source, found in rows.items():
        fill(spark, lake, source, found[200:], version=2)
    again = reproduce(opened, job, trained.version)
    assert again.different == ()
    assert {name: now for name, (_, now) in again.metrics.items()} == trained.metrics
    if declared.trainer == "spark-logistic":
        return
    changed = replace(mine, model=replace(declared, metric="f1"))
    with pytest.raises(MisuseError, match="was trained from the declaration"):
        reproduce(opened, TrainingJob(project=changed), trained.version)
    with pytest.raises(MisuseError, match="has no model version '99'"):
        reproduce(opened, job, "99")
