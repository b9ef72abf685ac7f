"""Verbs of declarations: projects, check."""

from typing import Any

import typer

from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.projects import Project
from anabranch.folds.grains import largest_key
from anabranch.folds.packing import LARGEST
from anabranch.values.times import SECOND
from jobs.cli.options import AsJson, Name
from jobs.show import picked, result, table
from jobs.wiring.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (projects, check):
        app.command()(verb)


def projects(as_json: AsJson = False) -> None:
    """List the declared projects."""
    declared = list_projects(load_settings().projects)
    if not as_json:
        table("Projects", ["name", "declared in"], [[name, path] for name, path in declared.items()])
    value = {"projects": [{"name": name, "file": str(path)} for name, path in declared.items()]}
    result(as_json, value, "Next: anabranch check PROJECT")


def check(name: Name, as_json: AsJson = False) -> None:
    """Check a declaration and show its features and expectations, without starting anything."""
    from anabranch.events.expectations import DERIVED
    from jobs.wiring.suites import suites

    settings = load_settings()
    project = load_project(name, settings.projects)
    untried = _check_trainer(project)
    expected = suites(settings.quality, project)
    if not as_json:
        heads = ["feature", "view", "key", "aggregate", "window", "type"]
        table(
            f"Features of {name}",
            heads,
            [_described_column(view, c) for view in project.views for c in view.columns]
            + [[c.name, "derived", "", c.text, "", c.type] for c in project.derived_columns]
            + [[c.name, "request", "", "", "", c.type] for c in project.request_columns],
        )
    count = len({view.full_name for view in project.views})
    views = f"{count} view{'s' if count > 1 else ''}"
    lines = [
        (
            f"{name}: {len(project.columns)} features in {views}, key {', '.join(project.keys)}: "
            "the declaration is sound"
        )
    ]
    lines += [
        f"  {source}: {len(suite.expectations)} expectations, {suite.origin} "
        f"(anabranch quality {name} {source})"
        for source, suite in expected.items()
    ]
    slack = settings.times.slack_seconds * SECOND
    lines += [
        f"  view {view.name}: a key of many long texts may have {size / 2**20:.0f} MiB of states; above "
        f"{LARGEST // 2**20} MiB it loses its texts: fewer values (k=, most=) or a longer hop= keep them"
        for view in project.own_views
        if (size := largest_key(view, slack)) > LARGEST
    ]
    lines += [
        f"  {source}: {each.columns[0]} is a label of two classes ({project.model.metric}): a load with "
        "other values than 0 and 1 is refused"
        for source, suite in expected.items()
        for each in suite.rules
        if project.model is not None and suite.origin == DERIVED
    ]
    lines += [f"  {name}: {time} UTC" for name, time in project.schedule.times.items() if time is not None]
    lines += [] if untried is None else [f"  {untried}"]
    value = described(project) | {"suites": {source: suite.origin for source, suite in expected.items()}}
    result(as_json, value, "\n".join([*lines, f"Next: anabranch ingest {name} SOURCE FILE"]))


def _check_trainer(project: Project) -> str | None:
    """Check the model's trainer; why it cannot be checked where the library is installed alone."""
    if project.model is None:
        return None
    try:
        from batch.trainers.registry import check_model
    except ModuleNotFoundError as error:
        return (
            f"trainer {project.model.trainer!r} is not checked, as there is no package {error.name!r} here: "
            "anabranch[platform] brings it"
        )
    check_model(project.model, project.task)
    return None


def _described_column(view: Any, column: Any) -> list[str]:
    aggregate = type(view.features[column.feature]).__name__
    return [column.name, view.full_name, ", ".join(view.asked), aggregate, column.window.name, column.type]


def described(project: Project) -> dict[str, Any]:
    """A declaration as JSON."""
    model, label = project.model, project.label
    return {
        "project": project.name,
        "ok": True,
        "keys": list(project.keys),
        "fingerprint": project.fingerprint,
        "sources": {name: picked(source, "topic schema") for name, source in project.sources.items()},
        "views": {
            view.full_name: {"key": list(view.keys), "source": view.feed, "fingerprint": view.fingerprint}
            for view in project.views
        },
        "features": [
            {
                "name": column.name,
                "type": str(column.type),
                "window": column.window.name,
                "fingerprint": view.feature_fingerprint(column.feature),
            }
            for view in project.views
            for column in view.columns
        ],
        "derived": [
            {"name": column.name, "type": str(column.type), "expression": column.text}
            for column in project.derived_columns
        ],
        "request": [
            {"name": column.name, "type": str(column.type), "required": column.required}
            for column in project.request_columns
        ],
        "label": label
        and {"source": label.source.name, "target": label.target, "own_event": label.own_event},
        "schedule": project.schedule.times | {"on_request": project.schedule.on_request},
        "model": model and {**picked(model, "trainer metric"), "features": list(project.model_features)},
    }
