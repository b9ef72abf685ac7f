"""States of single events without a JVM equal those of Spark, and so do features that fold them."""

from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import (
    ApproxDistinct,
    Count,
    Distinct,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    MostFrequent,
    Source,
    Sum,
    TopK,
)
from anabranch.folds.merge import Tiles, merge
from anabranch.folds.spark import keyed, state_columns
from anabranch.states.blocks import REFERENCE
from anabranch.testing import oracle
from anabranch.values.times import from_micros
from tests.spark.folds.test_law_spark import as_extras, frame, some_events
from tests.unit.folds.test_law import LIFELONG, VIEW

pytestmark = pytest.mark.usefixtures("compiled")
ODD = Source(
    name="odd",
    topic="odd",
    id="id",
    time="at",
    schema="id STRING, k STRING, at TIMESTAMP, day DATE, f FLOAT, w DECIMAL(30,10), i INT, s STRING, "
    "x DOUBLE, big BIGINT, b BINARY",
)
ODD_VIEW = FeatureView(
    name="odd",
    source=ODD,
    key="k",
    windows=("1h",),
    features={
        "days": Distinct("day"),
        "moments": Distinct("at"),
        "day": Last("day"),
        "latest": TopK("at", 2),
        "wide": Sum("w"),
        "widest": Max("w"),
        "wides": ApproxDistinct("w"),
        "floats": Sum("f"),
        "kinds_of_floats": ApproxDistinct("f"),
        "often": MostFrequent("day"),
        "texts": LastK("s", 2),
        "blobs": Distinct("b"),
        "blob": First("b"),
        "shop": Last("upper(s)"),
        "product": Sum("x * i", where="s LIKE '%a%' OR i > 3"),
        "quotient": First("x / nullif(i, 0)"),
        "whole": Sum("i * big"),
        "hour": Count(where="hour(at) BETWEEN 6 AND 18"),
        "near": Count(where="w BETWEEN -0.0000000001 AND 10.5"),
        "some": Count("s", where="f > 0.5 AND s IN ('a', 'ab')"),
    },
)
EXTREMES: list[dict[str, Any]] = [
    {"f": 0.1, "w": "1234567890123456789.0123456789", "i": 3, "s": "ab", "x": 1e308, "big": 2**62, "b": b"v"},
    {"f": 3.4e38, "w": "-0.0000000001", "i": -(2**31), "s": "", "x": -0.0, "big": -(2**63), "b": b""},
    {"f": float("nan"), "w": "0", "i": 0, "s": "é" * 11_000, "x": float("nan"), "big": 0, "b": b"x" * 100},
    {"f": -0.0, "w": "-9999999999999999999.9999999999", "i": 5, "s": "a\0b", "x": 5e-324, "big": 1, "b": b""},
    {"f": None, "w": None, "i": None, "s": None, "x": None, "big": None, "b": None},
    {"f": 1e-7, "w": "10.5", "i": 7, "s": "\U0001f600", "x": 12345678.9, "big": 9, "b": b"a"},
]  # fmt: skip
TIMES = [
    -62_135_596_800_000_000,
    -1,
    0,
    1_700_000_000_123_456,
    253_402_300_799_000_000,
    1_700_000_000_120_000,
]


def same(view: FeatureView, ours: Tiles, spark: Tiles, at: int) -> None:
    """Equal numbers, and extras of equal meaning: texts byte by byte, sketches by what they answer."""
    assert np.array_equal(ours.rows, spark.rows, equal_nan=True), (ours.rows, spark.rows)
    found, expected = (merge(view, None, tiles, at) for tiles in (ours, spark))
    assert found == expected


def spark_states(view: FeatureView, events: object, ids: list[str]) -> dict[str, Tiles]:
    """The state that Spark's aggregates make of each event."""
    stamped = keyed(view, events).withColumn(REFERENCE, F.col("_event_micros"))  # type: ignore[arg-type]
    rows = stamped.groupBy("id", "_event_micros").agg(*state_columns(view)).collect()
    found = {}
    for row in rows:
        states = np.array([row["_state"]], dtype=np.float64)
        extras = as_extras([row["_extra"]], 1)
        found[row["id"]] = Tiles(np.array([row["_event_micros"]], dtype=np.int64), states, extras)
    assert sorted(found) == sorted(ids)
    return found


def test_states_of_single_events_equal_those_of_spark(spark: SparkSession) -> None:
    events = oracle.distinct(some_events(120))
    for view in (VIEW, LIFELONG):
        found = spark_states(view, frame(spark, events), [event.id for event in events])
        rows, extras = view.lifter.states([dict(e.__dict__) for e in events], [e.time for e in events])
        for place, event in enumerate(events):
            ours = Tiles(np.array([event.time]), rows[place : place + 1], extras[place : place + 1])
            same(view, ours, found[event.id], event.time + 1)


def test_states_of_extreme_values_of_every_type_equal_those_of_spark(spark: SparkSession) -> None:
    raw: list[dict[str, Any]] = [
        {"id": f"{number}-{time}", "k": "k", "at": time, "day": time // 86_400_000_000, **values}
        for number, values in enumerate(EXTREMES)
        for time in TIMES
    ]
    given = [
        {**row, "at": from_micros(row["at"]), "day": str(ODD.column("day", "").type.to_json(row["day"]))}
        for row in raw
    ]
    schema = ODD.schema.replace("day DATE", "day STRING").replace("w DECIMAL(30,10)", "w STRING")
    events = spark.createDataFrame(given, schema).withColumns(
        {"day": F.expr("CAST(day AS DATE)"), "w": F.expr("CAST(w AS DECIMAL(30,10))")}
    )
    found = spark_states(ODD_VIEW, events, [str(row["id"]) for row in raw])
    types = {column.name: column.type for column in ODD.columns}
    rows = [
        {name: types[name].read(value) if name in "fwixs" else value for name, value in row.items()}
        for row in raw
    ]
    states, extras = ODD_VIEW.lifter.states(rows, [int(row["at"]) for row in raw])
    for place, row in enumerate(raw):
        ours = Tiles(np.array([row["at"]]), states[place : place + 1], extras[place : place + 1])
        same(ODD_VIEW, ours, found[str(row["id"])], int(row["at"]) + 100)
