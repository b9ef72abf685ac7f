"""A real MLflow server that is away during a training and returns: `train`, `train --finish`, `reproduce`."""

import csv
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from pyspark.sql import SparkSession

import jobs.wiring.spark_session
from anabranch.settings import ModelsSettings
from anabranch.stores.models.registry import Models
from jobs.cli.main import main
from jobs.cli.models.training import _commit
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from tests.conftest import free_ports
from tests.support.training_desk import DECLARATION


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[str]:
    """A tracking server with SQLite, ready to answer."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder}/registry.db",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (folder / "server.log").open("wb") as log:
        running = subprocess.Popen(
            [*command, "--workers", "1"], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            assert running.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def rows(path: Path, given: list[dict[str, object]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(given[0]))
        writer.writeheader()
        writer.writerows(given)
    return str(path)


def test_a_training_is_kept_while_mlflow_is_away_and_finished_and_made_again_when_it_is_back(
    settings: Settings,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, (port,) = f"grain_{uuid.uuid4().hex[:8]}", free_ports(1)
    (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name))
    for key, value in {
        "ANABRANCH_PROJECTS": tmp_path,
        "ANABRANCH__PATHS__DATA": tmp_path,
        "ANABRANCH__PATHS__JARS": settings.jars,
        "ANABRANCH__BUS__BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "ANABRANCH__MODELS__TRACKING_URI": f"http://127.0.0.1:{port}",
        "ANABRANCH__MODELS__ARTIFACT_ROOT": tmp_path / "artifacts",
    }.items():
        monkeypatch.setenv(key, str(value))
    # The session is that of all tests: the verbs neither start nor stop it.
    monkeypatch.setattr(jobs.wiring.spark_session, "spark_session", lambda *_: spark)
    monkeypatch.setattr(Context, "close", lambda _: None)

    def told(*words: str) -> dict[str, object]:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    things = [
        {"id": f"t{i}", "thing": f"k{i}", "at": f"2024-05-01T00:{i:02d}:00Z", "x": i + (i * 7) % 5}
        for i in range(40)
    ]
    marks = [
        {"id": f"m{i}", "thing": f"k{i}", "at": "2024-05-02T00:00:00Z", "good": i > 20} for i in range(40)
    ]
    told("ingest", name, "things", rows(tmp_path / "things.csv", things))
    told("ingest", name, "marks", rows(tmp_path / "marks.csv", marks))

    assert main(["train", name, "--json"]) == 1
    said = capsys.readouterr().err
    assert f"MLflow at http://127.0.0.1:{port}" in said
    assert f"run 'anabranch train {name} --finish' to go on from there" in said
    (kept,) = (tmp_path / "unfinished" / name).iterdir()
    assert (kept / "run.json").exists()

    with mlflow_server(port, tmp_path) as address:
        (done,) = list(told("train", name, "--finish")["finished"])  # type: ignore[call-overload]
        assert (done["model_version"], done["champion"]) == ("1", True)
        assert not kept.exists()
        assert main(["train", name, "--finish"]) == 2
        assert "has no unfinished training" in capsys.readouterr().err

        again = told("reproduce", name, "1")
        assert (again["same"], again["different"]) == (True, [])
        entry = Models(ModelsSettings(tracking_uri=address, artifact_root=str(tmp_path / "artifacts"))).entry(
            name, "1"
        )
        assert entry.metrics["roc_auc"] > 0.8
        assert entry.tags.get("commit", "") == _commit()
        head = subprocess.run(
            ["/usr/bin/env", "git", "-C", str(ROOT), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        assert _commit().removesuffix(" with changes") == head
