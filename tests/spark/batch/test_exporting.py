"""Edge bundles of versions in a real registry, run by a Python that has numpy and onnxruntime alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch import FeatureView, Label, Last, Model, Project, Source
from anabranch.declare.models import Member
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import FileSettings, ModelsSettings
from anabranch.stores.files.hdfs import Hdfs
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from batch.release.exporting import MANIFEST, bundle, export, write_bundle
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from tests.support.edge import device, run, scored

COLUMNS = "pages INT, town STRING, member BOOLEAN, joined DATE, seen TIMESTAMP, bought INT"
visits = Source(name="visits", id="id", time="at", schema=f"id STRING, who STRING, at TIMESTAMP, {COLUMNS}")
NAMES = ("pages", "town", "member", "joined", "seen")
view = FeatureView(name="latest", source=visits, key="who", features={name: Last(name) for name in NAMES})
shop = Project(
    name="shop",
    views=(view,),
    label=Label(source=visits, key="who", target="bought > 0"),
    model=Model(),
    description="Who buys",
)
NOWHERE = Hdfs(FileSettings(webhdfs="http://127.0.0.1:1", namenode="127.0.0.1:1"))
MEMBERS = (Member(trainer="logistic"), Member(trainer="xgboost"))
TRAINERS: dict[str, dict[str, Any]] = {
    "xgboost": {},
    "logistic": {},
    "forest": {},
    "linear": {"task": "number"},
    "sklearn": {"params": {"estimator": "sklearn.ensemble.GradientBoostingClassifier"}},
    "cascade": {"members": MEMBERS, "params": {"unsure": (0.2, 0.8)}},
    "ensemble": {"members": MEMBERS},
}


def rows(count: int) -> list[dict[str, Any]]:
    """Rows as JSON: some values missing, some towns never seen, a time with a zone."""
    random = np.random.default_rng(3)
    found = []
    for number in range(count):
        row: dict[str, Any] = {
            "pages": int(random.integers(0, 30)),
            "town": str(random.choice(["Oslo", "Bergen", "Rome"])),
            "member": bool(random.integers(0, 2)),
            "joined": f"20{10 + number % 15}-03-0{1 + number % 9}",
            "seen": f"2024-01-{1 + number % 28:02d}T0{number % 10}:00:00{'+02:00' if number % 2 else 'Z'}",
        }
        found.append({name: None if random.random() < 0.15 else value for name, value in row.items()})
    return found


def columns(given: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in given] for name in NAMES}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return device(tmp_path_factory.mktemp("device"))


def log(
    models: Models, trainer: str, *, card: bool = True, tags: dict[str, str] | None = None, onnx: bool = True
) -> str:
    """Train on rows that know no Rome and register; returns the version."""
    seen = [row for row in rows(400) if row["town"] != "Rome"]
    inputs = tuple(given.learnt(columns(seen)[given.name]) for given in model_inputs(shop))
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns(seen))
    declared = {"task": "class", **TRAINERS[trainer]}
    pages = np.array([row["pages"] or 0 for row in seen], dtype=np.float64)
    target = pages if declared["task"] == "number" else (pages > 14).astype(np.float64)
    fitted = fit(trainer, TrainingRows(matrix=matrix, target=target, inputs=inputs, **declared))
    report = {"model_card.html": b"<!doctype html>card"} if card else {}
    example = columns(seen[:1])
    record = TrainingRecord(
        metrics={},
        parameters={},
        lake_versions={"visits": 2},
        example={**example, "joined": [1.0], "seen": [1.0]},
        report=report,
        tags=tags or {},
    )
    return models.log(shop, record, fitted if onnx else replace(fitted, onnx=None))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_bundle_scores_as_the_registry_does_with_numpy_and_onnxruntime_alone(
    trainer: str, models: Models, edge: dict[str, str], tmp_path: Path
) -> None:
    version, asked = log(models, trainer), rows(100)
    written = export(models, shop, str(tmp_path / "bundle"), version, Silent(), NOWHERE)
    answers = scored(tmp_path / "bundle", edge, asked)
    scorer = models.scorer("shop", version)
    expected, _ = scorer.both(columns(asked))
    np.testing.assert_allclose([answer["score"] for answer in answers], expected, rtol=1e-6, atol=1e-6)
    assert [answer["label"] for answer in answers] == scorer.label(expected)
    assert {answer["model_version"] for answer in answers} == {version}
    assert len({answer["score"] for answer in answers}) > 1
    manifest = json.loads((tmp_path / "bundle" / MANIFEST).read_text())
    assert (manifest["project"], manifest["model_version"], manifest["declaration"]) == (
        "shop",
        version,
        shop.fingerprint,
    )
    assert set(manifest["files"]) == {"model.onnx", "features.json", "run.py", "model_card.html", "README.md"}
    for name, said in manifest["files"].items():
        assert (
            hashlib.sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest()
            == said["sha256"]
            == written.files[name]
        )


def test_the_same_version_gives_the_same_bytes_and_only_a_bundle_is_replaced(
    models: Models, tmp_path: Path
) -> None:
    version = log(models, "logistic")
    files = bundle(models, shop, version)
    assert bundle(models, shop, version) == files
    place = tmp_path / "deep" / "bundle"
    write_bundle(files, place)
    (place / "run.py").write_text("changed")
    write_bundle(files, place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]
    precious = tmp_path / "precious"
    precious.mkdir()
    write_bundle(files, precious)
    for other in (tmp_path / "deep", tmp_path / "file"):
        if other.name == "file":
            other.write_text("mine")
        with pytest.raises(MisuseError, match="is no edge bundle"):
            write_bundle(files, other)
    assert (tmp_path / "file").read_text() == "mine"


def test_features_say_how_a_value_is_given_and_what_a_score_means(models: Models) -> None:
    said = json.loads(bundle(models, shop, log(models, "logistic"))["features.json"])
    kinds = [(one["name"], one["kind"], one["type"]) for one in said["features"]]
    assert kinds[:3] == [
        ("pages", "number", "BIGINT"),
        ("town", "text", "STRING"),
        ("member", "boolean", "BOOLEAN"),
    ]
    assert kinds[3:] == [("joined", "date", "DATE"), ("seen", "timestamp", "TIMESTAMP")]
    assert said["features"][1]["categories"] == ["Bergen", "Oslo"]
    assert said["label"] == {
        "target": "bought > 0",
        "threshold": 0.5,
        "names": {"0": "not (bought > 0)", "1": "bought > 0"},
    }
    assert said["keys"] == ["who"]


def test_a_device_that_gives_wrong_rows_is_told(models: Models, edge: dict[str, str], tmp_path: Path) -> None:
    write_bundle(bundle(models, shop, log(models, "logistic")), tmp_path / "bundle")
    assert len(scored(tmp_path / "bundle", edge, [{"who": "w1"}])) == 1
    assert run(tmp_path / "bundle", edge, "[]").stdout == ""
    for text, complaint in (
        ('{"pages": 3}\n{"pagse": 3}', "row 2: 'pagse' is no feature of shop"),
        ('{"pages": "many"}', "many"),
        ("{", "error:"),
    ):
        ran = run(tmp_path / "bundle", edge, text)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert complaint in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_version_that_a_device_could_not_score_with_is_refused_with_the_reason(
    models: Models, tmp_path: Path
) -> None:
    place = str(tmp_path / "bundle")
    with pytest.raises(MisuseError, match=r"has no ONNX form: its model \(xgboost\) has none"):
        export(models, shop, place, log(models, "xgboost", onnx=False), Silent(), NOWHERE)
    checks = json.dumps([{"name": "parity", "passed": False, "said": "ONNX differs from the model by 0.1"}])
    with pytest.raises(MisuseError, match="did not pass the check of parity"):
        export(
            models,
            shop,
            place,
            log(models, "logistic", tags={"gate": "refused", "gate_checks": checks}),
            Silent(),
            NOWHERE,
        )
    with pytest.raises(AnabranchError, match="has no model card"):
        export(models, shop, place, log(models, "logistic", card=False), Silent(), NOWHERE)
    with pytest.raises(MisuseError, match="'shop' has no model version '99'"):
        export(models, shop, place, "99", Silent(), NOWHERE)
    assert not (tmp_path / "bundle").exists()
