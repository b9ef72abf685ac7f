"""How a job shows itself in a terminal: steps with their times, progress bars, tables; JSON last when asked for."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(stderr=True, highlight=False)


def quiet(debug: bool) -> None:
    """Keep libraries' own logs from the terminal: what matters of them reaches a user as our own words or errors."""
    for noisy in ("kafka", "cassandra", "py4j", "pyspark", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING if debug else logging.CRITICAL)
    if not debug:
        warnings.simplefilter("ignore")


class Steps:
    """Progress (anabranch/progress.py) as lines of time and text on standard error, so that standard output stays data."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.said = 0.0

    def step(self, text: str) -> None:
        """Say what begins now."""
        console.print(f"[dim]{time.monotonic() - self.started:7.1f} s[/dim]  {text}", soft_wrap=True)

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Say how far a long step has come, at most every two seconds."""
        if time.monotonic() - self.said < 2 and done != total:
            return
        self.said = time.monotonic()
        part = f" of {total:,}" if total else ""
        share = f" ({100 * done / total:.0f}%)" if total and not note else ""
        console.print(
            f"[dim]           {done:,}{part}{share}{f' {note}' if note else ''}[/dim]", soft_wrap=True
        )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; numbers to the right."""
    made = Table(header_style="bold")
    for position, name in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[position], (int, float)) or row[position] is None for row in rows
        )
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(
            *[
                "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
                for value in row
            ]
        )
    shown = Console(highlight=False)
    shown.print(f"[bold]{title}[/bold]", soft_wrap=True)
    shown.print(made)


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{text}\n")


def result(as_json: bool, value: Mapping[str, Any], text: str) -> None:
    """The end of a job: one JSON object when asked for, else a sentence."""
    say(json.dumps(value, default=str) if as_json else text)
