"""Verbs about the version that serves, and where else it goes: models, promote, export."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from jobs.cli.options import AsJson, Champion, Name, Version
from jobs.show import Steps, picked, result, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.wiring.context import Context

_COMPARED_DAYS = 30


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (models, promote, export):
        app.command()(verb)


def models(
    name: Name,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="How versions on trial compared with the champion, in the last 30 days."
        ),
    ] = False,
    facts: Annotated[
        str | None,
        typer.Option("--facts", metavar="VERSION", help="The fact sheet of a version, or of `champion`."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List model versions with the gate's verdicts; how trials compared; or what is known of one version."""
    with job() as context:
        project = context.project(name)
        if compare:
            _compare(context, name, as_json)
            return
        if facts is not None:
            _facts(context, name, facts, as_json)
            return
        entries = context.models.list(name)
    declared = project.model.metric if project.model else ""
    if not as_json:
        rows = [
            [
                each.version,
                ", ".join(each.aliases),
                each.created,
                _metric(each.metrics, each.parameters.get("metric", declared)),
                each.gate,
                each.reason,
            ]
            for each in entries
        ]
        table(f"Models of {name}", ["version", "aliases", "trained", "metric", "gate", "reason"], rows)
    listed = [
        {
            **picked(each, "version gate reason"),
            "aliases": list(each.aliases),
            "metrics": dict(each.metrics),
            "checks": list(each.checks),
        }
        for each in entries
    ]
    result(as_json, {"project": name, "models": listed}, f"{len(entries)} versions")


def _facts(context: "Context", name: str, wanted: str, as_json: bool) -> None:
    """Show the fact sheet that the training of a version left."""
    champion = context.models.champion(name) if wanted == "champion" else wanted
    if champion is None:
        raise AnabranchError(f"{name} has no champion: name a version (anabranch models {name})")
    files = [f"report/fact_sheet.{kind}" for kind in ("json", "md")]
    found = context.models.files(name, champion, files)
    if len(found) < len(files):
        raise AnabranchError(
            f"version {champion} of {name} has no fact sheet: it was registered outside Anabranch, or "
            "trained by a release before 0.8.0"
        )
    value = {"version": champion, **json.loads(found[files[0]])}
    result(as_json, value, found[files[1]].decode().rstrip())


def _metric(metrics: Any, name: str) -> str:
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"{name} {metrics[name]:.4f}{interval}"


def _compare(context: "Context", name: str, as_json: bool) -> None:
    from anabranch.stores.cassandra.measures import by_outcomes
    from batch.release.trials import compared

    since = datetime.now(tz=UTC) - timedelta(days=_COMPARED_DAYS)
    trials = [asdict(each) for each in compared(context.measures, name, since)]
    if not as_json:
        shown = {
            "kind": "tried",
            "version": "version",
            "champion": "champion",
            "rows": "requests",
            "mean_difference": "mean difference",
            "mean_apart": "mean apart",
            "p99_apart": "p99 apart",
            "flips": "labels flipped",
            "p99_ms": "p99 ms",
        }
        rows = [
            [*(each[key] for key in shown), each["last"].isoformat(timespec="seconds")] for each in trials
        ]
        table(f"Versions of {name} tried on live requests", [*shown.values(), "until"], rows)
    outcomes = by_outcomes(context.measures.latest(name))
    if outcomes and not as_json:
        shown = {
            "version": "version",
            "beside": "champion",
            "labels": "labels",
            "tried": "its metric",
            "champion": "the champion's",
            "gain": "gain",
            "gain_low": "95% from",
            "gain_high": "to",
            "needed": "labels still needed",
        }
        rows = [[each.get(key) for key in shown] for each in outcomes]
        table(f"Versions of {name} on trial, by labels that came", list(shown.values()), rows)
    nothing = f"nothing was compared: 'anabranch promote {name} VERSION --shadow' begins a trial"
    value = {"project": name, "compared": trials, "by_outcomes": outcomes}
    result(as_json, value, f"{len(trials)} comparisons" if trials else nothing)


def promote(
    name: Name,
    version: Version,
    force: Annotated[
        bool, typer.Option("--force", help="Promote a version that the gate refused; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; kept with the version.")] = None,
    without_parity: Annotated[
        bool,
        typer.Option(
            "--without-parity", help="Even if its forms contradict each other; needs --force --reason."
        ),
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="A trial: also score live requests with it, after they are answered."),
    ] = False,
    canary: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="A trial: it answers this share of the keys, such as 10%."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model version the champion, which ends a trial; or try it on live requests."""
    from batch.release.announcing import announce
    from batch.release.promotion import promote as run
    from jobs.flows.building import score_current_rows

    if force != bool(reason and reason.strip()):
        raise MisuseError(
            "--force and --reason TEXT belong together: a promotion past the gate is kept with its reason"
        )
    if without_parity and not force:
        raise MisuseError(
            "--without-parity goes with --force and --reason TEXT: it lets a model contradict itself"
        )
    share = None if canary is None else _share(canary)
    trial = shadow or share is not None
    if trial and (force or (shadow and share is not None)):
        raise MisuseError(
            "--shadow and --canary SHARE each stand alone: a trial promotes nothing, "
            "so there is nothing to force"
        )
    with job() as context:
        project = context.project(name)
        if trial:
            _try_out(context, project, version, share, as_json)
            return
        run(context.models, project, version, reason=reason, without_parity=without_parity)
        announced = announce(context.models, context.bus, project)
        score_current_rows(context, project, Steps())
    forced, why = " (forced)" if force else "", f"; {announced.why}" if announced.why else ""
    value = {"project": name, "champion": version, "reason": reason, "devices_told": not announced.why}
    text = f"version {version} of {name} is champion{forced}{why}"
    result(as_json, value, f"{text}\nNext: anabranch export {name} DIR")


def _try_out(context: "Context", project: Project, version: str, share: float | None, as_json: bool) -> None:
    from anabranch.stores.models.roles import CANARY, SHADOW
    from batch.release.trials import try_out

    kind, part = (SHADOW, 1.0) if share is None else (CANARY, share)
    trial = try_out(context.models, project, version, kind, part)
    champion = context.models.champion(project.name)
    value = {
        "project": project.name,
        "model_version": version,
        "trial": trial.kind,
        "champion": champion,
        **picked(trial, "share since"),
    }
    text = f"version {version} of {project.name} is tried: {trial.described}"
    ends = f"'anabranch promote {project.name} {champion}' ends it"
    result(as_json, value, f"{text}; {ends}\nNext: anabranch models {project.name} --compare")


def _share(text: str) -> float:
    """The share that ``10%`` or ``0.1`` names."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise MisuseError(f"--canary {text!r} is not a share: write 10% or 0.1") from error


def export(
    name: Name,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="Folder to write, here, hdfs://... or s3a://...; one here is replaced."
        ),
    ],
    version: Champion = None,
    as_json: AsJson = False,
) -> None:
    """Write the edge bundle of a model version: ONNX, features, model card and a runner without Spark."""
    from anabranch.stores.files.hdfs import Hdfs
    from anabranch.stores.files.objects import is_object
    from batch.release.announcing import announce
    from batch.release.exporting import export as run

    with job() as context:
        project, steps, files = context.project(name), Steps(), Hdfs(context.settings.files)
        bundle = run(context.models, project, folder, version, steps, files)
        remote = "://" in bundle.place
        announced = announce(context.models, context.bus, project) if remote else None
        if announced is not None and announced.why:
            steps.step(announced.why)
    if not as_json:
        title = f"Edge bundle of {name} version {bundle.version}"
        table(title, ["file", "SHA-256"], [list(each) for each in bundle.files.items()])
    value = {
        "project": name,
        "model_version": bundle.version,
        "bundle": bundle.place,
        "manifest_sha256": bundle.sha256,
        "files": bundle.files,
    }
    get = f"anabranch files get {bundle.place} LOCAL"
    if is_object(bundle.place):
        get = f"copy {bundle.place} to the device, MANIFEST.json last, with the store's own client"
    run_it = f"echo '{{}}' | python {bundle.place}/run.py"
    text = f"version {bundle.version} of {name} is in {bundle.place}"
    result(as_json, value, f"{text}\nNext: {get if remote else run_it}")
