"""The verb that looks at this installation: doctor."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from anabranch.errors import AnabranchError, without_secrets
from jobs.cli.options import AsJson
from jobs.show import console, result, table
from jobs.wiring.settings import load_settings, settings_in_force

_MARKS = {"ok": "[green]ok   [/green]", "note": "[yellow]note [/yellow]", "wrong": "[red]wrong[/red]"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    every: Annotated[
        bool, typer.Option("--settings", help="Show every setting, not only those that are set somewhere.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at this installation: what is missing, taken, full, out of reach, and which settings are in force.

    Nothing is started or changed. Exit 1 when something is wrong.
    """
    from jobs.cli.platform.findings import NOTE, WRONG, findings

    settings = load_settings()
    output, found = Console(highlight=False), []
    for each in findings(settings):
        found.append(each)
        if not as_json:
            console.clear_progress()
            todo = f" -> {each.todo}" if each.todo else ""
            text = without_secrets(f"{each.area:<10} {each.text}{todo}")
            output.print(f"{_MARKS[each.state]} {escape(text)}", soft_wrap=True)
    shown = [each for each in settings_in_force() if every or each[2] != "default"]
    if shown and not as_json:
        table("Settings in force", ["setting", "value", "from"], [list(each) for each in shown])
    wrong = [each for each in found if each.state == WRONG]
    value = {
        "ok": not wrong,
        "findings": [asdict(each) for each in found],
        "settings": [dict(zip(("name", "value", "from"), each, strict=True)) for each in shown],
    }
    notes = sum(each.state == NOTE for each in found)
    result(as_json, value, f"{len(wrong)} wrong, {notes} to note, {len(found) - len(wrong) - notes} good")
    if wrong:
        raise AnabranchError("; ".join(f"{each.area}: {each.text}" for each in wrong))
