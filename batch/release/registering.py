"""A kept training into the registry, through the gate; again from where it stopped when the registry was away."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.progress import Progress
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.models.registry import Models, TrainingRecord
from anabranch.stores.models.versions import SLICES
from batch.evaluation.kept_runs import TrainingRun, forget, kept, note_registered, registered, unfinished
from batch.release.announcing import announce
from batch.release.promotion import GateVerdict, examine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A version, what the gate said of it, and whether it is champion now."""

    version: str
    champion: bool
    verdict: GateVerdict
    run: TrainingRun


def register(
    models: Models,
    project: Project,
    model: Model,
    folder: Path,
    progress: Progress,
    *,
    promote: bool = True,
    bus: Bus | None = None,
) -> RegisteredVersion:
    """Log and register the run kept in `folder`, let the gate judge it, promote it when it passed; then the folder goes.

    Devices are told through `bus`; None tells nobody.

    Raises UnavailableError when the registry is away: the folder stays, and the same call finishes the work later.
    """
    run = kept(folder)
    try:
        version = registered(folder)
        if version is None:
            progress.step(
                f"registering: {model.metric} {run.metrics[model.metric]:.4f} on {run.metrics['rows_test']:,.0f} held-out rows"
            )
            version = models.log(project, _record(run), run.fitted)
            note_registered(folder, version)
        progress.step(f"the gate: version {version}")
        verdict = examine(models, project, model, run, version)
        models.tag(project.name, version, verdict.tags)
        champion = promote and verdict.passed
        if champion:
            models.promote(project.name, version)
        elif promote:
            models.challenge(project.name, version)
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}; the trained model is kept in {folder}: run 'anabranch train {project.name} --finish' to go on from there"
        ) from error
    forget(folder)
    told = announce(models, bus, project) if bus is not None else None
    if told is not None and told.why:
        progress.step(told.why)
    log.info(
        "registered project=%s version=%s champion=%s gate=%s",
        project.name,
        version,
        champion,
        verdict.reason,
    )
    return RegisteredVersion(version=version, champion=champion, verdict=verdict, run=run)


def finish(
    models: Models, project: Project, root: Path, progress: Progress, bus: Bus | None = None
) -> list[RegisteredVersion]:
    """Register every kept training of the project, the oldest first. Raises MisuseError when there is none."""
    folders = unfinished(root, project.name)
    if project.model is None or not folders:
        raise MisuseError(
            f"project {project.name!r} has no unfinished training in {root}: run 'anabranch train {project.name}'"
        )
    found = []
    for folder in folders:
        made_from = kept(folder).fingerprint
        if made_from != project.fingerprint:
            raise AnabranchError(
                f"the training kept in {folder} is of another declaration ({made_from}): remove the folder and train again"
            )
        found.append(register(models, project, project.model, folder, progress, bus=bus))
    return found


def _record(run: TrainingRun) -> TrainingRecord:
    return TrainingRecord(
        metrics={**run.metrics, **_slice_metrics(run)},
        parameters=run.parameters,
        lake_versions=run.lake_versions,
        example=run.example,
        tags=run.tags,
        report=run.report,
        trials=run.trials,
    )


def _slice_metrics(run: TrainingRun) -> Mapping[str, float]:
    """``slices/<feature>/<part>``: the declared metric; MLflow takes plain characters only."""
    metrics = {}
    for one in run.slices:
        name = f"{SLICES}{one.feature}/{re.sub(r'[^A-Za-z0-9_. -]', '_', one.part)}"[:200]
        metrics[f"{name}/rows"] = float(one.rows)
        if one.value is not None:
            metrics[f"{name}/value"] = one.value
    return metrics
