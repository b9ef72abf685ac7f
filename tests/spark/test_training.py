"""Training: from a hand-made training set, and whole over a lake of the Cleveland data."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch.training import fit_and_log
from features import Model
from features.errors import AnabranchError, MisuseError
from features.times import parse_time
from projects.heart_disease import ATTRIBUTES, project
from stores.models import Models
from stores.progress import Silent
from stores.settings import ModelsSettings

DATA = Path(__file__).parents[2] / "projects" / "data"


def read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def heart() -> pa.Table:
    """The training set of the heart project as Spark would hand it over: no bracelet readings yet."""
    exams, diagnoses = read("exams.csv"), read("diagnoses.csv")
    columns: dict[str, pa.Array] = {
        "_key": pa.array([row["patient_id"] for row in diagnoses]),
        "_time": pa.array([parse_time(row["diagnosed_at"]) for row in diagnoses]),
        "_target": pa.array([float(row["num"]) for row in diagnoses]),
    }
    for column in project.columns:
        if column.name in ATTRIBUTES:
            columns[column.name] = pa.array([float(row[column.name]) if row[column.name] else None for row in exams], pa.float64())
        else:
            empty = 0.0 if column.feature in ("readings", "fast") else None
            columns[column.name] = pa.array([empty] * len(exams), pa.float64())
    return pa.table(columns)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts")))


def test_the_heart_model_is_registered_as_champion_with_its_metrics(models: Models) -> None:
    trained = fit_and_log(models, project, heart(), {"exams": 1, "diagnoses": 1}, Silent(), left_out=2)
    assert trained.champion
    assert (trained.rows, trained.left_out) == (303, 2)
    assert next(iter(trained.metrics)) == "roc_auc"
    assert trained.metrics["roc_auc"] > 0.85
    assert trained.metrics["rows_train"] + trained.metrics["rows_test"] == 303
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
    versions = [fit_and_log(models, project, rows, {}, Silent(), promote=False) for rows in (table, shuffled)]
    assert versions[0].metrics == versions[1].metrics
    columns = {name: table.column(name).to_numpy() for name in project.model_features}
    first, second = (models.scorer("heart_disease", trained.version).score(columns) for trained in versions)
    np.testing.assert_array_equal(first, second)


def test_without_promotion_the_champion_stays(models: Models) -> None:
    before = models.champion("heart_disease")
    trained = fit_and_log(models, project, heart(), {}, Silent(), promote=False)
    assert not trained.champion
    assert models.champion("heart_disease") == before != trained.version


def test_chosen_features_and_other_trainers_are_used(models: Models) -> None:
    chosen = replace(project, model=Model(trainer="logistic", metric="log_loss", features=("age", "thalach", "cp"), params={"categories": ("cp",)}))
    trained = fit_and_log(models, chosen, heart(), {}, Silent(), promote=False)
    assert next(iter(trained.metrics)) == "log_loss"
    assert models.scorer("heart_disease", trained.version).features == ("age", "thalach", "cp")


def test_labels_of_one_class_and_too_few_labels_are_explained(models: Models) -> None:
    table = heart()
    ones = table.filter(pa.compute.equal(table.column("_target"), 1.0))
    with pytest.raises(AnabranchError, match="all 139 labels are of class 1"):
        fit_and_log(models, project, ones, {}, Silent())
    with pytest.raises(AnabranchError, match="labels are too few"):
        fit_and_log(models, project, table.slice(0, 3), {}, Silent())


def test_a_project_without_a_model_says_so(models: Models) -> None:
    with pytest.raises(MisuseError, match="declares no model"):
        fit_and_log(models, replace(project, model=None, label=None), heart(), {}, Silent())
