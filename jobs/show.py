"""Output of jobs: progress on standard error; tables, sentences and JSON on standard output."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.monitoring.runs import note_result

_CLEAR = "\r\x1b[2K"
_WIDEST = 10_000


class ProgressConsole(Console):
    """Standard error. In a terminal, progress is one line that changes; other output replaces it."""

    pending = False

    def progress(self, text: str) -> None:
        """Show `text` (with rich's markup) as the progress line; in a file or a pipe, as one more line."""
        if not self.is_terminal:
            self.print(text, soft_wrap=True)
            return
        self.clear_progress()
        self.print(text, end="", no_wrap=True, overflow="ellipsis")
        self.pending = True

    def clear_progress(self) -> None:
        """Remove the progress line, before something is printed in its place."""
        if self.pending:
            self.pending = False
            self.file.write(_CLEAR)
            self.file.flush()


console = ProgressConsole(stderr=True, highlight=False)


def quiet(debug: bool) -> None:
    """Keep libraries' logs from the terminal: what matters in them reaches a user as our own errors."""
    for noisy in ("kafka", "librdkafka", "cassandra", "py4j", "pyspark", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING if debug else logging.CRITICAL)
    if not debug:
        warnings.simplefilter("ignore")


class Steps:
    """Progress (anabranch/progress.py) of one job, with the seconds since it began."""

    def __init__(self, output: ProgressConsole = console) -> None:
        self.output = output
        self.started = self.advanced = time.monotonic()
        self.current = self.last = ""

    def step(self, text: str) -> None:
        """Show which step begins now."""
        self.current, self.last = text, ""
        self._show(text)

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Show how far a long step has come, at most every two seconds."""
        if time.monotonic() - self.advanced < 2 and done != total:
            return
        self.advanced = time.monotonic()
        part = f" of {total:,}" if total else ""
        share = f" ({100 * done / total:.0f}%)" if total and not note else ""
        count = f"{done:,}{part}{share}{f' {note}' if note else ''}"
        if count == self.last:
            return
        self.last = count
        if self.output.is_terminal:
            self._show(f"{self.current}: {count}")
        else:
            self.output.progress(f"[dim]           {count}[/dim]")

    def report(self, lines: Sequence[str]) -> None:
        """Show where each of several things is."""
        for text in [" | ".join(lines)] if self.output.is_terminal else lines:
            self._show(text)

    def _show(self, text: str) -> None:
        self.output.progress(f"[dim]{time.monotonic() - self.started:7.1f} s[/dim]  {text}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; columns of numbers are aligned to the right.

    In a file or a pipe it is as wide as its cells, so that nothing in it is wrapped.
    """
    shown = Table(header_style="bold")
    for position, name in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[position], (int, float)) or row[position] is None for row in rows
        )
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(_cell, row))
    console.clear_progress()
    output = Console(highlight=False)
    if not output.is_terminal:
        output.width = _WIDEST
    output.print(f"[bold]{title}[/bold]", soft_wrap=True)
    output.print(shown)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def picked(value: object, names: str) -> dict[str, Any]:
    """Some attributes of a value by name, for JSON; `names` has spaces in between."""
    return {name: getattr(value, name) for name in names.split()}


def say(text: str) -> None:
    """One line on standard output."""
    console.clear_progress()
    sys.stdout.write(f"{text}\n")


def result(as_json: bool, value: Mapping[str, Any], text: str) -> None:
    """The end of a job: one JSON object when asked for, else a sentence. Its numbers become metrics."""
    note_result(value)
    say(json.dumps(value, default=str) if as_json else text)
