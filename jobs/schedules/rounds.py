"""The rounds of a project as data: tasks, their commands and order, and why each may be tried again.

    river   land > quality > build > train > gate > promote > score > watch > upkeep
    build   land > quality > build           train   land > train > gate > promote
    score   score                            watch   watch              upkeep   upkeep

A project without a model has no tasks that need one. One round belongs to all projects: `requests` answers
the messages on `training-requests`.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anabranch.declare.projects import Project
from jobs.wiring.settings import ROOT

ROUNDS: dict[str, tuple[str, ...]] = {
    "river": ("land", "quality", "build", "train", "gate", "promote", "score", "watch", "upkeep"),
    "build": ("land", "quality", "build"),
    "train": ("land", "train", "gate", "promote"),
    "score": ("score",),
    "watch": ("watch",),
    "upkeep": ("upkeep",),
}
"""The tasks of each round, in their order."""
REQUESTS = "requests"
_LEARNING = {"train", "gate", "promote", "score", "watch"}
_SUBMITTED = {path.stem for path in (ROOT / "jobs").glob("*.py")}

RETRIED: dict[str, str] = {
    "land": "offsets are committed with the events they brought: no message is landed twice",
    "quality": "it reads reports and changes nothing",
    "build": "a version serves only after one conditional write; until then the last one serves",
    "train": "no champion changes, and a second training registers another version",
    "gate": "it reads the verdict that the training recorded",
    "promote": "the champion's role is set to the same version again",
    "score": "parts that are finished are not scored again, and results replace the earlier ones as a whole",
    "watch": "it reads, and a measure of one moment is written over itself",
    "upkeep": "what was removed or compacted is no work any more",
    "requests": "offsets follow the answers, and a request that was answered gets the same answer again",
}
"""Why a task may be run again after a failure at any moment."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One step of a round.

    `command` is what runs in the checkout; the gate has none: it reads what `takes`, the task before it,
    printed as JSON. A command may contain `{version}`, the model version that `takes` registered, and ends
    with the arguments of `backfill` where a past round is made up for, with `{time}` for its time.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...]
    retried: str
    takes: str = ""
    backfill: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one DAG does. `schedule` is cron's expression, None by hand; `asset` is a topic that wakes it."""

    name: str
    project: str
    kind: str
    schedule: str | None
    about: str
    tasks: tuple[Task, ...]
    asset: str = ""
    links: Mapping[str, str]


def rounds_of(project: Project, address: str) -> list[Round]:
    """Every round of a project; `address` is that of the REST server, whose pages are linked."""
    pages = f"{address}/projects/{project.name}"
    links = {"page, with its quality reports": pages}
    links |= {"model card": f"{pages}/card"} if project.model is not None else {}
    found = []
    for kind, time in project.schedule.times.items():
        names = [name for name in ROUNDS[kind] if project.model is not None or name not in _LEARNING]
        if kind not in ("river", *names):
            continue
        tasks = tuple(
            _task(name, project, after=tuple(names[:position][-1:])) for position, name in enumerate(names)
        )
        found.append(
            Round(
                name=f"{project.name}.{kind}",
                project=project.name,
                kind=kind,
                schedule=time,
                about=project.description,
                tasks=tasks,
                links=links,
            )
        )
    return found


def requests_round(projects: Iterable[Project]) -> list[Round]:
    """The round that answers requests for trainings, if a project has `on_request`."""
    names = sorted(project.name for project in projects if project.schedule.on_request)
    if not names:
        return []
    task = Task(
        name=REQUESTS,
        command=_command("trainer", *names, "--once", "--json"),
        after=(),
        retried=RETRIED[REQUESTS],
    )
    about = f"Trainings that messages on training-requests ask for: {', '.join(names)}"
    return [
        Round(
            name=f"anabranch.{REQUESTS}",
            project="",
            kind=REQUESTS,
            schedule=None,
            about=about,
            tasks=(task,),
            asset="training-requests",
            links={},
        )
    ]


def described(rounds: Iterable[Round]) -> list[dict[str, Any]]:
    """Rounds as JSON."""
    return [asdict(each) for each in rounds]


def crontab(rounds: Iterable[Round]) -> list[str]:
    """Lines of a crontab for the rounds that have a time: each task runs when the one before it did."""
    lines = ["CRON_TZ=UTC"]
    for each in rounds:
        if each.schedule is None:
            continue
        # Without a place for the version in between, a training promotes by itself what passes the gate.
        steps = [task for task in each.tasks if task.command and task.name not in ("gate", "promote")]
        words = " && ".join(" ".join(_alone(task)) for task in steps)
        lines.append(f"{each.schedule} cd {ROOT} && {words}  # {each.name}")
    return lines


def _alone(task: Task) -> list[str]:
    """A task's command for a shell that knows nothing of the environment."""
    program, first, *words = task.command
    verb = Path(first).stem if program == "spark-submit" else first
    anabranch = str(Path(sys.executable).parent / "anabranch")
    return [anabranch, verb, *(word for word in words if word not in ("--hold", "--json"))]


def _task(name: str, project: Project, after: tuple[str, ...]) -> Task:
    commands: dict[str, tuple[str, ...]] = {
        "gate": (),
        "train": _command("train", project.name, "--hold", "--json"),
        "promote": _command("promote", project.name, "{version}"),
        "score": _command("score", project.name, *_rows(project)),
    }
    return Task(
        name=name,
        command=commands.get(name, _command(name, project.name)),
        after=after,
        retried=RETRIED[name],
        takes="train" if name in ("gate", "promote") else "",
        backfill=("--cut", "{time}") if name == "build" else (),
    )


def _rows(project: Project) -> tuple[str, ...]:
    return ("--follow", "--once") if project.score_on_write else ("--in", "serving", "--out", "serving")


def _command(verb: str, *arguments: str) -> tuple[str, ...]:
    """A verb as a Spark application where there is a script for it, else as a command."""
    if verb in _SUBMITTED:
        return ("spark-submit", str(Path("jobs") / f"{verb}.py"), *arguments)
    return ("anabranch", verb, *arguments)
