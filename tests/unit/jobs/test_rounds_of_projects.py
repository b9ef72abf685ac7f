"""Rounds of projects as data: order, commands that the command line takes, times, and who has which."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from anabranch import Count, FeatureView, OnWrite, Project, Schedule, Source
from anabranch.errors import DeclarationError
from jobs.cli.main import app, main
from jobs.schedules.rounds import RETRIED, ROUNDS, Round, crontab, requests_round, rounds_of
from jobs.wiring.settings import ROOT
from projects.heart_disease import project as heart

ADDRESS = "http://127.0.0.1:8100"
CLICKS = Source(name="clicks", topic="clicks", id=None, time="at", schema="who STRING, at TIMESTAMP")
FEATURES = Project(
    name="clicks", views=(FeatureView(name="seen", source=CLICKS, key="who", features={"n": Count()}),)
)
TIMED = replace(
    heart, schedule=Schedule(build="@hourly", train="0 3 * * *", river="@weekly", on_request=True)
)


def by_kind(project: Project) -> dict[str, Round]:
    return {each.kind: each for each in rounds_of(project, ADDRESS)}


def test_a_project_has_each_round_with_its_tasks_in_a_row() -> None:
    rounds = by_kind(TIMED)
    assert set(rounds) == set(ROUNDS)
    for kind, each in rounds.items():
        assert each.name == f"heart_disease.{kind}"
        assert [task.name for task in each.tasks] == list(ROUNDS[kind])
        assert [task.after for task in each.tasks] == [(), *((name,) for name in ROUNDS[kind][:-1])]
        assert all(task.retried == RETRIED[task.name] for task in each.tasks)
    times = {kind: each.schedule for kind, each in rounds.items() if each.schedule}
    assert times == {"build": "@hourly", "train": "0 3 * * *", "river": "@weekly"}


def test_a_project_of_features_alone_has_no_task_that_needs_a_model() -> None:
    rounds = by_kind(FEATURES)
    assert {kind: [task.name for task in each.tasks] for kind, each in rounds.items()} == {
        "river": ["land", "quality", "build", "upkeep"],
        "build": ["land", "quality", "build"],
        "upkeep": ["upkeep"],
    }


@pytest.mark.parametrize(
    "project", [TIMED, replace(heart, score_on_write=(OnWrite(source="exams", to="/x"),))]
)
def test_every_command_is_one_that_the_command_line_takes(project: Project) -> None:
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    tried = 0
    for each in [*rounds_of(project, ADDRESS), *requests_round([TIMED])]:
        for task in each.tasks:
            if not task.command:
                assert (task.name, task.takes) == ("gate", "train")
                continue
            program, first, *arguments = task.command
            assert program in ("spark-submit", "anabranch")
            verb = Path(first).stem if program == "spark-submit" else first
            if program == "spark-submit":
                assert (ROOT / first).exists()
            more = [word.format(time="2026-12-01T00:00:00Z") for word in task.backfill]
            commands[verb].make_context(verb, [*(word.format(version="3") for word in arguments), *more])
            tried += 1
    assert tried > 15


def test_links_lead_to_the_projects_own_pages() -> None:
    assert all(link.startswith(f"{ADDRESS}/") for link in by_kind(TIMED)["build"].links.values())


def test_requests_are_one_round_of_the_projects_that_take_them() -> None:
    (round_of_all,) = requests_round([TIMED, FEATURES])
    assert (round_of_all.asset, round_of_all.tasks[0].command) == (
        "training-requests",
        ("spark-submit", "jobs/trainer.py", "heart_disease", "--once", "--json"),
    )
    assert requests_round([heart, FEATURES]) == []


def test_a_crontab_has_the_timed_rounds_and_a_training_promotes_by_itself() -> None:
    lines = crontab(rounds_of(TIMED, ADDRESS))
    assert lines[0] == "CRON_TZ=UTC"
    assert len(lines) == 4
    (train,) = (line for line in lines if line.endswith("# heart_disease.train"))
    assert train.startswith(f"0 3 * * * cd {ROOT} && ")
    assert train.count("&&") == 2
    assert "/bin/anabranch train heart_disease" in train
    commands = train.replace(str(ROOT), "")
    assert not any(word in commands for word in ("--hold", "{version}", "gate", "promote"))


def test_the_schedule_is_no_part_of_the_fingerprint() -> None:
    assert TIMED.fingerprint == heart.fingerprint


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda: Schedule(build="hourly"), "schedule: build is 'hourly': write five fields"),
        (lambda: Schedule(train="0 0 30 2 *"), "schedule: train .* no year has such a day"),
        (lambda: Schedule(on_request="yes"), "on_request is 'yes': it must be True or False"),  # type: ignore[arg-type]
        (lambda: replace(heart, schedule="@daily"), r"it must be Schedule\("),  # type: ignore[arg-type]
        (lambda: replace(FEATURES, schedule=Schedule(watch="@daily")), "watch needs a model"),
        (lambda: replace(FEATURES, schedule=Schedule(on_request=True)), "on_request needs a model"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_when_constructed(given: Any, why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        given()


def test_a_declaration_that_cannot_be_loaded_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.py").write_text("project = 1 / 0\n", encoding="utf-8")
    monkeypatch.setenv("ANABRANCH_PROJECTS", str(tmp_path))
    assert main(["schedule", "--json"]) == 0
    value = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {each["project"] for each in value["rounds"]} >= {"heart_disease"}
    assert "half" in value["broken"]
    assert main(["schedule", "half"]) == 2
    assert main(["schedule", "--crontab", "--json"]) == 2
