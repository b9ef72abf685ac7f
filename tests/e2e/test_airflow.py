"""Airflow for real: its servers, the DAGs of declarations, and a run of every kind (`make test-airflow`)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.schedules.rounds import ROUNDS
from jobs.servers.airflow import ADMINISTRATOR, PROGRAM
from jobs.servers.processes import read_record
from jobs.wiring.settings import ROOT, load_settings
from tests.conftest import free_ports
from tests.support.sockets import listening

pytestmark = pytest.mark.airflow
PROCESSES = ("airflow-api", "airflow-scheduler", "airflow-dags", "airflow-triggerer")
TIMED = """
from dataclasses import replace
from anabranch import Model, Schedule
from projects.heart_disease import project as heart
project = replace(
    heart, name="heart_timed", model=Model(trainer="logistic"),
    schedule=Schedule(build="0 0 29 2 *", train="0 3 29 2 *", on_request=True),
)
"""
FILED = """
from anabranch import Count, FeatureView, Project, Schedule, Source
visits = Source(name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP")
view = FeatureView(name="seen", source=visits, key="who", windows=("1d",), features={"n": Count()})
project = Project(name="filed", views=(view,), schedule=Schedule(build="@hourly"))
"""
DATA = {"exams": "exams.csv", "diagnoses": "diagnoses.csv"}


@dataclass
class Airflow:
    """A running Airflow, asked over its API, and the environment that the command line has."""

    address: str
    data: Path
    environment: Mapping[str, str]

    def anabranch(self, *words: str) -> str:
        command = [sys.executable, "-m", "jobs.cli", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=dict(self.environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, method: str, path: str, **given: Any) -> Any:
        answer = httpx.request(
            method,
            f"{self.address}{path}",
            headers={"Authorization": f"Bearer {self.token()}"},
            timeout=60,
            **given,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def token(self, password: str | None = None) -> str:
        known = json.loads((self.data / "airflow" / "passwords.json").read_text())[ADMINISTRATOR]
        given = {"username": ADMINISTRATOR, "password": known if password is None else password}
        answer = httpx.post(f"{self.address}/auth/token", json=given, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def run(self, dag: str) -> str:
        """Start a run by hand; its id."""
        return str(self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": None})["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return list(self.ask("GET", f"/api/v2/dags/{dag}/dagRuns")["dag_runs"])

    def tasks(self, dag: str, run: str) -> dict[str, str]:
        found = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {each["task_id"]: each["state"] for each in found}

    def result(self, dag: str, run: str, task: str) -> Any:
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self.ask("GET", path, params={"deserialize": True})["value"]

    def ended(self, dag: str, run: str) -> dict[str, str]:
        """The states of a run's tasks when it has ended; a run that failed shows the end of its logs."""
        self.until(lambda: self._state(dag, run) in ("success", "failed"), f"{dag} {run} to end")
        if self._state(dag, run) == "failed":
            raise AssertionError(f"{dag}: {self.tasks(dag, run)}\n{self.logs(dag, run)}")
        return self.tasks(dag, run)

    def logs(self, dag: str, run: str) -> str:
        files = sorted((self.data / "logs" / "airflow").glob(f"dag_id={dag}/run_id={run}/**/*.log"))
        return "\n".join(f"{file.parent.name}: {file.read_text()[-3000:]}" for file in files[-2:])

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 1800) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}"
            time.sleep(1)

    def _state(self, dag: str, run: str) -> str:
        return str(self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])


@pytest.fixture(scope="module")
def airflow() -> Iterator[Airflow]:
    """Kafka, Cassandra, PostgreSQL and Airflow with two projects of these tests."""
    folder = Path(tempfile.mkdtemp(prefix="anabranch-airflow-"))
    folder.chmod(0o711)
    declared = folder / "declared"
    declared.mkdir()
    (declared / "heart_timed.py").write_text(TIMED, encoding="utf-8")
    (declared / "filed.py").write_text(FILED, encoding="utf-8")
    names = ["kafka", "kafka_controller", "cassandra", "cassandra_storage", "postgres", "airflow"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    given = {f"ANABRANCH__SERVERS__{name.upper()}_PORT": str(port) for name, port in ports.items()}
    given |= {
        "ANABRANCH_PROJECTS": str(declared),
        "ANABRANCH__PATHS__DATA": str(folder),
        "ANABRANCH__PATHS__JARS": str(ROOT / ".anabranch" / "jars"),
        "ANABRANCH__MODELS__TRACKING_URI": "embedded",
        "ANABRANCH__SERVERS__CASSANDRA_HEAP": "512m",
        "ANABRANCH__SPARK__SHUFFLE_PARTITIONS": "2",
        "ANABRANCH__SERVERS__START_LIMIT": "5m",  # Airflow's four processes start at once
        "ANABRANCH__TIME__SLOT": "2s",
    }
    running = Airflow(
        address=f"http://127.0.0.1:{ports['airflow']}", data=folder, environment=os.environ | given
    )
    try:
        running.anabranch("up", "--with", "airflow")
        for source, file in DATA.items():
            running.anabranch("publish", "heart_timed", source, str(ROOT / "projects" / "data" / file))
        yield running
    finally:
        running.anabranch("down")
        shutil.rmtree(folder)


def test_every_dag_is_read_without_an_error(airflow: Airflow) -> None:
    wanted = {f"heart_timed.{kind}" for kind in ROUNDS} | {"filed.build", "filed.river", "anabranch.requests"}
    found: set[str] = set()

    def there() -> bool:
        dags = airflow.ask("GET", "/api/v2/dags", params={"limit": 100})["dags"]
        found.update(each["dag_id"] for each in dags if not each["has_import_errors"])
        return found >= wanted

    airflow.until(there, f"the DAGs {wanted}", 120)
    assert airflow.ask("GET", "/api/v2/importErrors")["import_errors"] == []
    listed = subprocess.run(
        [PROGRAM, "dags", "list", "--output", "json"],
        env=os.environ | {"AIRFLOW_HOME": str(airflow.data / "airflow")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {each["dag_id"] for each in json.loads(listed.stdout.splitlines()[-1])} >= wanted
    build = airflow.ask("GET", "/api/v2/dags/heart_timed.build/details")
    assert (build["timetable_summary"], build["is_paused"]) == ("0 0 29 2 *", False)


def test_airflow_is_closed_to_strangers(airflow: Airflow) -> None:
    settings = load_settings({}, {"paths.data": str(airflow.data)})
    for name in PROCESSES:
        record = read_record(settings.data / "run" / f"{name}.json")
        assert record is not None
        assert set(listening(record.pid)) <= {"127.0.0.1"}
    assert httpx.get(f"{airflow.address}/api/v2/dags", timeout=60).status_code == 401
    for password in ("admin", "airflow", ""):
        with pytest.raises(httpx.HTTPStatusError):
            airflow.token(password)
    for file in ("airflow.cfg", "passwords.json", "connections.json"):
        assert (airflow.data / "airflow" / file).stat().st_mode & 0o777 == 0o600
    password = json.loads((airflow.data / "airflow" / "passwords.json").read_text())[ADMINISTRATOR]
    logs = [*(airflow.data / "logs").glob("airflow*.log")]
    assert len(logs) == len(PROCESSES)
    assert not any(password in log.read_text(encoding="utf-8") for log in logs)


def test_a_river_runs_from_events_to_a_champion_that_scored_and_is_watched(airflow: Airflow) -> None:
    run = airflow.run("heart_timed.river")
    assert airflow.ended("heart_timed.river", run) == dict.fromkeys(ROUNDS["river"], "success")
    trained = airflow.result("heart_timed.river", run, "train")
    models = json.loads(airflow.anabranch("models", "heart_timed", "--json").splitlines()[-1])["models"]
    champions = [each["version"] for each in models if "champion" in each["aliases"]]
    assert champions == [trained["model_version"]]


@pytest.mark.parametrize("kind", [kind for kind in ROUNDS if kind != "river"])
def test_each_round_runs_alone(airflow: Airflow, kind: str) -> None:
    run = airflow.run(f"heart_timed.{kind}")
    states = airflow.ended(f"heart_timed.{kind}", run)
    assert set(states) == set(ROUNDS[kind])
    refused = kind == "train" and states["promote"] == "skipped"
    assert set(states.values()) <= {"success", "skipped"} if refused else set(states.values()) == {"success"}


def test_a_message_starts_a_training(airflow: Airflow) -> None:
    from kafka import KafkaProducer

    before = {each["dag_run_id"] for each in airflow.runs("anabranch.requests")}
    settings = load_settings(dict(airflow.environment), {})
    producer = KafkaProducer(bootstrap_servers=settings.bus.bootstrap_servers)
    asked = {"request_id": "one", "project": "heart_timed", "reason": "a test of Airflow"}
    producer.send("training-requests", json.dumps(asked).encode()).get(timeout=30)
    producer.close()
    airflow.until(lambda: len(airflow.runs("anabranch.requests")) > len(before), "the message to start a run")
    (run,) = {each["dag_run_id"] for each in airflow.runs("anabranch.requests")} - before
    assert airflow.ended("anabranch.requests", run) == {"requests": "success"}
    assert airflow.result("anabranch.requests", run, "requests")["trainings"] == 1


def test_hours_that_were_missed_are_made_up_for_in_their_order(airflow: Airflow, tmp_path: Path) -> None:
    now = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    rows = ["id,who,at", *(f"{number},a,{now - timedelta(hours=number):%FT%TZ}" for number in range(1, 6))]
    file = tmp_path / "visits.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    airflow.anabranch("ingest", "filed", "visits", str(file))
    asked = {
        "dag_id": "filed.build",
        "from_date": (now - timedelta(hours=3)).isoformat(),
        "to_date": (now - timedelta(hours=1)).isoformat(),
        "max_active_runs": 1,
    }
    airflow.ask("POST", "/api/v2/backfills", json=asked)

    def done() -> list[dict[str, Any]]:
        runs = [each for each in airflow.runs("filed.build") if each["run_type"] == "backfill"]
        assert "failed" not in {each["state"] for each in runs}, airflow.logs("filed.build", "*")
        return [each for each in runs if each["state"] == "success"]

    airflow.until(lambda: len(done()) == 3, "three runs of the backfill")
    history = json.loads(airflow.anabranch("history", "filed", "--json").splitlines()[-1])
    assert f"{now - timedelta(hours=1):%FT%H:00:00}" in json.dumps(history)
