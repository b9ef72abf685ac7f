"""`anabranch doctor` says what is wrong with an installation, and what to do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from jobs.cli.platform.findings import holder
from jobs.servers.processes import ProcessRecord, write_record


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder of its own, with ports that nothing uses."""
    monkeypatch.setenv("ANABRANCH__PATHS__DATA", str(tmp_path))
    for name in ("KAFKA", "CASSANDRA", "CASSANDRA_STORAGE"):
        monkeypatch.setenv(f"ANABRANCH__SERVERS__{name}_PORT", str(free_port()))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def look(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *options])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, value


def found(value: dict[str, Any], area: str) -> list[tuple[str, str, str]]:
    return [(each["state"], each["text"], each["todo"]) for each in value["findings"] if each["area"] == area]


def test_jars_that_are_missing_are_wrong_and_exit_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, value = look(capsys)
    assert (code, value["ok"]) == (1, False)
    assert ("wrong", f"spark: none in {tmp_path / 'jars' / 'spark'}", "make setup") in found(value, "jars")
    assert found(value, "lake") == [("ok", f"{tmp_path / 'lake'} is made by the first load", "")]
    assert [state for state, _, _ in found(value, "kafka")] == ["note"]
    assert [state for state, _, _ in found(value, "python")] == ["ok"]
    assert all(state == "ok" for state, _, _ in found(value, "versions"))


def test_a_taken_port_names_who_has_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("ANABRANCH__SERVERS__KAFKA_PORT", str(port))
        _, value = look(capsys)
        name = holder(port)
    assert name is not None
    assert f"(pid {os.getpid()})" in name
    (finding,) = [each for each in found(value, "ports") if each[1].startswith(f"{port} ")]
    assert finding[0] == "wrong"
    assert finding[1] == f"{port} of kafka is taken by {name}"
    assert "ANABRANCH__SERVERS__KAFKA_PORT" in finding[2]


def test_settings_say_where_they_come_from_and_secrets_stay_hidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH__VIEWS__PASSWORD", "hunter2")
    main(["doctor", "--json", "--settings"])
    out = capsys.readouterr().out
    assert "hunter2" not in out
    settings = {each["name"]: each for each in json.loads(out)["settings"]}
    assert settings["views.password"]["value"] == "***"
    assert settings["views.password"]["from"] == "environment ANABRANCH__VIEWS__PASSWORD"
    assert settings["speed.partitions"]["from"] in ("default", str(Path("conf/settings.toml").resolve()))
    main(["doctor"])
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert "views.password" in out


def test_what_was_left_behind_and_what_does_not_load_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = ProcessRecord(pid=ended.pid, born="never", ports=(1,), since=0)
    write_record(tmp_path / "run" / "kafka.json", left)
    projects = tmp_path / "projects"
    projects.mkdir()
    (projects / "broken.py").write_text("project = 1 / 0", encoding="utf-8")
    monkeypatch.setenv("ANABRANCH_PROJECTS", str(projects))
    code, value = look(capsys)
    assert code == 1
    assert [each[2] for each in found(value, "leftovers")] == ["anabranch up, or anabranch down"]
    states = {state: text for state, text, _ in found(value, "projects")}
    assert "ZeroDivisionError" in states["wrong"]
    assert "heart_disease" in states["ok"]


def test_a_server_of_your_own_that_is_away_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH__BUS__BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    _, value = look(capsys)
    ((state, text, _),) = found(value, "kafka")
    assert (state, text.startswith("nothing answers")) == ("wrong", True)
