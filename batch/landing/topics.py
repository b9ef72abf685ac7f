"""Landing of topics: every message in the lake exactly once, with its partition, offset and arrival.

One query a source reads its topic in batches of a bounded size, until it is drained or until it is told to stop. Its
appends are named by the query's checkpoint and the number of the batch, so a batch that was cut off is repeated whole.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.judging import from_topic, parse
from anabranch.events.predictions import NAME, landed_sources
from anabranch.progress import Progress
from anabranch.settings import TimeSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import check_tables, prepare_events
from anabranch.stores.queries import SupervisedQuery, run_queries, triggered
from batch.landing.explained import explained
from batch.landing.offsets import committed_offsets
from batch.landing.targets import Counts, Landed, Target
from batch.quality.gate import QualityGate, RefusedLoadError

log = logging.getLogger(__name__)
_MOST_A_BATCH = 2_000_000  # messages: bounds what is done again after a crash


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Go on after the topics are drained: a batch every so many seconds until `stopping` is set."""

    every_seconds: int
    stopping: threading.Event


def land(
    spark: SparkSession,
    lake: Lake,
    bus: Bus,
    project: Project,
    times: TimeSettings,
    progress: Progress,
    gate: QualityGate | None = None,
    follow: Follow | None = None,
) -> dict[str, Landed]:
    """Land what the topics of the project hold now, its predictions too, by source, past `gate`; a topic that is not there is created.

    With `follow` also what comes after, until it is told to stop.
    """
    check_tables(spark, lake, project)
    fed = {name: source for name, source in landed_sources(project).items() if source.topic is not None}
    topics = [str(source.topic) for source in fed.values()]
    if not fed:
        return {}
    bus.ensure_topics(topics)
    bus.require_arrival(topics)
    counts = {name: Counts() for name in fed}
    behind = [
        source for source in fed.values() if follow is not None or not _is_landed(lake, bus, project, source)
    ]
    progress.step(
        f"{'following' if follow else 'draining'} {', '.join(str(source.topic) for source in behind)}"
        if behind
        else "no topic has anything new"
    )
    queries = {}
    for source in behind:
        target = Target(
            lake=lake,
            project=project,
            source=source,
            times=times,
            gate=gate if source.name in project.sources else None,
        )
        begin = partial(_start, spark, bus, target, counts[source.name], follow)
        queries[source.name] = SupervisedQuery(name=f"land {project.name}.{source.name}", begin=begin)
    advance = partial(_advance, list(counts.values()), progress)
    run_queries(list(queries.values()), advance, None if follow is None else follow.stopping)
    for source in behind:
        _raise_failure(queries[source.name].error, lake, project, source)
        log.info("landed project=%s source=%s %s", project.name, source.name, counts[source.name].landed())
    # Predictions are told of when there are any: nobody declared them.
    return {
        name: found.landed()
        for name, found in counts.items()
        if name != NAME or found.rows + found.quarantined
    }


def landed_offsets(lake: Lake, project: Project, source: Source) -> dict[int, int]:
    """By partition the first offset of the source's topic that is not in the lake yet; empty when nothing was landed.

    Reads the checkpoint by way of the running Spark session.
    """
    return committed_offsets(SparkSession.active(), lake.checkpoint(project, source), str(source.topic))


def _is_landed(lake: Lake, bus: Bus, project: Project, source: Source) -> bool:
    """Is there nothing new? A landed offset beyond the end is new: the query will say that messages are lost."""
    landed = landed_offsets(lake, project, source)
    return all(landed.get(partition, 0) == end for partition, end in bus.ends(str(source.topic)).items())


def _start(
    spark: SparkSession, bus: Bus, target: Target, counts: Counts, follow: Follow | None
) -> StreamingQuery:
    source = target.source
    prepare_events(spark, target.lake, target.project, source)
    options = bus.spark_options([str(source.topic)])
    messages = (
        spark.readStream.format("kafka")
        .options(**options)
        .option("maxOffsetsPerTrigger", _MOST_A_BATCH)
        .load()
    )
    judged = target.judged(parse(source, from_topic(messages)))
    writer = judged.writeStream.queryName(f"land {target.project.name}.{source.name}")
    interval = None if follow is None else f"{follow.every_seconds} seconds"
    return (
        triggered(writer, interval)
        .option("checkpointLocation", target.lake.checkpoint(target.project, source))
        .foreachBatch(_micro_batch(target, counts))
        .start()
    )


def _micro_batch(target: Target, counts: Counts) -> Callable[[DataFrame, int], None]:
    def run(judged: DataFrame, number: int) -> None:
        # The id of the query is kept in its checkpoint: who deletes that, begins a new series of appends.
        query = judged.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId")
        name = f"land/{target.project.name}/{target.source.name}/{query}"
        # A task a partition of the topic would make as many small files, every batch anew.
        staged = target.staged(judged.coalesce(judged.sparkSession.sparkContext.defaultParallelism))
        staged.pass_gate(counts)
        if staged.load.commit({name: number}):
            counts.add(staged.load)

    return run


def _advance(counts: list[Counts], progress: Progress) -> None:
    rows = sum(each.rows + each.quarantined for each in counts)
    seconds = max(each.landed().seconds for each in counts)
    progress.advance(rows, None, f"rows, {rows / max(seconds, 0.001):,.0f} rows/s")


def _raise_failure(error: Exception | None, lake: Lake, project: Project, source: Source) -> None:
    place = f"source {source.name!r}: topic {source.topic!r}"
    if error is None:
        return
    text = str(error)
    if "RefusedLoadError: " in text:
        raise RefusedLoadError(text.rpartition("RefusedLoadError: ")[2].splitlines()[0]) from error
    if "Some data may have been lost" in text:
        raise AnabranchError(
            f"{place} no longer holds messages that were never landed: its retention is too short, or it was made anew; "
            f"to go on with what it holds now remove {lake.checkpoint(project, source)}"
        ) from error
    raise explained(error, place) from error
