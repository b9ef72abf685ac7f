"""Verbs that look: projects, check, init, answer, features, verify."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.keys import key_text, read_key
from anabranch.values.times import format_time, parse_time
from jobs.show import Steps, result, say, table
from jobs.wiring.job import job
from jobs.wiring.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last.")]
Name = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a declared project.")]

TEMPLATE = '''"""{name}: say here what it is for."""

from anabranch import Count, FeatureView, Label, Last, Mean, Model, Project, Source

readings = Source(
    name="readings",
    topic="{name}-readings",
    id="reading_id",
    time="measured_at",
    schema="reading_id STRING, thing_id STRING, measured_at TIMESTAMP, value DOUBLE",
)
outcomes = Source(
    name="outcomes",
    topic="{name}-outcomes",
    id="outcome_id",
    time="decided_at",
    schema="outcome_id STRING, thing_id STRING, decided_at TIMESTAMP, bad BOOLEAN",
)

recent = FeatureView(
    name="recent",
    source=readings,
    key="thing_id",
    windows=("1h", "1d"),
    features={{"readings": Count(), "value_mean": Mean("value"), "high": Count(where="value > 100"), "value_last": Last("value")}},
)

project = Project(
    name="{name}",
    views=(recent,),
    label=Label(source=outcomes, key="thing_id", target="bad"),
    model=Model(trainer="xgboost", metric="roc_auc"),
)
'''


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (projects, check, init, answer, features, verify):
        app.command()(verb)


def projects(as_json: AsJson = False) -> None:
    """List the declared projects."""
    settings = load_settings()
    found = list_projects(settings.projects)
    if as_json:
        say(json.dumps({"projects": [{"name": name, "file": str(path)} for name, path in found.items()]}))
        return
    table("Projects", ["name", "declared in"], [[name, path] for name, path in found.items()])
    say("Next: anabranch check PROJECT")


def check(name: Name, as_json: AsJson = False) -> None:
    """Check a declaration and show what it gives, without starting anything."""
    from batch.trainers.registry import check_model
    from jobs.wiring.suites import suites

    settings = load_settings()
    project = load_project(name, settings.projects)
    if project.model is not None:
        check_model(project.model)
    expected = suites(settings.quality, project)
    if as_json:
        say(
            json.dumps(
                described(project) | {"suites": {source: suite.origin for source, suite in expected.items()}}
            )
        )
        return
    rows = [
        [
            c.name,
            view.name,
            ", ".join(view.keys),
            type(view.features[c.feature]).__name__,
            c.window.name,
            c.type,
        ]
        for view in project.views
        for c in view.columns
    ]
    table(f"Features of {name}", ["feature", "view", "key", "aggregate", "window", "type"], rows)
    views = f"{len(project.views)} view{'s' if len(project.views) > 1 else ''}"
    say(
        f"{name}: {len(project.columns)} features in {views}, key {', '.join(project.keys)}: the declaration is sound"
    )
    for source, suite in expected.items():
        say(
            f"  {source}: {len(suite.expectations)} expectations, {suite.origin} (anabranch quality {name} {source})"
        )
    say(f"Next: anabranch ingest {name} SOURCE FILE")


def described(project: Project) -> dict[str, Any]:
    """A declaration as JSON."""
    model, label = project.model, project.label
    return {
        "project": project.name,
        "ok": True,
        "keys": list(project.keys),
        "fingerprint": project.fingerprint,
        "sources": {
            name: {"topic": source.topic, "schema": source.schema} for name, source in project.sources.items()
        },
        "views": {
            view.name: {"key": list(view.keys), "source": view.source.name, "fingerprint": view.fingerprint}
            for view in project.views
        },
        "features": [
            {
                "name": c.name,
                "type": str(c.type),
                "window": c.window.name,
                "fingerprint": view.feature_fingerprint(c.feature),
            }
            for view in project.views
            for c in view.columns
        ],
        "label": None if label is None else {"source": label.source.name, "target": label.target},
        "model": None
        if model is None
        else {"trainer": model.trainer, "metric": model.metric, "features": list(project.model_features)},
    }


def init(
    name: Name,
    into: Annotated[
        Path | None, typer.Option(help="Folder to write to; the project's own by default.")
    ] = None,
) -> None:
    """Write a declaration to begin with."""
    settings = load_settings()
    path = (into or settings.projects[-1]) / f"{name}.py"
    if not re.fullmatch(r"(?=.{1,40}$)[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise MisuseError(
            f"{name!r} is no name for a project: use up to 40 small letters, digits and single underscores, beginning with a letter"
        )
    if path.exists():
        raise MisuseError(f"{path} exists already: choose another name, or edit it")
    path.write_text(TEMPLATE.format(name=name), encoding="utf-8")
    say(f"wrote {path}\nNext: anabranch check {name}")


def answer(
    name: Name,
    key: Annotated[
        list[str], typer.Argument(metavar="KEY", help="A value, or NAME=VALUE for each column of the key.")
    ],
    at: Annotated[
        str | None, typer.Option("--at", help="As of this time (ISO 8601), instead of now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the features and the score of one key, now or at a time in the past."""
    from anabranch.answers.requests import stored_key
    from jobs.flows.answering import answer_key

    with job() as context:
        project = context.project(name)
        given = stored_key(read_key(project.keys, key), project)
        found = answer_key(context, project, given, None if at is None else parse_time(at))
    if as_json:
        say(json.dumps(found, default=str))
        return
    table(
        f"{name}, {key_text(project.keys, given)}, as of {found['as_of']}",
        ["feature", "value"],
        [[k, v] for k, v in found["features"].items()],
    )
    if found["degraded"]:
        say(f"degraded: {found['degraded_reason']}")
    if not found["known"]:
        say(
            "nothing is known of this key, neither by batch nor by stream: these are the features of no events, and there is no score"
        )
        return
    said = (
        "no model yet: anabranch train " + name
        if found["score"] is None
        else f"score {found['score']:.4f}, label {found['label']}"
    )
    say(f"{said} (model {found['model_version']}, batch {found['batch_version']}, from {found['layer']})")


def features(
    name: Name,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            help="CSV or Parquet rows: the key's columns and a time column named as the label source's.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="Folder to write Parquet to.")],
    as_known: Annotated[
        bool, typer.Option("--as-known", help="Only from events that had arrived by the row's time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Point-in-time features for rows of keys and times: those columns and one column a feature."""
    from batch.scoring.features import features_at

    with job() as context:
        project = context.project(name)
        rows = features_at(context.spark, context.lake, project, at, out, Steps(), as_known=as_known)
    result(
        as_json,
        {"project": name, "rows": rows, "features": len(project.columns), "out": str(out)},
        f"{rows:,} rows with {len(project.columns)} features in {out}",
    )


def verify(
    name: Name,
    keys: Annotated[int, typer.Option(help="How many keys to compare.")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Compare every key.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute features from the lake and compare them with what is served; exit 1 on a mismatch."""
    from jobs.flows.verifying import verify_settled

    with job() as context:
        project = context.project(name)
        found = verify_settled(context, project, None if every else keys, Steps())
    per_feature = {
        n: {"matches": c.matches, "mismatches": c.mismatches, "largest_error": c.largest_error}
        for n, c in found.features.items()
    }
    if not as_json:
        rows = [[n, c.matches, c.mismatches, c.largest_error] for n, c in found.features.items()]
        table(f"Lake against served: {name}", ["feature", "matches", "mismatches", "largest error"], rows)
    value = {
        "project": name,
        "keys": found.keys,
        "features": len(found.features),
        "mismatches": found.mismatches,
        "degraded": found.degraded,
        "at": format_time(found.at),
        "seconds": round(found.seconds, 2),
        "per_feature": per_feature,
    }
    result(
        as_json,
        value,
        f"verify: {found.keys} keys, {len(found.features)} features, {found.mismatches} mismatches",
    )
    examples = [c.example for c in found.features.values() if c.example]
    if found.mismatches:
        raise AnabranchError(
            f"{found.mismatches} values served differ from the lake, for example {examples[0]}: run 'anabranch build {name}'"
        )
