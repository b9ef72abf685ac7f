"""The whole river on a real cluster: a standalone master, two workers with executors of their own, the lake
in HDFS.

The driver is a process of spark-submit that runs the commands one after the other; nothing of what they do
happens in one process.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anabranch.progress import Silent
from anabranch.stores.files.hdfs import Hdfs
from jobs.wiring.settings import ROOT, Settings
from tests.conftest import free_ports
from tests.support.commands import environment_of

# An aggregate of the declaration's own: executors know it only by value.
VISITS = '''"""Who comes back?"""

from anabranch import Count, FeatureView, Label, Max, Mean, Model, Project, Source


class Visits(Count):
    """How often."""


visits = Source(name="visits", topic="{name}", id="visit", time="at",
    schema="visit STRING, guest STRING, at TIMESTAMP, spent DOUBLE")
view = FeatureView(
    name="guest", source=visits, key="guest", windows=("1d", "lifetime"),
    features={{"visits": Visits(), "mean": Mean("spent"), "most": Max("spent")}}
)
project = Project(
    name="{name}", views=(view,), label=Label(source=visits, key="guest", target="spent > 50"),
    model=Model(trainer="logistic", metric="roc_auc")
)
'''
# Runs the commands of a file, one JSON list a line, and says in another what came of each; spark-submit
# hands no standard input on. They are one application: each of its own would start executors on every worker.
RUNNER = f"""
import contextlib, io, json, sys
sys.path[0] = {str(ROOT)!r}
from pyspark.sql import SparkSession
from jobs.cli.main import main
SparkSession.stop = lambda session: None
with open(sys.argv[1]) as commands, open(sys.argv[2], "w") as told:
    for line in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(json.loads(line))
        print(json.dumps([code, out.getvalue(), err.getvalue()]), file=told, flush=True)
        if code:
            break
"""
START = datetime(2024, 3, 1, tzinfo=UTC)
Row = dict[str, Any]


@dataclass(frozen=True)
class River:
    """What the commands said on the cluster."""

    name: str
    rows: list[Row]
    said: Mapping[str, Any]
    environment: Mapping[str, str]
    settings: Settings
    folder: Path
    driver_log: str


def some_visits(count: int) -> list[Row]:
    """Visits of nine guests."""
    return [
        {
            "visit": f"v{i}",
            "guest": f"g{i * 7 % 9}",
            "at": (START + timedelta(minutes=97 * i)).isoformat().replace("+00:00", "Z"),
            "spent": i * 37 % 101,
        }
        for i in range(count)
    ]


def write(path: Path, rows: Sequence[Row]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def environment(servers: Settings, hdfs: Settings, folder: Path) -> dict[str, str]:
    """Everything that is kept lies in HDFS: lake, place of the stream, models."""
    root = f"hdfs://{hdfs.files.namenode}/cluster"
    python = Path(sys.executable).parent
    return {
        **os.environ,
        **environment_of(servers),
        "PATH": f"{python}{os.pathsep}{os.environ.get('PATH', '')}",
        "SPARK_CONF_DIR": str(ROOT / "conf"),
        "ANABRANCH_PROJECTS": str(folder),
        "ANABRANCH__PATHS__LAKE": f"{root}/lake",
        "ANABRANCH__PATHS__CHECKPOINTS": f"{root}/checkpoints",
        "ANABRANCH__MODELS__TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "ANABRANCH__MODELS__ARTIFACT_ROOT": f"{root}/models",
        "ANABRANCH__FILES__WEBHDFS": hdfs.files.webhdfs,
        "ANABRANCH__FILES__NAMENODE": hdfs.files.namenode,
        "ANABRANCH__SERVERS__HDFS_PORT": str(servers.servers.hdfs_port),
    }


def submit(master: str) -> list[str]:
    program = shutil.which("spark-submit", path=str(Path(sys.executable).parent))
    assert program is not None
    return [program, "--master", master, "--driver-memory", "1g", "--executor-memory", "512m"]


@pytest.fixture(scope="module")
def river(
    spark_cluster: str, servers: Settings, environment: dict[str, str], folder: Path
) -> Iterator[River]:
    name = f"visits_{uuid.uuid4().hex[:8]}"
    root = environment["ANABRANCH__PATHS__LAKE"].removesuffix("/lake")
    (folder / f"{name}.py").write_text(VISITS.format(name=name))
    (folder / "runner.py").write_text(RUNNER)
    rows = some_visits(200)
    asked = [{"guest": f"g{i}", "at": (START + timedelta(days=9)).isoformat()} for i in range(9)]
    commands = {
        "ingest": ["ingest", name, "visits", write(folder / "first.csv", rows[:150])],
        "publish": ["publish", name, "visits", write(folder / "more.csv", rows[150:])],
        "build": ["build", name],
        "train": ["train", name],
        "stream": ["stream", name, "--once"],
        "features": [
            "features",
            name,
            "--at",
            write(folder / "asked.csv", asked),
            "--out",
            f"{root}/features",
        ],
        "score": ["score", name, "--in", f"{root}/features", "--out", f"{root}/scores"],
        "answer": ["answer", name, "g3"],
        "verify": ["verify", name, "--all"],
    }
    (folder / "commands").write_text(
        "".join(json.dumps([*words, "--json"]) + "\n" for words in commands.values())
    )
    done = subprocess.run(
        [*submit(spark_cluster), str(folder / "runner.py"), str(folder / "commands"), str(folder / "told")],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    assert (folder / "told").exists(), f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    said = {}
    for verb, (code, out, err) in zip(commands, told, strict=False):
        assert code == 0, f"{verb}: {err[-3000:]}"
        said[verb] = json.loads(out.strip().splitlines()[-1])
    assert said.keys() == commands.keys()
    yield River(name, rows, said, environment, servers, folder, done.stdout + done.stderr)
    Hdfs(servers.files).remove("/cluster", recursive=True)


def test_files_and_topics_land_in_hdfs(river: River) -> None:
    assert (river.said["ingest"]["rows"], river.said["publish"]["published"]) == (150, 50)
    paths = {
        entry.path
        for entry in Hdfs(river.settings.files).entries(f"/cluster/lake/{river.name}/events/visits")
    }
    assert f"/cluster/lake/{river.name}/events/visits/_delta_log" in paths


def test_a_model_is_trained_kept_in_hdfs_and_loaded_from_there(river: River, tmp_path: Path) -> None:
    assert (river.said["train"]["model_version"], river.said["train"]["rows"]) == ("1", 200)
    hdfs = Hdfs(river.settings.files)
    hdfs.get("/cluster/models", tmp_path / "models", Silent())
    assert list((tmp_path / "models").rglob("MLmodel"))
    assert 0 <= river.said["answer"]["score"] <= 1


def test_batch_and_stream_on_the_cluster_give_the_answer_of_a_plain_recount(river: River) -> None:
    assert river.said["build"]["rows"] == {"guest": 9}
    assert river.said["stream"]["events"] == 50
    spent = [row["spent"] for row in river.rows if row["guest"] == "g3"]
    found = river.said["answer"]["features"]
    assert {name: found[f"{name}_lifetime"] for name in ("visits", "mean", "most")} == pytest.approx(
        {"visits": len(spent), "mean": sum(spent) / len(spent), "most": max(spent)}
    )


def test_features_and_scores_are_written_to_hdfs_by_the_executors(river: River, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert river.said["features"]["rows"] == river.said["score"]["rows"] == 9
    Hdfs(river.settings.files).get("/cluster/scores", tmp_path / "scores", Silent())
    rows = {row["guest"]: row for row in pq.read_table(tmp_path / "scores").to_pylist()}
    before = START + timedelta(days=9)
    for guest, row in rows.items():
        assert row["visits_lifetime"] == sum(
            each["guest"] == guest and datetime.fromisoformat(each["at"]) < before for each in river.rows
        )
        assert 0 <= row["score"] <= 1


def test_every_worker_ran_executors_of_its_own(river: River) -> None:
    workers = {path.parts[-4] for path in (river.settings.data / "spark").glob("worker-*/app-*/*/stderr")}
    assert workers == {"worker-1", "worker-2"}


def test_what_is_served_is_verified_on_the_cluster(river: River) -> None:
    found = river.said["verify"]
    assert (found["keys"], found["mismatches"]) == (9, 0)
    assert " INFO " not in river.driver_log


def test_jobs_whose_server_is_down_fail_with_one_sentence(river: River) -> None:
    down = {"land": ("Kafka", "KAFKA_PORT"), "build": ("Cassandra", "CASSANDRA_PORT")}
    jobs = {
        verb: subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{verb}.py"), river.name],
            cwd=river.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**river.environment, f"ANABRANCH__SERVERS__{port}": str(free_ports(1)[0])},
        )
        for verb, (_, port) in down.items()
    }  # fmt: skip
    for verb, job in jobs.items():
        told = job.communicate(timeout=300)[1]
        assert job.returncode == 1, told[-3000:]
        (error,) = [line for line in told.splitlines() if line.startswith("error:")]
        assert down[verb][0] in error
        assert "Traceback" not in told
