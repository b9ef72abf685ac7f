"""Features of a user's own rows from the lake: as of each row's time, or all as of one moment."""

import logging
import time
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.folds.spark import point_in_time
from anabranch.progress import Progress
from anabranch.stores.opened import Stores
from anabranch.values.names import folded, quoted
from anabranch.values.times import from_micros
from batch.scoring.row_files import read_rows, write_rows

log = logging.getLogger(__name__)
_AT, _GIVEN = "_at", "_given"


def time_column(project: Project) -> str:
    """The column of a row's time, named as in the label's source, or without a label in the first view's."""
    return project.label.source.time if project.label else project.views[0].source.time


def features_at(
    stores: Stores, project: Project, source: str, out: str, progress: Progress, *, as_known: bool = False
) -> int:
    """Write the rows of `source` with a column for each feature; returns their number.

    Features are strictly before each row's time; with `as_known`, only of events that had arrived by then.
    Unknown keys, and rows without a key or time, get the features of no events.
    """
    started = time.monotonic()
    rows = with_time(project, read_rows(stores.spark, source), source)
    events = stores.lake.distinct_events(stores.spark, project)
    progress.step(f"features of {source} into {out}")
    features = point_in_time(project, events, rows, time_column(project), as_known=as_known)
    count = write_rows(features, out, {"project": project.name, "features": project.fingerprint})
    log.info("features project=%s rows=%d seconds=%.1f", project.name, count, time.monotonic() - started)
    return count


def with_time(project: Project, rows: DataFrame, place: str) -> DataFrame:
    """`rows` with their time as TIMESTAMP. Raises MisuseError when a column is missing or a feature."""
    needed = [*project.keys, time_column(project)]
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise MisuseError(f"{place} has no column {missing[0]!r}: rows need {', '.join(needed)}")
    there = {folded(name) for name in rows.columns}
    taken = [column.name for column in project.columns if column.name in there]
    if taken:
        raise MisuseError(f"{place} has a column {taken[0]!r} already, which is a feature: rename or drop it")
    name = time_column(project)
    return rows.withColumn(name, F.expr(f"try_cast({quoted(name)} AS TIMESTAMP)"))


def attach_features(
    stores: Stores, project: Project, rows: DataFrame, names: Sequence[str], at: int | None
) -> DataFrame:
    """`rows` with the feature columns `names` of their keys, from the lake's events strictly before `at`.

    `at` is in microseconds; None means each row's own time, in the column that `time_column` names.
    """
    absent = [name for name in project.keys if name not in rows.columns]
    if absent:
        raise MisuseError(
            f"the rows lack the features {', '.join(names)} "
            f"and the key column {absent[0]!r} to look them up with: "
            f"give all features, or all of {', '.join(project.keys)}"
        )
    views = tuple(view for view in project.views if {column.name for column in view.columns} & set(names))
    needed = Project(name=project.name, views=views)
    events = stores.lake.distinct_events(stores.spark, needed)
    own_time = F.expr(f"try_cast({quoted(time_column(project))} AS TIMESTAMP)")
    moment = own_time if at is None else F.lit(from_micros(at))
    # A column of the rows may have any name, also that of a feature of the same views: only the key stays
    # outside of the struct while features are attached.
    given = F.struct(*[F.col(quoted(name)) for name in rows.columns]).alias(_GIVEN)
    asked = rows.select(*[F.col(quoted(name)) for name in project.keys], moment.alias(_AT), given)
    known = point_in_time(needed, events, asked, _AT)
    return known.select(f"{_GIVEN}.*", *[F.col(quoted(name)) for name in names])
