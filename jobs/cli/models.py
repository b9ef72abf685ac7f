"""Verbs about models: train, evaluate, reproduce."""

import json
import os
import socket
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from jobs.cli.options import AsJson, Name, Version
from jobs.show import Steps, result, say, table
from jobs.wiring.job import job
from jobs.wiring.settings import ROOT, load_settings

if TYPE_CHECKING:
    from batch.training.job import TrainingJob
    from batch.training.train import Trained
    from jobs.wiring.context import Context


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (train, evaluate, reproduce):
        app.command()(verb)


def train(name: Name, finish: Annotated[bool, typer.Option("--finish", help="Register trainings that are kept because MLflow was away.")] = False,
          as_json: AsJson = False) -> None:  # fmt: skip
    """Train on point-in-time features, judge on held-out rows, register; champion when the gate lets it."""
    from batch.release.registering import finish as finish_kept
    from batch.training.train import train as run

    with job() as context:
        project = context.project(name)
        if finish:
            done = [
                (one.version, one.champion, one.verdict.reason)
                for one in finish_kept(context, project, _kept(context), Steps(), announces=True)
            ]
            finished = {
                "project": name,
                "finished": [
                    {"model_version": version, "champion": champion, "reason": reason}
                    for version, champion, reason in done
                ],
            }
            result(
                as_json,
                finished,
                "\n".join(_told(version, champion, reason) for version, champion, reason in done),
            )
            return
        trained = run(context, training_job(context, project, Steps()))
        begin_online(context, project, Steps())
    value: dict[str, Any] = {
        "project": name,
        "model_version": trained.version,
        "champion": trained.champion,
        "rows": trained.rows,
        "metrics": trained.metrics,
    }
    value |= {
        "reason": trained.reason,
        "gate": [asdict(check) for check in trained.checks],
        "split": trained.split,
    }
    if not as_json:
        _show(name, trained)
    said = _told(trained.version, trained.champion, trained.reason)
    result(as_json, value, f"{said}\nNext: anabranch score {name} --in ROWS --out FOLDER, or anabranch serve")


def begin_online(context: "Context", project: Project, steps: Steps) -> None:
    """Begin the project's online model anew, if it declares one; a store that is away costs this part only."""
    from anabranch.stores.cassandra.online_models import OnlineModels
    from batch.training.online import reset_online

    try:
        reset_online(context, OnlineModels(context.views), project, steps)
    except UnavailableError as error:
        steps.step(f"the online model goes on as it was: {error}")


def training_job(context: "Context", project: Project, steps: Steps) -> "TrainingJob":
    """A training of the command line, with the commit and the batch version to record."""
    from batch.training.job import TrainingJob

    about = {"commit": _commit(), "batch_version": _batch_version(context, project)}
    known = {key: value for key, value in about.items() if value}
    return TrainingJob(
        project=project,
        progress=steps,
        folders=context.settings.projects,
        kept=_kept(context),
        about=known,
        local_bytes=context.settings.training.local_bytes,
        announce=True,
    )


def _kept(context: "Context") -> Path:
    return context.settings.data / "unfinished"


def _commit() -> str:
    """The commit of the code, marked when files differ from it; empty without git."""
    try:
        asked = [
            ["git", "-C", str(ROOT), *words]
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
        commit, changed = (
            subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with changes" if changed else commit


def _batch_version(context: "Context", project: Project) -> str:
    """The batch version that serves; empty when the views' store is away: training does not need it."""
    views = context.settings.views
    try:
        socket.create_connection((views.hosts[0], views.port), timeout=1).close()
        manifest = context.views.manifest(project.name)
    except (OSError, AnabranchError):
        return ""
    return "" if manifest is None else str(manifest.batch_version)


def _told(version: str, champion: bool, reason: str) -> str:
    return f"version {version} is champion" if champion else f"version {version} stays challenger: {reason}"


def _show(name: str, trained: "Trained") -> None:
    metrics = trained.metrics
    plain = [
        key
        for key in metrics
        if not key.endswith(("_low", "_high")) and not key.startswith(("train_", "rows_"))
    ]
    shown = [
        [
            key,
            metrics[key],
            metrics.get(f"{key}_low"),
            metrics.get(f"{key}_high"),
            metrics.get(f"train_{key}"),
        ]
        for key in plain
    ]
    title = f"Model {name} version {trained.version}, on {metrics['rows_test']:,.0f} held-out rows, split {trained.split}"
    table(title, ["metric", "value", "95% from", "to", "on training rows"], shown)
    if trained.slices:
        table(
            "By slice",
            ["feature", "part", "rows", "value", "95% from", "to"],
            [[s.feature, s.part, s.rows, s.value, s.low, s.high] for s in trained.slices],
        )
    table(
        "The gate",
        ["check", "passed", "found"],
        [[check.name, "yes" if check.passed else "no", check.said] for check in trained.checks],
    )


def evaluate(
    name: Name,
    folds: Annotated[int, typer.Option(help="Folds of each repeat.", min=2)] = 10,
    repeats: Annotated[int, typer.Option(help="How often the folds are drawn.", min=1)] = 10,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the page and its JSON; <data>/evaluations by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every trainer with plain regression on the training set, by repeated k-fold; choices are made inside each fold."""
    from batch.trainers.registry import check_model
    from batch.training.comparison import candidates, cells, evaluate_candidates, page
    from batch.training.job import TrainingJob
    from batch.training.preparing import whole_set
    from batch.training.training_sets import lake_training_set

    settings, steps = load_settings(), Steps()
    with job(settings) as context:  # closed before the folds, which need its memory
        project = context.project(name)
        if project.model is None:
            raise MisuseError(
                f"project {name!r} declares no model: add label=Label(...) and model=Model(...) to evaluate one"
            )
        check_model(project.model)
        versions = context.lake.versions(context.spark, project)
        wanted = TrainingJob(project=project, progress=steps, local_bytes=settings.training.local_bytes)
        rows = lake_training_set(context, wanted, versions)
    whole = whole_set(project, project.model, rows, settings.projects)
    ways = candidates(project.model)
    steps.step(f"{len(ways)} candidates on {repeats} x {folds} folds of {len(whole.target):,} labels")
    found = evaluate_candidates(
        whole, ways, steps, count=folds, repeats=repeats, processes=len(os.sched_getaffinity(0))
    )
    folder = out or settings.data / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page(name, found, repeats, folds, len(whole.target)), encoding="utf-8")
    value: dict[str, Any] = {
        "project": name,
        "folds": folds,
        "repeats": repeats,
        "candidates": [asdict(one) for one in found],
    }
    (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    if not as_json:
        heads = [
            "candidate",
            found[0].metric,
            "95% interval",
            f"ahead of {found[0].name}",
            "95% interval",
            "s a training",
        ]
        table(f"How well {name} can be learnt", heads, [cells(one) for one in found])
    result(as_json, value, f"saved {folder / name}.md and .json")


def reproduce(name: Name, version: Version, as_json: AsJson = False) -> None:
    """Train a version again from the lake versions it recorded and compare the metrics; exit code 1 when they differ."""
    from batch.training.reproduction import reproduce as run

    with job() as context:
        project = context.project(name)
        found = run(context, training_job(context, project, Steps()), version)
    value = {
        "project": name,
        "model_version": version,
        "same": not found.different,
        "different": list(found.different),
        "metrics": found.metrics,
    }
    if as_json:
        say(json.dumps(value))
    else:
        table(
            f"Version {version} of {name}",
            ["metric", "recorded", "again"],
            [[key, was, now] for key, (was, now) in found.metrics.items()],
        )
    if found.different:
        raise AnabranchError(
            f"version {version} of {name!r} does not come out again: {', '.join(found.different)} differ; compare the environments in its report"
        )
    if not as_json:
        say(f"version {version} of {name} comes out again: {len(found.metrics)} metrics are the same")
