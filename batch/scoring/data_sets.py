"""Mass scoring: the scores of a data set, made in parts, so that a killed run resumes where it stopped.

The folder of a run (ledger.py) records what is finished; the result appears as a whole, at the end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.progress import Progress
from anabranch.stores.models.foreign import ForeignVersion, scoring_version
from anabranch.stores.opened import Stores
from batch.scoring.delivery import deliver, noted_in, out_form, upsert_serving
from batch.scoring.explained import check_explained
from batch.scoring.features import time_column
from batch.scoring.frames import check_names, version_inputs
from batch.scoring.input_rows import SERVING, input_rows
from batch.scoring.ledger import ScoringRun, folder_beside
from batch.scoring.parts import ScoringJob, ScoringOrder, run_scoring

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A finished mass scoring.

    `attached` names the features that were taken from the lake. `resumed` parts were finished by an earlier
    run; `again` is true when an earlier run had finished all of them.
    """

    rows: int
    version: str
    out: str
    attached: tuple[str, ...]
    seconds: float
    resumed: int = 0
    again: bool = False


def score_data_set(stores: Stores, project: Project, order: ScoringOrder, progress: Progress) -> Scored:
    """Score the rows of `order.source` into `order.out`.

    Features that the rows lack are taken from the lake by the rows' key columns. A repeated call scores
    only what an interrupted run left unfinished, and nothing when the run was finished and its input is
    known to be unchanged. Raises MisuseError when rows do not fit the model, or the output must not be
    replaced.
    """
    started = time.monotonic()
    job, form = _job(stores, project, order, progress)
    identity = _identity(job, form)
    finished = {} if form == SERVING else noted_in(stores.spark, order.out)
    if not job.moving and finished.get("identity") == identity:
        rows, resumed, again = int(str(finished["rows"])), 0, True
    else:
        (rows, resumed), again = _run(job, form, identity, finished), False
    seconds = time.monotonic() - started
    log.info(
        "scored project=%s version=%s rows=%d resumed=%d again=%s seconds=%.1f",
        *(project.name, job.scorer.version, rows, resumed, again, seconds),
    )
    return Scored(
        rows=rows,
        version=job.scorer.version,
        out=order.out,
        attached=job.missing,
        seconds=seconds,
        resumed=resumed,
        again=again,
    )


def _job(stores: Stores, project: Project, order: ScoringOrder, progress: Progress) -> tuple[ScoringJob, str]:
    """The checked job, and the form of its result."""
    form = out_form(stores.spark, order.out, order.form)
    scorer = scoring_version(stores.models, project, order.version)
    version_inputs(project, scorer)
    if order.explain and form == SERVING:
        raise MisuseError(
            "current rows have no columns for explanations: give --out PATH, or leave out --explain"
        )
    order = replace(order, pyfunc=order.pyfunc or isinstance(scorer, ForeignVersion))
    rows = input_rows(stores, project, order.source)
    check_names(project, rows.frame.columns)
    if order.explain:
        check_explained(project, scorer, rows.frame.columns)
    missing = tuple(name for name in scorer.features if name not in rows.frame.columns)
    own_times = bool(missing) and order.join and order.at is None
    if own_times and time_column(project) not in rows.frame.columns:
        raise MisuseError(
            f"{order.source} has no column {time_column(project)!r}, the time of a row that its features are "
            "joined at: add it, or leave out --join-features for features as of now"
        )
    job = ScoringJob(
        stores=stores,
        project=project,
        scorer=scorer,
        order=order,
        rows=rows,
        missing=missing,
        own_times=own_times,
        progress=progress,
    )
    return job, form


def _run(
    job: ScoringJob, form: str, identity: Mapping[str, object], finished: Mapping[str, object]
) -> tuple[int, int]:
    """Score and deliver; the number of rows, and of parts that an earlier run had finished."""
    spark, project, out = job.stores.spark, job.project, job.order.out
    root = job.stores.lake.settings.root.rstrip("/")
    folder = f"{root}/{project.name}/scoring/serving" if form == SERVING else folder_beside(spark, out)
    run = ScoringRun(spark, folder, identity, moving=job.moving)
    if finished.get("run") == run.id:  # killed after the result was delivered and before the run was dropped
        run.drop()
        run = ScoringRun(spark, folder, identity, moving=job.moving)
    rows, resumed = run_scoring(job, run)
    if form == SERVING:
        rows = upsert_serving(job.stores, run, project, job.progress)
    else:
        about = {
            "written_by": "anabranch score",
            "project": project.name,
            "model_version": job.scorer.version,
            "rows": rows,
            "identity": identity,
            "run": run.id,
        }
        deliver(spark, run, out, form, about)
    run.drop()
    return rows, resumed


def _identity(job: ScoringJob, form: str) -> Mapping[str, object]:
    """What must be equal for one run to continue another."""
    order, project, stores = job.order, job.project, job.stores
    fixed = bool(job.missing) and (order.at is not None or job.own_times)
    return {
        "source": order.source,
        "digest": job.rows.digest,
        "attached": list(job.missing),
        "at": None if not job.missing else "own" if job.own_times else order.at,
        "lake": stores.lake.versions_read(stores.spark, project) if fixed else None,
        "declaration": project.fingerprint,
        "version": job.scorer.version,
        "model": stores.models.uri(project.name, job.scorer.version),
        "keep": None if order.keep is None else list(order.keep),
        "form": form,
        "pyfunc": order.pyfunc,
        "explain": dict(project.model.reasons) if order.explain and project.model else order.explain,
    }
