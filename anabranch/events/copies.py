"""Copies of one event: the first arrival of an id wins, among any number of events. DataFrame in and out.

Few ids occur more than once. They are found by the cheapest means, 64-bit hashes of the ids alone, packed so
that Spark moves blocks and not rows; a row of any other hash has no copy. Only rows whose hashes were found
are compared by id and order, so two ids that share a hash cost two more rows and change nothing.
"""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.folds.spark import shuffle_partitions

FEW = 1_500_000
"""Ids that every worker can hold."""
_ORDER = ("_arrival", "_topic", "_file", "_partition", "_offset")
_BITS = 10  # of a hash that name its bucket: one in 1,024 of all hashes is in memory at once
_AT_ONCE = 2**20  # hashes sorted at once

Hashes = NDArray[np.int64]


def distinct(source: Source, events: DataFrame) -> DataFrame:
    """One row an event id: the first arrival.

    At equal arrivals files come before topics, then file or topic, partition and offset decide, so the choice
    is the same whenever it is made. Sorts all events; `distinct_of_many` avoids that where copies are few.
    """
    ranked = events.withColumn(
        "_rank", F.row_number().over(Window.partitionBy(named(source.identity)).orderBy(*_ORDER))
    )
    return ranked.where("_rank = 1").drop("_rank")


def distinct_of_many(source: Source, events: DataFrame) -> DataFrame:
    """One row an event id where copies are few: scans all ids immediately, then sorts only the copies."""
    found = _held(repeated(source, events))
    if found is None:
        return distinct(source, events)
    return (
        events
        if found.isEmpty()
        else _of(source, events, found, "left_anti").unionByName(distinct(source, _of(source, events, found)))
    )


def distinct_among(
    source: Source, chosen: DataFrame, events: DataFrame, counted: Column | None = None, *, few: bool = False
) -> DataFrame:
    """The rows of `chosen`, a part of `events`, that `distinct` would keep of all events.

    Scans for copies immediately; `few` promises that at most FEW rows are chosen, which is cheaper. The
    column `_again` tells whether the condition `counted` holds for a row of the same id that was not chosen.
    """
    condition = F.lit(False) if counted is None else counted
    asked = chosen.groupBy(_hash(source)).agg(F.count(F.lit(1)).alias("_copies"))
    if few:
        there = events.select(_hash(source)).join(F.broadcast(asked), "_hash").groupBy("_hash")
        suspects = (
            there.agg(F.count(F.lit(1)).alias("_there"), F.max("_copies").alias("_copies"))
            .where("_there > _copies")
            .select("_hash")
        )
    else:
        suspects = repeated(source, events).join(asked, "_hash", "left_semi")
    found = _held(suspects)
    if found is not None and found.isEmpty():
        return distinct(source, chosen).withColumn("_again", F.lit(False))
    identity = named(source.identity).alias("_id")
    mine = _of(source, chosen, found).groupBy(identity).agg(F.count_if(condition).alias("_chosen"))
    # NULLs come first in the order of structs, as they do in that of `distinct`.
    everywhere = _of(source, events, found).select(
        identity, F.struct(*_ORDER).alias("_order"), condition.alias("_counted")
    )
    copies = everywhere.join(mine, "_id").groupBy("_id")
    first = copies.agg(
        F.min("_order").alias("_first"), (F.count_if("_counted") > F.max("_chosen")).alias("_again")
    )
    judged = (
        distinct(source, chosen)
        .withColumn("_order", F.struct(*_ORDER))
        .join(first, named(source.identity) == F.col("_id"), "left")
    )
    kept = judged.where(F.col("_first").isNull() | F.col("_order").eqNullSafe(F.col("_first")))
    return kept.select(
        *[named(name) for name in chosen.columns], F.coalesce("_again", F.lit(False)).alias("_again")
    )


def repeated(source: Source, events: DataFrame) -> DataFrame:
    """`_hash` BIGINT of every id that occurs more than once, and of ids that share a hash."""
    packed = events.select(_hash(source)).mapInArrow(_packed, "bucket INT, hashes BINARY")
    return (
        packed.repartition(shuffle_partitions(events), "bucket")
        .sortWithinPartitions("bucket")
        .mapInArrow(_more_than_once, "_hash BIGINT")
    )


def _hash(source: Source) -> Column:
    return F.xxhash64(named(source.identity)).alias("_hash")


def _held(hashes: DataFrame) -> DataFrame | None:
    """The hashes as a frame small enough for every worker; None when there are too many."""
    found = hashes.limit(FEW + 1).toArrow()
    return None if len(found) > FEW else hashes.sparkSession.createDataFrame(found)


def _of(source: Source, rows: DataFrame, hashes: DataFrame | None, how: str = "left_semi") -> DataFrame:
    """The rows whose id has one of the hashes (`left_anti`: none of them); all rows without `hashes`."""
    return rows if hashes is None else rows.join(F.broadcast(hashes), _hash(source) == hashes["_hash"], how)


def _packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Hashes as blocks of one bucket each: `bucket`, `hashes` their bytes."""
    edges = np.arange(-(2 ** (_BITS - 1)), 2 ** (_BITS - 1)) << (64 - _BITS)
    for hashes in _gathered(batches):
        starts = np.append(np.searchsorted(hashes, edges), len(hashes))
        there = np.flatnonzero(np.diff(starts))
        blocks = [hashes[starts[bucket] : starts[bucket + 1]].tobytes() for bucket in there]
        yield pa.RecordBatch.from_arrays(
            [pa.array(there.astype(np.int32)), pa.array(blocks, pa.binary())], ["bucket", "hashes"]
        )


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[Hashes]:
    """Many hashes at once, sorted."""
    pieces: list[Hashes] = []
    for batch in batches:
        pieces.append(batch.column(0).to_numpy())
        if sum(map(len, pieces)) >= _AT_ONCE:
            yield np.sort(np.concatenate(pieces))
            pieces = []
    if pieces:
        yield np.sort(np.concatenate(pieces))


def _more_than_once(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Hashes that blocks, which come bucket by bucket, hold more than once."""
    for _, blocks in groupby(_blocks(batches), key=itemgetter(0)):
        hashes = np.sort(np.concatenate([block for _, block in blocks]))
        yield pa.RecordBatch.from_arrays(
            [pa.array(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))], ["_hash"]
        )


def _blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, Hashes]]:
    for batch in batches:
        for bucket, block in zip(batch.column(0).to_pylist(), batch.column(1), strict=True):
            yield bucket, np.frombuffer(block.as_buffer(), dtype=np.int64)
