"""Scoring on write: rows that come into a table or a folder get their score without anybody asking, each exactly once.

One streaming query reads what was appended and appends it to a Delta table, scored. An append is named by the query's checkpoint and the
number of its batch, so a batch that was cut off is repeated whole and changes nothing. Of a declared source every event counts once, its
first arrival: one that is in the result already is left out. Into the serving table scores are upserted by key.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.declare.projects import OnWrite, Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.copies import distinct
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.progress import Progress
from anabranch.stores.cassandra.tables import current_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.files.filesystems import hadoop, write_text
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import prepare_events
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.models.registry import Models
from anabranch.stores.queries import SupervisedQuery, run_queries, triggered
from batch.scoring.delivery import serving_rows
from batch.scoring.frames import RESULTS, check_names, score
from batch.scoring.given import SERVING, with_features
from batch.scoring.row_files import CSV, MARKER, check_replaceable, form_of, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Follower:
    """Rows of `source` (a path) that are scored into the Delta table `out`, or ``serving``; `label` says which for people.

    `declared`: whose events they are, when they are such.
    """

    source: str
    out: str
    label: str
    declared: Source | None = None


@dataclass
class Followed:
    """What came of it until now: rows written, by follower."""

    rows: dict[str, int] = field(default_factory=dict)


def followers(lake: Lake, project: Project) -> tuple[Follower, ...]:
    """Those that the project declares."""
    found = []
    for one in project.score_on_write:
        declared = None if one.source is None else project.sources[one.source]
        source = str(one.table) if declared is None else lake.path(project, declared)
        found.append(Follower(source=source, out=one.to, label=_label(one), declared=declared))
    if not found:
        raise MisuseError(
            f"project {project.name!r} declares no score_on_write: add Project(score_on_write=(OnWrite(...),)), or give --in and --out"
        )
    return tuple(found)


def _label(one: OnWrite) -> str:
    return f"source {one.source}" if one.source is not None else str(one.table)


def follow(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    wanted: tuple[Follower, ...],
    progress: Progress,
    *,
    every_seconds: int | None,
    stopping: threading.Event,
    serving: Views | None = None,
) -> Followed:
    """Score what came, and with `every_seconds` what comes, until `stopping` is set. The champion of the moment scores each batch.

    `serving`: where the serving table is, needed when a follower writes there.
    """
    done = Followed(rows=dict.fromkeys([one.label for one in wanted], 0))
    queries = []
    for one in wanted:
        progress.step(f"scores of {one.label} into {one.out}")
        begin = partial(_start, spark, lake, models, project, one, done, every_seconds, serving)
        queries.append(SupervisedQuery(name=f"score {project.name} {one.label}", begin=begin))
    run_queries(queries, lambda: progress.advance(sum(done.rows.values()), None, "rows"), stopping)
    for query, one in zip(queries, wanted, strict=True):
        _raise_failure(query.error, one)
    log.info("scored on write project=%s rows=%s", project.name, done.rows)
    return done


def _start(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    one: Follower,
    done: Followed,
    every_seconds: int | None,
    serving: Views | None,
) -> StreamingQuery:
    _prepare(spark, project, one.out, serving)
    if one.declared is not None:
        prepare_events(spark, lake, project, one.declared)  # nothing may have landed yet
    form, known = form_of(spark, one.source), read_rows(spark, one.source)
    reader = spark.readStream.format(form)
    if form != "delta":
        reader = reader.schema(known.schema).options(**(CSV if form == "csv" else {}))
    rows = reader.load(one.source)
    check_names(project, rows.columns)
    digest = hashlib.sha256(f"{one.source}|{one.out}".encode()).hexdigest()[:12]
    checkpoint = f"{lake.settings.root.rstrip('/')}/{project.name}/checkpoints/scoring/{digest}"
    writer = rows.writeStream.queryName(f"score {project.name} {one.label}").option(
        "checkpointLocation", checkpoint
    )
    writer = triggered(writer, None if every_seconds is None else f"{every_seconds} seconds")
    return writer.foreachBatch(_micro_batch(lake, models, project, one, done, serving)).start()


def _prepare(spark: SparkSession, project: Project, out: str, serving: Views | None) -> None:
    """Make `out` a place of ours; a table of Delta that is there already is appended to, whoever made it."""
    if out == SERVING:
        if serving is None:
            raise MisuseError(
                "scores cannot go into the serving table without its address: give the views' settings"
            )
        serving.ensure_current(project)
        return
    if snapshot(spark, out) is not None:
        return
    check_replaceable(spark, out)
    system, place = hadoop(spark, out)
    system.mkdirs(place)
    write_text(spark, f"{out.rstrip('/')}/{MARKER}", '{"written_by": "anabranch score --follow"}')


def _micro_batch(
    lake: Lake, models: Models, project: Project, one: Follower, done: Followed, serving: Views | None
) -> Callable[[DataFrame, int], None]:
    def run(arrived: DataFrame, number: int) -> None:
        spark = arrived.sparkSession
        rows = _news(spark, one, arrived)
        version, now = models.scorer(project.name), time.time_ns() // 1000
        missing = [name for name in version.features if name not in rows.columns]
        ready = with_features(spark, lake, project, rows, missing, now) if missing else rows
        scored = score(spark, models, project, ready, version.version).select(
            *[F.col(f"`{name}`") for name in (*rows.columns, *RESULTS)]
        )
        count = rows.count()  # before the append, after which none of them is new
        if serving is not None and one.out == SERVING:
            write_rows(serving_rows(project, scored), serving.settings, current_table(project.name), now)
        else:
            # The id of the query is kept in its checkpoint: who deletes that, begins a new series of appends.
            query = spark.sparkContext.getLocalProperty("sql.streaming.queryId")
            writer = scored.write.format("delta").mode("append").option("mergeSchema", "true")
            writer.option("txnAppId", f"score/{project.name}/{query}").option("txnVersion", str(number)).save(
                one.out
            )
        done.rows[one.label] += count

    return run


def _news(spark: SparkSession, one: Follower, arrived: DataFrame) -> DataFrame:
    """The rows to score; of a declared source the first arrival of each event that has no score yet."""
    if one.declared is None:
        return arrived.drop(*LAKE_COLUMNS)
    first = distinct(one.declared, arrived).drop(*LAKE_COLUMNS)
    if one.out == SERVING or snapshot(spark, one.out) is None:
        return first
    there = spark.read.format("delta").load(one.out)
    name = one.declared.id
    return (
        first.join(
            there.select(F.col(f"`{name}`").alias("_scored")),
            F.col(f"`{name}`") == F.col("_scored"),
            "left_anti",
        )
        if name in there.columns
        else first
    )


def _raise_failure(error: Exception | None, one: Follower) -> None:
    if error is None:
        return
    first = next((line for line in str(error).splitlines() if "Error: " in line), str(error).splitlines()[0])
    raise AnabranchError(
        f"scores of {one.label} into {one.out}: {first.strip()}: what was written stays, put it right and run again"
    ) from error
