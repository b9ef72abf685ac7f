"""Mass scoring: a data set with the score of a model version, part by part, so that whoever is killed goes on where he was.

What is done of a run is known from its folder (scoring_runs.py); the result appears whole, at the end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.progress import Progress
from anabranch.stores.cassandra.views import Views
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.foreign import ForeignVersion, scoring_version
from anabranch.stores.models.registry import Models
from batch.scoring.delivery import deliver, into_serving, marked, out_form
from batch.scoring.features import time_column
from batch.scoring.frames import check_names, version_inputs
from batch.scoring.given import SERVING, given_rows
from batch.scoring.ledger import ScoringRun, folder_beside
from batch.scoring.work import ScoringOrder, ScoringWork, Wanted, run_scoring
from batch.settings import ScoringSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A finished mass scoring: what was written where. `resumed` parts were there from an earlier run; `again`: all of it was."""

    rows: int
    version: str
    out: str
    attached: tuple[str, ...]
    seconds: float
    resumed: int = 0
    again: bool = False


def score_path(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    source: str | Path,
    out: str | Path,
    version: str | None,
    progress: Progress,
    *,
    at: int | None = None,
    order: ScoringOrder | None = None,
    sizes: ScoringSettings | None = None,
    serving: Views | None = None,
) -> Scored:
    """Score the data set `source` into `out` with `version` (the champion when None); both may be ``serving``.

    Feature columns that the rows lack are taken from the lake, when the rows have the project's key columns. ScoringRun again after it
    was cut off, it scores only what is not finished; run again after it was done, nothing, if that can be told.
    """
    started = time.monotonic()
    order = replace(order or ScoringOrder(), version=version, at=at)
    form = out_form(spark, str(out), order.form)
    scorer = scoring_version(models, project, version)
    version_inputs(project, scorer)
    order = replace(order, pyfunc=order.pyfunc or isinstance(scorer, ForeignVersion))
    work = ScoringWork(
        spark=spark,
        lake=lake,
        models=models,
        project=project,
        scorer=scorer,
        order=order,
        sizes=sizes or ScoringSettings(),
        progress=progress,
    )
    given = given_rows(spark, project, str(source), serving)
    check_names(project, given.rows.columns)
    missing = tuple(name for name in scorer.features if name not in given.rows.columns)
    own_times = bool(missing) and order.join and at is None and time_column(project) in given.rows.columns
    wanted = Wanted(given=given, source=str(source), missing=missing, own_times=own_times)
    identity = _identity(work, wanted, form)
    moving = given.digest is None or (bool(missing) and at is None and not own_times)
    folder = (
        f"{lake.settings.root.rstrip('/')}/{project.name}/scoring/serving"
        if form == SERVING
        else folder_beside(spark, str(out))
    )
    done = {} if form == SERVING else marked(spark, str(out))
    if not moving and done.get("identity") == identity:
        return Scored(
            rows=int(str(done["rows"])),
            version=scorer.version,
            out=str(out),
            attached=missing,
            seconds=time.monotonic() - started,
            again=True,
        )
    run = ScoringRun(spark, folder, identity, moving=moving)
    if done.get("run") == run.id:  # delivered, and cut off before it was forgotten
        run.drop()
        run = ScoringRun(spark, folder, identity, moving=moving)
    rows, resumed = run_scoring(work, run, wanted)
    if form == SERVING:
        if serving is None:
            raise MisuseError(
                "scores cannot go into the serving table without its address: give the views' settings"
            )
        rows = into_serving(spark, run, serving, project, progress)
    else:
        about = {
            "written_by": "anabranch score",
            "project": project.name,
            "model_version": scorer.version,
            "rows": rows,
        }
        deliver(spark, run, str(out), form, {**about, "identity": identity, "run": run.id})
    run.drop()
    seconds = time.monotonic() - started
    log.info(
        "scored project=%s version=%s rows=%d resumed=%d seconds=%.1f",
        project.name,
        scorer.version,
        rows,
        resumed,
        seconds,
    )
    return Scored(
        rows=rows, version=scorer.version, out=str(out), attached=missing, seconds=seconds, resumed=resumed
    )


def _identity(work: ScoringWork, wanted: Wanted, form: str) -> Mapping[str, object]:
    """What makes two runs the same one."""
    order, project = work.order, work.project
    lake = (
        work.lake.versions(work.spark, project)
        if wanted.missing and (order.at is not None or wanted.own_times)
        else None
    )
    at = None if not wanted.missing else "own" if wanted.own_times else order.at
    rows = {
        "source": wanted.source,
        "digest": wanted.given.digest,
        "attached": list(wanted.missing),
        "at": at,
        "lake": lake,
    }
    model = {
        "declaration": project.fingerprint,
        "version": work.scorer.version,
        "model": work.models.uri(project.name, work.scorer.version),
    }
    return {
        **rows,
        **model,
        "keep": None if order.keep is None else list(order.keep),
        "form": form,
        "pyfunc": order.pyfunc,
    }
