"""Features of a user's own rows from the lake: as of each row's time, or all as of one moment."""

import logging
import time
from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.cells import named
from anabranch.events.given_rows import read_columns
from anabranch.folds.spark import (
    counted_sights,
    known_columns,
    point_in_time,
    request_columns,
    sights,
    with_derived,
)
from anabranch.progress import Progress
from anabranch.stores.opened import Stores
from anabranch.values.names import folded, quoted
from anabranch.values.times import from_micros
from anabranch.values.types import TIMESTAMP, DataType
from batch.evaluation.hindsight import said_late
from batch.scoring.row_files import SPARK_ERRORS, fault_of_rows, read_rows, write_rows
from batch.training.training_sets import check_arrived

log = logging.getLogger(__name__)
_AT, _GIVEN, _OWN = "_at", "_given", "_brought"


def time_column(project: Project) -> str:
    """The column of a row's time, named as in the label's source, or without a label in the first view's."""
    return project.label.source.time if project.label else project.views[0].source.time


def features_at(
    stores: Stores, project: Project, source: str, out: str, progress: Progress, *, as_known: bool = False
) -> int:
    """Write the rows of `source` with a column for each feature; returns their number.

    Rows have the columns of the request. Features are strictly before each row's time; with `as_known`, only
    of events that had arrived by then. Keys and times are read as landing reads them, and come back as what
    was read. Unknown keys, and rows without a key or time, get the features of no events. Raises MisuseError
    for one that cannot be read, and AnabranchError where nothing at all had arrived by any row's time.
    """
    started = time.monotonic()
    rows = typed_rows(project, read_rows(stores.spark, source), source)
    events = stores.lake.distinct_events(stores.spark, project)
    progress.step(f"features of {source} into {out}")
    about, counted = {"project": project.name, "features": project.fingerprint}, Observation()
    try:
        found = _as_known(project, events, rows, counted) if as_known else _before(project, events, rows)
        count = write_rows(with_derived(project, found), out, about)
    except SPARK_ERRORS as error:
        raise fault_of_rows(error, source) or error from error
    if as_known and count:
        progress.step(said_late(counted.get["late"] or 0, counted.get["events"] or 0, "row"))
    log.info("features project=%s rows=%d seconds=%.1f", project.name, count, time.monotonic() - started)
    return count


def _before(project: Project, events: Mapping[str, DataFrame], rows: DataFrame) -> DataFrame:
    return point_in_time(project, events, rows, time_column(project))


def _as_known(
    project: Project, events: Mapping[str, DataFrame], rows: DataFrame, counted: Observation
) -> DataFrame:
    """Features from what had arrived; `counted` learns how many events had, when the frame is computed."""
    at = time_column(project)
    (latest,) = rows.agg(F.max(F.unix_micros(named(at))).alias("latest")).collect()
    check_arrived(project, events, latest["latest"])
    found, names = sights(project, events, rows, at, trust_files=True)
    events_, late, _ = counted_sights(names)
    told = found.withColumns({"_events": events_, "_late": late})
    observed = told.observe(counted, F.sum("_events").alias("events"), F.sum("_late").alias("late"))
    return observed.withColumns(known_columns(project, events, names)).drop("_events", "_late", *names)


def typed_rows(project: Project, rows: DataFrame, place: str) -> DataFrame:
    """`rows` with their key and time typed. Raises MisuseError when a column is missing or a feature."""
    required = [column.name for column in project.request_columns if column.required]
    needed = [*project.keys, time_column(project), *required]
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise MisuseError(f"{place} has no column {missing[0]!r}: rows need {', '.join(needed)}")
    there = {folded(name) for name in rows.columns}
    taken = [column.name for column in project.columns if column.name in there]
    if taken:
        raise MisuseError(f"{place} has a column {taken[0]!r} already, which is a feature: rename or drop it")
    return with_request(project, rows, {**project.key_types, **_time(project)})


def with_request(project: Project, rows: DataFrame, kinds: Mapping[str, DataType]) -> DataFrame:
    """The rows with their columns `kinds` and those of the request typed, or its defaults.

    Raises MisuseError when a column of the request without a default is missing.
    """
    missing = [one.name for one in project.request_columns if one.required and one.name not in rows.columns]
    if missing:
        raise MisuseError(
            f"the rows lack the request's column {missing[0]!r}, which has no default: add it to them"
        )
    there = {one.name: one.type for one in project.request_columns if one.name in rows.columns}
    read = read_columns(rows, {**kinds, **there})
    typed = rows.withColumns(read) if read else rows
    rest = [
        value
        for one, value in zip(project.request_columns, request_columns(project, typed), strict=True)
        if one.name not in there
    ]
    return typed.select("*", *rest)


def looked_up(project: Project, rows: DataFrame, at: int | None) -> dict[str, DataType]:
    """The columns by which features are looked up for `rows`, and the types that they are read as."""
    absent = [name for name in project.keys if name not in rows.columns]
    if absent:
        raise MisuseError(
            f"the rows lack the key column {absent[0]!r} to look features up with: "
            f"give all features, or all of {', '.join(project.keys)}"
        )
    return {**project.key_types, **(_time(project) if at is None else {})}


def _time(project: Project) -> dict[str, DataType]:
    return {time_column(project): TIMESTAMP}


def attach_features(
    stores: Stores, project: Project, rows: DataFrame, names: Sequence[str], at: int | None
) -> DataFrame:
    """`rows` with the columns `names` that they lack: features, derived features, defaults of the request.

    Features of the rows' keys are from the lake's events strictly before `at`, in microseconds; None means
    each row's own time, in the column that `time_column` names. Derived features are over what the rows have
    and what they lack.
    """
    if project.asks(names):
        rows = with_request(project, rows, {})
    names = [name for name in names if name not in rows.columns]
    derived = [name for name in names if name in project.derived]
    read = project.needed(names)
    own = [name for name in read if name in rows.columns and name in project.inputs] if derived else []
    lacking = read - {*own}
    views = tuple(view for view in project.views if {column.name for column in view.columns} & lacking)
    keyed = bool(views) or not lacking.isdisjoint(project.keys)
    known_by = read_columns(rows, looked_up(project, rows, at)) if keyed else {}
    moment = known_by.pop(time_column(project)) if keyed and at is None else F.lit(from_micros(at or 0))
    # A column of the rows may have any name, also that of a feature of the same views: only the key as it is
    # read stays outside of the struct while features are attached.
    given = F.struct(*[named(name) for name in rows.columns]).alias(_GIVEN)
    typed = read_columns(rows, {name: project.inputs[name] for name in own})
    asked = rows.select(
        *[value.alias(name) for name, value in known_by.items()],
        moment.alias(_AT),
        *([F.struct(*[value.alias(name) for name, value in typed.items()]).alias(_OWN)] if own else []),
        given,
    )
    if views:
        needed = Project(name=project.name, views=views)
        asked = point_in_time(needed, stores.lake.distinct_events(stores.spark, needed), asked, _AT)
    own_columns = {name: F.col(f"{_OWN}.{quoted(name)}") for name in own}
    known = with_derived(project, asked.withColumns(own_columns) if own else asked, derived)
    return known.select(f"{_GIVEN}.*", *[named(name) for name in names])
