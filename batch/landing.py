"""Landing: how events get into the lake, from files and from topics, each exactly once, bad rows into quarantine.

A file is known by its content: the append is named by its hash, so that it lands once under whatever name and however
often a load is cut off and repeated. A topic is read by one query a source that drains it and stops; its appends are
named by the query's checkpoint and the number of the micro-batch.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from batch.landing_files import EventFile, check_file, find_files, read_file
from batch.landing_offsets import committed_offsets
from batch.quality import Gate, RefusedLoadError
from features.declaration import Project, Source
from features.errors import AnabranchError, MisuseError
from stores.bus import Bus
from stores.events import from_topic, good, judge, key_sets, parse_json
from stores.lake import Lake
from stores.progress import Progress
from stores.settings import TimeSettings

log = logging.getLogger(__name__)
_MOST_A_BATCH = 2_000_000  # messages: bounds what is done again after a crash


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What one load brought: good rows, rows in quarantine, how many files had been landed before; the quality gate's
    reports, and what was not as its suite expects.
    """  # fmt: skip

    rows: int = 0
    quarantined: int = 0
    skipped_files: int = 0
    seconds: float = 0.0
    reports: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()


@dataclass
class _Counts:
    rows: int = 0
    quarantined: int = 0
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)
    reports: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)

    def landed(self) -> Landed:
        said = {name: tuple(dict.fromkeys(getattr(self, name))) for name in ("reports", "unmet")}
        return Landed(rows=self.rows, quarantined=self.quarantined, skipped_files=self.skipped, seconds=time.monotonic() - self.started, **said)


def find_source(project: Project, name: str) -> Source:
    """The project's source `name`; raises MisuseError naming those there are."""
    if name not in project.sources:
        raise MisuseError(f"project {project.name!r} has no source {name!r}: it has {', '.join(project.sources)}")
    return project.sources[name]


def ingest(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    source_name: str,
    files: Sequence[str],
    times: TimeSettings,
    progress: Progress,
    gate: Gate | None = None,
) -> Landed:
    """Land files, folders and patterns of files; every file is checked before the first is landed, and passes `gate` before it is visible.

    Spark's workers must see the files under the same paths.
    """
    source = find_source(project, source_name)
    checked = [check_file(path, source) for path in find_files(files)]
    counts = _Counts()
    arrival = time.time_ns() // 1000
    for position, file in enumerate(checked):
        progress.step(f"{file.path.name} into {project.name}.{source.name}")
        _ingest_file(spark, lake, project, source, file, arrival, times, counts, progress, gate)
        progress.advance(position + 1, len(checked))
    landed = counts.landed()
    log.info("ingested project=%s source=%s files=%d %s", project.name, source.name, len(checked), landed)
    return landed


def _ingest_file(
    spark: SparkSession,
    lake: Lake,
    project: Project,
    source: Source,
    file: EventFile,
    arrival: int,
    times: TimeSettings,
    counts: _Counts,
    progress: Progress,
    gate: Gate | None,
) -> None:
    name = f"ingest/{project.name}/{source.name}/{file.digest()}"
    if lake.has(spark, project, source, name, 0):
        progress.step(f"{file.path.name} is skipped: its content has been landed before")
        counts.skipped += 1
        return
    judged = judge(
        source, key_sets(project, source), read_file(spark, file, source, arrival), times.future_skew_seconds, None if gate is None else gate.suite(source)
    )
    _append(lake, judged, project, source, name, 0, counts, gate)


def _append(lake: Lake, judged: DataFrame, project: Project, source: Source, app_id: str, version: int, counts: _Counts, gate: Gate | None) -> None:
    check = None if gate is None else gate.check(source)
    row = judged.agg(*((F.count(F.lit(1)).alias("rows"), F.count("_reason").alias("bad")) if check is None else check.measures)).collect()[0].asDict()
    bad = judged.where("_reason IS NOT NULL") if row["bad"] else None
    if check is not None:
        verdict = check.close(judged.sparkSession, lake, row, bad)
        counts.reports.append(verdict.report)
        counts.unmet += verdict.unmet
    lake.append(good(source, judged), bad, project, source, app_id, version)
    counts.rows += row["rows"] - row["bad"]
    counts.quarantined += row["bad"]


def land(spark: SparkSession, lake: Lake, bus: Bus, project: Project, times: TimeSettings, progress: Progress, gate: Gate | None = None) -> dict[str, Landed]:
    """Land what the topics of the project hold now, by source, past `gate`; a topic that is not there yet is created."""
    fed = {name: source for name, source in project.sources.items() if source.topic is not None}
    topics = [str(source.topic) for source in fed.values()]
    if not fed:
        return {}
    bus.ensure_topics(topics)
    bus.require_arrival(topics)
    counts = {name: _Counts() for name in fed}
    behind = [source for source in fed.values() if not _is_landed(lake, bus, project, source)]
    progress.step(f"draining {', '.join(str(source.topic) for source in behind)}" if behind else "no topic has anything new")
    queries = [(source, _drain(spark, lake, bus, project, source, times, counts[source.name], gate)) for source in behind]
    try:
        for position, (source, query) in enumerate(queries):
            _finish(query, lake, project, source)
            progress.advance(position + 1, len(queries))
            log.info("landed project=%s source=%s %s", project.name, source.name, counts[source.name].landed())
    finally:
        for _, query in queries:
            query.stop()
    return {name: found.landed() for name, found in counts.items()}


def landed_offsets(lake: Lake, project: Project, source: Source) -> dict[int, int]:
    """By partition the first offset of the source's topic that is not in the lake yet; empty when nothing was landed.

    Reads the checkpoint by way of the running Spark session.
    """
    return committed_offsets(SparkSession.active(), lake.checkpoint(project, source), str(source.topic))


def _is_landed(lake: Lake, bus: Bus, project: Project, source: Source) -> bool:
    """Is there nothing new? A landed offset beyond the end is new: the query will say that messages are lost."""
    landed = landed_offsets(lake, project, source)
    return all(landed.get(partition, 0) == end for partition, end in bus.ends(str(source.topic)).items())


def _drain(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project, source: Source, times: TimeSettings, counts: _Counts, gate: Gate | None
) -> StreamingQuery:
    options = bus.spark_options([str(source.topic)])
    messages = spark.readStream.format("kafka").options(**options).option("maxOffsetsPerTrigger", _MOST_A_BATCH).load()
    parsed = judge(
        source, key_sets(project, source), parse_json(source, from_topic(messages)), times.future_skew_seconds, None if gate is None else gate.suite(source)
    )
    writer = parsed.writeStream.queryName(f"land {project.name}.{source.name}").trigger(availableNow=True)
    return writer.option("checkpointLocation", lake.checkpoint(project, source)).foreachBatch(_micro_batch(lake, project, source, counts, gate)).start()


def _micro_batch(lake: Lake, project: Project, source: Source, counts: _Counts, gate: Gate | None) -> Callable[[DataFrame, int], None]:
    def run(judged: DataFrame, number: int) -> None:
        # The id of the query is kept in its checkpoint: who deletes that, begins a new series of appends.
        query = judged.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId")
        _append(lake, judged, project, source, f"land/{project.name}/{source.name}/{query}", number, counts, gate)

    return run


def _finish(query: StreamingQuery, lake: Lake, project: Project, source: Source) -> None:
    place = f"source {source.name!r}: topic {source.topic!r}"
    try:
        query.awaitTermination()
    except StreamingQueryException as error:
        if "RefusedLoadError: " in str(error):
            raise RefusedLoadError(str(error).rpartition("RefusedLoadError: ")[2].splitlines()[0]) from error
        if "Some data may have been lost" in str(error):
            raise AnabranchError(
                f"{place} no longer holds messages that were never landed: its retention is too short, or it was made anew; "
                f"to go on with what it holds now remove {lake.checkpoint(project, source)}"
            ) from error
        raise AnabranchError(f"{place} could not be landed: {_cause(str(error))}") from error


def _cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line or "Exception" in line), lines[0] if lines else "no reason given")
