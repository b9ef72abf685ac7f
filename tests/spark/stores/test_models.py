"""The registry on MLflow with sqlite in a temporary folder."""

import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.settings import ModelsSettings
from anabranch.stores.models.inputs import Fitted, model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows

visits = Source(
    name="visits",
    id="id",
    time="at",
    schema="id STRING, who STRING, at TIMESTAMP, pages INT, town STRING, bought INT",
)
view = FeatureView(
    name="seen",
    source=visits,
    key="who",
    features={"pages": Last("pages"), "town": Last("town"), "visits": Count()},
)
shop = Project(
    name="shop", views=(view,), label=Label(source=visits, key="who", target="bought > 0"), model=Model()
)
COLUMNS: dict[str, list[Any]] = {
    "pages": [1.0, 9.0, None, 4.0] * 25,
    "town": ["Oslo", "Bergen", None, "Oslo"] * 25,
    "visits": [0.0, 3.0, 1.0, 2.0] * 25,
}


def fitted(trainer: str = "xgboost", task: str = "class") -> Fitted:
    inputs = tuple(given.learnt(COLUMNS[given.name]) for given in model_inputs(shop))
    matrix = InputCoder([given.described() for given in inputs]).matrix(COLUMNS)
    target = np.array([0.0, 1.0, 0.0, 1.0] * 25)
    return fit(trainer, TrainingRows(matrix=matrix, target=target, inputs=inputs, task=task))


def record(auc: float = 0.9) -> TrainingRecord:
    example = {name: values[:3] for name, values in COLUMNS.items()}
    return TrainingRecord(
        metrics={"roc_auc": auc}, parameters={"rows": 100}, lake_versions={"visits": 4}, example=example
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    found = Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )
    assert found.champion("shop") is None
    assert found.log(shop, record(), fitted()) == "1"
    assert found.log(shop, record(0.95), fitted("logistic")) == "2"
    return found


def test_promotion_and_rollback_move_the_two_aliases(models: Models) -> None:
    assert models.champion("shop") is None
    with pytest.raises(MisuseError, match="no earlier champion"):
        models.rollback("shop")
    with pytest.raises(MisuseError, match="has no champion: run 'anabranch train shop'"):
        models.scorer("shop")
    models.promote("shop", "1")
    models.promote("shop", "1")
    models.promote("shop", "2")
    assert models.champion("shop") == "2"
    assert models.rollback("shop") == "1"
    assert models.champion("shop") == "1"
    listed = models.list("shop")
    assert [(entry.version, entry.aliases) for entry in listed] == [
        ("2", ("previous",)),
        ("1", ("champion",)),
    ]
    assert listed[0].metrics["roc_auc"] == 0.95
    assert listed[0].fingerprint == shop.fingerprint
    assert listed[0].lake_versions == {"visits": 4}


def test_champion_is_cheap_enough_to_ask_every_second(models: Models) -> None:
    models.champion("shop")
    start = time.thread_time()  # what others of this machine do meanwhile does not count
    for _ in range(5):
        models.champion("shop")
    assert (time.thread_time() - start) / 5 < 0.1


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_scorer_gives_the_same_for_few_and_for_many_rows(models: Models, version: str) -> None:
    scorer = models.scorer("shop", version)
    assert scorer is models.scorer("shop", version)
    assert (scorer.version, scorer.features) == (version, ("pages", "town", "visits"))
    many = scorer.score(COLUMNS)
    few = scorer.score({name: values[:4] for name, values in COLUMNS.items()})
    assert many.dtype == np.float64
    np.testing.assert_allclose(many[:4], few, atol=1e-5)
    assert scorer.label(many)[:4] == [0, 1, 0, 1]


def test_unknown_texts_and_missing_values_are_scored_and_missing_columns_refused(models: Models) -> None:
    scorer = models.scorer("shop", "1")
    found = scorer.score({"pages": [None, float("nan")], "town": ["Rome", None], "visits": [1, 1]})
    assert found[0] == found[1]
    assert scorer.score({"pages": [], "town": [], "visits": []}).shape == (0,)
    with pytest.raises(MisuseError, match="lacks town, visits"):
        scorer.score({"pages": [1]})
    with pytest.raises(MisuseError, match="'pages' is 'many'"):
        scorer.score({"pages": ["many"], "town": [None], "visits": [1]})


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_version_loads_as_a_plain_pyfunc_in_a_process_without_anabranch(
    models: Models, version: str, tmp_path: Path
) -> None:
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path = [entry for entry in sys.path if entry]
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model({models.uri("shop", version)!r})
out = model.predict(pd.DataFrame({{"pages": [1.0, None], "town": ["Oslo", None], "visits": [0.0, 2.0]}}))
assert list(out.columns) == ["score"]
assert not [name for name in sys.modules if name.split(".")[0] in ("stores", "features", "batch")]
print(*out["score"])
try:
    model.predict(pd.DataFrame({{"pages": [1.0]}}))
except Exception as error:
    assert "town" in str(error), error
else:
    raise SystemExit("missing columns were accepted")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    expected = models.scorer("shop", version).score(
        {"pages": [1.0, None], "town": ["Oslo", None], "visits": [0.0, 2.0]}
    )
    np.testing.assert_allclose([float(text) for text in ran.stdout.split()], expected, atol=1e-5)


def test_no_file_of_a_version_is_a_pickle(models: Models) -> None:
    folder = Path(models.uri("shop", "1").removeprefix("file://"))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"model.ubj", "model.onnx", "features.json", "scoring.py", "model_code.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_models_travel_to_other_processes_as_settings(models: Models) -> None:
    again = pickle.loads(pickle.dumps(models))  # noqa: S301 - our own bytes
    assert again.champion("shop") == models.champion("shop")


def test_an_unknown_version_and_an_unknown_project_are_named(models: Models) -> None:
    with pytest.raises(MisuseError, match="'shop' has no model version '99'"):
        models.promote("shop", "99")
    with pytest.raises(MisuseError, match="has no model version 'latest'"):
        models.scorer("shop", "latest")
    assert models.list("nobody") == []


def test_a_damaged_version_is_named_and_says_what_to_do(models: Models) -> None:
    version = models.log(shop, record(), fitted())
    folder = Path(models.uri("shop", version).removeprefix("file://"))
    next(folder.rglob("model.ubj")).write_bytes(b"not a model")
    with pytest.raises(AnabranchError, match=f"version {version} of project 'shop' cannot be loaded"):
        models.scorer("shop", version)


def test_a_registry_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    away = Models(
        ModelsSettings(tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db", artifact_root=str(tmp_path))
    )
    with pytest.raises(UnavailableError, match="MLflow at sqlite"):
        away.champion("shop")
