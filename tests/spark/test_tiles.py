"""Tiles of the stream, where edges meet."""

from datetime import UTC

import numpy as np
import pytest
from pyspark.sql import SparkSession

from features import DecayedMean, DecayedSum, FeatureView
from features.merge import Tiles, merge
from features.spark import tiles
from features.times import DAY, MINUTE, SECOND, floor_to, from_micros, to_micros
from tests import oracle
from tests.law import START, source
from tests.oracle import Event


def test_an_event_ahead_of_its_arrival_on_the_edge_of_a_tile_weighs_as_those_that_follow(spark: SparkSession) -> None:
    features = {"faded": DecayedSum("x", half_life="5m"), "mean": DecayedMean("x", half_life="5m")}
    view = FeatureView(name="lifelong", source=source, key="key", hop="5m", features=features)
    (wide,) = view.tiers
    edge = floor_to(START, wide) + wide
    ahead = Event(id="ahead", key="a", time=edge, arrival=edge - 1_000_000, x=1.0)
    after = Event(id="after", key="a", time=edge + MINUTE, arrival=edge + 2 * MINUTE, x=8.0)
    rows = [(e.id, e.key, from_micros(e.time), e.x, from_micros(e.arrival)) for e in (ahead, after)]
    events = spark.createDataFrame(rows, "id STRING, key STRING, time TIMESTAMP, x DOUBLE, _arrival TIMESTAMP")
    (tile,) = tiles([view], events, DAY // SECOND).collect()
    start = to_micros(tile["tile_start"].astimezone(UTC))
    assert start == edge
    at = edge + 7 * MINUTE
    found = merge(view, None, Tiles(np.array([start]), np.array([tile["state"]])), at)
    assert found.values == pytest.approx(oracle.answer(view, [ahead, after], "a", at))
