"""How a Cassandra table is read by Spark: by ranges of tokens, or by keys when a filter names them. See cassandra_source.py."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cassandra import OperationTimedOut, ReadFailure, ReadTimeout
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.metadata import TableMetadata
from cassandra.util import Date as CassandraDate
from pyspark.sql.datasource import DataSourceReader, Filter, InputPartition
from pyspark.sql.types import StructType

from anabranch.errors import MisuseError
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.filters import Pushed, push
from anabranch.stores.cassandra.session import session_for

_IN_FLIGHT = 64
_KEYS_AT_ONCE = 500  # that one task looks up


def settings_of(options: Mapping[str, str]) -> ViewsSettings:
    """The settings that a source's options carry."""
    return ViewsSettings(
        hosts=tuple(options["hosts"].split(",")),
        port=int(options["port"]),
        keyspace=options["keyspace"],
        local_datacenter=options.get("datacenter", "datacenter1"),
        replication=int(options.get("replication", "1")),
        username=options.get("username"),
        password=options.get("password"),
    )


def table_of(session: Session, options: Mapping[str, str]) -> TableMetadata:
    """What the server knows of the table now: another process may have made or changed it a moment ago."""
    keyspace, table = options["keyspace"], options["table"]
    session.cluster.refresh_table_metadata(keyspace, table)
    tables = session.cluster.metadata.keyspaces[keyspace].tables
    if table not in tables:
        raise MisuseError(f"Cassandra has no table {table!r}: there are {', '.join(tables)}")
    return tables[table]


@dataclass
class TokenRange(InputPartition):
    """Rows whose partition token lies in (start, end]."""

    start: int
    end: int


@dataclass
class Keys(InputPartition):
    """Rows of these partition keys."""

    keys: tuple[Any, ...]


class CassandraReader(DataSourceReader):
    """Reads by token ranges, a page at a time; or key by key, when a filter names keys."""

    def __init__(self, options: Mapping[str, str], schema: StructType) -> None:
        self.options, self.schema, self.pushed = dict(options), schema, Pushed()

    def partitions(self) -> Sequence[InputPartition]:
        if self.pushed.keys is not None:
            return [
                Keys(self.pushed.keys[start : start + _KEYS_AT_ONCE])
                for start in range(0, len(self.pushed.keys), _KEYS_AT_ONCE)
            ]
        count = int(self.options.get("partitions", "4"))
        edges = [-(2**63) + (2**64 - 1) * i // count for i in range(count + 1)]
        return [TokenRange(start, end) for start, end in pairwise(edges)]

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        if not isinstance(partition, Keys | TokenRange):
            raise MisuseError("this reader takes its own keys and token ranges only")
        session = session_for(settings_of(self.options))
        kinds = [field.dataType.typeName() for field in self.schema.fields]
        names = ", ".join(f'"{field.name}"' for field in self.schema.fields)
        key = ", ".join(f'"{column.name}"' for column in table_of(session, self.options).partition_key)
        if isinstance(partition, Keys):
            rows = self._of_keys(
                session, f"SELECT {names} FROM {self.options['table']} WHERE {key} = ?", partition.keys
            )
        else:
            lower = ">=" if partition.start == -(2**63) else ">"
            query = f"SELECT {names} FROM {self.options['table']} WHERE token({key}) {lower} {partition.start} AND token({key}) <= {partition.end}"
            rows = self._of_range(session, query)
        for row in rows:
            yield tuple(_spark_value(value, kind) for value, kind in zip(row, kinds, strict=True))

    def _of_keys(self, session: Session, query: str, keys: Sequence[Any]) -> Iterator[Any]:
        for _, rows in execute_concurrent_with_args(
            session, session.prepare(query), [(key,) for key in keys], concurrency=_IN_FLIGHT
        ):
            yield from rows

    def _of_range(self, session: Session, query: str) -> Iterator[Any]:
        if not self.pushed.conditions:
            return iter(session.execute(query))
        statement = session.prepare(f"{query} AND {' AND '.join(self.pushed.conditions)} ALLOW FILTERING")
        try:
            return iter(session.execute(statement, self.pushed.values))
        except (ReadTimeout, ReadFailure, OperationTimedOut):
            # So few rows are left that a page of them takes too long to find; Spark judges them all the same.
            return iter(session.execute(query))


class PushingReader(CassandraReader):
    """Reads what filters leave over. Spark 4.2 keeps the filters of a query with the frame, and gives a later query of the same frame that
    has none the filtered rows: pushdown.py makes frames that are safe from that.
    """

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - the API's name
        """Take what Cassandra can answer; the rest, and all but keys, stays with Spark."""
        table = table_of(session_for(settings_of(self.options)), self.options)
        key = table.partition_key[0].name if len(table.partition_key) == 1 else None
        self.pushed, left = push(
            filters, key, {name: column.cql_type for name, column in table.columns.items()}
        )
        return left


def _spark_value(value: Any, kind: str) -> Any:
    if isinstance(value, list):
        return [_spark_value(one, "") for one in value]
    if isinstance(value, CassandraDate):
        return value.date()
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)  # Spark would take a time without a zone for one of this machine's
    return str(value) if kind == "string" and value is not None else value
