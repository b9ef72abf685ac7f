"""Reading a Cassandra table from Spark (source.py): by token ranges, or by keys when a filter names them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cassandra import OperationTimedOut, ReadFailure, ReadTimeout
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.metadata import TableMetadata
from pyspark.sql.datasource import DataSourceReader, Filter, InputPartition
from pyspark.sql.types import StructType

from anabranch.errors import MisuseError
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.data_source.filters import TIMES, Pushed, push
from anabranch.stores.cassandra.session import answering, session_for
from anabranch.stores.cassandra.tables import plain_value, time_of, token_ranges
from anabranch.values.names import listed

_IN_FLIGHT = 64
_KEYS_AT_ONCE = 500  # that one task looks up


def settings_of(options: Mapping[str, str]) -> ViewsSettings:
    """The settings in a source's options."""
    return ViewsSettings(
        hosts=tuple(options["hosts"].split(",")),
        port=int(options["port"]),
        keyspace=options["keyspace"],
        local_datacenter=options.get("datacenter", "datacenter1"),
        replication=int(options.get("replication", "1")),
        username=options.get("username"),
        password=options.get("password"),
    )


def times_of(options: Mapping[str, str]) -> frozenset[str]:
    """Columns of texts that a source's options say are times."""
    return frozenset(json.loads(options.get("times", "[]")))


@answering()
def table_of(session: Session, options: Mapping[str, str]) -> TableMetadata:
    """The table as the server knows it now: another process may just have created or changed it."""
    keyspace, table = options["keyspace"], options["table"]
    session.cluster.refresh_table_metadata(keyspace, table)
    tables = session.cluster.metadata.keyspaces[keyspace].tables
    if table not in tables:
        raise MisuseError(f"Cassandra has no table {table!r}: {listed(table, tables, 'there are')}")
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
        return [TokenRange(*ends) for ends in token_ranges(int(self.options.get("partitions", "4")))]

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        with answering(f"table {self.options['table']} or a column of it is missing"):
            yield from self._rows(partition)

    def _rows(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        if not isinstance(partition, Keys | TokenRange):
            raise MisuseError("this reader takes its own keys and token ranges only")
        session = session_for(settings_of(self.options))
        times = times_of(self.options)
        kinds = [TIMES if field.name in times else field.dataType.typeName() for field in self.schema.fields]
        names = ", ".join(f'"{field.name}"' for field in self.schema.fields)
        key = ", ".join(f'"{column.name}"' for column in table_of(session, self.options).partition_key)
        if isinstance(partition, Keys):
            rows = self._of_keys(
                session, f"SELECT {names} FROM {self.options['table']} WHERE {key} = ?", partition.keys
            )
        else:
            lower = ">=" if partition.start == -(2**63) else ">"
            within = f"token({key}) {lower} {partition.start} AND token({key}) <= {partition.end}"
            query = f"SELECT {names} FROM {self.options['table']} WHERE {within}"
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
            # So few rows pass that finding a page of them takes too long: read all, Spark filters them again.
            return iter(session.execute(query))


class PushingReader(CassandraReader):
    """Reads what passes the pushed filters.

    Spark 4.2 keeps a query's filters with its frame, and a later query of that frame would get the filtered
    rows: frames of pushdown.py are safe from that.
    """

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - the API's name
        """Take what Cassandra can evaluate; Spark evaluates everything but the keys again."""
        table = table_of(session_for(settings_of(self.options)), self.options)
        key = table.partition_key[0].name if len(table.partition_key) == 1 else None
        types = {name: column.cql_type for name, column in table.columns.items()}
        types |= {name: TIMES for name in times_of(self.options) if types.get(name) == "text"}
        self.pushed, left = push(filters, key, types)
        return left


def _spark_value(value: Any, kind: str) -> Any:
    if kind == TIMES:
        return time_of(value)
    # A time without a zone would be taken by Spark as one of this machine's.
    value = plain_value(value)
    return str(value) if kind == "string" and value is not None and not isinstance(value, list) else value
