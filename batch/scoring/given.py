"""What is scored: files of any form, a Delta table or the serving table; and the features that its rows lack, from the lake."""

import hashlib
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.folds.spark import point_in_time
from anabranch.stores.cassandra.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.tables import current_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.files.filesystems import files_at, hadoop, spark_path
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.staging import snapshot
from anabranch.values.times import from_micros
from batch.scoring.features import time_column
from batch.scoring.frames import RESULTS
from batch.scoring.ledger import plain
from batch.scoring.row_files import CSV, form_of, read_form

SERVING = "serving"
_AT, _GIVEN = "_at", "_given_"
# What makes a Delta table more than the Parquet files in it.
_FEATURES = ("delta.enableDeletionVectors", "delta.columnMapping.mode")


@dataclass(frozen=True, kw_only=True)
class Given:
    """`rows` as a frame; `files` (path, bytes) that hold them and nothing else, none where they must be written out first.

    `form` is that of the files. `digest` changes with the rows; None where that cannot be told. `read` gives some files' rows.
    """

    rows: DataFrame
    form: str
    files: tuple[tuple[str, int], ...]
    digest: str | None
    read: Callable[[Sequence[str]], DataFrame]


def given_rows(spark: SparkSession, project: Project, source: str, serving: Views | None) -> Given:
    """What `source` names: a path, or ``serving`` for the project's table of current rows."""
    if source in (SERVING, current_table(project.name)):
        return _serving_rows(spark, project, serving)
    form = form_of(spark, source)
    rows = read_form(spark, source, form)
    if form == "delta":
        return _delta_rows(spark, source, rows)
    found, _ = files_at(source, spark).find(source)
    files = tuple((each.path, each.size) for each in found)
    digest = _digest([f"{each.path} {each.size} {each.modified}" for each in found])
    divided = (
        any("=" in path.removeprefix(found[0].path.rsplit("/", 1)[0]) for path, _ in files) or len(files) == 0
    )

    def read(paths: Sequence[str]) -> DataFrame:
        return (
            spark.read.format(form)
            .options(**(CSV if form == "csv" else {}))
            .schema(rows.schema)
            .load([spark_path(path) for path in paths])
        )

    return Given(rows=rows, form=form, files=() if divided else files, digest=digest, read=read)


def _serving_rows(spark: SparkSession, project: Project, serving: Views | None) -> Given:
    table = current_table(project.name)
    if serving is None or not serving.has_table(table):
        raise MisuseError(f"there is no serving table {table}: run 'anabranch build {project.name}' first")
    spark.dataSource.register(CassandraSource)
    rows = (
        spark.read.format("cassandra")
        .options(**cassandra_options(serving.settings), table=table)
        .load()
        .drop(*RESULTS)
    )
    return Given(
        rows=rows, form=SERVING, files=(), digest=None, read=lambda paths: spark.read.parquet(*paths)
    )


def _delta_rows(spark: SparkSession, path: str, rows: DataFrame) -> Given:
    table = snapshot(spark, path)
    metadata = table.metadata()
    digest = _digest([path, str(metadata.id()), str(table.version())])
    fixed = spark.read.format("delta").option("versionAsOf", str(table.version())).load(path)
    if not metadata.partitionColumns().isEmpty() or any(
        metadata.configuration().contains(name) for name in _FEATURES
    ):
        return Given(
            rows=fixed, form="delta", files=(), digest=digest, read=lambda paths: spark.read.parquet(*paths)
        )
    files = tuple((urllib.parse.unquote(plain(name)), 0) for name in sorted(fixed.inputFiles()))

    def read(paths: Sequence[str]) -> DataFrame:
        return spark.read.schema(rows.schema).parquet(*[spark_path(name) for name in paths])

    return Given(rows=fixed, form="parquet", files=files, digest=digest, read=read)


def parquet_files(spark: SparkSession, folder: str) -> tuple[tuple[str, int], ...]:
    """Paths and sizes of the files that Spark wrote into a folder."""
    system, place = hadoop(spark, folder)
    found = [
        (plain(status.getPath().toString()), int(status.getLen())) for status in system.listStatus(place)
    ]
    return tuple(sorted((path, size) for path, size in found if path.endswith(".parquet")))


def with_features(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    rows: DataFrame,
    names: Sequence[str],
    at: int,
    *,
    own_times: bool = False,
) -> DataFrame:
    """`rows` with the feature columns `names` of their keys, from all distinct events of the lake strictly before `at`.

    With `own_times` before each row's own time instead, which stands in the column that `time_column` names.
    """
    absent = [name for name in project.keys if name not in rows.columns]
    if absent:
        raise MisuseError(
            f"the rows lack the features {', '.join(names)} and the key column {absent[0]!r} to look them up with: "
            f"give all features, or all of {', '.join(project.keys)}"
        )
    views = tuple(view for view in project.views if {column.name for column in view.columns} & set(names))
    needed = Project(name=project.name, views=views)
    events = lake.distinct_events(spark, needed)
    # Given columns may be named as features of the same views: they step aside while these are attached.
    aside = {
        name: f"{_GIVEN}{name}" for name in rows.columns if name in {column.name for column in needed.columns}
    }
    moment = (
        F.expr(f"try_cast(`{time_column(project)}` AS TIMESTAMP)") if own_times else F.lit(from_micros(at))
    )
    known = point_in_time(needed, events, rows.withColumn(_AT, moment).withColumnsRenamed(aside), _AT)
    kept = [F.col(f"`{aside.get(name, name)}`").alias(name) for name in rows.columns]
    return known.select(*kept, *[F.col(f"`{name}`") for name in names])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
