"""Cassandra as a Spark data source (Spark's Python Data Source API over the Python driver).

    spark.read.format("cassandra").options(**cassandra_options(settings), table="heart_disease_current").load()
    frame.write.format("cassandra").options(**cassandra_options(settings), table=...).mode("append").save()

Writing needs an existing table with a column of each name. ARRAY<DOUBLE> becomes a blob of float64 and arrays of BINARY
become framed extras (states.py). Writes are upserts, so a retried task does no harm; with the option `timestamp`
(microseconds), a slow retry never beats a newer write.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from threading import Semaphore
from typing import Any

import numpy as np
import pyarrow as pa
from cassandra.cluster import Session
from cassandra.metadata import TableMetadata
from cassandra.query import BatchStatement, BatchType, PreparedStatement
from cassandra.util import Date as CassandraDate
from pyspark.sql.datasource import DataSource, DataSourceArrowWriter, DataSourceReader, InputPartition, WriterCommitMessage
from pyspark.sql.types import StructType

from features.errors import MisuseError
from stores.cassandra_session import session_for
from stores.settings import ViewsSettings
from stores.states import pack_extras

_BATCH_ROWS = 20
_BATCH_BYTES = 16_384  # well below the size at which Cassandra refuses a batch
_IN_FLIGHT = 64
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


def _settings(options: Mapping[str, str]) -> ViewsSettings:
    return ViewsSettings(
        hosts=tuple(options["hosts"].split(",")),
        port=int(options["port"]),
        keyspace=options["keyspace"],
        local_datacenter=options.get("datacenter", "datacenter1"),
        replication=int(options.get("replication", "1")),
        username=options.get("username"),
        password=options.get("password"),
    )


class CassandraSource(DataSource):
    """Registered as format ``cassandra``."""

    @classmethod
    def name(cls) -> str:
        return "cassandra"

    def schema(self) -> str:
        columns = _table(session_for(_settings(self.options)), self.options).columns.values()
        return ", ".join(f"`{column.name}` {_spark_type(column.cql_type)}" for column in columns)

    def reader(self, schema: StructType) -> "CassandraReader":
        return CassandraReader(self.options, schema)

    def writer(self, schema: StructType, overwrite: bool) -> "CassandraWriter":
        if overwrite:
            raise MisuseError("a Cassandra table cannot be overwritten: use mode('append'), which upserts")
        return CassandraWriter(self.options, schema)


@dataclass
class TokenRange(InputPartition):
    """Rows whose partition token lies in (start, end]."""

    start: int
    end: int


class CassandraReader(DataSourceReader):
    """Reads by token ranges, a page at a time."""

    def __init__(self, options: Mapping[str, str], schema: StructType) -> None:
        self.options, self.schema = dict(options), schema

    def partitions(self) -> Sequence[InputPartition]:
        count = int(self.options.get("partitions", "4"))
        edges = [-(2**63) + (2**64 - 1) * i // count for i in range(count + 1)]
        return [TokenRange(start, end) for start, end in pairwise(edges)]

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        if not isinstance(partition, TokenRange):
            raise MisuseError("this reader takes its own token ranges only")
        session = session_for(_settings(self.options))
        table = _table(session, self.options)
        keys = ", ".join(f'"{column.name}"' for column in table.partition_key)
        names = ", ".join(f'"{field.name}"' for field in self.schema.fields)
        lower = ">=" if partition.start == -(2**63) else ">"
        query = f"SELECT {names} FROM {self.options['table']} WHERE token({keys}) {lower} {partition.start} AND token({keys}) <= {partition.end}"
        kinds = [field.dataType.typeName() for field in self.schema.fields]
        for row in session.execute(query):
            yield tuple(_spark_value(value, kind) for value, kind in zip(row, kinds, strict=True))


def _table(session: Session, options: Mapping[str, str]) -> TableMetadata:
    """What the server knows of the table now: another process may have made or changed it a moment ago."""
    keyspace, table = options["keyspace"], options["table"]
    session.cluster.refresh_table_metadata(keyspace, table)
    tables = session.cluster.metadata.keyspaces[keyspace].tables
    if table not in tables:
        raise MisuseError(f"Cassandra has no table {table!r}: there are {', '.join(tables)}")
    return tables[table]


def _spark_type(cql: str) -> str:
    if cql.startswith("frozen<list<"):
        return f"ARRAY<{_spark_type(cql.removeprefix('frozen<list<').removesuffix('>>'))}>"
    return _SPARK_TYPES.get(cql, "STRING")


def _spark_value(value: Any, kind: str) -> Any:
    if isinstance(value, list):
        return [_spark_value(one, "") for one in value]
    if isinstance(value, CassandraDate):
        return value.date()
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)  # Spark would take a time without a zone for one of this machine's
    return str(value) if kind == "string" and value is not None else value


@dataclass
class Written(WriterCommitMessage):
    """Rows one task wrote."""

    rows: int


class CassandraWriter(DataSourceArrowWriter):
    """Upserts Arrow batches: small unlogged batches, many in flight."""

    def __init__(self, options: Mapping[str, str], schema: StructType) -> None:
        self.options, self.names = dict(options), [field.name for field in schema.fields]

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        session = session_for(_settings(self.options))
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
