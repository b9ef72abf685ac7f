"""The verb that tells what a changed declaration will do: plan."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson, Name
from jobs.show import Steps, result, say, table
from jobs.wiring.job import job

CHANGED = 3
"""The exit code of `--exit-code` when something changes."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(plan)


def plan(
    name: Name,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FOLDER",
            help="Compare with the declaration in this folder, instead of the one that serves.",
        ),
    ] = None,
    keys: Annotated[int, typer.Option(min=0, help="How many keys show values before and after.")] = 100,
    labels: Annotated[
        int, typer.Option(min=0, help="Over how many recent labels the champion is judged.")
    ] = 300,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"Exit {CHANGED} when something changes, 0 when nothing does.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a comment on a pull request.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a changed declaration will do, before anything is started or written."""
    from anabranch.planning.report import lines, markdown, page, summary, tables
    from jobs.flows.planning import PlanOptions, plan_project

    options = PlanOptions(keys=keys, labels=labels, against=against)
    with job() as context:
        found = plan_project(context, context.project(name), options, Steps())
    if html is not None:
        html.write_text(page(found), encoding="utf-8")
    if as_markdown and not as_json:
        say(markdown(found).rstrip())
    else:
        if not as_json:
            for each in tables(found):
                table(each.title, each.heads, each.rows)
            for line in lines(found):
                say(line)
        further = [f"report: {html}"] if html is not None else []
        steps = f"Next: {', then '.join(found.steps)}" if found.steps else ""
        result(as_json, found.document(), "\n".join(filter(None, [summary(found), *further, steps])))
    if exit_code and found.changed:
        raise typer.Exit(CHANGED)
