"""What is scored: files of any form, a Delta table or the serving table."""

import hashlib
import json
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from anabranch.declare.names import INTERVAL, RESULTS
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.stores.cassandra.current_rows import time_features
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.tables import current_table
from anabranch.stores.files.filesystems import files_at, hadoop, spark_path
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.opened import Stores
from batch.scoring.ledger import plain
from batch.scoring.row_files import form_of, nanoseconds_of, read_form, read_options

SERVING = "serving"
"""The name of the project's serving table as input or output of a scoring."""
# With these a Delta table is more than the Parquet files in it.
_FEATURES = ("delta.enableDeletionVectors", "delta.columnMapping.mode")


@dataclass(frozen=True, kw_only=True)
class InputRows:
    """Rows to score.

    `files` (path, bytes) hold these rows and nothing else; there are none where rows must be written first.
    `form` is the form of the files and `read` reads some of them. `digest` changes with the rows; it is None
    where a change cannot be detected.
    """

    frame: DataFrame
    form: str
    files: tuple[tuple[str, int], ...]
    digest: str | None
    read: Callable[[Sequence[str]], DataFrame]


def input_rows(stores: Stores, project: Project, source: str) -> InputRows:
    """The rows of a path, or of the project's serving table when `source` is ``serving`` or its name."""
    spark = stores.spark
    if source in (SERVING, current_table(project.name)):
        return _serving_rows(stores, project)
    form = form_of(spark, source)
    frame = read_form(spark, source, form)
    if form == "delta":
        return _delta_rows(spark, source, frame)
    found, _ = files_at(source, spark).find(source)
    files = tuple((each.path, each.size) for each in found)
    digest = _digest([f"{each.path} {each.size} {each.modified}" for each in found])
    # Folders such as day=2024-01-01 hold a column in their names, which a single file lacks.
    partitioned = any("=" in path.removeprefix(found[0].path.rsplit("/", 1)[0]) for path, _ in files)
    options = read_options(spark, source, form)
    as_they_are = not partitioned and not nanoseconds_of(spark, source, form)

    def read(paths: Sequence[str]) -> DataFrame:
        reader = spark.read.format(form).options(**options).schema(frame.schema)
        return reader.load([spark_path(path) for path in paths])

    return InputRows(frame=frame, form=form, files=files if as_they_are else (), digest=digest, read=read)


def _serving_rows(stores: Stores, project: Project) -> InputRows:
    table, spark = current_table(project.name), stores.spark
    if not stores.views.has_table(table):
        raise MisuseError(
            f"the serving table {table} does not exist: run 'anabranch build {project.name}' first"
        )
    spark.dataSource.register(CassandraSource)
    options = {**cassandra_options(stores.views.settings), "times": json.dumps(time_features(project))}
    frame = (
        spark.read.format("cassandra")
        .options(**options, table=table)
        .load()
        .drop(*RESULTS, "scores", *INTERVAL)
    )
    return _to_be_written(spark, frame, SERVING, None)


def _delta_rows(spark: SparkSession, path: str, frame: DataFrame) -> InputRows:
    """The rows of the table's version of now, whatever is written to it meanwhile."""
    table = snapshot(spark, path)
    metadata = table.metadata()
    digest = _digest([path, str(metadata.id()), str(table.version())])
    fixed = spark.read.format("delta").option("versionAsOf", str(table.version())).load(path)
    special = any(metadata.configuration().contains(name) for name in _FEATURES)
    if special or not metadata.partitionColumns().isEmpty():
        return _to_be_written(spark, fixed, "delta", digest)
    files = tuple((urllib.parse.unquote(plain(name)), 0) for name in sorted(fixed.inputFiles()))

    def read(paths: Sequence[str]) -> DataFrame:
        return spark.read.schema(frame.schema).parquet(*[spark_path(name) for name in paths])

    return InputRows(frame=fixed, form="parquet", files=files, digest=digest, read=read)


def _to_be_written(spark: SparkSession, frame: DataFrame, form: str, digest: str | None) -> InputRows:
    return InputRows(
        frame=frame, form=form, files=(), digest=digest, read=lambda paths: spark.read.parquet(*paths)
    )


def parquet_files(spark: SparkSession, folder: str) -> tuple[tuple[str, int], ...]:
    """Paths and sizes of the Parquet files in a folder that Spark wrote."""
    system, place = hadoop(spark, folder)
    found = [
        (plain(status.getPath().toString()), int(status.getLen())) for status in system.listStatus(place)
    ]
    return tuple(sorted((path, size) for path, size in found if path.endswith(".parquet")))


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
