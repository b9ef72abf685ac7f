"""Delivery of scores: into a folder of Parquet or CSV, a Delta table, or the serving table.

A folder or table is replaced as a whole, at the end. Rows of the serving table are upserted with the time at
which the scoring began, so a row that the stream or a build writes meanwhile wins.
"""

import json
from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import MapType

from anabranch.declare.names import RESULTS
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.cells import named
from anabranch.folds.spark import key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.tables import current_table
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.files.filesystems import hadoop, hadoop_child, hadoop_exists, read_text, write_text
from anabranch.stores.lake.lake import as_stored
from anabranch.stores.opened import Stores
from anabranch.values.names import listed
from batch.scoring.input_rows import SERVING, parquet_files
from batch.scoring.ledger import ScoringRun
from batch.scoring.row_files import MARKER, check_replaceable

FORMS = ("parquet", "csv", "delta", SERVING)
_MOST_FILES = 16  # files written into Cassandra as one step


def out_form(spark: SparkSession, out: str, wanted: str | None) -> str:
    """The form of the result: `wanted`, or the one that the name of `out` or the table at `out` implies."""
    if wanted is not None and wanted not in FORMS:
        raise MisuseError(f"unknown form of results {wanted!r}: {listed(wanted, FORMS, 'use')}")
    if SERVING in (out, wanted):
        return SERVING
    check_replaceable(spark, out)
    if wanted is not None:
        return wanted
    name = out.lower().rstrip("/")
    if name.endswith(".csv"):
        return "csv"
    system, place = hadoop(spark, out)
    is_table = name.endswith(".delta") or hadoop_exists(system, hadoop_child(spark, place, "_delta_log"))
    return "delta" if is_table else "parquet"


def noted_in(spark: SparkSession, out: str) -> dict[str, object]:
    """The notes about the run that wrote `out`; empty when Anabranch did not write it."""
    system, place = hadoop(spark, out)
    # Asked for by name: listings hide files that begin with an underscore.
    if not hadoop_exists(system, place) or not hadoop_exists(system, hadoop_child(spark, place, MARKER)):
        return {}
    found: dict[str, object] = json.loads(read_text(spark, f"{out.rstrip('/')}/{MARKER}"))
    return found


def deliver(spark: SparkSession, run: ScoringRun, out: str, form: str, about: Mapping[str, object]) -> None:
    """Replace `out` with the finished rows of `run`."""
    if form == "delta":
        _into_table(spark, run, out, about)
        return
    folder = run.scored
    if form == "csv":
        folder = run.path("scored.csv")
        writer = _flat(scored_rows(spark, run)).write.mode("overwrite")
        writer.option("header", "true").option("escape", '"').csv(folder)
    write_text(spark, f"{folder}/{MARKER}", json.dumps(dict(about)))
    system, place = hadoop(spark, out)
    system.delete(place, True)
    system.mkdirs(place.getParent())
    system.rename(hadoop(spark, folder)[1], place)


def _into_table(spark: SparkSession, run: ScoringRun, out: str, about: Mapping[str, object]) -> None:
    system, place = hadoop(spark, out)
    if not hadoop_exists(system, hadoop_child(spark, place, "_delta_log")):
        system.delete(place, True)
        system.mkdirs(place)
    # Written first, so that the table is known as ours even when the process is killed here.
    write_text(spark, f"{out.rstrip('/')}/{MARKER}", json.dumps({**about, "run": None}))
    writer = as_stored(scored_rows(spark, run)).write.format("delta").mode("overwrite")
    writer = writer.option("overwriteSchema", "true")
    writer.option("txnAppId", f"score/{run.id}").option("txnVersion", "0").save(out)
    write_text(spark, f"{out.rstrip('/')}/{MARKER}", json.dumps(dict(about)))


def upsert_serving(stores: Stores, run: ScoringRun, project: Project, progress: Progress) -> int:
    """Upsert the finished scores, a few files at a time, each once; returns how many rows have a key."""
    spark, views = stores.spark, stores.views
    views.ensure_current(project)
    files = [path for path, _ in parquet_files(spark, run.scored)]
    sent = run.noted("sent")
    for start in range(0, len(files), _MOST_FILES):
        if f"{start}" not in sent:
            rows = serving_rows(project, spark.read.parquet(*files[start : start + _MOST_FILES]))
            write_rows(rows, views.settings, current_table(project.name), run.moment)
            run.note(f"sent/{start}", "")
        progress.advance(min(start + _MOST_FILES, len(files)), len(files), "files in the serving table")
    return serving_rows(project, scored_rows(spark, run)).count()


def serving_rows(project: Project, scored: DataFrame) -> DataFrame:
    """Key, key columns, score, label and version of the scored rows that have a key."""
    absent = [name for name in project.keys if name not in scored.columns]
    if absent:
        raise MisuseError(
            f"the rows have no key column {absent[0]!r}: the serving table needs {', '.join(project.keys)}"
        )
    keys = [
        named(name).cast("string").alias(name)
        for name in project.keys
        if name != "key" and name not in project.column_of
    ]
    label = [] if project.task == "number" else ["label"]
    scores = [name for name in project.results if name not in RESULTS]
    return (
        _flat(scored)
        .select(key_column(project.keys).alias("key"), *keys, "score", *label, *scores, "model_version")
        .where("key IS NOT NULL")
    )


def _flat(scored: DataFrame) -> DataFrame:
    """The rows with the scores of several classes as JSON: neither CSV nor the serving table has maps."""
    maps = [field.name for field in scored.schema if isinstance(field.dataType, MapType)]
    return scored.withColumn("scores", F.to_json("scores")) if "scores" in maps else scored


def scored_rows(spark: SparkSession, run: ScoringRun) -> DataFrame:
    """The finished rows."""
    return spark.read.parquet(run.scored)
