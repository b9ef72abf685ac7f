"""The verb that shows what runs when: schedule."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.cron import parse_cron
from jobs.cli.options import AsJson, Names
from jobs.schedules.rounds import crontab, described, requests_round, rounds_of
from jobs.show import result, say, table
from jobs.wiring.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(schedule)


def schedule(
    names: Names = None,
    cron: Annotated[
        bool, typer.Option("--crontab", help="Print lines of a crontab, for machines without Airflow.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rounds of projects, when each is run next, and its tasks; Airflow reads them as JSON."""
    from serving.server import address

    if cron and as_json:
        raise MisuseError("--crontab and --json contradict each other: give one of them")
    settings = load_settings()
    projects, broken = _loaded(names, settings.projects)
    rounds = [each for project in projects for each in rounds_of(project, address(settings.serving))]
    rounds += requests_round(projects)
    if cron:
        say("\n".join(crontab(rounds)))
        return
    now = datetime.now(tz=UTC)
    if not as_json:
        rows = [
            [
                each.name,
                each.schedule or each.asset or "by hand",
                ""
                if each.schedule is None
                else f"{parse_cron(each.schedule, each.name).after(now):%a %F %R}",
                " > ".join(task.name for task in each.tasks),
            ]
            for each in rounds
        ]
        table("Rounds, times in UTC", ["round", "when", "next", "tasks"], rows)
    timed = sum(each.schedule is not None or bool(each.asset) for each in rounds)
    lines = [f"{len(rounds)} rounds, {timed} of them by themselves", *broken.values()]
    value = {"rounds": described(rounds), "broken": broken}
    result(
        as_json,
        value,
        "\n".join([*lines, "Next: anabranch up --with airflow, or anabranch schedule --crontab"]),
    )


def _loaded(names: list[str] | None, folders: Sequence[Path]) -> tuple[list[Project], dict[str, str]]:
    """The projects that can be loaded, and why others cannot; one that was named raises."""
    loaded, broken = [], {}
    for name in names or sorted(list_projects(folders)):
        try:
            loaded.append(load_project(name, folders))
        except AnabranchError as error:
            if names:
                raise
            broken[name] = str(error)
    return loaded, broken
