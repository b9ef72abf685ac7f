"""Writing rows of Spark to Cassandra: small unlogged batches, many in flight, sent by the tasks.

The table must have a column of each name. ARRAY<DOUBLE> becomes a blob of float64, arrays of BINARY become
framed extras (folds/packing.py). Writes are upserts, so retrying a task is harmless.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from threading import Semaphore
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from anabranch.folds.packing import pack_extras
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import answering, session_for

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_BATCH_ROWS = 50
_BATCH_BYTES = 36_864  # well below the 50 KiB at which Cassandra refuses a batch
_IN_FLIGHT = 32
_PROTOCOL = 5  # that session.py connects with


def write_rows(frame: "DataFrame", views: ViewsSettings, table: str, moment: int | None = None) -> int:
    """Upsert the rows of a frame and return their number; as of `moment` they never replace newer ones.

    The data source (data_source/) starts Python processes to plan each write; this is a stage like any other,
    whose workers stay connected.
    """
    from pyspark.sql import functions as F  # the REST server loads this module without Spark

    names = frame.columns

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict(
            {"rows": pa.array([upsert(views, table, names, moment, batches)], pa.int64())}
        )

    (found,) = frame.mapInArrow(run, "rows BIGINT").agg(F.sum("rows").alias("rows")).collect()
    return int(found["rows"] or 0)


def upsert(
    views: ViewsSettings,
    table: str,
    names: Sequence[str],
    moment: int | None,
    batches: Iterable[pa.RecordBatch],
) -> int:
    """Upsert the rows of batches whose columns have these names, and return their number."""
    session = session_for(views)
    listed, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
    stamp = "" if moment is None else f" USING TIMESTAMP {moment}"
    with answering(f"table {table} or a column of it is missing"):
        statement = session.prepare(f"INSERT INTO {table} ({listed}) VALUES ({marks}){stamp}")
    sender = Sender(session, statement)
    for batch in batches:
        columns = [
            _serialized(column, kind.type)
            for column, kind in zip(batch.columns, statement.column_metadata, strict=True)
        ]
        for row in zip(*columns, strict=True):
            sender.send(row)
    return sender.finish()


class _Rows(BatchStatement):  # type: ignore[misc]
    """An unlogged batch of serialized rows; the driver itself would serialize value by value."""

    def __init__(self, statement: PreparedStatement, rows: Sequence[tuple[bytes | None, ...]]) -> None:
        super().__init__(batch_type=BatchType.UNLOGGED)
        for row in rows:
            self._add_statement_and_params(True, statement.query_id, row)
        if len(statement.routing_key_indexes or ()) == 1:
            self.routing_key, self.keyspace = rows[0][statement.routing_key_indexes[0]], statement.keyspace


class Sender:
    """Sends rows of one statement in unlogged batches, many in flight; `finish` raises the first error."""

    def __init__(self, session: Any, statement: PreparedStatement) -> None:
        self.session, self.statement = session, statement
        self.free = Semaphore(_IN_FLIGHT)
        self.failures: list[BaseException] = []
        self.rows = self.size = 0
        self.waiting: list[tuple[bytes | None, ...]] = []

    def send(self, row: tuple[bytes | None, ...]) -> None:
        """Send a row of serialized values, sooner or later; waits while too many batches are in flight."""
        size = sum(map(len, filter(None, row)))
        if self.size + size > _BATCH_BYTES:
            self._flush()  # a row that is large goes alone: Cassandra refuses large batches, not large rows
        self.waiting.append(row)
        self.rows += 1
        self.size += size
        if len(self.waiting) >= _BATCH_ROWS or self.size >= _BATCH_BYTES:
            self._flush()

    @answering()
    def _flush(self) -> None:
        if not self.waiting or self.failures:
            return
        request = _Rows(self.statement, self.waiting)
        self.waiting, self.size = [], 0
        self.free.acquire()
        self.session.execute_async(request).add_callbacks(self._done, self._failed)

    def _done(self, _result: object) -> None:
        self.free.release()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.free.release()

    @answering()
    def finish(self) -> int:
        """Send the rest, wait for everything in flight, and return the number of rows."""
        self._flush()
        for _ in range(_IN_FLIGHT):
            self.free.acquire()
        if self.failures:
            raise self.failures[0]
        return self.rows


def _serialized(column: pa.Array, kind: Any) -> list[bytes | None]:
    """A column's values as they travel; `kind` is the driver's type of the column."""
    if pa.types.is_string(column.type) and kind.typename in ("text", "varchar", "ascii"):
        texts: list[bytes | None] = column.cast(pa.binary()).to_pylist()
        return texts
    values = stored(column)
    if kind.typename == "blob":
        return values
    return [None if value is None else kind.serialize(value, _PROTOCOL) for value in values]


def stored(column: pa.Array) -> list[Any]:
    """A column's values as the driver takes them; arrays become bytes: float64 or framed extras."""
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        offsets = column.offsets.to_numpy()
        data = np.ascontiguousarray(column.values.to_numpy(), dtype="<f8").tobytes()
        return [
            data[8 * start : 8 * end]
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ]
    values: list[Any] = column.to_pylist()
    if pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
        return [None if value is None else pack_extras(value) for value in values]
    if pa.types.is_list(kind):
        return [None if value is None else pack_extras([value]) for value in values]
    if pa.types.is_decimal(kind):
        return [None if value is None else Decimal(value) for value in values]
    return values
