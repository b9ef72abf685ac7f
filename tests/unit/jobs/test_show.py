"""Output of jobs: one progress line in a terminal, a line a step elsewhere."""

import io
from pathlib import Path

import pytest

from jobs.show import ProgressConsole, Steps, table
from jobs.wiring.job import job
from jobs.wiring.settings import load_settings


def shown(*, terminal: bool) -> tuple[ProgressConsole, io.StringIO]:
    output = io.StringIO()
    return ProgressConsole(file=output, force_terminal=terminal, width=60, highlight=False), output


def test_in_a_terminal_each_step_replaces_the_last_one() -> None:
    console, output = shown(terminal=True)
    steps = Steps(console)
    steps.step("reading")
    steps.step("writing a text that is much longer than the terminal is wide")
    steps.advance(1, 1)
    console.clear_progress()
    assert "\n" not in output.getvalue()
    lines = output.getvalue().split("\r\x1b[2K")
    assert [len(line) < 80 for line in lines] == [True] * len(lines)
    assert "reading" in lines[0]
    assert lines[-1] == ""


def test_in_a_file_each_step_is_a_line() -> None:
    console, output = shown(terminal=False)
    steps = Steps(console)
    steps.step("reading")
    steps.advance(7, 7)
    steps.report(["a: 1 event", "b: 2 events"])
    words = [line.split(" s  ")[-1].strip() for line in output.getvalue().splitlines()]
    assert words == ["reading", "7 of 7 (100%)", "a: 1 event", "b: 2 events"]


def test_progress_that_has_not_moved_is_not_shown_again() -> None:
    console, output = shown(terminal=False)
    steps = Steps(console)
    steps.step("reading")
    for _ in range(3):
        steps.advanced = 0.0
        steps.advance(0, 1, "files, 0 rows")
    steps.step("again")
    steps.advanced = 0.0
    steps.advance(0, 1, "files, 0 rows")
    words = [line.split(" s  ")[-1].strip() for line in output.getvalue().splitlines()]
    assert words == ["reading", "0 of 1 files, 0 rows", "again", "0 of 1 files, 0 rows"]


def test_a_cell_of_a_table_in_a_file_is_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/lake/" + "a/long/way/" * 20 + "report.html"
    table("Loads", ["source", "report"], [["readings", path]])
    assert path in capsys.readouterr().out


class Line:
    """A bus that remembers whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_job_closes_what_it_opened_even_if_it_fails(tmp_path: Path) -> None:
    bus = Line()

    def fail() -> None:
        with job(load_settings({}, {"paths.data": str(tmp_path)})) as context:
            context.bus = bus  # type: ignore[assignment]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert bus.closed
