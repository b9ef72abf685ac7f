"""The whole river over S3: lake, checkpoints, models, features, scores and edge bundles on `s3a://`.

`make test-s3` runs it: it needs the jars of S3's connector and an S3 server. One process runs the commands.
"""

import csv
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from anabranch.errors import UnavailableError
from anabranch.stores.files.objects import Objects
from anabranch.stores.models.artifacts import ObjectArtifacts
from jobs.servers.processes import wait_until
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.e2e.test_cluster_river import RUNNER, START, VISITS, Row, some_visits, write
from tests.support.commands import environment_of
from tests.support.s3 import BUCKET, SECRET, s3_server
from tests.support.stream_rig import children_of

pytestmark = pytest.mark.s3
PLACE = f"s3a://{BUCKET}"
PATIENCE = 1500.0
_BY_PATH = "spark.hadoop.fs.s3a.path.style.access=true"  # there is no name of a host for each bucket here


@dataclass(frozen=True)
class River:
    """What the commands said, and all that processes of theirs showed to others."""

    name: str
    rows: list[Row]
    said: Mapping[str, Any]
    shown: str


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def river(servers: Settings, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> River:
    name, folder = f"visits_{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("river")
    (folder / f"{name}.py").write_text(VISITS.format(name=name))
    (folder / "runner.py").write_text(RUNNER)
    rows = some_visits(200)
    write(folder / "first.csv", rows[:150])
    Objects(f"{PLACE}/incoming").put(folder / "first.csv", "first.csv")
    with (folder / "asked.csv").open("w") as file:
        writer = csv.DictWriter(file, ["guest", "at"])
        writer.writeheader()
        writer.writerows({"guest": f"g{i}", "at": START.replace(day=10).isoformat()} for i in range(9))
    words = {
        "ingest": ["ingest", name, "visits", f"{PLACE}/incoming"],
        "again": ["ingest", name, "visits", f"{PLACE}/incoming"],
        "publish": ["publish", name, "visits", write(folder / "more.csv", rows[150:])],
        "build": ["build", name],
        "train": ["train", name],
        "stream": ["stream", name, "--once"],
        "features": [
            "features", name, "--at", str(folder / "asked.csv"), "--out", f"{PLACE}/features",
        ],
        "score": ["score", name, "--in", f"{PLACE}/features", "--out", f"{PLACE}/scores"],
        "build again": ["build", name],
        "answer": ["answer", name, "g3"],
        "verify": ["verify", name, "--all"],
        "export": ["export", name, f"{PLACE}/bundle"],
    }  # fmt: skip
    (folder / "commands").write_text("".join(json.dumps([*each, "--json"]) + "\n" for each in words.values()))
    ours = environment_of(servers)
    variables = {
        **os.environ,
        **ours,
        "ANABRANCH_PROJECTS": str(folder),
        "ANABRANCH__PATHS__LAKE": f"{PLACE}/lake",
        "ANABRANCH__PATHS__CHECKPOINTS": f"{PLACE}/checkpoints",
        "ANABRANCH__MODELS__TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "ANABRANCH__MODELS__ARTIFACT_ROOT": f"{PLACE}/models",
        "ANABRANCH__SPARK__CONF": f"{ours['ANABRANCH__SPARK__CONF']},{_BY_PATH}",
    }
    shown: set[str] = set()
    with (folder / "log").open("w") as log:
        done = subprocess.Popen(
            [sys.executable, str(folder / "runner.py"), str(folder / "commands"), str(folder / "told")],
            cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip

        def ended() -> bool:
            for pid in [done.pid, *children_of(done.pid)]:
                try:
                    shown.add(Path(f"/proc/{pid}/cmdline").read_text())
                except OSError:
                    continue
            return done.poll() is not None

        try:
            assert wait_until(ended, PATIENCE)
        finally:
            done.kill()
    told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    said = {}
    for verb, (code, out, err) in zip(words, told, strict=False):
        assert code == 0, f"{verb}: {err[-3000:]}"
        said[verb] = json.loads(out.strip().splitlines()[-1])
        shown |= {out, err}
    assert said.keys() == words.keys(), (folder / "log").read_text()[-3000:]
    logs = [path.read_text(errors="replace") for path in (servers.data / "logs").rglob("*") if path.is_file()]
    return River(name, rows, said, "\n".join([*shown, *logs, (folder / "log").read_text()]))


def test_files_in_a_bucket_land_once(river: River) -> None:
    first, again = river.said["ingest"], river.said["again"]
    assert (first["rows"], first["skipped_files"]) == (150, 0)
    assert (again["rows"], again["skipped_files"]) == (0, 1)


def test_batch_and_stream_give_the_answer_of_a_plain_recount(river: River) -> None:
    assert river.said["build"]["rows"] == {"guest": 9}
    assert river.said["stream"]["events"] == 50
    spent = [row["spent"] for row in river.rows if row["guest"] == "g3"]
    found = river.said["answer"]["features"]
    assert {name: found[f"{name}_lifetime"] for name in ("visits", "mean", "most")} == pytest.approx(
        {"visits": len(spent), "mean": sum(spent) / len(spent), "most": max(spent)}
    )
    verified = river.said["verify"]
    assert (verified["keys"], verified["mismatches"], verified["degraded"]) == (9, 0, 0)


def test_lake_checkpoints_and_models_lie_in_the_bucket(river: River) -> None:
    found = Objects(PLACE).sizes(below=True)
    for place in (
        f"lake/{river.name}/events/visits/_delta_log/00000000000000000000.json",
        f"checkpoints/{river.name}/",
        f"models/{river.name}/",
        "features/_anabranch.json",
        "scores/",
        "bundle/MANIFEST.json",
    ):
        assert any(name.startswith(place) for name in found), place
    assert any(name.endswith("/MLmodel") for name in found)
    assert not any("unfinished" in name or "/.tmp" in name for name, size in found.items() if size)


def test_features_and_scores_are_written_and_read_there(river: River, tmp_path: Path) -> None:
    assert river.said["features"]["rows"] == river.said["score"]["rows"] == 9
    scores = Objects(f"{PLACE}/scores")
    for name in scores.sizes():
        if name.endswith(".parquet"):
            scores.get(name, tmp_path / name)
    rows = pq.read_table(tmp_path).to_pylist()
    assert {row["guest"] for row in rows} == {f"g{i}" for i in range(9)}
    assert all(0 <= row["score"] <= 1 for row in rows)


def test_an_edge_bundle_is_whole_and_is_not_replaced(river: River, tmp_path: Path) -> None:
    bundle = Objects(f"{PLACE}/bundle")
    assert set(bundle.sizes()) == {"MANIFEST.json", *river.said["export"]["files"]}
    bundle.get("MANIFEST.json", tmp_path / "manifest")
    assert json.loads((tmp_path / "manifest").read_text())["model_version"] == "1"


def test_no_secret_is_in_a_log_a_message_or_a_command_line(river: River) -> None:
    assert "runner.py" in river.shown
    assert "org.apache.spark.deploy.SparkSubmit" in river.shown  # the command line of the JVM
    assert SECRET not in river.shown


def test_artifacts_are_listed_fetched_and_deleted(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("m")
    (tmp_path / "model" / "deep" / "data").write_text("d")
    artifacts = ObjectArtifacts(f"{PLACE}/artifacts")
    artifacts.log_artifacts(str(tmp_path / "model"), "model")
    assert [(each.path, each.is_dir, each.file_size) for each in artifacts.list_artifacts("model")] == [
        ("model/MLmodel", False, 1),
        ("model/deep", True, None),
    ]
    fetched = Path(artifacts.download_artifacts("model", str(tmp_path)))  # type: ignore[no-untyped-call]
    assert (fetched / "deep" / "data").read_text() == "d"
    artifacts.delete_artifacts()
    assert Objects(f"{PLACE}/artifacts").sizes() == {}


def test_a_bucket_that_is_not_there_and_a_server_that_is_away_are_one_sentence(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnavailableError, match=r"s3a://nobodys/a does not do what was asked: .*bucket"):
        Objects("s3a://nobodys/a").put(tmp_path / "file", "file")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(
        UnavailableError, match=r"check the address, and the credentials, region and endpoint"
    ):
        Objects("s3a://elsewhere/a").sizes()
