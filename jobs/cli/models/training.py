"""Verbs about models: train, evaluate, reproduce."""

import json
import os
import socket
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from jobs.cli.options import AsJson, Name, Version
from jobs.show import Steps, picked, result, table
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


def train(
    name: Name,
    finish: Annotated[
        bool, typer.Option("--finish", help="Register trainings that were kept because MLflow was away.")
    ] = False,
    hold: Annotated[
        bool,
        typer.Option("--hold", help="Register it and let the gate judge it, and leave the promotion to you."),
    ] = False,
    from_served: Annotated[
        bool,
        typer.Option("--from-served", help="Learn from features as they were served, of landed predictions."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train on point-in-time features, judge on held-out rows, register; champion when the gate lets it."""
    from batch.training.train import train as run
    from jobs.flows.building import score_current_rows

    with job() as context:
        project, steps = context.project(name), Steps()
        if finish:
            _finish(context, project, as_json)
            return
        asked = replace(training_job(context, project, steps), promote=not hold, from_served=from_served)
        trained = run(context, asked)
        begin_online(context, project, steps)
        if trained.champion:
            score_current_rows(context, project, steps)
    if not as_json:
        _show(name, trained)
    value = {
        "project": name,
        "model_version": trained.version,
        **picked(trained, "champion rows metrics reason split chosen"),
        "hindsight": None if trained.hindsight is None else asdict(trained.hindsight),
        "fairness": None if trained.fairness is None else asdict(trained.fairness),
        "gate": [asdict(check) for check in trained.checks],
    }
    outcome = _outcome(trained.version, trained.champion, trained.reason)
    if hold:
        outcome = f"version {trained.version} is registered, and the gate says: {trained.reason}"
    result(
        as_json, value, f"{outcome}\nNext: anabranch score {name} --in ROWS --out FOLDER, or anabranch serve"
    )


def _finish(context: "Context", project: Project, as_json: bool) -> None:
    from batch.release.registering import finish as finish_kept
    from jobs.flows.building import score_current_rows

    steps = Steps()
    done = finish_kept(context, project, _kept(context), steps, announces=True)
    if any(each.champion for each in done):
        score_current_rows(context, project, steps)
    outcomes = [(each.version, each.champion, each.verdict.reason) for each in done]
    finished = [
        {"model_version": version, "champion": champion, "reason": reason}
        for version, champion, reason in outcomes
    ]
    value = {"project": project.name, "finished": finished}
    result(as_json, value, "\n".join(_outcome(*each) for each in outcomes))


def begin_online(context: "Context", project: Project, steps: Steps) -> None:
    """Begin the project's online model anew, if it declares one; without its store it continues as it was."""
    from anabranch.stores.cassandra.online_models import OnlineModels
    from batch.training.online import reset_online

    try:
        reset_online(context, OnlineModels(context.views), project, steps)
    except UnavailableError as error:
        steps.step(f"the online model continues as it was: {error}")


def training_job(context: "Context", project: Project, steps: Steps) -> "TrainingJob":
    """A training of the command line, with the commit and the batch version to record."""
    from batch.training.job import TrainingJob

    about = {"commit": _commit(), "batch_version": _batch_version(context, project)}
    return TrainingJob(
        project=project,
        progress=steps,
        folders=context.settings.projects,
        kept=_kept(context),
        about={key: value for key, value in about.items() if value},
        announce=True,
        local_bytes=context.settings.training.local_bytes,
    )


def _kept(context: "Context") -> Path:
    return context.settings.data / "unfinished"


def _commit() -> str:
    """The commit of the code, marked when files differ from it; empty without git."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit, changed = (
            subprocess.run(
                [*git, *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with changes" if changed else commit


def _batch_version(context: "Context", project: Project) -> str:
    """The batch version that serves; empty when Cassandra is away, which training does not need."""
    views = context.settings.views
    try:
        socket.create_connection((views.hosts[0], views.port), timeout=1).close()
        manifest = context.views.manifest(project.name)
    except (OSError, AnabranchError):
        return ""
    return "" if manifest is None else str(manifest.batch_version)


def _outcome(version: str, champion: bool, reason: str) -> str:
    return f"version {version} is champion" if champion else f"version {version} stays challenger: {reason}"


def _show(name: str, trained: "Trained") -> None:
    from batch.training.card import DIFFERENCE, difference_rows, rate_rows

    metrics = trained.metrics
    rows = [
        [key, value, metrics.get(f"{key}_low"), metrics.get(f"{key}_high"), metrics.get(f"train_{key}")]
        for key, value in metrics.items()
        if not key.endswith(("_low", "_high")) and not key.startswith(("train_", "rows_"))
    ]
    held_out = f"{metrics['rows_test']:,.0f} held-out rows, split {trained.split}"
    heads = ["metric", "value", "95% from", "to", "on training rows"]
    chosen = f" ({trained.chosen})" if trained.chosen else ""
    table(f"Model {name} version {trained.version}{chosen}, on {held_out}", heads, rows)
    if trained.slices:
        heads = ["feature", "part", "rows", "value", "95% from", "to"]
        table(
            "By slice", heads, [[s.feature, s.part, s.rows, s.value, s.low, s.high] for s in trained.slices]
        )
    if trained.fairness is not None:
        heads = ["feature", "part", "rows", "selection rate", "true positive rate", "false positive rate"]
        table("Fairness by slice", heads, rate_rows(trained.fairness))
        table("Differences between slices", list(DIFFERENCE), difference_rows(trained.fairness))
    audit = trained.hindsight
    if audit is not None and audit.features:
        heads = ["feature", "rows", "share"]
        changed = [[one.feature, one.rows, audit.share(one)] for one in audit.features]
        table(f"What hindsight changed: {audit.said}", heads, changed)
    checks = [[check.name, "yes" if check.passed else "no", check.said] for check in trained.checks]
    table("The gate", ["check", "passed", "found"], checks)


def evaluate(
    name: Name,
    folds: Annotated[int, typer.Option(help="Folds of each repeat.", min=2)] = 10,
    repeats: Annotated[int, typer.Option(help="How often the folds are drawn.", min=1)] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page and its JSON; <data>/evaluations by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every trainer with plain regression by repeated k-fold; choices are made inside each fold."""
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
                f"project {name!r} declares no model: add label=Label(...) and model=Model(...)"
            )
        check_model(project.model, project.task)
        wanted = TrainingJob(project=project, progress=steps, local_bytes=settings.training.local_bytes)
        rows = lake_training_set(context, wanted, context.lake.versions_read(context.spark, project))
    whole = whole_set(project, project.model, rows, settings.projects)
    compared, labels = candidates(project.model, project.task), len(whole.target)
    steps.step(f"{len(compared)} candidates on {repeats} x {folds} folds of {labels:,} labels")
    processes = len(os.sched_getaffinity(0))
    scores = evaluate_candidates(whole, compared, steps, count=folds, repeats=repeats, processes=processes)
    value: dict[str, Any] = {"project": name, "folds": folds, "repeats": repeats}
    value["candidates"] = [asdict(each) for each in scores]
    folder = out or settings.data / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page(name, scores, repeats, folds, labels), encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    if not as_json:
        metric, first = scores[0].metric, scores[0].name
        heads = ["candidate", metric, "95% interval", f"ahead of {first}", "95% interval", "s a training"]
        table(f"Candidates for {name}", heads, [cells(each) for each in scores])
    result(as_json, value, f"saved {folder / name}.md and .json")


def reproduce(name: Name, version: Version, as_json: AsJson = False) -> None:
    """Train a version again from its lake versions and compare the metrics; exit code 1 when they differ."""
    from batch.training.train import reproduce as run

    with job() as context:
        again = run(context, training_job(context, context.project(name), Steps()), version)
    if not as_json:
        rows = [[metric, *values] for metric, values in again.metrics.items()]
        table(f"Version {version} of {name}", ["metric", "recorded", "again"], rows)
    value = {
        "project": name,
        "model_version": version,
        "same": not again.different,
        "different": list(again.different),
        "metrics": again.metrics,
    }
    if as_json or not again.different:
        result(
            as_json,
            value,
            f"version {version} of {name} is reproduced: all {len(again.metrics)} metrics agree",
        )
    if again.different:
        raise AnabranchError(
            f"version {version} of {name!r} is not reproduced: {', '.join(again.different)} differ; "
            "compare the environments in its report"
        )
