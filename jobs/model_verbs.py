"""Verbs about models: train, models, promote, score."""

from typing import Annotated

import typer

from features.times import parse_time
from jobs.inspect_verbs import AsJson, Name
from jobs.settings import load_settings
from jobs.show import Steps, result, table


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (train, models, promote, score):
        app.command()(verb)


def train(name: Name, as_json: AsJson = False) -> None:
    """Train on point-in-time features, evaluate on held-out keys, register the model."""
    from batch.training import train as run
    from jobs.context import Context

    context = Context(load_settings(None, None))
    try:
        trained = run(context.spark, context.lake, context.models, context.project(name), Steps())
    finally:
        context.close()
    value = {"project": name, "model_version": trained.version, "champion": trained.champion, "rows": trained.rows, "metrics": trained.metrics}
    if not as_json:
        table(f"Model {name} version {trained.version}, on held-out keys", ["metric", "value"], [[k, v] for k, v in trained.metrics.items()])
    said = "is champion" if trained.champion else "is registered (the champion stays)"
    result(as_json, value, f"version {trained.version} {said}\nNext: anabranch score {name} --in ROWS --out FOLDER, or anabranch serve")


def models(name: Name, as_json: AsJson = False) -> None:
    """List the model versions of a project."""
    from jobs.context import Context

    context = Context(load_settings(None, None))
    found = context.models.list(context.project(name).name)
    if not as_json:
        table(f"Models of {name}", ["version", "aliases", "trained", "metrics"], [[m.version, ", ".join(m.aliases), m.created, m.metrics] for m in found])
    value = {"project": name, "models": [{"version": m.version, "aliases": list(m.aliases), "metrics": dict(m.metrics)} for m in found]}
    result(as_json, value, f"{len(found)} versions")


def promote(name: Name, version: Annotated[str, typer.Argument(metavar="VERSION")], as_json: AsJson = False) -> None:
    """Make a model version the champion."""
    from jobs.context import Context

    context = Context(load_settings(None, None))
    context.models.promote(context.project(name).name, version)
    result(as_json, {"project": name, "champion": version}, f"version {version} of {name} is champion")


def score(
    name: Name,
    rows: Annotated[str, typer.Option("--in", help="CSV, JSON lines, Parquet or Delta rows with feature columns or key columns.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write to: Parquet, or CSV when it ends in .csv.")],
    version: Annotated[str | None, typer.Option(help="Model version; the champion by default.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Attach missing features as of this time (ISO 8601), instead of now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mass-score a data set with the model as an MLflow pyfunc UDF."""
    from batch.scoring import score_path
    from jobs.context import Context

    context = Context(load_settings(None, None))
    try:
        scored = score_path(
            context.spark, context.lake, context.models, context.project(name), rows, out, version, Steps(), at=None if at is None else parse_time(at)
        )
    finally:
        context.close()
    result(as_json, {"project": name, "rows": scored.rows, "model_version": scored.version, "out": str(out)}, f"{scored.rows:,} rows scored into {out}")
