"""Benchmarks and drills say when they did not measure what they should: nothing is saved then."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import freshness, report
from tests.support import drill


def publisher(said: str, code: int = 0) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", f"print({said!r}); raise SystemExit({code})"], stdout=subprocess.PIPE
    )


def test_a_publisher_that_is_too_slow_is_an_error_up_to_a_rate_that_any_machine_reaches() -> None:
    assert freshness.outcome(publisher("1901 80000"), 2_000) == (1901.0, 80_000)
    with pytest.raises(freshness.NotMeasuredError, match=r"reached 1,899 of 2,000 events/s"):
        freshness.outcome(publisher("1899 80000"), 2_000)
    assert freshness.outcome(publisher("7000 280000"), 10_000) == (7000.0, 280_000)
    with pytest.raises(freshness.NotMeasuredError, match="exit code 3"):
        freshness.outcome(publisher("2000 80000", 3), 2_000)


def test_a_probe_that_is_lost_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "PATIENCE", 0.0)
    there = {"r-probe-0": 1, "r-probe-1": 2}
    assert len(freshness.read_probes(there.get, "r", 2)) == 2
    with pytest.raises(freshness.NotMeasuredError, match="probe 2 of 3 of 'r' is not readable"):
        freshness.read_probes(there.get, "r", 3)


def test_a_drill_with_a_mismatch_or_without_a_fault_is_not_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(drill, "NOTES", str(tmp_path / "notes"))
    with drill.recovery("the server is away", "for a minute") as found:
        found.compared = 7
    drill.note(kill=1, seed=5, moment="at once")
    drill.note(verified=3)
    lines = drill.noted()
    drill.page(lines)
    text = (tmp_path / "drill.md").read_text(encoding="utf-8")
    assert "| the server is away: for a minute | none |" in text
    assert "SEED=5" in text
    assert "1 times, 3 keys, 0 mismatches" in text
    (tmp_path / "drill.md").unlink()
    with pytest.raises(ZeroDivisionError), drill.recovery("the server is away", "for two"):
        raise ZeroDivisionError
    with pytest.raises(SystemExit, match="nothing is saved: the server is away, for two"):
        drill.page(drill.noted())
    with pytest.raises(SystemExit, match="no fault was noted"):
        drill.page(lines[1:])
    assert not (tmp_path / "drill.md").exists()
