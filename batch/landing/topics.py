"""Landing of topics: every message in the lake exactly once, with its partition, offset and arrival.

One query a source reads its topic in batches of a bounded size, until the topic is drained or landing is
stopped. Its appends are named by the query's checkpoint and the number of the batch, so a batch that was cut
off is repeated whole.

A topic that was deleted and made again has a checkpoint of its own, so it is landed from its beginning.

Below the checkpoint Spark keeps how far the topic has been landed:

    offsets/<n>   planned: a line v1, a line of metadata, then a line a source: {"topic": {"0": 42}}
    commits/<n>   batch n is in the lake
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.decoders.schemas import is_registry_away
from anabranch.events.judging import from_topic, parse
from anabranch.events.predictions import NAME, landed_sources
from anabranch.progress import Progress
from anabranch.stores.files.filesystems import file_names, read_text
from anabranch.stores.kafka.relays import Relays
from anabranch.stores.lake.schemas import check_tables, prepare_events
from anabranch.stores.opened import Stores
from anabranch.stores.queries import SupervisedQuery, checkpoint_of, run_queries, triggered
from batch.landing.explained import explained
from batch.landing.loader import LoadSummary, SourceLoader
from batch.landing.tables_in_place import read_tables
from batch.quality.gate import QualityGate, RefusedLoadError

log = logging.getLogger(__name__)
_MOST_A_BATCH = 2_000_000  # messages: bounds what is done again after a crash


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Go on after the topics are drained: a batch every so many seconds until `stopping` is set."""

    every_seconds: int
    stopping: threading.Event


def land(
    stores: Stores,
    project: Project,
    progress: Progress,
    gate: QualityGate | None = None,
    follow: Follow | None = None,
) -> dict[str, LoadSummary]:
    """Read what the project's tables have and land what its topics hold now, predictions included.

    Returns the summaries by source. A topic that does not exist is created; one that its producers stamp is
    copied to its end first. With `follow`, landing of topics continues until it is stopped. While the schema
    registry is away and a message needs it, landing waits.
    """
    fed = {name: source for name, source in landed_sources(project).items() if source.topic is not None}
    topics, copied = [str(source.topic) for source in fed.values()], list[str]()
    if topics:  # first: that Kafka is away is told before Spark starts
        stores.bus.ensure_topics(topics)
        copied = stores.bus.relayed(topics)
    check_tables(stores.spark, stores.lake, project)
    by_table = read_tables(stores, project, progress, gate)
    if not fed:
        return by_table
    with closing(Relays(stores.bus, progress.step)) as relays:
        if follow is not None:
            relays.start(copied)
        elif copied:
            progress.step(f"copying {', '.join(copied)}, stamped by its producers")
            relays.copy_all(copied)
        return _land(stores, project, fed, by_table, progress, gate, follow)


def _land(
    stores: Stores,
    project: Project,
    fed: Mapping[str, Source],
    by_table: Mapping[str, LoadSummary],
    progress: Progress,
    gate: QualityGate | None,
    follow: Follow | None,
) -> dict[str, LoadSummary]:
    behind = [
        source for source in fed.values() if follow is not None or not _is_landed(stores, project, source)
    ]
    for source in behind:
        _tell_lost(stores, project, source, progress)
    names = ", ".join(_read_topic(stores, source) for source in behind)
    progress.step(
        f"{'following' if follow else 'draining'} {names}" if behind else "no topic has anything new"
    )
    landed = {name: by_table.get(name, LoadSummary()) for name in {**by_table, **fed}}
    queries = {}
    for source in behind:
        checked = gate if source.name in project.sources else None
        loader = SourceLoader(stores=stores, project=project, source=source, gate=checked)
        begin = partial(_start, loader, landed, follow)
        name = f"land {project.name}.{source.name}"
        queries[source.name] = SupervisedQuery(
            name=name, begin=begin, patient=_Patience(progress).is_called_for
        )
    advance = partial(_advance, landed, progress, time.monotonic())
    run_queries(list(queries.values()), advance, None if follow is None else follow.stopping)
    for source in behind:
        _raise_failure(queries[source.name].error, _checkpoint(stores, project, source), source)
        log.info("landed project=%s source=%s %s", project.name, source.name, landed[source.name])
    # Predictions are reported only where some were landed: nobody declared them.
    return {name: each for name, each in landed.items() if name != NAME or each.rows + each.quarantined}


@dataclass
class _Patience:
    """Says once in an outage of the schema registry that landing waits for it."""

    progress: Progress
    told: str = ""

    def is_called_for(self, reason: str) -> bool:
        away = is_registry_away(reason)
        if away and reason != self.told:
            self.progress.step(f"waiting: {reason.partition('Error: ')[2]}")
            self.told = reason
        return away


def landed_offsets(stores: Stores, project: Project, source: Source) -> dict[int, int]:
    """The first offset of each partition that is not landed yet; empty before the topic's first load."""
    return _landed_offsets(stores, source, _checkpoint(stores, project, source))


def was_made_again(stores: Stores, project: Project, source: Source) -> bool:
    """Whether the lake was landed from a topic of this name that was deleted since."""
    return _checkpoint(stores, project, source) != stores.lake.checkpoint(project, source)


def _checkpoint(stores: Stores, project: Project, source: Source, *, begin: bool = False) -> str:
    folder = stores.lake.checkpoint(project, source)
    return checkpoint_of(stores.spark, folder, stores.bus.topic_id(_read_topic(stores, source)), begin=begin)


def _read_topic(stores: Stores, source: Source) -> str:
    """The topic that is landed for a source: its own, or the copy."""
    return stores.bus.read_as(str(source.topic))


def _landed_offsets(stores: Stores, source: Source, checkpoint: str) -> dict[int, int]:
    spark, topic = stores.spark, _read_topic(stores, source)
    done = [int(name) for name in file_names(spark, f"{checkpoint}/commits") if name.isdigit()]
    if not done:
        return {}
    place = f"{checkpoint}/offsets/{max(done)}"
    try:
        found: dict[str, int] = json.loads(read_text(spark, place).splitlines()[-1]).get(topic, {})
        return {int(partition): int(offset) for partition, offset in found.items()}
    except (ValueError, IndexError, AttributeError, PySparkException, Py4JError) as error:
        raise AnabranchError(
            f"how far topic {topic!r} has been landed cannot be read: {place} is missing or damaged; "
            f"restore it, or remove {checkpoint}: then the topic is landed from its beginning, and events "
            "that are in the lake already count once, by their ids"
        ) from error


def _tell_lost(stores: Stores, project: Project, source: Source, progress: Progress) -> None:
    """Say what a first landing of a topic cannot find any more."""
    checkpoint, topic = _checkpoint(stores, project, source), _read_topic(stores, source)
    if _landed_offsets(stores, source, checkpoint):
        return
    said = []
    if was_made_again(stores, project, source):
        said.append("was deleted and made again: messages of the one before that were not landed are lost")
    removed = sum(stores.bus.beginnings(topic).values())
    if removed:
        said.append(f"no longer holds its first {removed:,} messages: they are lost unless files have them")
    for each in said:
        progress.step(f"topic {topic} {each}")
        log.warning("topic %s of %s %s", topic, project.name, each)


def _is_landed(stores: Stores, project: Project, source: Source) -> bool:
    """Whether nothing is new. A landed offset beyond the end counts as new: the query reports the loss."""
    landed = landed_offsets(stores, project, source)
    ends = stores.bus.ends(_read_topic(stores, source))
    return all(landed.get(partition, 0) == end for partition, end in ends.items())


def _start(loader: SourceLoader, landed: dict[str, LoadSummary], follow: Follow | None) -> StreamingQuery:
    source, stores = loader.source, loader.stores
    prepare_events(stores.spark, stores.lake, loader.project, source)
    checkpoint, topic = _checkpoint(stores, loader.project, source, begin=True), _read_topic(stores, source)
    reader = stores.spark.readStream.format("kafka").options(**stores.bus.spark_options([topic]))
    messages = reader.option("maxOffsetsPerTrigger", _MOST_A_BATCH).load()
    decoder = decoder_of(source, stores.schemas)
    writer = loader.judge(parse(source, from_topic(messages, stores.settings.times), decoder)).writeStream
    interval = None if follow is None else f"{follow.every_seconds} seconds"
    return (
        triggered(writer.queryName(f"land {loader.project.name}.{source.name}"), interval)
        .option("checkpointLocation", checkpoint)
        .foreachBatch(_micro_batch(loader, landed, checkpoint))
        .start()
    )


def _micro_batch(
    loader: SourceLoader, landed: dict[str, LoadSummary], checkpoint: str
) -> Callable[[DataFrame, int], None]:
    def run(judged: DataFrame, number: int) -> None:
        context, name = judged.sparkSession.sparkContext, loader.source.name
        # The query's id is kept in its checkpoint: deleting that begins a new series of appends.
        query = context.getLocalProperty("sql.streaming.queryId")
        # One task a partition of the topic would write as many small files in every batch.
        load, measures = loader.stage(judged.coalesce(context.defaultParallelism))
        if _checkpoint(loader.stores, loader.project, loader.source) != checkpoint:
            load.drop()
            raise AnabranchError(
                f"topic {loader.source.topic!r} was deleted and made again while it was landed: land again"
            )
        summary = loader.pass_gate(load, measures)
        if load.commit({f"land/{loader.project.name}/{name}/{query}": number}):
            landed[name] += summary

    return run


def _advance(landed: Mapping[str, LoadSummary], progress: Progress, started: float) -> None:
    rows = sum(each.rows + each.quarantined for each in landed.values())
    if not rows:
        return
    rate = rows / max(time.monotonic() - started, 0.001)
    progress.advance(rows, None, f"rows, {rate:,.0f} rows/s")


def _raise_failure(error: Exception | None, checkpoint: str, source: Source) -> None:
    place = f"source {source.name!r}: topic {source.topic!r}"
    if error is None:
        return
    text = str(error)
    if "RefusedLoadError: " in text:
        raise RefusedLoadError(text.rpartition("RefusedLoadError: ")[2].splitlines()[0]) from error
    if "Some data may have been lost" in text:
        raise AnabranchError(
            f"{place} no longer holds messages that were never landed: "
            f"its retention is too short; to go on with what it holds now remove {checkpoint}"
        ) from error
    raise explained(error, place) from error
