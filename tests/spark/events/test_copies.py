"""Copies of one event: which one is left, by the plain way and by the way for many events."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from chispa.dataframe_comparer import assert_df_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import anabranch.events.copies
from anabranch import Source
from anabranch.events.copies import distinct, distinct_among, distinct_of_many, repeated

SOURCE = Source(name="sales", topic="sales", id="id", time="at", schema="id STRING, at TIMESTAMP, n INT")
ARRIVAL = datetime(2024, 5, 1, 12, tzinfo=UTC)
Rows = list[tuple[str, int, datetime, str | None, str | None, int | None, int]]


def landed(spark: SparkSession, rows: Rows) -> DataFrame:
    return spark.createDataFrame(
        rows,
        "id STRING, n INT, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT",
    )


@pytest.fixture(params=["by hash", "all sorted"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the hashes of copies can be held, or are too many."""
    if request.param == "all sorted":
        monkeypatch.setattr(anabranch.events.copies, "FEW", 1)
    return str(request.param)


def some_events(spark: SparkSession) -> DataFrame:
    """300 events of about 110 ids, from files and a topic, several at one moment."""
    random = np.random.default_rng(5)
    rows: Rows = [
        (
            f"e{random.integers(120)}",
            number,
            ARRIVAL + timedelta(seconds=int(random.integers(5))),
            *place,
            number,
        )
        for number in range(300)
        for place in [
            ("a.csv", None, None) if random.random() < 0.3 else (None, "t", int(random.integers(2)))
        ]
    ]
    return landed(spark, rows)


@pytest.mark.parametrize("choose", [distinct, distinct_of_many])
def test_the_first_arrival_of_an_id_wins_then_files_then_position(
    spark: SparkSession, choose: Callable[[Source, DataFrame], DataFrame]
) -> None:
    later = ARRIVAL + timedelta(microseconds=1)
    rows: Rows = [
        ("a", 1, later, "a.csv", None, None, 0), ("a", 2, ARRIVAL, None, "t", 1, 7),
        ("b", 3, ARRIVAL, None, "t", 0, 0), ("b", 4, ARRIVAL, "b.csv", None, None, 5),
        ("b", 5, ARRIVAL, "b.csv", None, None, 4), ("b", 6, ARRIVAL, "c.csv", None, None, 0),
        ("c", 7, ARRIVAL, None, "t", 1, 0), ("c", 8, ARRIVAL, None, "t", 0, 3),
        ("c", 9, ARRIVAL, None, "t", 0, 2),
    ]  # fmt: skip
    for given in (rows, rows[::-1]):
        assert {row["id"]: row["n"] for row in choose(SOURCE, landed(spark, given)).collect()} == {
            "a": 2,
            "b": 5,
            "c": 9,
        }


@pytest.mark.parametrize("few", [True, False])
def test_among_chosen_rows_those_are_left_that_are_left_of_all(
    spark: SparkSession, held: str, few: bool
) -> None:
    events = some_events(spark).withColumn("_counted", F.col("n") % 7 == 0).cache()
    chosen = events.where("n % 3 = 1 OR id < 'e2'")
    expected = {row["n"] for row in distinct(SOURCE, events).join(chosen, "n", "left_semi").collect()}
    counted = {row["id"] for row in events.where("_counted AND NOT (n % 3 = 1 OR id < 'e2')").collect()}
    found = distinct_among(SOURCE, chosen, events, F.col("_counted"), few=few)
    assert found.columns == [*chosen.columns, "_again"]
    left = {row["n"]: (row["id"], row["_again"]) for row in found.collect()}
    assert left.keys() == expected
    assert 0 < len(expected) < chosen.count()
    assert all(again == (name in counted) for name, again in left.values())
    assert {again for _, again in left.values()} == {True, False}
    events.unpersist()


def test_what_is_left_of_many_events_is_what_sorting_leaves(spark: SparkSession, held: str) -> None:
    events = some_events(spark).cache()
    assert_df_equality(distinct_of_many(SOURCE, events).orderBy("n"), distinct(SOURCE, events).orderBy("n"))
    once = events.groupBy("id").agg(F.min("n").alias("n")).join(events, ["id", "n"])
    assert distinct_of_many(SOURCE, once).count() == once.count() == events.select("id").distinct().count()
    events.unpersist()


def test_ids_are_found_to_be_there_more_than_once_across_blocks_and_partitions(spark: SparkSession) -> None:
    # Several blocks in each of two partitions; one id in a hundred occurs twice, one of them in one block.
    ids = spark.range(0, 4_800_000, 1, 2).selectExpr("id % 2400000 AS number", "id >= 2400000 AS again")
    events = (
        ids.where("NOT again OR number % 100 = 7")
        .selectExpr("concat('e', number) AS id")
        .union(spark.sql("SELECT 'e8' UNION ALL SELECT 'e8'"))
    )
    expected = {
        row["h"]
        for row in ids.where("number % 100 = 7 OR number = 8")
        .selectExpr("xxhash64(concat('e', number)) AS h")
        .distinct()
        .collect()
    }
    found = [row["_hash"] for row in repeated(SOURCE, events).collect()]
    assert len(found) == len(set(found)) == 24_001
    assert set(found) == expected
    assert repeated(SOURCE, events.where("id < 'e'")).count() == 0
