"""Cassandra as a Spark data source (Spark's Python Data Source API over the Python driver).

    options = {**cassandra_options(settings), "table": "heart_disease_current"}
        spark.read.format("cassandra").options(**options).load()
    frame.write.format("cassandra").options(**cassandra_options(settings), table=...).mode("append").save()

Options:

    pushdown    ``true``: keys in filters are looked up and Cassandra drops rows by other filters
                (filters.py). Such a frame serves one query only, unless it went through pushdown.py
    columns     the columns to read; Spark does not tell a Python data source which ones a query needs
    times       JSON list of columns of texts that are times, as current rows keep them: read as TIMESTAMP
    timestamp   microseconds: time of the writes, so that a slow retry never replaces a newer row (writer.py)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceArrowWriter, WriterCommitMessage
from pyspark.sql.types import StructType

from anabranch.errors import MisuseError
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.data_source.reader import (
    CassandraReader,
    PushingReader,
    settings_of,
    table_of,
    times_of,
)
from anabranch.stores.cassandra.session import session_for
from anabranch.stores.cassandra.tables import spark_type
from anabranch.stores.cassandra.writer import upsert
from anabranch.values.names import listed, quoted


def cassandra_options(settings: ViewsSettings) -> dict[str, str]:
    """Options that carry settings to the executors."""
    options = {
        "hosts": ",".join(settings.hosts),
        "port": str(settings.port),
        "keyspace": settings.keyspace,
        "datacenter": settings.local_datacenter,
        "replication": str(settings.replication),
    }
    return (
        options
        if settings.username is None
        else {**options, "username": settings.username, "password": settings.password or ""}
    )


class CassandraSource(DataSource):
    """Registered as format ``cassandra``. `known` are options in the class, which appear in no plan."""

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
            raise MisuseError(
                f"Cassandra's table {options['table']!r} has no column {missing[0]!r}: "
                f"{listed(missing[0], columns)}"
            )
        times = times_of(options)
        kinds = {name: spark_type(columns[name].cql_type) for name in wanted}
        kinds |= {name: kinds[name].replace("STRING", "TIMESTAMP") for name in times if name in kinds}
        return ", ".join(f"{quoted(name)} {kind}" for name, kind in kinds.items())

    def reader(self, schema: StructType) -> CassandraReader:
        options = self._options()
        return (PushingReader if options.get("pushdown") == "true" else CassandraReader)(options, schema)

    def writer(self, schema: StructType, overwrite: bool) -> "CassandraWriter":
        if overwrite:
            raise MisuseError("a Cassandra table cannot be overwritten: use mode('append'), which upserts")
        return CassandraWriter(self._options(), schema)

    def _options(self) -> dict[str, str]:
        return {**self.known, **self.options}


@dataclass
class Written(WriterCommitMessage):
    """Rows one task wrote."""

    rows: int


class CassandraWriter(DataSourceArrowWriter):
    """Upserts Arrow batches."""

    def __init__(self, options: Mapping[str, str], schema: StructType) -> None:
        self.options, self.names = dict(options), [field.name for field in schema.fields]

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        moment = int(self.options["timestamp"]) if "timestamp" in self.options else None
        return Written(upsert(settings_of(self.options), self.options["table"], self.names, moment, iterator))
