"""Scoring on write: rows that are appended to a table or folder get their scores, each row exactly once.

One streaming query reads appended rows and appends them, scored, to a Delta table. Its checkpoint and the
number of the micro-batch name an append, so a repeated micro-batch changes nothing. Of a declared source
every event counts once, its first arrival: events with a score are left out. Scores for the serving table
are upserted by key.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.declare.on_write import OnWrite
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.cells import named
from anabranch.events.copies import distinct
from anabranch.events.given_rows import unreadable
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.progress import Progress
from anabranch.stores.cassandra.tables import current_table
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.files.filesystems import hadoop, write_text
from anabranch.stores.lake.lake import as_declared, as_stored
from anabranch.stores.lake.light import stored_name
from anabranch.stores.lake.schemas import prepare_events
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.stores.queries import SupervisedQuery, run_queries, triggered
from batch.scoring.delivery import serving_rows
from batch.scoring.features import attach_features, looked_up
from batch.scoring.frames import check_names, input_types, score, version_inputs
from batch.scoring.input_rows import SERVING
from batch.scoring.row_files import MARKER, check_replaceable, form_of, read_form, read_options

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Follower:
    """Rows of `source` (a path) that are scored into the Delta table `out`, or into ``serving``.

    `label` names it for people; `declared` is the source of the rows when they are events of one.
    """

    source: str
    out: str
    label: str
    declared: Source | None = None


def followers(stores: Stores, project: Project) -> tuple[Follower, ...]:
    """The followers that the project declares. Raises MisuseError when it declares none."""
    found = []
    for one in project.score_on_write:
        declared = None if one.source is None else project.sources[one.source]
        source = str(one.table) if declared is None else stores.lake.path(project, declared)
        found.append(Follower(source=source, out=one.to, label=_label(one), declared=declared))
    if not found:
        raise MisuseError(
            f"project {project.name!r} declares no score_on_write: "
            "add Project(score_on_write=(OnWrite(...),)), or give --in and --out"
        )
    return tuple(found)


def _label(one: OnWrite) -> str:
    return f"source {one.source}" if one.source is not None else str(one.table)


def follow(
    stores: Stores,
    project: Project,
    wanted: tuple[Follower, ...],
    progress: Progress,
    *,
    every_seconds: int | None,
    stopping: threading.Event,
) -> dict[str, int]:
    """Score the rows that have arrived; returns their number by the label of the follower.

    With `every_seconds` it continues with later rows until `stopping` is set. Each micro-batch is scored by
    the champion of the moment.
    """
    work = [_Following(stores=stores, project=project, follower=one) for one in wanted]
    queries = []
    for one in work:
        progress.step(f"scores of {one.follower.label} into {one.follower.out}")
        name = f"score {project.name} {one.follower.label}"
        queries.append(SupervisedQuery(name=name, begin=partial(one.start, every_seconds)))
    run_queries(queries, lambda: progress.advance(sum(one.rows for one in work), None, "rows"), stopping)
    for query, one in zip(queries, work, strict=True):
        _raise_failure(query.error, one.follower)
    rows = {one.follower.label: one.rows for one in work}
    for one in work:
        if one.unread:
            progress.step(
                f"{one.unread:,} rows of {one.follower.label} have no score, as a key or feature of them "
                "cannot be read: the log names one"
            )
    log.info("scored on write project=%s rows=%s", project.name, rows)
    return rows


@dataclass(kw_only=True)
class _Following:
    """One follower at work; `rows` counts what it has written, `unread` the rows that could not be read."""

    stores: Stores
    project: Project
    follower: Follower
    rows: int = 0
    unread: int = 0

    def start(self, every_seconds: int | None) -> StreamingQuery:
        """Start the query; without `every_seconds` it ends with the rows that have arrived."""
        spark, project, one = self.stores.spark, self.project, self.follower
        self._prepare()
        if one.declared is not None:
            prepare_events(spark, self.stores.lake, project, one.declared)  # no event may have landed yet
        form = form_of(spark, one.source)
        reader = spark.readStream.format(form)
        if form != "delta":
            # Of files that are still to come a row may stand on several lines, and a torn one stops nothing.
            later = {**read_options(spark, one.source, form), "multiLine": "true", "mode": "PERMISSIVE"}
            later = later if form == "csv" else {}
            reader = reader.schema(read_form(spark, one.source, form).schema).options(**later)
        rows = reader.load(one.source)
        if one.declared is not None:
            rows = as_declared(rows, one.declared)
        check_names(project, rows.columns)
        digest = hashlib.sha256(f"{one.source}|{one.out}".encode()).hexdigest()[:12]
        root = self.stores.lake.settings.root.rstrip("/")
        writer = rows.writeStream.queryName(f"score {project.name} {one.label}")
        writer = writer.option("checkpointLocation", f"{root}/{project.name}/checkpoints/scoring/{digest}")
        writer = triggered(writer, None if every_seconds is None else f"{every_seconds} seconds")
        return writer.foreachBatch(self._score_batch).start()

    def _prepare(self) -> None:
        """Make the output a folder of ours, or take the Delta table that exists there."""
        spark, out = self.stores.spark, self.follower.out
        if out == SERVING:
            self.stores.views.ensure_current(self.project)
            return
        if snapshot(spark, out) is not None:
            return
        check_replaceable(spark, out)
        system, place = hadoop(spark, out)
        system.mkdirs(place)
        write_text(spark, f"{out.rstrip('/')}/{MARKER}", '{"written_by": "anabranch score --follow"}')

    def _score_batch(self, arrived: DataFrame, number: int) -> None:
        stores, project, out = self.stores, self.project, self.follower.out
        version, now = stores.models.scorer(project.name), time.time_ns() // 1000
        missing = [name for name in version.features if name not in arrived.columns]
        rows = self._readable(self._unscored(arrived), version, missing, now)
        ready = attach_features(stores, project, rows, missing, now) if missing else rows
        columns = [named(name) for name in (*rows.columns, *project.results)]
        scored = score(stores, project, ready, version.version).select(*columns)
        count = rows.count()  # before the append, after which every row has a score
        if out == SERVING:
            write_rows(serving_rows(project, scored), stores.views.settings, current_table(project.name), now)
        else:
            # The checkpoint keeps the id of the query: without the checkpoint a new series of appends begins.
            query = arrived.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId")
            writer = as_stored(scored).write.format("delta").mode("append").option("mergeSchema", "true")
            writer = writer.option("txnAppId", f"score/{project.name}/{query}")
            writer.option("txnVersion", str(number)).save(out)
        self.rows += count

    def _readable(self, rows: DataFrame, version: Scorer, missing: Sequence[str], at: int) -> DataFrame:
        """The rows whose key and features can be read; the others, which no repetition mends, are counted."""
        given = {
            name: one for name, one in version_inputs(self.project, version).items() if name not in missing
        }
        kinds = input_types(self.project, rows, given)
        reason = unreadable(rows, kinds | (looked_up(self.project, rows, at) if missing else {}))
        if reason is None:
            return rows
        unread = rows.agg(F.count(reason).alias("rows"), F.min(reason).alias("reason")).collect()[0]
        if unread["rows"]:
            self.unread += unread["rows"]
            log.warning(
                "left out project=%s rows=%d of %s, for example %s",
                *(self.project.name, unread["rows"], self.follower.label, unread["reason"]),
            )
        return rows.where(reason.isNull())

    def _unscored(self, arrived: DataFrame) -> DataFrame:
        """The rows to score; of a declared source the first arrival of each event that has no score yet."""
        declared, out, spark = self.follower.declared, self.follower.out, arrived.sparkSession
        if declared is None:
            return arrived.drop(*LAKE_COLUMNS)
        first = distinct(declared, arrived).drop(*LAKE_COLUMNS)
        if declared.id is None or out == SERVING or snapshot(spark, out) is None:
            return first
        scored, name = spark.read.format("delta").load(out), stored_name(declared.id)
        if name not in scored.columns:
            return first
        ids = scored.select(named(name).alias("_scored"))
        return first.join(ids, named(declared.id) == F.col("_scored"), "left_anti")


def _raise_failure(error: Exception | None, one: Follower) -> None:
    if error is None:
        return
    first = next((line for line in str(error).splitlines() if "Error: " in line), str(error).splitlines()[0])
    raise AnabranchError(
        f"scores of {one.label} into {one.out}: {first.strip()}: "
        "the rows that were written stay; correct the cause and run it again"
    ) from error
