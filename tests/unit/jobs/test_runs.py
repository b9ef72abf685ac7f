"""What jobs leave for Prometheus, and what the exporter makes of it and of the replicas that come and go."""

from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from anabranch.stores.cassandra.replicas import Replica, Replicas
from jobs.monitoring.runs import (
    Noted,
    keep_run,
    kept_runs,
    note_project,
    note_result,
    note_rows,
    note_session,
    noted,
    run_folder,
)
from jobs.monitoring.targets import announced, targets_folder
from jobs.servers.exporter import LOST_SECONDS, Followed, MachineFigures
from jobs.show import result


def run(data: Path, *, failed: bool, rows: int = 0, bad: int = 0) -> None:
    with noted("land") as job:
        note_session(data)
        note_project("p")
        note_project("lender")
        note_rows(rows, bad)
        result(False, {"project": "p", "rows": rows, "ok": True, "sources": {"a": 3, "b": "text"}}, "done")
        keep_run(job, failed=failed)


def test_runs_of_a_job_add_up_and_the_last_one_is_told(tmp_path: Path) -> None:
    run(tmp_path, failed=False, rows=7, bad=2)
    run(tmp_path, failed=True, rows=1)
    (kept,) = kept_runs(tmp_path)
    assert (kept.verb, kept.project, kept.runs, kept.failures, kept.failed) == ("land", "p", 2, 1, True)
    assert (kept.rows, kept.quarantined) == (8, 2)
    assert kept.figures == {"rows": 1.0, "sources_a": 3.0}
    assert 0 < kept.succeeded < kept.ended
    registry = CollectorRegistry()
    registry.register(MachineFigures(tmp_path))
    shown = generate_latest(registry).decode()
    for line in (
        'anabranch_job_failed{project="p",verb="land"} 1.0',
        'anabranch_job_runs_total{project="p",verb="land"} 2.0',
        'anabranch_job_result{name="sources_a",project="p",verb="land"} 3.0',
        'anabranch_objective_events_total{kept="no",objective="quality",project="p"} 2.0',
    ):
        assert line in shown


def test_verbs_without_a_session_or_a_project_leave_nothing(tmp_path: Path) -> None:
    keep_run(Noted(verb="answer", projects=["p"]), failed=False)
    keep_run(Noted(verb="projects", data=tmp_path), failed=False)
    note_result({"rows": 1})  # outside of a job
    assert kept_runs(tmp_path) == []


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    run(tmp_path, failed=False)
    (run_folder(tmp_path) / "build-p.json").write_text("{", encoding="utf-8")
    assert [one.verb for one in kept_runs(tmp_path)] == ["land"]


class Listed:
    """The table of replicas as it is at one moment."""

    def __init__(self) -> None:
        self.up: dict[str, bool] = {}
        self.gone: set[str] = set()

    def ensure(self) -> None:
        pass

    def all(self) -> list[Replica]:
        return [Replica(place=place, worker="1", ready=ready) for place, ready in self.up.items()]

    def left(self) -> set[str]:
        return self.gone


def test_a_replica_that_left_is_no_target_and_one_that_was_killed_is_one_for_a_day() -> None:
    table, now = Listed(), [0.0]
    replicas, followed = cast("Replicas", table), Followed(lambda: now[0])
    table.up = {"a:1": True, "b:1": True, "c:1": False}
    assert followed.look(replicas) == ["a:1", "b:1", "c:1"]
    table.up, table.gone = {"c:1": True}, {"a:1"}
    assert followed.look(replicas) == ["b:1", "c:1"]
    assert followed.ready == {"c:1": True}
    table.up["a:1"] = True  # it came back
    assert followed.look(replicas) == ["a:1", "b:1", "c:1"]
    now[0] = LOST_SECONDS + 1
    assert followed.look(replicas) == ["a:1", "c:1"]


def test_a_server_takes_its_target_away_unless_it_fails(tmp_path: Path) -> None:
    with announced(tmp_path, "stream", "p q/..", "127.0.0.1:1"):
        (file,) = targets_folder(tmp_path).iterdir()
        assert file.name == "stream-p-q-...json"
    assert list(targets_folder(tmp_path).iterdir()) == []
    with pytest.raises(ValueError, match="given up"), announced(tmp_path, "stream", "p", "127.0.0.1:1"):
        raise ValueError("given up")
    assert [one.name for one in targets_folder(tmp_path).iterdir()] == ["stream-p.json"]
