"""Reading MLflow's registry without MLflow gives what MLflow gives, and light verbs import nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from anabranch.stores.models.light import LightRegistry, NoSuchEntryError
from jobs.wiring.settings import ROOT

HEAVY = ["mlflow", "pandas", "pyspark", "scipy", "sklearn", "xgboost", "delta", "matplotlib", "optuna"]
"""Modules that take longer to import than a light verb may run."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    address = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(address, address)
    experiment = client.create_experiment("heart_disease", f"file://{folder}/artifacts")
    client.create_registered_model("heart_disease", tags={"trial": '{"kind": "shadow", "version": "2"}'})
    for number in (1, 2, 3):
        run = client.create_run(experiment).info
        value = float("nan") if number == 3 else number / 10
        metrics = [Metric("roc_auc", 0.5, 1, 0), Metric("roc_auc", value, 2, 1)]
        client.log_batch(run.run_id, metrics, [Param("metric", "roc_auc")])
        files, tags = f"{folder}/artifacts/{number}", {"gate": "passed", "fingerprint": "f"}
        client.create_model_version("heart_disease", files, run.run_id, tags=tags)
    client.set_registered_model_alias("heart_disease", "champion", "2")
    client.delete_model_version("heart_disease", "1")
    return address


def shown(version: Any) -> dict[str, Any]:
    names = ("version", "creation_timestamp", "run_id", "tags")
    return {name: str(getattr(version, name)) for name in names}


def test_light_reads_are_those_of_mlflow(registry: str) -> None:
    client, light = MlflowClient(registry, registry), LightRegistry.at(registry)
    assert light is not None
    ours, theirs = (each.get_registered_model("heart_disease") for each in (light, client))
    assert (ours.aliases, ours.tags) == ({"champion": "2"}, theirs.tags)
    assert {name: str(version) for name, version in theirs.aliases.items()} == ours.aliases
    filters = "name = 'heart_disease'"
    ours, theirs = (each.search_model_versions(filters) for each in (light, client))
    assert sorted(map(str, map(shown, ours))) == sorted(map(str, map(shown, theirs)))
    assert [str(each.version) for each in ours] == ["2", "3"]
    for each in theirs:
        assert shown(light.get_model_version("heart_disease", each.version)) == shown(each)
        location = client.get_model_version_download_uri("heart_disease", each.version)
        assert light.get_model_version_download_uri("heart_disease", each.version) == location
        data, other = light.get_run(str(each.run_id)).data, client.get_run(str(each.run_id)).data
        assert (str(data.metrics), data.params) == (str(other.metrics), other.params)


def test_what_is_not_there_is_missing_and_other_addresses_are_mlflows(registry: str, tmp_path: Path) -> None:
    light = LightRegistry.at(registry)
    assert light is not None
    for version in ("1", "9", "x"):
        with pytest.raises(NoSuchEntryError):
            light.get_model_version("heart_disease", version)
    with pytest.raises(NoSuchEntryError):
        light.get_registered_model("boats")
    empty = LightRegistry.at(f"sqlite:///{tmp_path}/none.db")
    assert empty is not None
    assert empty.search_model_versions("name = 'heart_disease'") == []
    other = tmp_path / "other.db"
    other.write_bytes(b"no database")
    assert LightRegistry.at(f"sqlite:///{other}") is None
    assert LightRegistry.at("http://127.0.0.1:1") is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check", "heart_disease"], 0),
        (["test", "heart_disease"], 2),
        (["models", "heart_disease"], 0),
        (["answer", "heart_disease", "1"], 1),
        (["why", "heart_disease", "1"], 1),
        (["status"], 0),
        (["completion", "versions", "heart_disease"], 0),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_a_light_verb_imports_nothing_heavy(
    registry: str, tmp_path: Path, words: list[str], code: int
) -> None:
    """Servers are where nothing listens: the answer's own reads are part of tests/e2e."""
    script = (
        "import json, sys; from jobs.cli.main import main; code = main(sys.argv[2:]); "
        "print(json.dumps([code, [each for each in json.loads(sys.argv[1]) if each in sys.modules]]))"
    )
    environment = {
        **os.environ,
        "ANABRANCH__MODELS__TRACKING_URI": registry,
        "ANABRANCH__PATHS__DATA": str(tmp_path),
        "ANABRANCH__VIEWS__HOSTS": "127.0.0.1",
        "ANABRANCH__VIEWS__PORT": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps(HEAVY), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(ended.stdout.splitlines()[-1]) == [code, []], ended.stderr
    if words[0] == "models":
        assert "champion" in ended.stdout
    if words[0] == "completion":
        assert ended.stdout.splitlines()[0] == "2 3"
