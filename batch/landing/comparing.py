"""Comparison of a topic with the lake, message by message: what never landed, the lake alone cannot show."""

import json
from dataclasses import dataclass

from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.judging import from_topic
from anabranch.stores.opened import Stores
from batch.landing.topics import landed_offsets


@dataclass(frozen=True, kw_only=True)
class ComparedTopic:
    """Messages of a topic up to its last landing; `missing` are in neither the lake nor quarantine."""

    topic: str
    messages: int
    missing: int
    example: str | None = None


def compare_topic(stores: Stores, project: Project, source: Source) -> ComparedTopic:
    """Compare the committed messages that the source's topic still holds with what was landed of it.

    Messages of keys that were erased, and bad ones whose rows upkeep has removed, count as missing.
    """
    topic, spark = str(source.topic), stores.spark
    landed = landed_offsets(stores, project, source)
    spans = {part: (start, landed.get(part, 0)) for part, start in stores.bus.beginnings(topic).items()}
    spans = {part: span for part, span in spans.items() if span[0] < span[1]}
    if not spans:
        return ComparedTopic(topic=topic, messages=0, missing=0)
    options = {
        **stores.bus.spark_options([]),
        "assign": json.dumps({topic: sorted(spans)}),
        "startingOffsets": json.dumps({topic: {part: start for part, (start, _) in spans.items()}}),
        "endingOffsets": json.dumps({topic: {part: end for part, (_, end) in spans.items()}}),
        "failOnDataLoss": "false",
    }
    place = [F.col(f"_{name}") for name in ("partition", "offset", "arrival", "file")]
    read = spark.read.format("kafka").options(**options).load()
    decoder = decoder_of(source, stores.schemas)
    there = decoder.messages(from_topic(read, stores.settings.times))
    if source.explode is not None:  # a message without items is no event
        there = decoder.cells(source, there).dropDuplicates(["_partition", "_offset"])
    there = there.select(*place)
    good = stores.lake.events(spark, project, source).where(F.col("_topic") == topic).select(*place)
    bad = stores.lake.quarantine(spark, project).where(
        (F.col("topic") == topic) & (F.col("source") == source.name)
    )
    held = good.union(bad.select("partition", "offset", "arrival", "file"))
    # A topic that was deleted had messages at the same offsets. One that is a batch's alone has no arrival.
    alike = F.expr("m._arrival = h._arrival OR m._file IS NOT NULL OR h._file IS NOT NULL")
    same = F.expr("m._partition = h._partition AND m._offset = h._offset") & alike
    lost = there.alias("m").join(held.alias("h"), same, "left_anti")
    (row,) = lost.agg(
        F.count(F.lit(1)).alias("count"), F.min(F.struct("_partition", "_offset")).alias("first")
    ).collect()
    example = f"{topic}/{row['first'][0]}/{row['first'][1]}" if row["count"] else None
    return ComparedTopic(topic=topic, messages=there.count(), missing=row["count"], example=example)
