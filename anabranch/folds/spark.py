"""Declarations compiled to Spark: the only module of `features` that imports pyspark. DataFrame in, DataFrame out.

The same aggregate expressions, made from each block's SQL, build a batch's grains and the stream's tiles; batch rows and
training sets use the blocks' numpy twins over sorted Arrow batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from anabranch.aggregates.layout import States
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import MisuseError
from anabranch.folds.grains import Grains, fold, merged, start_sql
from anabranch.folds.training_sets import SortedRun, features_before
from anabranch.states.blocks import REFERENCE, TIME, TIME_ELEMENT, Element, Values
from anabranch.values.keys import SEPARATOR
from anabranch.values.types import DataType

ARRIVAL = "_arrival"
_CHUNK = 100_000  # rows of whole keys folded at once


def key_column(keys: tuple[str, ...]) -> Column:
    """The stored text of a key (see keys.py); NULL when any of its columns is."""
    parts = [F.col(f"`{name}`").cast("string") for name in keys]
    return (
        parts[0]
        if len(parts) == 1
        else F.concat(*[piece for part in parts for piece in (F.lit(SEPARATOR), part)][1:])
    )


def keyed(view: FeatureView, events: DataFrame) -> DataFrame:
    """Events of the view's source with `key` and `event_micros`; events without this view's key are left out."""
    stamped = events.withColumn("_key", key_column(view.keys)).withColumn(
        TIME, F.unix_micros(F.col(f"`{view.source.time}`").cast("timestamp"))
    )
    return stamped.where("_key IS NOT NULL")


def state_columns(view: FeatureView) -> list[Column]:
    """Aggregate expressions `state` ARRAY<DOUBLE> and `extra` ARRAY<BINARY> over the rows of `keyed`."""
    extras = [F.expr(extra.sql()) for extra in view.layout.extras]
    return [
        F.array(*[F.expr(text) for text in view.layout.sql()]).alias("state"),
        (F.array(*extras) if extras else no_extras()).alias("extra"),
    ]


def no_extras() -> Column:
    """The `extra` of a view that has none. Spark takes 10 microseconds to hand a NULL list to Python, and next to nothing for an empty one."""
    return F.array().cast("array<binary>")


def grains(view: FeatureView, events: DataFrame, cut: int) -> DataFrame:
    """What a batch keeps of distinct events: `key`, `start` BIGINT, `state`, `extra`, see grains.py; none for events no window needs."""
    reference = F.expr(f"CASE WHEN {TIME} < {cut} THEN {cut}L ELSE {TIME} END")
    started = (
        keyed(view, events)
        .withColumn(REFERENCE, reference)
        .withColumn("start", F.expr(start_sql(view, cut, TIME)))
        .where("start IS NOT NULL")
    )
    return (
        started.groupBy("_key", "start")
        .agg(*state_columns(view))
        .select(F.col("_key").alias("key"), "start", "state", "extra")
    )


def coarsened(view: FeatureView, kept: DataFrame, cut: int) -> DataFrame:
    """Grains of earlier builds as one build at `cut` would keep them: one for each key and start, without those no window needs."""
    started = kept.withColumn("start", F.expr(start_sql(view, cut, "start"))).where("start IS NOT NULL")

    def merge_grains(table: pa.Table) -> pa.Table:
        found = merged(view, _grains(view, table))
        names = _names(table, found.key)
        columns = {
            "key": names,
            "start": found.start,
            "state": _lists(found.rows, np.arange(len(found.key) + 1)),
            "extra": _blobs(found.extras, len(names)),
        }
        return pa.table(columns)

    return _by_key(started).mapInArrow(
        _whole(merge_grains), "key STRING, start BIGINT, state ARRAY<DOUBLE>, extra ARRAY<BINARY>"
    )


def batch_rows(view: FeatureView, kept: DataFrame, cut: int, slack: int) -> DataFrame:
    """One row a key of `grains`: `states` ARRAY<DOUBLE>, rows of [segment, start, state...] one after another (merge.py), and their `extras`."""

    def fold_grains(table: pa.Table) -> pa.Table:
        known = _grains(view, table)
        found = fold(view, known, cut, slack)
        keys, counts = np.unique(found.key, return_counts=True)
        edges = np.concatenate([[0], np.cumsum(counts)])
        extras = pa.ListArray.from_arrays(pa.array(edges, pa.int32()), _blobs(found.extras, len(found.key)))
        return pa.table(
            {"key": _names(table, keys, known.key), "states": _lists(found.rows, edges), "extras": extras}
        )

    return _by_key(kept).mapInArrow(
        _whole(fold_grains), "key STRING, states ARRAY<DOUBLE>, extras ARRAY<ARRAY<BINARY>>"
    )


def _by_key(kept: DataFrame) -> DataFrame:
    extra = F.coalesce("extra", no_extras())  # NULL in what earlier versions kept
    named = kept.select(F.col("key").alias("_key"), "start", "state", extra.alias("extra"))
    return named.repartition(shuffle_partitions(kept), "_key").sortWithinPartitions("_key", "start")


def shuffle_partitions(frame: DataFrame) -> int:
    """How many partitions a shuffle of the session makes."""
    return max(1, int(frame.sparkSession.conf.get("spark.sql.shuffle.partitions", "2") or 2))


def _whole(
    work: Callable[[pa.Table], pa.Table],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _whole_keys(batches):
            yield from work(table.combine_chunks()).to_batches(max_chunksize=10_000)

    return run


def _grains(view: FeatureView, table: pa.Table) -> Grains:
    rows = _one(table.column("state")).flatten().to_numpy().reshape(len(table), view.layout.width)
    extras: list[States] = table.column("extra").to_pylist() if view.layout.extras else []
    return Grains(_numbered(table.column("_key")), table.column("start").to_numpy(), rows, extras)


def _names(table: pa.Table, keys: NDArray[np.int64], numbers: NDArray[np.int64] | None = None) -> pa.Array:
    """The texts of numbered keys."""
    known = _numbered(table.column("_key")) if numbers is None else numbers
    return _one(table.column("_key")).take(pa.array(np.searchsorted(known, keys)))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _lists(rows: NDArray[np.float64], edges: NDArray[np.int64]) -> pa.Array:
    """Rows from edges[i] up to edges[i + 1] as one list of float64."""
    return pa.ListArray.from_arrays(pa.array(edges * rows.shape[1], pa.int32()), pa.array(rows.ravel()))


def _blobs(extras: Sequence[States], count: int) -> pa.Array:
    """Extras of each state; no extras when the view has none."""
    return pa.array(extras or [[]] * count, pa.list_(pa.binary()))


def _floor(sql: str, step: int) -> str:
    return f"({sql} - pmod({sql}, {step}L))"


@dataclass(frozen=True)
class Piece:
    """What an event is a part of: a tile of `width` microseconds of `view`; with no view, its key alone."""

    keys: tuple[str, ...]
    view: FeatureView | None = None
    width: int = 0

    @property
    def fine(self) -> bool:
        """Is it the finer of two tiers?"""
        return self.view is not None and self.width != self.view.tiers[0]


def pieces_of(views: Sequence[FeatureView], entity: tuple[str, ...] = ()) -> tuple[Piece, ...]:
    """The pieces of an event of the views' one source, the wide tier of each view before the fine one.

    One more, the key of columns `entity`, comes last where the source has them and no view is by that key.
    """
    found = [Piece(view.keys, view, width) for view in views for width in view.tiers]
    named = bool(entity) and {column.name for column in views[0].source.columns} >= set(entity)
    return (*found, Piece(entity)) if named and all(view.keys != entity for view in views) else tuple(found)


def tiles(
    views: Sequence[FeatureView], events: DataFrame, slot_seconds: int, entity: tuple[str, ...] = ()
) -> DataFrame:
    """States of the views of one source, of batch or streaming events, by `piece` (a position in `pieces_of`), `key`, `slot`, `tile_start`.

    Both times are TIMESTAMP, the slot is that of the arrival; `events` counts what a state holds. All views share one
    pass over the events. An event ahead of its arrival gets a tile of its own instant, so that an answer before that
    instant leaves it out.
    """
    pieces = pieces_of(views, entity)
    stamped = events.withColumn(TIME, F.unix_micros(F.col(f"`{views[0].source.time}`").cast("timestamp")))
    parts = F.array(*[_part(number, piece) for number, piece in enumerate(pieces)])
    spread = stamped.withColumn("_part", F.explode(F.filter(parts, lambda part: part["key"].isNotNull())))
    # One reference for all events of a tile: one that was ahead and lies on the edge shares it with those that follow.
    ready = (
        spread.withColumn(REFERENCE, F.col("_part.reference"))
        .withColumn("_piece", F.col("_part.piece"))
        .withColumn("_key", F.col("_part.key"))
    )
    slot = F.window(ARRIVAL, f"{slot_seconds} seconds").alias("_slot")
    grouped = ready.groupBy("_piece", "_key", slot, F.timestamp_micros("_part.start").alias("tile_start"))
    state, extra = _chosen(views, pieces)
    states = grouped.agg(F.count(F.lit(1)).alias("events"), state.alias("state"), extra.alias("extra"))
    return states.select(
        F.col("_piece").alias("piece"),
        F.col("_key").alias("key"),
        F.col("_slot.start").alias("slot"),
        "tile_start",
        "events",
        "state",
        "extra",
    )


def _part(number: int, piece: Piece) -> Column:
    """(piece, key, start, reference) of an event; the key is NULL where the event is no part of such a piece."""
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
        key = F.when(~F.expr(ahead), key) if piece.fine else key
    return F.struct(
        F.lit(number).alias("piece"), key.alias("key"), start.alias("start"), reference.alias("reference")
    )


def _chosen(views: Sequence[FeatureView], pieces: Sequence[Piece]) -> tuple[Column, Column]:
    """`state` and `extra` of the piece's own view: every group folds all views, which share what they have in common."""
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

    `events` holds distinct events by source name. One shuffle a view; the rows' own columns ride along. `as_known` leaves
    out events that had not arrived before the row's time; sketches, which are computed from whole ranges, refuse it.
    """
    for view in project.views:
        sketches = [name for name, bound in view.layout.bounds.items() if bound.exactly is not None]
        if as_known and sketches:
            kind = type(view.features[sketches[0]]).__name__
            raise MisuseError(
                f"feature {sketches[0]!r} of view {view.name!r} is a {kind}, which cannot be made as known at the time: leave out --as-known"
            )
        rows = _with_features(view, events[view.source.name], rows, time, as_known)
    return rows


def _with_features(
    view: FeatureView, events: DataFrame, rows: DataFrame, time: str, as_known: bool
) -> DataFrame:
    elements = [element for element in view.layout.elements if element != TIME_ELEMENT]
    names = {element: f"e{position}" for position, element in enumerate(elements)}
    payload = F.struct(*[F.col(f"`{name}`") for name in rows.columns])
    asked = rows.select(
        key_column(view.keys).alias("_key"),
        F.unix_micros(F.col(f"`{time}`").cast("timestamp")).alias(TIME),
        payload.alias("_row"),
    )
    values = [F.expr(element.sql).alias(name) for element, name in names.items()]
    if as_known:
        values.append(F.unix_micros(ARRIVAL).alias(ARRIVAL))
    known = keyed(view, events).select(
        "_key", TIME, F.lit(None).cast(asked.schema["_row"].dataType).alias("_row"), *values
    )
    blank = [F.lit(None).cast(field.dataType).alias(field.name) for field in known.schema.fields[3:]]
    both = asked.select("_key", TIME, "_row", *blank).unionByName(known)
    ordered = both.repartition(shuffle_partitions(rows), "_key").sortWithinPartitions("_key", TIME)
    declared = cast(
        "StructType",
        StructType.fromDDL(", ".join(f"`{column.name}` {column.type.spark}" for column in view.columns)),
    )
    schema = StructType([*rows.schema.fields, *declared.fields])
    return ordered.mapInArrow(_whole(lambda table: _fold(view, names, table)), schema)


def _whole_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup sorted batches into tables that hold all rows of each of their keys."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if sum(part.num_rows for part in waiting) + batch.num_rows > _CHUNK:
            keys = batch.column("_key")
            last = pc.index(pc.equal(keys, keys[-1]).fill_null(keys[-1].as_py() is None), True).as_py()
            if last > 0 or (waiting and waiting[-1].column("_key")[-1] != keys[0]):
                yield pa.Table.from_batches([*waiting, batch.slice(0, last)])
                waiting = [batch.slice(last)]
                continue
        waiting.append(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def _fold(view: FeatureView, names: dict[Element, str], table: pa.Table) -> pa.Table:
    asked = pc.is_valid(table.column("_row")).to_numpy()
    number = _numbered(table.column("_key"))
    time = table.column(TIME).to_numpy(zero_copy_only=False)
    lifted = {TIME_ELEMENT: Values(time[~asked].astype(np.int64), np.ones(int((~asked).sum()), dtype=bool))}
    known = table.filter(pa.array(~asked))
    for element, name in names.items():
        lifted[element] = _values(known.column(name), element.kind)
    unknown_time = np.isnan(time) if time.dtype.kind == "f" else np.zeros(len(time), dtype=bool)
    query_time = np.where(unknown_time, np.iinfo(np.int64).min // 2, time)[asked].astype(np.int64)
    arrival = known.column(ARRIVAL).to_numpy() if ARRIVAL in known.column_names else None
    run = SortedRun(
        number[~asked],
        lifted[TIME_ELEMENT].values.astype(np.int64),
        lifted,
        number[asked],
        query_time,
        arrival,
    )
    rows = table.filter(pa.array(asked)).column("_row").combine_chunks().flatten() if asked.any() else []
    fields = table.schema.field("_row").type
    columns = {
        fields.field(i).name: rows[i] if len(rows) else pa.array([], fields.field(i).type)
        for i in range(fields.num_fields)
    }
    types = {column.name: column.type for column in view.columns}
    for name, values in features_before(view, run).items():
        columns[name] = _array(values, types[name])
    return pa.table(columns)


def _numbered(keys: pa.ChunkedArray) -> np.ndarray:
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    text = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    text = pa.concat_arrays(text.chunks) if isinstance(text, pa.ChunkedArray) else text
    filled = pc.fill_null(text, "\x00")  # a query without a key has no events
    changed = np.ones(len(filled), dtype=np.int64)
    changed[1:] = pc.not_equal(filled.slice(1), filled.slice(0, len(filled) - 1)).to_numpy(
        zero_copy_only=False
    )
    return np.cumsum(changed) - 1


def _values(column: pa.ChunkedArray, kind: str) -> Values:
    valid = pc.is_valid(column).to_numpy()
    if kind == "binary":
        return Values(
            np.array(column.to_pylist(), dtype=object) if len(column) else np.empty(0, dtype=object), valid
        )
    filled = pc.fill_null(column, 0)
    return Values(filled.to_numpy(), valid)


def _array(values: Values, kind: DataType) -> pa.Array:
    if values.values.dtype == object:
        listed = zip(values.values, values.valid, strict=True)
        return pa.array([value if good else None for value, good in listed], kind.arrow)
    return pa.array(values.values, mask=~values.valid).cast(kind.arrow)
