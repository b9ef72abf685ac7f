"""Verbs about which version serves, and where else it goes: models, promote, export."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.errors import MisuseError
from jobs.cli.options import AsJson, Name, Version
from jobs.show import Steps, result, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.wiring.context import Context

Canary = Annotated[
    str | None,
    typer.Option(
        "--canary",
        metavar="SHARE",
        help="Let it answer this share of the keys, such as 10%, instead of promoting it.",
    ),
]
_DAYS = 30


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (models, promote, export):
        app.command()(verb)


def models(
    name: Name,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="How tried versions did on live requests beside the champion, in the last 30 days.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the model versions of a project, with what the gate said of each, or how tried ones did."""
    with job() as context:
        project = context.project(name)
        if compare:
            _compare(context, name, as_json)
            return
        found = context.models.list(project.name)
    metric = project.model.metric if project.model else ""
    if not as_json:
        rows = [
            [
                m.version,
                ", ".join(m.aliases),
                m.created,
                _value(m.metrics, m.parameters.get("metric", metric)),
                m.gate,
                m.reason,
            ]
            for m in found
        ]
        table(f"Models of {name}", ["version", "aliases", "trained", "metric", "gate", "reason"], rows)
    value = {
        "project": name,
        "models": [
            {
                "version": m.version,
                "aliases": list(m.aliases),
                "metrics": dict(m.metrics),
                "gate": m.gate,
                "reason": m.reason,
                "checks": list(m.checks),
            }
            for m in found
        ],
    }
    result(as_json, value, f"{len(found)} versions")


def _value(metrics: Any, name: str) -> str:
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return f"{name} {metrics[name]:.4f}" + (
        "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    )


def _compare(context: "Context", name: str, as_json: bool) -> None:
    from batch.release.trials import compared

    found = compared(context.measures, name, datetime.now(tz=UTC) - timedelta(days=_DAYS))
    if not as_json:
        heads = [
            "tried",
            "version",
            "champion",
            "requests",
            "mean difference",
            "mean apart",
            "p99 apart",
            "labels flipped",
            "p99 ms",
            "until",
        ]
        rows = [
            [
                c.kind,
                c.version,
                c.champion,
                c.rows,
                c.mean_difference,
                c.mean_apart,
                c.p99_apart,
                c.flips,
                c.p99_ms,
                c.last.isoformat(timespec="seconds"),
            ]
            for c in found
        ]
        table(f"Versions of {name} tried on live requests", heads, rows)
    nothing = f"nothing was compared: 'anabranch promote {name} VERSION --shadow' begins a trial"
    result(
        as_json,
        {"project": name, "compared": [asdict(one) for one in found]},
        f"{len(found)} comparisons" if found else nothing,
    )


def promote(
    name: Name,
    version: Version,
    force: Annotated[
        bool, typer.Option("--force", help="Promote a version that the gate refused; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, kept with the version.")] = None,
    without_parity: Annotated[
        bool,
        typer.Option(
            "--without-parity", help="Even when its forms contradict each other; needs --force --reason."
        ),
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow",
            help="Score live requests with it too, after they are answered, instead of promoting it.",
        ),
    ] = False,
    canary: Canary = None,
    as_json: AsJson = False,
) -> None:
    """Make a model version the champion, which ends a trial; or try it on live requests."""
    from batch.release.announcing import announce
    from batch.release.promotion import promote as run

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
            "--shadow and --canary SHARE each stand alone: a trial promotes nothing, so there is nothing to force"
        )
    with job() as context:
        if trial:
            _try_out(context, name, version, share, as_json)
            return
        project = context.project(name)
        run(context.models, project, version, reason=reason, without_parity=without_parity)
        told = announce(context.models, context.bus, project)
    said = (
        f"version {version} of {name} is champion"
        + (" (forced)" if force else "")
        + (f"; {told.why}" if told.why else "")
    )
    value = {"project": name, "champion": version, "reason": reason, "devices_told": not told.why}
    result(as_json, value, f"{said}\nNext: anabranch export {name} DIR")


def _try_out(context: "Context", name: str, version: str, share: float | None, as_json: bool) -> None:
    from anabranch.stores.models.roles import CANARY, SHADOW
    from batch.release.trials import try_out

    project = context.project(name)
    trial = try_out(
        context.models, project, version, SHADOW if share is None else CANARY, 1.0 if share is None else share
    )
    champion = context.models.champion(name)
    said = f"version {version} of {name} is tried: {trial.described}; 'anabranch promote {name} {champion}' ends it"
    value = {
        "project": name,
        "model_version": version,
        "trial": trial.kind,
        "share": trial.share,
        "champion": champion,
        "since": trial.since,
    }
    result(as_json, value, f"{said}\nNext: anabranch models {name} --compare")


def _share(text: str) -> float:
    """``10%`` or ``0.1``."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise MisuseError(f"--canary {text!r} is no share: write 10% or 0.1") from error


def export(
    name: Name,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Folder to write, on this machine or hdfs://...; a bundle that is there is replaced.",
        ),
    ],
    version: Annotated[str | None, typer.Option(help="Model version; the champion by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the edge bundle of a model version: ONNX, features, model card, and a runner that needs numpy and onnxruntime alone."""
    from anabranch.stores.files.hdfs import Hdfs
    from batch.release.announcing import announce
    from batch.release.exporting import export as run

    with job() as context:
        project, files = context.project(name), Hdfs(context.settings.files)
        found = run(context.models, project, folder, version, Steps(), files)
        if found.place.startswith("hdfs://"):
            told = announce(context.models, context.bus, project)
            if told.why:
                Steps().step(told.why)
    value = {
        "project": name,
        "model_version": found.version,
        "bundle": found.place,
        "manifest_sha256": found.sha256,
        "files": found.files,
    }
    if not as_json:
        table(
            f"Edge bundle of {name} version {found.version}",
            ["file", "SHA-256"],
            list(map(list, found.files.items())),
        )
    run_it = (
        f"anabranch files get {found.place} LOCAL"
        if found.place.startswith("hdfs://")
        else f"echo '{{}}' | python {found.place}/run.py"
    )
    result(as_json, value, f"version {found.version} of {name} is in {found.place}\nNext: {run_it}")
