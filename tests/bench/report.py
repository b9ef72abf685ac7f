"""How a benchmark is shown and saved: docs/benchmarks/<name>.md for people, <name>.json for programs."""

import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jobs.show import say, table
from jobs.wiring.settings import ROOT

_GOAL = re.compile(r"((>=|<=) \d+(\.\d+)?)?")
FOLDER = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    `ratio` above 1 is better than the peer. `goal` is ``>= 0.9`` or ``<= 50``,
    for the ratio where there is a peer, else for our figure; empty
    where there is none. `equal` says whether the results were compared and agree; None: there was nothing to
    compare.
    """

    work: str
    peer: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    goal: str = ""
    equal: bool | None = None

    def __post_init__(self) -> None:
        if not _GOAL.fullmatch(self.goal):
            raise ValueError(f"{self.work}: goal {self.goal!r} is not a number: write '>= 0.9' or '<= 50'")

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached with results that agree; None without a goal."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        figure = self.ours if self.ratio is None else self.ratio
        return self.equal is not False and (
            figure >= float(bound) if sign == ">=" else figure <= float(bound)
        )


def alone(work: str, ours: float, unit: str, goal: str = "", equal: bool | None = None) -> Row:
    """A figure without a peer."""
    return Row(work=work, peer="none", ours=ours, theirs=None, unit=unit, ratio=None, goal=goal, equal=equal)


def save(
    name: str,
    title: str,
    rows: Sequence[Row],
    packages: Sequence[str],
    notes: Sequence[str],
    *,
    dry: bool = False,
    command: str = "",
) -> Path:
    """Print the table and write both files (not when `dry`); returns the page's path. `command` is what
    to run, if not `make bench-<name>`.
    """
    columns = ["work", "peer", "ours", "theirs", "unit", "ratio", "goal", "equal"]
    cells = [[_cell(asdict(row)[column]) for column in columns] for row in rows]
    table(title, columns, cells)
    page = FOLDER / f"{name}.md"
    if dry:
        return page
    FOLDER.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    machine += f", {_memory():.0f} GiB, Python {platform.python_version()}"
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [
        f"# {title}",
        "",
        f"`{command or f'make bench-{name}'}` on {datetime.now(tz=UTC):%Y-%m-%d}. {machine}. {versions}.",
        "",
    ]
    lines += [
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *["| " + " | ".join(line) + " |" for line in cells],
        "",
    ]
    lines += [f"- {note}" for note in notes]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page.with_suffix(".json").write_text(
        json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
    )
    say(f"saved {page.relative_to(ROOT)} and {page.with_suffix('.json').name}")
    return page


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
