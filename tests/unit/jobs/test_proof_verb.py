"""`anabranch test` and the plugin for pytest: examples and the law, from files."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli.main import main
from jobs.wiring.settings import ROOT

DECLARED = """
from anabranch import Count, Example, FeatureView, Project, Source, Sum

payments = Source(name="payments", topic="payments", id="id", time="at",
                  schema="id STRING, card STRING, amount DOUBLE, at TIMESTAMP")
visits = Source(name="visits", topic="visits", id="id", time="at",
                schema="id STRING, card STRING, at TIMESTAMP")
day = {"windows": ("1d",), "key": "card"}
project = Project(
    name="%(name)s",
    views=(
        FeatureView(name="spending", source=payments, features={"spent": Sum("amount")}, **day),
        FeatureView(name="visited", source=visits, features={"visits": Count()}, **day),
    ),
    examples=(
        Example(
            name="one payment",
            events=[{"source": "payments", "id": "1", "card": "c", "amount": 3, "at": "2024-05-01T10:00Z"}],
            key={"card": "c"},
            at="2024-05-01T11:00:00Z",
            gives={"spent_1d": %(spent)s, "visits_1d": 0},
        ),
    ),
)
"""
PAYMENTS = """id,card,amount,at,remark
1,c,2.5,2024-05-01T10:00:00Z,x
2,c,,2024-05-01T10:00:00Z,
3,,1,2024-05-01,
"""
AT = ("--key", "c", "--at", "2024-05-01T11:00:00Z")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a declaration whose example holds, and one whose example fails."""
    (tmp_path / "good.py").write_text(DECLARED % {"name": "good", "spent": 3.0}, encoding="utf-8")
    (tmp_path / "bad.py").write_text(DECLARED % {"name": "bad", "spent": 4}, encoding="utf-8")
    (tmp_path / "payments.csv").write_text(PAYMENTS, encoding="utf-8")
    monkeypatch.setenv("ANABRANCH_PROJECTS", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_examples_that_hold_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "good"]) == 0
    assert "good: 1 of 1 examples hold" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_an_example_that_fails_shows_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "bad"]) == 1
    told = capsys.readouterr()
    assert "1 of 1 examples fail: one payment" in told.err
    (line,) = [line for line in told.out.splitlines() if "spent_1d" in line]
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == ["spent_1d", "4", "3.0"]
    assert main(["test", "bad", "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert value["examples"][0]["differences"] == [{"feature": "spent_1d", "expected": 4, "found": 3.0}]
    assert (value["ok"], value["law"]["ok"]) == (False, True)


def test_rows_of_a_file_are_proven_and_folded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "good", str(folder / "payments.csv"), "--source", "payments", *AT, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["law"] == {
        "events": 3,
        "refused": [{"event": 3, "reason": "card is missing: an event needs its key"}],
        "ok": True,
        "error": None,
    }
    assert value["features"] == {"spent_1d": 2.5, "visits_1d": 0}


def test_files_of_every_kind_give_the_same_events(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"source": "payments", "id": "1", "card": "c", "amount": 2.5, "at": "2024-05-01T10:00:00Z"},
        {"source": "visits", "id": "1", "card": "c", "amount": None, "at": "2024-05-01T10:00:00Z"},
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    for name in ("rows.jsonl", "rows.json", "rows.parquet"):
        assert main(["test", "good", str(folder / name), *AT, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["features"] == {"spent_1d": 2.5, "visits_1d": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["payments.csv"], "has no column 'source', and fits payments, visits"),
        (["payments.csv", "--source", "payment"], "has no source 'payment': it has payments, visits"),
        (["none.csv"], "none.csv cannot be read"),
        (["good.py"], "events are read from files named .csv"),
        (["payments.csv", "--source", "payments", "--key", "c"], "--key and --at belong together"),
        (["--key", "c", "--at", "2024-05-01"], "give a file of events"),
    ],
)
def test_misuse_is_one_error(
    folder: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder / word) if word.endswith((".csv", ".py")) else word for word in words]
    assert main(["test", "good", *given]) == 2
    assert told in capsys.readouterr().err


def test_pytest_runs_the_examples_of_a_folder(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nanabranch_projects = .\n", encoding="utf-8")
    # Where the plugin is installed it would be loaded twice.
    alone = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "anabranch.testing.plugin",
        "-p",
        "no:cacheprovider",
        "-rA",
        ".",
    ]
    ran = subprocess.run(words, cwd=folder, env=alone, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    shown = [line.partition(" - ")[0] for line in ran.stdout.splitlines()]
    outcomes = {line for line in shown if line.startswith(("PASSED", "FAILED"))}
    assert outcomes == {
        "FAILED bad.py::one payment", "PASSED bad.py::law",
        "PASSED good.py::one payment", "PASSED good.py::law",
    }  # fmt: skip
    assert "spent_1d  4         3.0" in ran.stdout
