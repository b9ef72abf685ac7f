"""Tiles of the stream: where edges meet, and how many of them an answer reads."""

from datetime import UTC

import numpy as np
import pytest
from pyspark.sql import SparkSession

from anabranch import Count, DecayedMean, DecayedSum, FeatureView
from anabranch.folds.merge import Tiles, merge
from anabranch.folds.spark import pieces_of, tiles
from anabranch.stores.cassandra.reads import _fine_starts
from anabranch.testing import oracle
from anabranch.values.times import DAY, HOUR, MINUTE, SECOND, floor_to, from_micros, to_micros
from tests.support.law import START, Event, source

pytestmark = pytest.mark.usefixtures("compiled")


def test_an_event_ahead_of_its_arrival_on_the_edge_of_a_tile_weighs_as_those_that_follow(
    spark: SparkSession,
) -> None:
    features = {"faded": DecayedSum("x", half_life="5m"), "mean": DecayedMean("x", half_life="5m")}
    view = FeatureView(name="lifelong", source=source, key="key", hop="5m", features=features)
    (wide,) = view.tiers
    edge = floor_to(START, wide) + wide
    ahead = Event(id="ahead", key="a", time=edge, arrival=edge - 1_000_000, x=1.0)
    after = Event(id="after", key="a", time=edge + MINUTE, arrival=edge + 2 * MINUTE, x=8.0)
    rows = [(e.id, e.key, from_micros(e.time), e.x, from_micros(e.arrival)) for e in (ahead, after)]
    events = spark.createDataFrame(
        rows, "id STRING, key STRING, time TIMESTAMP, x DOUBLE, _arrival TIMESTAMP"
    )
    (tile,) = tiles([view], events, DAY // SECOND).collect()
    start = to_micros(tile["tile_start"].astimezone(UTC))
    assert start == edge
    at = edge + 7 * MINUTE
    found = merge(view, None, Tiles(np.array([start]), np.array([tile["state"]])), at)
    assert found.values == pytest.approx(oracle.answer(view, [ahead, after], "a", at))


def rows_read(spark: SparkSession, a_minute: int, late: str = "0", ahead: str = "FALSE") -> tuple[int, int]:
    """The numbers of wide and fine tiles that an answer reads 26 hours after the cut.

    The key has `a_minute` events per minute. `late` is SQL of the seconds by which event number `id` is late,
    `ahead` SQL of whether its time is a minute ahead of its arrival.
    """
    view = FeatureView(
        name="busy", source=source, key="key", windows=("1h", "1d", "7d"), features={"n": Count()}
    )
    at = START + 26 * HOUR + 17 * MINUTE
    count, step = (at - START) // MINUTE * a_minute, MINUTE // a_minute
    arrival, back = f"{START} + id * {step}", f"CASE WHEN {ahead} THEN -60 ELSE {late} END"
    events = spark.range(count).selectExpr(
        "CAST(id AS STRING) AS id",
        "'a' AS key",
        f"timestamp_micros({arrival} - ({back}) * {SECOND}) AS time",
        f"timestamp_micros({arrival}) AS _arrival",
    )
    pieces = pieces_of([view])
    found = [
        (pieces[row["piece"]].fine, to_micros(row["tile_start"].astimezone(UTC)))
        for row in tiles([view], events, HOUR // SECOND).collect()
    ]
    asked = set(_fine_starts(view, at))
    return sum(not fine for fine, _ in found), sum(fine and start in asked for fine, start in found)


@pytest.mark.parametrize("a_minute", [1, 10, 100])
def test_an_answer_reads_tens_of_rows_however_many_events_a_key_has(
    spark: SparkSession, a_minute: int
) -> None:
    # A wide row an hour, and the fine ones of the hour that the tail of the short window lies within.
    assert rows_read(spark, a_minute) == (27, 9)
    # Every twentieth event comes up to an hour late: its tile is another in the slot of its arrival.
    wide, fine = rows_read(spark, a_minute, late="IF(id % 20 = 0, id * 37 % 3600, 0)")
    assert 27 < wide <= 2 * 27
    assert 9 <= fine <= 2 * 9


def test_an_event_ahead_of_its_arrival_costs_a_row_and_no_more(spark: SparkSession) -> None:
    wide, fine = rows_read(spark, 1, ahead="id % 50 = 7")
    ahead = len(range(7, 26 * 60 + 17, 50))
    assert (wide, fine) == (27 + ahead, 9)
    assert wide + fine < 100
