"""Declarations compiled to Spark: the only module of `features` that imports pyspark. DataFrame in, DataFrame out.

The same aggregate expressions, made from each block's SQL, build batch states and tiles; training sets use the blocks'
numpy twins over sorted Arrow batches.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from features.blocks import REFERENCE, TIME, TIME_ELEMENT, Element, Values
from features.declaration import FeatureView, Project
from features.errors import MisuseError
from features.keys import SEPARATOR
from features.merge import collapsed_from
from features.training import Run, features_before

ARRIVAL = "_arrival"
_CHUNK = 100_000  # rows of whole keys folded at once


def key_column(keys: tuple[str, ...]) -> Column:
    """The stored text of a key (see keys.py); NULL when any of its columns is."""
    parts = [F.col(f"`{name}`").cast("string") for name in keys]
    return parts[0] if len(parts) == 1 else F.concat(*[piece for part in parts for piece in (F.lit(SEPARATOR), part)][1:])


def keyed(view: FeatureView, events: DataFrame) -> DataFrame:
    """Events of the view's source with `key` and `event_micros`; events without this view's key are left out."""
    stamped = events.withColumn("_key", key_column(view.keys)).withColumn(TIME, F.unix_micros(F.col(f"`{view.source.time}`").cast("timestamp")))
    return stamped.where("_key IS NOT NULL")


def state_columns(view: FeatureView) -> list[Column]:
    """Aggregate expressions `state` ARRAY<DOUBLE> and `extra` ARRAY<BINARY> over the rows of `keyed`."""
    extras = [F.expr(extra.sql()) for extra in view.layout.extras]
    extra = F.array(*extras) if extras else F.lit(None).cast("array<binary>")
    return [F.array(*[F.expr(text) for text in view.layout.sql()]).alias("state"), extra.alias("extra")]


def batch_states(view: FeatureView, events: DataFrame, cut: int, slack: int) -> DataFrame:
    """One row a key: `states` ARRAY<DOUBLE>, rows of [segment, start, state...] one after another, and their `extras`.

    An event contributes to every segment it belongs to (collapsed windows, tail hops, early), see merge.py.
    """
    pieces = [*_collapsed(view, cut, slack), *_hops(view, cut, slack), f"CASE WHEN {TIME} >= {cut} THEN struct(0L AS segment, {TIME} AS start) END"]
    segments = F.expr(f"filter(array({', '.join(pieces)}), piece -> piece IS NOT NULL)")
    reference = F.expr(f"CASE WHEN {TIME} < {cut} THEN {cut}L ELSE {TIME} END")
    spread = keyed(view, events).withColumn(REFERENCE, reference).withColumn("_piece", F.explode(segments))
    states = spread.groupBy("_key", "_piece").agg(*state_columns(view))
    row = F.struct(F.concat(F.array(F.col("_piece.segment").cast("double"), F.col("_piece.start").cast("double")), "state").alias("row"), "extra")
    gathered = states.groupBy("_key").agg(F.collect_list(row).alias("rows"))
    return gathered.select(F.col("_key").alias("key"), F.flatten("rows.row").alias("states"), F.col("rows.extra").alias("extras"))


def _collapsed(view: FeatureView, cut: int, slack: int) -> list[str]:
    out = []
    for position, span in enumerate(view.spans):
        since = f" AND {TIME} >= {collapsed_from(span, cut, slack)}" if span.width is not None else ""
        out.append(f"CASE WHEN {TIME} < {cut}{since} THEN struct({-1 - position}L AS segment, 0L AS start) END")
    return out


def _hops(view: FeatureView, cut: int, slack: int) -> list[str]:
    stretches: dict[int, list[str]] = {}
    for span in view.spans:
        if span.width is not None:
            stretch = f"({TIME} >= {span.tail(cut)} AND {TIME} < {min(collapsed_from(span, cut, slack), cut)})"
            stretches.setdefault(span.hop, []).append(stretch)
    return [f"CASE WHEN {' OR '.join(ranges)} THEN struct({hop}L AS segment, {_floor(TIME, hop)} AS start) END" for hop, ranges in stretches.items()]


def _floor(sql: str, step: int) -> str:
    return f"({sql} - pmod({sql}, {step}L))"


def tiles(view: FeatureView, events: DataFrame, slot_seconds: int, entity: tuple[str, ...] = ()) -> DataFrame:
    """States by (`key`, `slot`, `tile_start`) of batch or streaming events; both times TIMESTAMP, the slot by arrival.

    `entities` are the keys of columns `entity` that the tile's events name in full (none when the source lacks one).

    An event ahead of its arrival gets a tile of its own instant, so that an answer before that instant leaves it out.
    """
    arrival = f"unix_micros({ARRIVAL})"
    start = F.expr(f"timestamp_micros(CASE WHEN {TIME} > {arrival} THEN {TIME} ELSE {_floor(TIME, view.tile)} END)")
    # One for all events of a tile: one that was ahead and lies on the edge shares it with those that follow.
    reference = F.expr(f"{_floor(TIME, view.tile)} + {view.tile}L")
    grouped = (
        keyed(view, events)
        .withColumn(REFERENCE, reference)
        .groupBy("_key", F.window(ARRIVAL, f"{slot_seconds} seconds").alias("_slot"), start.alias("tile_start"))
    )
    named = entity and {column.name for column in view.source.columns} >= set(entity)
    entities = F.collect_set(key_column(entity)) if named else F.array().cast("array<string>")
    states = grouped.agg(*state_columns(view), entities.alias("entities"))
    return states.select(F.col("_key").alias("key"), F.col("_slot.start").alias("slot"), "tile_start", "state", "extra", "entities")


def point_in_time(project: Project, events: Mapping[str, DataFrame], rows: DataFrame, time: str, *, as_known: bool = False) -> DataFrame:
    """`rows` with one column a feature: features of the rows' keys from events strictly before column `time`.

    `events` holds distinct events by source name. One shuffle a view; the rows' own columns ride along. `as_known` leaves
    out events that had not arrived before the row's time; sketches, which are computed from whole ranges, refuse it.
    """
    for view in project.views:
        sketches = [name for name, bound in view.layout.bounds.items() if bound.exactly is not None]
        if as_known and sketches:
            kind = type(view.features[sketches[0]]).__name__
            raise MisuseError(f"feature {sketches[0]!r} of view {view.name!r} is a {kind}, which cannot be made as known at the time: leave out --as-known")
        rows = _with_features(view, events[view.source.name], rows, time, as_known)
    return rows


def _with_features(view: FeatureView, events: DataFrame, rows: DataFrame, time: str, as_known: bool) -> DataFrame:
    elements = [element for element in view.layout.elements if element != TIME_ELEMENT]
    names = {element: f"e{position}" for position, element in enumerate(elements)}
    payload = F.struct(*[F.col(f"`{name}`") for name in rows.columns])
    asked = rows.select(key_column(view.keys).alias("_key"), F.unix_micros(F.col(f"`{time}`").cast("timestamp")).alias(TIME), payload.alias("_row"))
    values = [F.expr(element.sql).alias(name) for element, name in names.items()]
    if as_known:
        values.append(F.unix_micros(ARRIVAL).alias(ARRIVAL))
    known = keyed(view, events).select("_key", TIME, F.lit(None).cast(asked.schema["_row"].dataType).alias("_row"), *values)
    blank = [F.lit(None).cast(field.dataType).alias(field.name) for field in known.schema.fields[3:]]
    both = asked.select("_key", TIME, "_row", *blank).unionByName(known)
    partitions = max(1, int(rows.sparkSession.conf.get("spark.sql.shuffle.partitions", "2") or 2))
    ordered = both.repartition(partitions, "_key").sortWithinPartitions("_key", TIME)
    declared = cast("StructType", StructType.fromDDL(", ".join(f"`{column.name}` {column.type}" for column in view.columns)))
    schema = StructType([*rows.schema.fields, *declared.fields])
    return ordered.mapInArrow(_folder(view, names), schema)


def _folder(view: FeatureView, names: dict[Element, str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def fold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _whole_keys(batches):
            yield from _fold(view, names, table).to_batches(max_chunksize=10_000)

    return fold


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
    table = table.combine_chunks()
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
    run = Run(number[~asked], lifted[TIME_ELEMENT].values.astype(np.int64), lifted, number[asked], query_time, arrival)
    rows = table.filter(pa.array(asked)).column("_row").combine_chunks().flatten() if asked.any() else []
    fields = table.schema.field("_row").type
    columns = {fields.field(i).name: rows[i] if len(rows) else pa.array([], fields.field(i).type) for i in range(fields.num_fields)}
    types = {column.name: column.type for column in view.columns}
    for name, values in features_before(view, run).items():
        columns[name] = _array(values, str(types[name]))
    return pa.table(columns)


def _numbered(keys: pa.ChunkedArray) -> np.ndarray:
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    text = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    text = pa.concat_arrays(text.chunks) if isinstance(text, pa.ChunkedArray) else text
    filled = pc.fill_null(text, "\x00")  # a query without a key has no events
    changed = np.ones(len(filled), dtype=np.int64)
    changed[1:] = pc.not_equal(filled.slice(1), filled.slice(0, len(filled) - 1)).to_numpy(zero_copy_only=False)
    return np.cumsum(changed) - 1


def _values(column: pa.ChunkedArray, kind: str) -> Values:
    valid = pc.is_valid(column).to_numpy()
    if kind == "binary":
        return Values(np.array(column.to_pylist(), dtype=object) if len(column) else np.empty(0, dtype=object), valid)
    filled = pc.fill_null(column, 0)
    return Values(filled.to_numpy(), valid)


def _array(values: Values, kind: str) -> pa.Array:
    target = _arrow_type(kind)
    if values.values.dtype == object:
        return pa.array([value if good else None for value, good in zip(values.values, values.valid, strict=True)], target)
    return pa.array(values.values, mask=~values.valid).cast(target)


def _arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("ARRAY"):
        return pa.list_(_arrow_type(kind[6:-1]))
    if kind.startswith("DECIMAL"):
        return pa.decimal128(*(int(part) for part in kind[8:-1].split(",")))
    return {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "STRING": pa.string(), "BINARY": pa.binary(), "BOOLEAN": pa.bool_(),
            "DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us", tz="UTC")}[kind]  # fmt: skip
