"""Cassandra as a Spark data source (Spark's Python Data Source API over the Python driver).

    spark.read.format("cassandra").options(**cassandra_options(settings), table="heart_disease_current").load()
    frame.write.format("cassandra").options(**cassandra_options(settings), table=...).mode("append").save()

With the option `pushdown` ``true`` reading looks up keys that a filter names and has Cassandra leave out what other filters would
(cassandra_filters.py); such a frame is good for one query (cassandra_reader.py). The option `columns` reads those alone: Spark does
not tell a Python data source which columns a query needs.
Writing needs an existing table with a column of each name. ARRAY<DOUBLE> becomes a blob of float64 and arrays of BINARY become
framed extras (states.py). Writes are upserts, so a retried task does no harm; with the option `timestamp` (microseconds), a slow
retry never beats a newer write.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from threading import Semaphore
from typing import Any

import numpy as np
import pyarrow as pa
from cassandra.query import BatchStatement, BatchType, PreparedStatement
from pyspark.sql.datasource import DataSource, DataSourceArrowWriter, WriterCommitMessage
from pyspark.sql.types import StructType

from features.errors import MisuseError
from stores.cassandra_reader import CassandraReader, PushingReader, settings_of, table_of
from stores.cassandra_session import session_for
from stores.settings import ViewsSettings
from stores.states import pack_extras

_BATCH_ROWS = 50
_BATCH_BYTES = 36_864  # well below the 50 KiB at which Cassandra refuses a batch
_IN_FLIGHT = 32
_PROTOCOL = 5  # of cassandra_session.py
_SPARK_TYPES = {"text": "STRING", "varchar": "STRING", "ascii": "STRING", "bigint": "BIGINT", "int": "INT", "smallint": "SMALLINT", "double": "DOUBLE",
                "float": "FLOAT", "boolean": "BOOLEAN", "timestamp": "TIMESTAMP", "date": "DATE", "blob": "BINARY", "decimal": "DECIMAL(38,10)"}  # fmt: skip


def cassandra_options(settings: ViewsSettings) -> dict[str, str]:
    """Options that carry settings to the executors."""
    options = {
        "hosts": ",".join(settings.hosts),
        "port": str(settings.port),
        "keyspace": settings.keyspace,
        "datacenter": settings.local_datacenter,
        "replication": str(settings.replication),
    }
    return options if settings.username is None else {**options, "username": settings.username, "password": settings.password or ""}


class CassandraSource(DataSource):
    """Registered as format ``cassandra``. `known` are options that come with the class: they travel to executors and stand in no plan."""

    known: Mapping[str, str] = {}

    @classmethod
    def name(cls) -> str:
        return "cassandra"

    def schema(self) -> str:
        options = self._options()
        columns = table_of(session_for(settings_of(options)), options).columns
        wanted = options["columns"].split(",") if "columns" in options else list(columns)
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise MisuseError(f"Cassandra's table {options['table']!r} has no column {missing[0]!r}: it has {', '.join(columns)}")
        return ", ".join(f"`{name}` {_spark_type(columns[name].cql_type)}" for name in wanted)

    def reader(self, schema: StructType) -> CassandraReader:
        options = self._options()
        return (PushingReader if options.get("pushdown") == "true" else CassandraReader)(options, schema)

    def writer(self, schema: StructType, overwrite: bool) -> "CassandraWriter":
        if overwrite:
            raise MisuseError("a Cassandra table cannot be overwritten: use mode('append'), which upserts")
        return CassandraWriter(self._options(), schema)

    def _options(self) -> dict[str, str]:
        return {**self.known, **self.options}


def _spark_type(cql: str) -> str:
    if cql.startswith("frozen<list<"):
        return f"ARRAY<{_spark_type(cql.removeprefix('frozen<list<').removesuffix('>>'))}>"
    return _SPARK_TYPES.get(cql, "STRING")


@dataclass
class Written(WriterCommitMessage):
    """Rows one task wrote."""

    rows: int


class CassandraWriter(DataSourceArrowWriter):
    """Upserts Arrow batches: small unlogged batches, many in flight."""

    def __init__(self, options: Mapping[str, str], schema: StructType) -> None:
        self.options, self.names = dict(options), [field.name for field in schema.fields]

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        session = session_for(settings_of(self.options))
        marks = ", ".join("?" * len(self.names))
        names = ", ".join(f'"{name}"' for name in self.names)
        stamp = f" USING TIMESTAMP {int(self.options['timestamp'])}" if "timestamp" in self.options else ""
        statement = session.prepare(f"INSERT INTO {self.options['table']} ({names}) VALUES ({marks}){stamp}")
        sender = Sender(session, statement)
        for batch in iterator:
            columns = [_serialized(column, kind.type) for column, kind in zip(batch.columns, statement.column_metadata, strict=True)]
            for row in zip(*columns, strict=True):
                sender.send(row)
        return Written(sender.finish())


class _Rows(BatchStatement):  # type: ignore[misc]
    """An unlogged batch of rows that are serialized already: by itself the driver does so value by value."""

    def __init__(self, statement: PreparedStatement, rows: Sequence[tuple[bytes | None, ...]]) -> None:
        super().__init__(batch_type=BatchType.UNLOGGED)
        for row in rows:
            self._add_statement_and_params(True, statement.query_id, row)
        if len(statement.routing_key_indexes or ()) == 1:
            self.routing_key, self.keyspace = rows[0][statement.routing_key_indexes[0]], statement.keyspace


class Sender:
    """Sends rows of one statement in unlogged batches with a bounded number in flight; the first failure is raised at the end."""

    def __init__(self, session: Any, statement: PreparedStatement) -> None:
        self.session, self.statement = session, statement
        self.free = Semaphore(_IN_FLIGHT)
        self.failures: list[BaseException] = []
        self.rows = self.size = 0
        self.waiting: list[tuple[bytes | None, ...]] = []

    def send(self, row: tuple[bytes | None, ...]) -> None:
        self.waiting.append(row)
        self.rows += 1
        self.size += sum(map(len, filter(None, row)))
        if len(self.waiting) >= _BATCH_ROWS or self.size >= _BATCH_BYTES:
            self._flush()

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

    def finish(self) -> int:
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
    """A column's values as the driver takes them; arrays of numbers as float64 bytes, arrays of binary as framed extras."""
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        offsets = column.offsets.to_numpy()
        data = np.ascontiguousarray(column.values.to_numpy(), dtype="<f8").tobytes()
        return [data[8 * start : 8 * end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    values: list[Any] = column.to_pylist()
    if pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
        return [None if value is None or value[0] is None else pack_extras(value) for value in values]
    if pa.types.is_list(kind):
        return [None if value is None else pack_extras([value]) for value in values]
    if pa.types.is_decimal(kind):
        return [None if value is None else Decimal(value) for value in values]
    return values
