"""Arrow tables of whole, sorted keys, as Spark passes them to Python: for grains and training sets."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anabranch.aggregates.layout import States
from anabranch.declare.views import FeatureView
from anabranch.folds.grains import Grains
from anabranch.folds.training_sets import Sight, SortedRun, as_known, features_before, sights_before
from anabranch.states.blocks import TIME, TIME_ELEMENT, Element, Values
from anabranch.values.types import DataType

ARRIVAL = "_arrival"
FLAG = "_flag"
"""Of an event whether it came from a file, of a row whether it is examined for what had not arrived."""
OWN = "_own"
"""Of an event its identity, of a row that of its own event, as texts."""
_CHUNK, _CHUNK_BYTES = 100_000, 256 * 2**20  # rows of whole keys folded at once


def over_keys(
    work: Callable[[pa.Table], pa.Table],
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function of a partition's batches, sorted by `_key`, that calls `work` with tables of whole keys."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _whole_keys(batches):
            yield from work(table.combine_chunks()).to_batches(max_chunksize=10_000)

    return run


def _whole_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup sorted batches into tables that hold all rows of each of their keys."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        together = [*waiting, batch]
        if (
            sum(part.num_rows for part in together) > _CHUNK
            or sum(part.nbytes for part in together) > _CHUNK_BYTES
        ):
            keys = batch.column("_key")
            last = pc.index(pc.equal(keys, keys[-1]).fill_null(keys[-1].as_py() is None), True).as_py()
            if last > 0 or (waiting and waiting[-1].column("_key")[-1] != keys[0]):
                yield pa.Table.from_batches([*waiting, batch.slice(0, last)])
                waiting = [batch.slice(last)]
                continue
        waiting.append(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def read_grains(view: FeatureView, table: pa.Table) -> Grains:
    """Grains of a table with `_key`, `start`, `state` and `extra`."""
    rows = _one(table.column("state")).flatten().to_numpy().reshape(len(table), view.layout.width)
    extras: list[States] = table.column("extra").to_pylist() if view.layout.extras else []
    return Grains(_numbered(table.column("_key")), table.column("start").to_numpy(), rows, extras)


def key_names(table: pa.Table, keys: NDArray[np.int64], numbers: NDArray[np.int64] | None = None) -> pa.Array:
    """The texts of numbered keys."""
    known = _numbered(table.column("_key")) if numbers is None else numbers
    return _one(table.column("_key")).take(pa.array(np.searchsorted(known, keys)))


def as_lists(rows: NDArray[np.float64], edges: NDArray[np.int64]) -> pa.Array:
    """Rows from edges[i] up to edges[i + 1] as one list of float64."""
    return pa.ListArray.from_arrays(pa.array(edges * rows.shape[1], pa.int32()), pa.array(rows.ravel()))


def as_blobs(extras: Sequence[States], count: int) -> pa.Array:
    """Extras of each state; no extras when the view has none."""
    return pa.array(extras or [[]] * count, pa.list_(pa.binary()))


def training_rows(
    view: FeatureView, names: dict[Element, str], sight: str | None, table: pa.Table
) -> pa.Table:
    """The rows of a table that are queries (`_row` is valid), with features of the rows that are events.

    `names` are the columns of the view's elements. `sight` names a column to add, which tells what had not
    arrived (spark.sights). With a column `_own`, a row's own event counts.
    """
    asked = pc.is_valid(table.column("_row")).to_numpy()
    number = _numbered(table.column("_key"))
    time = table.column(TIME).to_numpy(zero_copy_only=False)
    lifted = {TIME_ELEMENT: Values(time[~asked].astype(np.int64), np.ones(int((~asked).sum()), dtype=bool))}
    known = table.filter(pa.array(~asked))
    for element, name in names.items():
        lifted[element] = _values(known.column(name), element.kind)
    unknown_time = np.isnan(time) if time.dtype.kind == "f" else np.zeros(len(time), dtype=bool)
    query_time = np.where(unknown_time, np.iinfo(np.int64).min // 2, time)[asked].astype(np.int64)
    arrival = None
    if ARRIVAL in known.column_names:  # NULL where an event counts as known from its time on
        arrival = pc.fill_null(known.column(ARRIVAL), np.iinfo(np.int64).min // 2).to_numpy()
    run = SortedRun(
        number[~asked],
        lifted[TIME_ELEMENT].values.astype(np.int64),
        lifted,
        number[asked],
        query_time,
        arrival,
        _own_positions(table.column(OWN), number, asked) if OWN in table.column_names else None,
    )
    rows = table.filter(pa.array(asked)).column("_row").combine_chunks().flatten() if asked.any() else []
    fields = table.schema.field("_row").type
    columns = {
        fields.field(i).name: rows[i] if len(rows) else pa.array([], fields.field(i).type)
        for i in range(fields.num_fields)
    }
    types = {column.name: column.type for column in view.columns}
    if sight is None:
        found = features_before(view, run)
    else:
        flag = pc.fill_null(table.column(FLAG), False).to_numpy().astype(bool)
        seen = sights_before(view, run, flag[asked])
        found = seen.values
        columns[sight] = _sights(view, seen, flag[~asked])
    for name, values in found.items():
        columns[name] = _array(values, types[name])
    return pa.table(columns)


def _sights(view: FeatureView, seen: Sight, loaded: NDArray[np.bool_]) -> pa.StructArray:
    """What spark.sights describes; `loaded` are events that came from files."""
    before = np.concatenate([[0], np.cumsum(loaded)])
    affected = np.zeros(len(seen.late), dtype=bool)
    affected[seen.places] = True
    known = as_known(seen)
    values = pa.StructArray.from_arrays(
        [_array(known[column.name], column.type) for column in view.columns],
        names=[column.name for column in view.columns],
        mask=pa.array(~affected),
    )
    there = seen.own >= 0
    events = seen.end - seen.first + there
    own_loaded = np.append(loaded, False)[seen.own] & there
    files = before[np.maximum(seen.end, seen.first)] - before[seen.first] + own_loaded
    counts = (events, seen.late, files)
    return pa.StructArray.from_arrays(
        [*[pa.array(count, pa.int64()) for count in counts], values],
        names=["events", "late", "loaded", "known"],
        mask=pa.array(~seen.examined),
    )


def _own_positions(
    names: pa.ChunkedArray, number: NDArray[np.int64], asked: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each row the position, among the events, of the one of its key that it names; -1 for none."""
    events, rows = names.filter(pa.array(~asked)), names.filter(pa.array(asked))
    found = pc.index_in(rows, value_set=_one(events), skip_nulls=True) if len(events) else None
    if found is None:
        return np.full(len(rows), -1, dtype=np.int64)
    place = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    own: NDArray[np.int64] = np.where(number[~asked][place] == number[asked], place, -1)
    return own


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


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
