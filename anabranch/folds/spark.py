"""Declarations compiled to Spark, DataFrame to DataFrame. No other module of the pure layers imports pyspark.

Aggregate expressions from the blocks' SQL build a batch's grains and the stream's tiles. Batch rows and
training sets use the blocks' numpy functions over sorted Arrow batches (arrow.py). Beside columns of users
ours begin with an underscore, as no column of a source does (values/names.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.folds.arrow import (
    ARRIVAL,
    FLAG,
    OWN,
    as_blobs,
    as_lists,
    key_names,
    over_keys,
    read_grains,
    training_rows,
)
from anabranch.folds.grains import fitting, fold, merged, start_sql
from anabranch.folds.packing import LARGEST
from anabranch.states.blocks import REFERENCE, TIME, TIME_ELEMENT
from anabranch.values.keys import SEPARATOR
from anabranch.values.names import PRIVATE, folded, quoted


def key_column(keys: tuple[str, ...]) -> Column:
    """The stored text of a key (values/keys.py); NULL when any of its columns is."""
    parts = [F.col(quoted(name)).cast("string") for name in keys]
    return (
        parts[0]
        if len(parts) == 1
        else F.concat(*[piece for part in parts for piece in (F.lit(SEPARATOR), part)][1:])
    )


def keyed(view: FeatureView, events: DataFrame) -> DataFrame:
    """Events of the view's source with `_key` and `_event_micros`, without those that lack the view's key."""
    stamped = events.withColumn("_key", key_column(view.keys)).withColumn(
        TIME, F.unix_micros(F.col(quoted(view.source.time)).cast("timestamp"))
    )
    return stamped.where("_key IS NOT NULL")


def state_columns(view: FeatureView) -> list[Column]:
    """Aggregate expressions `_state` ARRAY<DOUBLE> and `_extra` ARRAY<BINARY> over the rows of `keyed`."""
    extras = [F.expr(extra.sql()) for extra in view.layout.extras]
    return [
        F.array(*[F.expr(text) for text in view.layout.sql()]).alias("_state"),
        (F.array(*extras) if extras else no_extras()).alias("_extra"),
    ]


def no_extras() -> Column:
    """The `extra` of a view without extras: an empty list, which Spark passes to Python faster than NULL."""
    return F.array().cast("array<binary>")


def grains(view: FeatureView, events: DataFrame, cut: int) -> DataFrame:
    """Grains of distinct events: `key`, `start` BIGINT, `state`, `extra` (grains.py)."""
    reference = F.expr(f"CASE WHEN {TIME} < {cut} THEN {cut}L ELSE {TIME} END")
    started = (
        keyed(view, events)
        .withColumn(REFERENCE, reference)
        .withColumn("_start", F.expr(start_sql(view, cut, TIME)))
        .where("_start IS NOT NULL")
    )
    return _plain(started.groupBy("_key", "_start").agg(*state_columns(view)))


def _plain(states: DataFrame) -> DataFrame:
    """States, which have no column of users any more, with the names that stored ones have."""
    return states.select(*[F.col(name).alias(name.removeprefix(PRIVATE)) for name in states.columns])


def coarsened(view: FeatureView, kept: DataFrame, cut: int) -> DataFrame:
    """Grains of earlier builds as one build at `cut` would keep them, without those that no window needs."""
    started = kept.withColumn("start", F.expr(start_sql(view, cut, "start"))).where("start IS NOT NULL")

    def merge_grains(table: pa.Table) -> pa.Table:
        coarse = merged(view, read_grains(view, table))
        names = key_names(table, coarse.key)
        columns = {
            "key": names,
            "start": coarse.start,
            "state": as_lists(coarse.rows, np.arange(len(coarse.key) + 1)),
            "extra": as_blobs(coarse.extras, len(names)),
        }
        return pa.table(columns)

    return _by_key(started).mapInArrow(
        over_keys(merge_grains), "key STRING, start BIGINT, state ARRAY<DOUBLE>, extra ARRAY<BINARY>"
    )


def batch_rows(view: FeatureView, kept: DataFrame, cut: int, slack: int) -> DataFrame:
    """One row per key: `states` ARRAY<DOUBLE>, concatenated rows [segment, start, state...], and `extras`."""

    def fold_grains(table: pa.Table) -> pa.Table:
        known = read_grains(view, table)
        parts = fitting(fold(view, known, cut, slack), LARGEST)
        keys, counts = np.unique(parts.key, return_counts=True)
        edges = np.concatenate([[0], np.cumsum(counts)])
        extras = pa.ListArray.from_arrays(pa.array(edges, pa.int32()), as_blobs(parts.extras, len(parts.key)))
        return pa.table(
            {
                "key": key_names(table, keys, known.key),
                "states": as_lists(parts.rows, edges),
                "extras": extras,
            }
        )

    return _by_key(kept).mapInArrow(
        over_keys(fold_grains), "key STRING, states ARRAY<DOUBLE>, extras ARRAY<ARRAY<BINARY>>"
    )


def _by_key(kept: DataFrame) -> DataFrame:
    extra = F.coalesce("extra", no_extras())  # NULL in grains of earlier versions
    named = kept.select(F.col("key").alias("_key"), "start", "state", extra.alias("extra"))
    return named.repartition(shuffle_partitions(kept), "_key").sortWithinPartitions("_key", "start")


def shuffle_partitions(frame: DataFrame) -> int:
    """The session's number of shuffle partitions."""
    return max(1, int(frame.sparkSession.conf.get("spark.sql.shuffle.partitions", "2") or 2))


def _floor(sql: str, step: int) -> str:
    return f"({sql} - pmod({sql}, {step}L))"


@dataclass(frozen=True)
class Piece:
    """A part of the stream's state: a tile of `width` microseconds of `view`, or a key alone."""

    keys: tuple[str, ...]
    view: FeatureView | None = None
    width: int = 0

    @property
    def fine(self) -> bool:
        """Whether it is of the fine tier."""
        return self.view is not None and self.width != self.view.tiers[0]


def pieces_of(views: Sequence[FeatureView], entity: tuple[str, ...] = ()) -> tuple[Piece, ...]:
    """The pieces of an event of the views' one source, the wide tier of each view before the fine one.

    `entity` are the source's columns of the project's key, if an event names it: a last piece where no view
    has that key.
    """
    pieces = [Piece(view.keys, view, width) for view in views for width in view.tiers]
    named = bool(entity) and all(view.keys != entity for view in views)
    return (*pieces, Piece(entity)) if named else tuple(pieces)


def tiles(
    views: Sequence[FeatureView], events: DataFrame, slot_seconds: int, entity: tuple[str, ...] = ()
) -> DataFrame:
    """States of batch or streaming events of one source, by `piece`, `key`, `slot` and `tile_start`.

    `piece` is a position in `pieces_of`. Both times are TIMESTAMP; the slot is the hour of arrival.
    `events` is the number of events in a state. All views share one pass over the events. An event ahead of
    its arrival has a tile of its own instant, so that an answer before that instant does not include it.
    """
    pieces = pieces_of(views, entity)
    stamped = events.withColumn(TIME, F.unix_micros(F.col(quoted(views[0].source.time)).cast("timestamp")))
    parts = F.array(*[_part(number, piece) for number, piece in enumerate(pieces)])
    spread = stamped.withColumn("_part", F.explode(F.filter(parts, lambda part: part["key"].isNotNull())))
    # All events of a tile have one reference, also one that was ahead of its arrival, on the tile's edge.
    ready = (
        spread.withColumn(REFERENCE, F.col("_part.reference"))
        .withColumn("_piece", F.col("_part.piece"))
        .withColumn("_key", F.col("_part.key"))
    )
    slot = F.window(ARRIVAL, f"{slot_seconds} seconds").alias("_window")
    start = F.timestamp_micros("_part.start").alias("_tile_start")
    state, extra = _chosen(views, pieces)
    counted = F.count(F.lit(1)).alias("_events")
    states = ready.groupBy("_piece", "_key", slot, start).agg(
        counted, state.alias("_state"), extra.alias("_extra")
    )
    slot = F.col("_window.start").alias("_slot")
    return _plain(states.select("_piece", "_key", slot, "_tile_start", "_events", "_state", "_extra"))


def _part(number: int, piece: Piece) -> Column:
    """(piece, key, start, reference) of an event; the key is NULL where the piece does not hold the event."""
    ahead = f"{TIME} > unix_micros({ARRIVAL})"
    key = key_column(piece.keys)
    if piece.view is None:
        start, reference = F.lit(0).cast("bigint"), F.lit(0).cast("bigint")
    else:
        floor = _floor(TIME, piece.width)
        start, reference = (
            F.expr(f"CASE WHEN {ahead} THEN {TIME} ELSE {floor} END"),
            F.expr(f"{floor} + {piece.width}L"),
        )
        begins = f"{TIME} = {_floor(TIME, piece.view.tiers[0])}"  # a wide tile, which holds it with others
        key = F.when(F.expr(f"NOT ({ahead}) OR {begins}"), key) if piece.fine else key
    return F.struct(
        F.lit(number).alias("piece"), key.alias("key"), start.alias("start"), reference.alias("reference")
    )


def _chosen(views: Sequence[FeatureView], pieces: Sequence[Piece]) -> tuple[Column, Column]:
    """`state` and `extra` of the piece's own view. Every group folds all views, which share common blocks."""
    state, extra = F.array().cast("array<double>"), no_extras()
    for view in reversed(views):
        mine = F.col("_piece").isin(*[number for number, piece in enumerate(pieces) if piece.view is view])
        folded, extras = state_columns(view)
        state, extra = F.when(mine, folded).otherwise(state), F.when(mine, extras).otherwise(extra)
    return state, extra


def point_in_time(
    project: Project, events: Mapping[str, DataFrame], rows: DataFrame, time: str, *, as_known: bool = False
) -> DataFrame:
    """`rows` with one column a feature: features of the rows' keys from events strictly before column `time`.

    `events` holds distinct events by the views' feeds (the names of sources); views whose events are not
    given are left out. Each view takes one shuffle, in which the rows' own columns travel along. `as_known`
    excludes events that had not arrived before the row's time. Rows with a column `_own` are those of labels
    with own events (`own_identity`): each counts its own event too.
    """
    for view in (view for view in project.views if view.feed in events):
        own = events[view.feed]
        told = own.drop(ARRIVAL) if not as_known else own
        rows = _with_features(view, _named_own(project, view, told), rows, time)
    return rows


def own_identity(source: Source) -> Column:
    """The column `_own` of events, and of rows that are events: their identity as text."""
    return F.col(quoted(source.identity)).cast("string").alias(OWN)


def _named_own(project: Project, view: FeatureView, events: DataFrame) -> DataFrame:
    """The events of a view, with `_own` where a label's own event can be one of them."""
    label = project.label
    if label is None or not label.own_event or label.source != view.source:
        return events
    return events.withColumn(OWN, own_identity(view.source))


def sights(
    project: Project,
    events: Mapping[str, DataFrame],
    rows: DataFrame,
    time: str,
    *,
    trust_files: bool,
    share: float = 1.0,
) -> tuple[DataFrame, tuple[str, ...]]:
    """`rows` with features as by `point_in_time`, with hindsight, and the names of a column a view besides.

    The column tells what the view's values owe to events that had not arrived before the row's time:
    `events` and `late` count the events of its windows and those of them that had not arrived,
    `loaded` those that came from files or tables, all BIGINT; `known` has the features without late events,
    NULL where there is none. The arrival of an event from a file is the time of its landing: unless
    `trust_files`, such events count as known from their event time on. Of rows a `share` is examined, chosen
    by a hash of key and time; the column of the others is NULL. Own events as by `point_in_time`; one counts
    whenever it arrived, and is in `events`.
    """
    names = []
    draw = F.pmod(F.xxhash64(key_column(project.keys), F.col(quoted(time))), F.lit(_PLACES))
    examined = F.lit(True) if share >= 1 else F.coalesce(draw < int(share * _PLACES), F.lit(False))
    for number, view in enumerate(view for view in project.views if view.feed in events):
        names.append(f"_sight{number}")
        loaded = F.col("_file").isNotNull()
        told = events[view.feed].withColumn(FLAG, loaded)
        if not trust_files:
            told = told.withColumn(ARRIVAL, F.when(~loaded, F.col(ARRIVAL)))
        rows = _with_features(view, _named_own(project, view, told), rows, time, (names[-1], examined))
    return rows, tuple(names)


_PLACES = 1_000_000_000


def known_columns(
    project: Project, events: Mapping[str, DataFrame], names: Sequence[str]
) -> dict[str, Column]:
    """Feature columns as known, of rows with features and the columns `names` that `sights` gave them."""
    views = [view for view in project.views if view.feed in events]
    return {
        column.name: F.when(
            F.col(f"{name}.late") > 0, F.col(f"{name}.known.{quoted(column.name)}")
        ).otherwise(F.col(quoted(column.name)))
        for view, name in zip(views, names, strict=True)
        for column in view.columns
    }


def counted_sights(names: Sequence[str]) -> list[Column]:
    """`events`, `late` and `loaded` of all views together, from the columns `names` that `sights` gave."""
    return [
        reduce(Column.__add__, [F.col(f"{name}.{count}") for name in names], F.lit(0).cast("bigint")).alias(
            count
        )
        for count in ("events", "late", "loaded")
    ]


def request_columns(project: Project, rows: DataFrame) -> list[Column]:
    """The columns of the request from rows that have them, those that they lack as the defaults."""
    there = {folded(name) for name in rows.columns}
    return [
        (F.col(quoted(one.name)) if folded(one.name) in there else F.lit(one.default))
        .cast(one.type.spark)
        .alias(one.name)
        for one in project.request_columns
    ]


def with_derived(project: Project, rows: DataFrame, names: Collection[str] | None = None) -> DataFrame:
    """`rows` with the project's derived features, or those `names` and what they read.

    The rows have the columns that these need: features, columns of the key, typed or as stored texts, and
    columns of the request.
    """
    wanted = set(project.derived if names is None else names)
    for column in reversed(project.derived_columns):
        wanted |= set(column.reads) if column.name in wanted else set()
    for column in project.derived_columns:
        if column.name in wanted:
            rows = rows.withColumn(column.name, F.expr(column.expression.sql))
    return rows


def _with_features(
    view: FeatureView,
    events: DataFrame,
    rows: DataFrame,
    time: str,
    told: tuple[str, Column] | None = None,
) -> DataFrame:
    """`rows` with the view's features: as known if the events have arrivals.

    With `_own` in the rows, these are as of an instant later, and count own events where the events have it.
    With `told`, with hindsight, and a column of this name tells of the rows that the condition examines.
    """
    sight, examined = told or (None, F.lit(False))
    elements = [element for element in view.layout.elements if element != TIME_ELEMENT]
    names = {element: f"_e{position}" for position, element in enumerate(elements)}
    payload = F.struct(*[F.col(quoted(name)) for name in rows.columns])
    asked = rows.select(
        key_column(view.asked).alias("_key"),
        F.unix_micros(F.col(quoted(time)).cast("timestamp")).alias(TIME),
        payload.alias("_row"),
        examined.alias(FLAG),
    )
    values = [F.expr(element.sql).alias(name) for element, name in names.items()]
    if ARRIVAL in events.columns:
        values.append(F.unix_micros(ARRIVAL).alias(ARRIVAL))
    if OWN in rows.columns:
        asked = asked.withColumn(OWN, F.col(f"_row.{OWN}"))
        values.append((F.col(OWN) if OWN in events.columns else F.lit(None).cast("string")).alias(OWN))
    if sight is not None:
        values.append(F.col(FLAG))
    else:
        asked = asked.drop(FLAG)
    known = keyed(view, events).select(
        "_key", TIME, F.lit(None).cast(asked.schema["_row"].dataType).alias("_row"), *values
    )
    there = asked.columns
    blank = [
        F.lit(None).cast(field.dataType).alias(field.name)
        for field in known.schema.fields
        if field.name not in there
    ]
    both = asked.select(*there, *blank).unionByName(known)
    ordered = both.repartition(shuffle_partitions(rows), "_key").sortWithinPartitions("_key", TIME)
    features = ", ".join(f"{quoted(c.name)} {c.type.spark}" for c in view.columns)
    column = [] if sight is None else [f"{sight} STRUCT<{_COUNTED}, known: STRUCT<{features}>>"]
    declared = cast("StructType", StructType.fromDDL(", ".join([*column, features])))
    schema = StructType([*rows.schema.fields, *declared.fields])
    return ordered.mapInArrow(over_keys(lambda table: training_rows(view, names, sight, table)), schema)


_COUNTED = "events: BIGINT, late: BIGINT, loaded: BIGINT"
