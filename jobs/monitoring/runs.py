"""What a batch job leaves behind for Prometheus: one file a verb and project, written when the job ends.

    metrics/<verb>-<project>.json    when it ended, how long it took, whether it failed, what it did

A job notes itself as it goes; the exporter shows the files. Verbs without a Spark session leave none.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_MOST_FIGURES = 40


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """The last run of a verb for a project, and how many runs there have been. Times in seconds since 1970.

    `succeeded` is the end of the last run that did not fail, 0 without one. `figures` are the numbers of the
    job's JSON result; `rows` and `quarantined` count what all runs together landed.
    """

    verb: str
    project: str
    ended: float
    seconds: float
    failed: bool
    succeeded: float
    runs: int
    failures: int
    figures: Mapping[str, float]
    rows: int = 0
    quarantined: int = 0


@dataclass(kw_only=True)
class Noted:
    """What a running job has noted of itself."""

    verb: str
    started: float = field(default_factory=time.time)
    data: Path | None = None
    projects: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    quarantined: int = 0
    result: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    at_end: list[Callable[[int], None]] = field(default_factory=list)
    """What is called with the exit code when the job is over."""


_NOW: ContextVar[Noted | None] = ContextVar("run", default=None)


@contextmanager
def noted(verb: str) -> Iterator[Noted]:
    """Let the job inside the block note itself."""
    run = Noted(verb=verb)
    token = _NOW.set(run)
    try:
        yield run
    finally:
        _NOW.reset(token)


def running() -> Noted | None:
    """The job that runs now, if one lets itself be noted."""
    return _NOW.get()


def note_failure(text: str) -> None:
    """The job has failed, and why."""
    run = _NOW.get()
    if run is not None:
        run.failure = text


def note_session(data: Path) -> None:
    """A Spark session has started: the run is to be kept in this data folder."""
    run = _NOW.get()
    if run is not None:
        run.data = data


def note_project(name: str) -> None:
    """The job asked for a project; the first is the one that the run is about."""
    run = _NOW.get()
    if run is not None and name not in run.projects:
        run.projects.append(name)


def note_rows(rows: int, quarantined: int) -> None:
    """The job landed so many rows, and put so many others into quarantine."""
    run = _NOW.get()
    if run is not None:
        run.rows += rows
        run.quarantined += quarantined


def note_result(value: Mapping[str, Any]) -> None:
    """The job's result: its numbers are kept, those one level down as ``<name>_<inner name>``."""
    run = _NOW.get()
    if run is None:
        return
    run.result = value
    inner = {f"{name}_{key}": one for name, part in _parts(value) for key, one in part.items()}
    numbers = {name: float(one) for name, one in {**value, **inner}.items() if _is_number(one)}
    run.figures = dict(list(numbers.items())[:_MOST_FIGURES])


def keep_run(run: Noted, *, failed: bool) -> None:
    """Write the run down; does nothing for one without a Spark session or a project."""
    if run.data is None or not run.projects:
        return
    project = run.projects[0]
    folder = run_folder(run.data)
    folder.mkdir(parents=True, exist_ok=True)
    file, now = folder / f"{run.verb}-{project}.json", time.time()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = next(
            (one for one in kept_runs(run.data) if (one.verb, one.project) == (run.verb, project)), None
        )
        made = JobRun(
            verb=run.verb,
            project=project,
            ended=now,
            seconds=now - run.started,
            failed=failed,
            succeeded=(before.succeeded if before else 0.0) if failed else now,
            runs=(before.runs if before else 0) + 1,
            failures=(before.failures if before else 0) + failed,
            figures=run.figures,
            rows=(before.rows if before else 0) + run.rows,
            quarantined=(before.quarantined if before else 0) + run.quarantined,
        )
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(made)), encoding="utf-8")
        draft.replace(file)


def kept_runs(data: Path) -> list[JobRun]:
    """The last run of each verb and project; a damaged file is left out."""
    found = []
    for file in sorted(run_folder(data).glob("*.json")):
        try:
            found.append(JobRun(**json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return found


def run_folder(data: Path) -> Path:
    """The folder of the files, in the data folder."""
    return data / "metrics"


def _parts(value: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, part) for name, part in value.items() if isinstance(part, Mapping)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
