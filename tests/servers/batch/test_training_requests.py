"""Training by messages with the real broker: every request is answered once, several by one training."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.training_topics import FINAL, REQUESTS, RESULTS, TrainingTopics
from batch.training.request_service import TrainingService
from batch.training.train import Trained
from jobs.cli.models.trainer import Desk
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from tests.servers.stores.test_bus import read
from tests.support.training_desk import DECLARATION, FakeDesk

pytestmark = pytest.mark.usefixtures("servers")


@pytest.fixture
def bus(settings: Settings) -> Iterator[Bus]:
    with Bus(settings.bus) as made:
        made.ensure_topics([REQUESTS, RESULTS])
        yield made


@pytest.fixture
def run() -> str:
    """What tells this test's requests from those of other tests: the topics are shared."""
    return uuid.uuid4().hex[:8]


def ask(bus: Bus, *requests: dict[str, Any] | bytes) -> None:
    bus.publish(
        REQUESTS, [(None, one if isinstance(one, bytes) else json.dumps(one).encode()) for one in requests]
    )


def answers(bus: Bus, run: str) -> list[dict[str, Any]]:
    """The answers to this test's requests, in order."""
    said = [json.loads(each[3] or b"{}") for each in read(bus, RESULTS)]
    return [one for one in said if run in str(one.get("request_id")) or run in str(one.get("error"))]


def serve(bus: Bus, desk: Any, group: str, *, others: bool = False) -> TrainingService:
    """Answer everything that waits."""
    topics = TrainingTopics(bus, group)
    try:
        topics.wait_until_ready()
        service = TrainingService(topics, desk, Silent(), others=others)
        while service.serve(0.5) or not topics.drained():
            pass
        return service
    finally:
        topics.close()


def test_requests_that_wait_together_are_one_training_and_each_is_answered_once(
    bus: Bus, run: str, tmp_path: Path
) -> None:
    desk = FakeDesk(tmp_path)
    wheat = [f"{run}-{i}" for i in range(3)]
    ask(
        bus,
        *[{"request_id": one, "project": "wheat", "reason": "drift"} for one in (*wheat, wheat[0])],
        {"request_id": f"{run}-r", "project": "rye"},
    )
    ask(bus, {"request_id": f"{run}-s", "project": "stone"})
    service = serve(bus, desk, run)
    mine = [(name, ids) for name, ids in desk.trained if run in ids[0]]
    assert mine == [("wheat", wheat), ("stone", [f"{run}-s"])]
    said = answers(bus, run)
    final = {one["request_id"]: one for one in said if one["status"] in FINAL}
    assert len([one for one in said if one["status"] == "accepted"]) == 5
    assert len([one for one in said if one["status"] in FINAL]) == len(final) == 5
    for one in wheat:
        told = final[one]
        assert (
            told["status"],
            told["model_version"],
            told["champion"],
            told["metrics"],
            told["together"],
        ) == ("done", "4", True, {"roc_auc": 0.9}, wheat)
    assert (final[f"{run}-r"]["status"], final[f"{run}-r"]["error"]) == ("failed", "the load is refused")
    assert final[f"{run}-s"]["error"] == "ZeroDivisionError: stones do not grow"

    # The same id again, to another process: the same answer, and no training.
    assert service.trainings >= 1
    ask(bus, {"request_id": wheat[1], "project": "wheat"}, {"request_id": f"{run}-r", "project": "rye"})
    again = FakeDesk(tmp_path)
    serve(bus, again, run)
    assert [ids for _, ids in again.trained if run in ids[0]] == []
    assert answers(bus, run)[len(said) :] == [final[wheat[1]], final[f"{run}-r"]]


def test_a_message_that_is_no_request_is_answered_and_the_next_one_trained(
    bus: Bus, run: str, tmp_path: Path
) -> None:
    desk, before = FakeDesk(tmp_path), sum(bus.ends(REQUESTS).values())
    ask(
        bus, b"{", {"request_id": run, "project": "barley"}, {"request_id": f"{run}-next", "project": "wheat"}
    )
    serve(bus, desk, run)
    assert [ids for _, ids in desk.trained if f"{run}-next" in ids]
    assert [(one["status"], one["project"]) for one in answers(bus, run)] == [
        ("refused", "barley"),
        ("accepted", "wheat"),
        ("done", "wheat"),
    ]
    unnamed = [json.loads(each[3] or b"{}") for each in read(bus, RESULTS) if each[2] == b"None"]
    assert [one["status"] for one in unnamed if one["message"] == f"{REQUESTS}/0/{before}"] == ["refused"]


def test_a_request_whose_answer_was_not_committed_is_answered_after_a_crash(
    bus: Bus, run: str, tmp_path: Path
) -> None:
    class Crashing(FakeDesk):
        def train(self, project: Project, requests: Sequence[str]) -> Trained:
            super().train(project, requests)
            raise KeyboardInterrupt

    ask(bus, {"request_id": run, "project": "wheat"})
    with pytest.raises(KeyboardInterrupt):
        serve(bus, Crashing(tmp_path), run)
    assert [one["status"] for one in answers(bus, run)] == ["accepted"]
    serve(bus, FakeDesk(tmp_path), run)
    assert [one["status"] for one in answers(bus, run)] == ["accepted", "accepted", "done"]


def test_two_trainers_of_one_project_make_one_training_of_a_request(
    bus: Bus, run: str, tmp_path: Path
) -> None:
    begun, go_on, waits = threading.Event(), threading.Event(), threading.Event()

    class Slow(FakeDesk):
        def train(self, project: Project, requests: Sequence[str]) -> Trained:
            if run in requests[0]:
                begun.set()
                assert go_on.wait(60)
            return super().train(project, requests)

    class Heard(Silent):
        def step(self, text: str) -> None:
            if text == "another trainer trains wheat: waiting for it":
                waits.set()

    def serve_all(desk: FakeDesk, group: str, others: bool) -> None:
        topics = TrainingTopics(bus, group)
        try:
            topics.wait_until_ready()
            service = TrainingService(topics, desk, Heard(), others=others)
            while service.serve(0.5) or not topics.drained():
                pass
        finally:
            topics.close()

    asked = [f"{run}-{i}" for i in range(3)]
    ask(bus, *[{"request_id": one, "project": "wheat"} for one in asked])
    of_all, of_one = Slow(tmp_path), FakeDesk(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(serve_all, of_all, f"{run}-all", False)
        try:
            assert begun.wait(60)
            second = pool.submit(serve_all, of_one, f"{run}-wheat", True)
            assert waits.wait(60)
        finally:
            go_on.set()
        first.result(60)
        second.result(60)
    assert [ids for _, ids in of_all.trained if run in ids[0]] == [asked]
    assert not [ids for _, ids in of_one.trained if run in ids[0]]
    said = answers(bus, run)
    assert [(one["request_id"], one["status"]) for one in said] == [(one, "accepted") for one in asked] + [
        (one, "done") for one in asked
    ]


def test_a_trainer_joins_the_group_once(bus: Bus, run: str) -> None:
    # A second time, for partitions it learns of late, is where the client may lose its share for good.
    for number in range(10):
        topics = TrainingTopics(bus, f"{run}-{number}")
        try:
            topics.wait_until_ready()
            assert topics._consumer._coordinator._generation.generation_id == 1, number
        finally:
            topics.close()


def test_rows_of_a_request_land_as_events_before_the_real_training(
    bus: Bus, run: str, settings: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    name = f"grain_{run}"
    (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name))
    models = ModelsSettings(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=str(tmp_path / "artifacts")
    )
    own = replace(
        settings,
        data=tmp_path,
        projects=(tmp_path,),
        lake=LakeSettings(root=str(tmp_path / "lake")),
        models=models,
    )
    context = Context(own)
    context.spark = spark
    things = [
        {"id": f"t{i}", "thing": f"k{i}", "at": f"2024-05-01T00:{i:02d}:00Z", "x": i + (i * 7) % 5}
        for i in range(40)
    ]
    marks = [
        {"id": f"m{i}", "thing": f"k{i}", "at": "2024-05-02T00:00:00Z", "good": i > 20} for i in range(40)
    ]
    rows = {"things": things, "marks": marks}
    ask(
        bus,
        {"request_id": f"{run}-1", "project": name, "rows": rows},
        {"request_id": f"{run}-2", "project": name, "rows": {"things": [{"id": "t"}]}},
    )
    service = serve(bus, Desk(context=context, names=(name,), steps=Steps()), run, others=True)
    said = {one["request_id"]: one for one in answers(bus, run) if one["status"] in FINAL}
    assert said[f"{run}-2"]["status"] == "refused"
    assert said[f"{run}-2"]["error"] == "row 0 of 'things': at is missing: it is the time of a 'things' event"
    done = said[f"{run}-1"]
    assert (done["status"], done["model_version"], done["champion"], done["rows"]) == (
        "done",
        "1",
        True,
        40,
    ), done
    assert done["metrics"]["roc_auc"] > 0.8
    project = context.project(name)
    assert context.lake.events(spark, project, project.sources["marks"]).count() == 40
    assert context.models.champion(name) == "1"
    assert context.models.entry(name, "1").tags["requests"] == f"{run}-1"
    assert service.trainings == 1


def test_the_command_answers_what_waits_and_stops_cleanly_when_told(
    bus: Bus, run: str, settings: Settings, tmp_path: Path
) -> None:
    name = f"stop_{run}"
    (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name))
    environment = os.environ | {
        "ANABRANCH_PROJECTS": str(tmp_path),
        "ANABRANCH__PATHS__DATA": str(tmp_path / "data"),
        "ANABRANCH__BUS__BOOTSTRAP_SERVERS": settings.bus.bootstrap_servers,
    }
    ask(bus, {"request_id": run, "project": name, "rows": {"none": [{}]}})
    command = [sys.executable, "-m", "jobs.cli", "trainer", name, "--json"]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(bus, run):
            assert running.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, (tmp_path / "log").read_text()
    told = json.loads(out.splitlines()[-1])  # of other tests' messages, too, those that name no project
    assert (told["requests"] >= 1, told["trainings"]) == (True, 0)
    (said,) = answers(bus, run)
    assert said["status"] == "refused"
    assert "has no source 'none'" in said["error"]
