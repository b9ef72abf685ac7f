"""Registration of a kept training: log it, let the gate judge it, promote it.

It resumes where it was cut off.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.progress import Progress
from anabranch.stores.models.versions import SLICES, TrainingRecord
from anabranch.stores.opened import Stores
from batch.evaluation.kept_runs import TrainingRun, forget, kept, note_registered, registered, unfinished
from batch.release.announcing import announce
from batch.release.promotion import GateVerdict, examine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A registered version, the gate's verdict, and whether the version is champion now."""

    version: str
    champion: bool
    verdict: GateVerdict
    run: TrainingRun


def register(
    stores: Stores,
    project: Project,
    folder: Path,
    progress: Progress,
    *,
    promote: bool = True,
    announces: bool = False,
) -> RegisteredVersion:
    """Log and register the run kept in `folder`, let the gate judge it, and promote it when it passed.

    The folder is removed at the end; with `announces`, devices are informed. Raises UnavailableError when the
    registry does not answer: the folder stays, and the same call finishes the work later.
    """
    run, models, metric = kept(folder), stores.models, (project.model or Model()).metric
    try:
        version = registered(folder)
        if version is None:
            progress.step(
                f"registering: {metric} {run.metrics[metric]:.4f} on {run.metrics['rows_test']:,.0f} "
                "held-out rows"
            )
            version = models.log(project, _record(run), run.fitted)
            note_registered(folder, version)
        progress.step(f"the gate: version {version}")
        verdict = examine(models, project, run, version)
        models.tag(project.name, version, verdict.tags)
        champion = promote and verdict.passed
        if champion:
            models.promote(project.name, version)
        elif promote:
            models.challenge(project.name, version)
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}; the trained model is kept in {folder}: "
            f"run 'anabranch train {project.name} --finish' to go on from there"
        ) from error
    forget(folder)
    announced = announce(models, stores.bus, project) if announces else None
    if announced is not None and announced.why:
        progress.step(announced.why)
    log.info(
        "registered project=%s version=%s champion=%s gate=%s",
        project.name,
        version,
        champion,
        verdict.reason,
    )
    return RegisteredVersion(version=version, champion=champion, verdict=verdict, run=run)


def finish(
    stores: Stores, project: Project, root: Path, progress: Progress, *, announces: bool = False
) -> list[RegisteredVersion]:
    """Register every kept training of the project below `root`, the oldest first.

    Raises MisuseError when there is none, AnabranchError for one that was trained from another declaration.
    """
    folders = unfinished(root, project.name)
    if project.model is None or not folders:
        raise MisuseError(
            f"project {project.name!r} has no unfinished training in {root}: "
            f"run 'anabranch train {project.name}'"
        )
    found = []
    for folder in folders:
        declaration = kept(folder).fingerprint
        if declaration != project.fingerprint:
            raise AnabranchError(
                f"the training kept in {folder} is of another declaration ({declaration}): "
                "remove the folder and train again"
            )
        found.append(register(stores, project, folder, progress, announces=announces))
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
