"""Comparison of a topic with the lake, message by message: what never landed, the lake alone cannot show."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.judging import from_topic
from anabranch.stores.opened import Stores
from batch.landing.topics import landed_offsets

_PLACE = ("_topic", "_partition", "_offset", "_arrival", "_file")


@dataclass(frozen=True, kw_only=True)
class ComparedTopic:
    """Messages of a topic up to its last landing; `missing` are in neither the lake nor quarantine.

    Of a topic that is read through a copy, the original's messages are compared as well, and count where they
    were not copied; `waiting` is how many messages the relay has still to copy.
    """

    topic: str
    messages: int
    missing: int
    example: str | None = None
    waiting: int = 0


def compare_topic(stores: Stores, project: Project, source: Source) -> ComparedTopic:
    """Compare the committed messages that the source's topic still holds with what was landed of it.

    Messages of keys that were erased, and bad ones whose rows upkeep has removed, count as missing.
    """
    topic, read = str(source.topic), stores.bus.read_as(str(source.topic))
    held = _held(stores, project, source)
    found = _compared(stores, source, read, landed_offsets(stores, project, source), held)
    if read == topic:
        return found
    last = held.where(F.col("_topic") == topic).groupBy("_partition").agg(F.max("_offset") + 1).collect()
    ends = stores.bus.ends(topic)
    copied = {row[0]: min(row[1], ends.get(row[0], 0)) for row in last}
    original = _compared(stores, source, topic, copied, held)
    waiting = sum(max(0, end - copied.get(part, 0)) for part, end in ends.items())
    return replace(
        found,
        topic=topic,
        missing=max(found.missing, original.missing),
        example=found.example or original.example,
        waiting=waiting,
    )


def _held(stores: Stores, project: Project, source: Source) -> DataFrame:
    """The places of the source's messages in the lake and in quarantine."""
    good = stores.lake.events(stores.spark, project, source).where("_partition IS NOT NULL").select(*_PLACE)
    bad = stores.lake.quarantine(stores.spark, project).where(
        (F.col("source") == source.name) & F.col("partition").isNotNull()
    )
    return good.union(bad.select(*[name.removeprefix("_") for name in _PLACE]))


def _compared(
    stores: Stores, source: Source, topic: str, until: Mapping[int, int], held: DataFrame
) -> ComparedTopic:
    """Messages of a topic before the offsets `until`, and those that are not held with their place."""
    spans = {part: (start, until.get(part, 0)) for part, start in stores.bus.beginnings(topic).items()}
    spans = {part: span for part, span in spans.items() if span[0] < span[1]}
    if not spans:
        return ComparedTopic(topic=topic, messages=0, missing=0)
    read = stores.spark.read.format("kafka").options(**stores.bus.span_options(topic, spans)).load()
    decoder = decoder_of(source, stores.schemas)
    there = decoder.messages(from_topic(read, stores.settings.times))
    if source.explode is not None:  # a message without items is no event
        there = decoder.cells(source, there).dropDuplicates(["_partition", "_offset"])
    there = there.select(*_PLACE)
    # A topic that was deleted had messages at the same offsets. One that is a batch's alone has no arrival.
    alike = F.expr("m._arrival = h._arrival OR m._file IS NOT NULL OR h._file IS NOT NULL")
    same = F.expr("m._topic = h._topic AND m._partition = h._partition AND m._offset = h._offset") & alike
    lost = there.alias("m").join(held.alias("h"), same, "left_anti")
    (row,) = lost.agg(
        F.count(F.lit(1)).alias("count"), F.min(F.struct("_topic", "_partition", "_offset")).alias("first")
    ).collect()
    example = "/".join(map(str, row["first"])) if row["count"] else None
    return ComparedTopic(topic=topic, messages=there.count(), missing=row["count"], example=example)
