"""Point-in-time features for rows of a user's own: keys and times in, those and the features out."""

import logging
import time

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.folds.spark import point_in_time
from anabranch.progress import Progress
from anabranch.stores.lake.lake import Lake
from batch.scoring.row_files import read_rows, write_rows

log = logging.getLogger(__name__)


def time_column(project: Project) -> str:
    """The name of the column that says when: the label source's time, or the first view's source's without a label."""
    return project.label.source.time if project.label else project.views[0].source.time


def features_at(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    source: str,
    out: str,
    progress: Progress,
    *,
    as_known: bool = False,
) -> int:
    """Write the rows of `source` with one column a feature, strictly before each row's time; returns how many rows.

    `as_known`: only from events that had arrived by then. Keys never seen, and rows without key or time, get the features' empty values.
    """
    started = time.monotonic()
    rows = with_time(project, read_rows(spark, source), source)
    events = lake.distinct_events(spark, project)
    progress.step(f"features of {source} into {out}")
    count = write_rows(
        point_in_time(project, events, rows, time_column(project), as_known=as_known),
        out,
        {"project": project.name, "features": project.fingerprint},
    )
    log.info("features project=%s rows=%d seconds=%.1f", project.name, count, time.monotonic() - started)
    return count


def with_time(project: Project, rows: DataFrame, place: str) -> DataFrame:
    """`rows` with their time as TIMESTAMP; raises MisuseError when a key column or the time is missing, or a name is taken."""
    wanted = [*project.keys, time_column(project)]
    missing = [name for name in wanted if name not in rows.columns]
    if missing:
        raise MisuseError(f"{place} has no column {missing[0]!r}: rows need {', '.join(wanted)}")
    taken = [column.name for column in project.columns if column.name in rows.columns]
    if taken:
        raise MisuseError(f"{place} has a column {taken[0]!r} already, which is a feature: rename or drop it")
    name = time_column(project)
    return rows.withColumn(name, F.expr(f"try_cast(`{name}` AS TIMESTAMP)"))
