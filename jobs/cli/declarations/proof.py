"""The verb that proves a declaration on rows: test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.keys import read_key
from jobs.cli.options import AsJson, Name
from jobs.show import result, table
from jobs.wiring.settings import load_settings

Events = Sequence[Mapping[str, Any]]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("test")(prove)


def prove(
    name: Name,
    rows: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ROWS]",
            help="Events: a file of one source, or with a column 'source', as .csv, .jsonl or .parquet.",
        ),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="The source of the rows.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Show the features of this key: a value, or COLUMN=VALUE, repeated."),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="The time of --key (ISO 8601).")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a declaration's examples, and prove on rows that batch, stream and training agree with them.

    Nothing is started. Exit 1 when an example fails or the law does not hold.
    """
    from anabranch.testing.files import read_file

    project = load_project(name, load_settings().projects)
    if rows is None and (key or at or source):
        raise MisuseError("--key, --at and --source are about ROWS: give a file of events")
    if bool(key) != bool(at):
        raise MisuseError("--key and --at belong together: give both or neither")
    events = None if rows is None else read_file(project, rows, source)
    if events is None and not project.examples:
        raise MisuseError(
            f"{name} declares no examples: give a file of events (anabranch test {name} ROWS.csv), or "
            "Project(examples=(Example(...),))"
        )
    value: dict[str, Any] = {"project": name, "examples": _examples(project, as_json)}
    value["law"] = _law(project, events)
    if events is not None and key and at:
        value["features"] = _features(project, events, key, at, as_json)
    failed = [each["name"] for each in value["examples"] if not each["ok"]]
    value["ok"] = not failed and value["law"]["ok"]
    result(as_json, value, _summary(name, value))
    if failed:
        raise AnabranchError(f"{len(failed)} of {len(value['examples'])} examples fail: {', '.join(failed)}")
    if not value["law"]["ok"]:
        raise AnabranchError("the law does not hold for these events: the history above shows it")


def _examples(project: Project, as_json: bool) -> list[dict[str, Any]]:
    from anabranch.testing import check_example

    found = []
    for number, example in enumerate(project.examples, 1):
        title = example.name or f"example {number}"
        differences = check_example(project, example)
        if differences and not as_json:
            heads = ["feature", "expected", "the events give"]
            table(title, heads, [[d.feature, repr(d.expected), repr(d.found)] for d in differences])
        told = [{"feature": d.feature, "expected": d.expected, "found": d.found} for d in differences]
        found.append({"name": title, "ok": not differences, "differences": told})
    return found


def _law(project: Project, events: Events | None) -> dict[str, Any]:
    from anabranch.testing import BrokenLawError, assert_lawful
    from anabranch.testing.rows import read_events

    given = [example.events for example in project.examples] if events is None else [events]
    read = [read_events(project, each) for each in given]
    refused = [{"event": one.position + 1, "reason": one.reason} for each in read for one in each.refused]
    counted = {"events": sum(map(len, given)), "refused": refused}
    try:
        for each in given:
            assert_lawful(project, each)
    except BrokenLawError as error:
        return {**counted, "ok": False, "error": str(error)}
    return {**counted, "ok": True, "error": None}


def _features(project: Project, events: Events, key: list[str], at: str, as_json: bool) -> dict[str, Any]:
    from anabranch.testing import fold

    found = fold(project, events, read_key(project.keys, key), at)
    if not as_json:
        table(
            f"{project.name}, {' '.join(key)}, at {at}", ["feature", "value"], list(map(list, found.items()))
        )
    return {name: project.column_of[name].type.to_json(each) for name, each in found.items()}


def _summary(name: str, value: Mapping[str, Any]) -> str:
    examples, law = value["examples"], value["law"]
    good = sum(each["ok"] for each in examples)
    lines = [f"{name}: {good} of {len(examples)} examples hold"] if examples else []
    lines += [f"  event {each['event']} goes to quarantine: {each['reason']}" for each in law["refused"][:10]]
    lines += [] if law["ok"] else [law["error"]]
    count = law["events"] - len(law["refused"])
    lines.append(
        f"{name}: batch, stream and training sets {'agree with' if law['ok'] else 'differ from'} the plain "
        f"fold over {count} events, in any order, with copies, cuts and restarts"
    )
    return "\n".join(lines)
