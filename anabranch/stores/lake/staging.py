"""Appending to a Delta table in two steps: write data files that no reader sees, then commit or drop them.

Delta's own transaction does both (its writer keeps the statistics of every file), so data is written once,
however long one has to look at it before it may become visible. Python reaches it through the session's JVM
only. What a process that was killed had written is in no version of the table; VACUUM clears it away.
"""

import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from delta.tables import DeltaTable
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from anabranch.stores.files.filesystems import hadoop, spark_path
from anabranch.stores.jvm import (
    java_class,
    java_context,
    java_frame,
    java_session,
    scala_items,
    scala_map,
    scala_none,
    scala_seq,
    scala_some,
)
from anabranch.values.names import quoted

T = TypeVar("T")
_DELTA = "org.apache.spark.sql.delta"
_ATTEMPTS = 5
_MEANWHILE = ("ConcurrentTransaction", "CONCURRENT_TRANSACTION", "ProtocolChanged", "PROTOCOL_CHANGED",
              "MetadataChanged", "METADATA_CHANGED")  # fmt: skip
"""What Delta's errors say where another writer took a name, or made or extended the table, meanwhile."""
_FURTHER_ARGUMENTS = 8  # of Delta's operation WRITE; all are optional


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file; `action` is Delta's own record of it, `null_partition` whether its partition is NULL."""

    action: Any
    path: str
    rows: int
    null_partition: bool


def create_table(
    spark: SparkSession,
    path: str,
    columns: Mapping[str, str],
    partition: str | None,
    properties: Mapping[str, str],
) -> None:
    """Create the Delta table of these columns unless it is there."""
    builder = DeltaTable.createIfNotExists(spark).location(path)
    for name, kind in columns.items():
        builder = builder.addColumn(name, kind)
    for key, value in properties.items():
        builder = builder.property(key, value)
    (builder.partitionedBy(partition) if partition else builder).execute()


def add_columns(spark: SparkSession, path: str, columns: Mapping[str, str]) -> None:
    """Add columns to the table; rows that are there have NULL in them, and are not rewritten."""
    listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
    spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({listed})")


def write_files(rows: DataFrame, path: str) -> list[DataFile]:
    """Write `rows` as data files of the table at `path`, without committing them.

    Columns that the table does not have are in the files and in nobody's sight.
    """
    spark = rows.sparkSession
    transaction = delta_log(spark, path).startTransaction(scala_none(spark), scala_none(spark))
    # Delta writes no column that the table lacks: in this transaction, never committed, it has all.
    transaction.updateMetadata(_with_schema(spark, transaction.metadata(), rows), False)
    actions = transaction.writeFiles(java_frame(rows))
    return [_data_file(path, action) for action in scala_items(spark, actions)]


def read_files(spark: SparkSession, files: Iterable[DataFile], schema: Any) -> DataFrame:
    """The rows of data files, committed or not."""
    return spark.read.schema(schema).parquet(*[spark_path(file.path) for file in files])


def commit_files(
    spark: SparkSession,
    path: str,
    files: Iterable[DataFile],
    names: Mapping[str, int],
    notes: Iterable[str] = (),
) -> bool:
    """Make data files visible at once, under names (app id: version); False, unchanged, if one is taken.

    `notes` become names too (of version 0), whether they are taken or not.
    """
    return repeated(lambda: _commit_files(spark, path, list(files), names, list(notes)))


def repeated(change: Callable[[], T]) -> T:
    """Make a change of a table, again where another writer changed the table at the same moment."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return change()
        except (PySparkException, Py4JError) as error:
            if not any(sign in str(error) for sign in _MEANWHILE):
                raise
    return change()


def _commit_files(
    spark: SparkSession, path: str, files: Sequence[DataFile], names: Mapping[str, int], notes: Sequence[str]
) -> bool:
    transaction = delta_log(spark, path).startTransaction(scala_none(spark), scala_none(spark))
    # Asking for a name makes Delta refuse the commit when somebody else takes it meanwhile.
    if any(transaction.txnVersion(name) >= version for name, version in names.items()):
        return False
    mark = java_class(spark, f"{_DELTA}.actions.SetTransaction")
    now = scala_some(spark, java_class(spark, "java.lang.System").currentTimeMillis())
    all_names = (*names.items(), *((note, 0) for note in notes))
    actions = [mark(name, version, now) for name, version in all_names]
    actions += [file.action for file in files]
    _tell_history(spark, transaction, files)
    transaction.commit(scala_seq(spark, actions), _append_operation(spark))
    return True


def drop_files(spark: SparkSession, files: Iterable[DataFile]) -> None:
    """Delete data files that were not committed."""
    for file in files:
        system, place = hadoop(spark, file.path)
        system.delete(place, False)


def transactions(spark: SparkSession, path: str) -> Any:
    """The version of the last append by name, as Delta's own map; None without a table."""
    found = snapshot(spark, path)
    return None if found is None else found.transactions()


def snapshot(spark: SparkSession, path: str) -> Any:
    """Delta's latest snapshot of a table, a Java object; None without a table."""
    if not DeltaTable.isDeltaTable(spark, path):
        return None
    return delta_log(spark, path).update(False, scala_none(spark), scala_none(spark))


def snapshot_at(spark: SparkSession, path: str, version: int) -> Any:
    """Delta's snapshot of an earlier version, a Java object.

    Raises Py4JError when the log has lost it.
    """
    return delta_log(spark, path).getSnapshotAt(int(version), scala_none(spark), scala_none(spark), False)


def _tell_history(spark: SparkSession, transaction: Any, files: Sequence[DataFile]) -> None:
    """What the table's history says was added: Delta knows it of a transaction that writes by itself only."""
    metrics, sql_metrics = {}, java_class(spark, "org.apache.spark.sql.execution.metric.SQLMetrics")
    sizes = [int(file.action.size()) for file in files]
    for name, value in {
        "numFiles": len(sizes),
        "numOutputRows": sum(file.rows for file in files),
        "numOutputBytes": sum(sizes),
    }.items():
        metrics[name] = sql_metrics.createMetric(java_context(spark), name)
        metrics[name].set(value)
    transaction.registerSQLMetrics(java_session(spark), scala_map(spark, metrics))


def _append_operation(spark: SparkSession) -> Any:
    """What the table's history says of the commit: WRITE, mode Append."""
    nothing = scala_none(spark)
    write = java_class(spark, f"{_DELTA}.DeltaOperations$Write")
    append = java_class(spark, "org.apache.spark.sql.SaveMode").Append
    return write(append, *[nothing] * _FURTHER_ARGUMENTS)


def _with_schema(spark: SparkSession, metadata: Any, rows: DataFrame) -> Any:
    named = [metadata.id(), metadata.name(), metadata.description(), metadata.format(), rows.schema.json()]
    return java_class(spark, f"{_DELTA}.actions.Metadata")(
        *named, metadata.partitionColumns(), metadata.configuration(), metadata.createdTime()
    )


def _data_file(path: str, action: Any) -> DataFile:
    values = action.partitionValues()
    null = not values.isEmpty() and values.head()._2() is None  # noqa: SLF001
    return DataFile(
        action=action,
        path=f"{path.rstrip('/')}/{urllib.parse.unquote(action.path())}",
        rows=int(action.numPhysicalRecords().get()),
        null_partition=null,
    )


def delta_log(spark: SparkSession, path: str) -> Any:
    """Delta's log of the table at a path, a Java object."""
    return java_class(spark, f"{_DELTA}.DeltaLog").forTable(java_session(spark), path)
