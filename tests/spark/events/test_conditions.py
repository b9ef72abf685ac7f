"""Expectations in SQL: rows break them as plain Python says, and a load is measured in one pass."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from anabranch import Source
from anabranch.events.conditions import breaks, measured, measures, reasons
from anabranch.events.expectations import Expectation, Suite
from anabranch.events.judging import judge, parse

SOURCE = Source(
    name="sales",
    id="id",
    time="at",
    schema="id STRING, at TIMESTAMP, n INT, m INT, x DOUBLE, s STRING, ok BOOLEAN",
)
SCHEMA = "id STRING, at TIMESTAMP, n INT, m INT, x DOUBLE, s STRING, ok BOOLEAN"
DAY = [datetime(2024, 5, day, tzinfo=UTC) for day in range(1, 6)]
ROWS = [
    ("1", DAY[0], 0, 0, 0.0, "", True),
    ("2", DAY[1], 5, 4, 5.0, "ab", False),
    ("3", DAY[2], 10, 11, 10.0, "abc", True),
    ("4", DAY[3], -1, None, math.nan, "x1", None),
    ("5", DAY[4], None, 3, math.inf, None, True),
    ("6", None, 2_000_000_000, 1, None, "näh", False),
    ("7", None, None, None, None, "a" * 10_001, None),  # of more letters than are searched
]
Test = Callable[[dict[str, Any]], bool]
CASES: list[tuple[str, dict[str, Any], str, Test]] = [
    (
        "values_to_be_between",
        {"column": "n", "min_value": 0, "max_value": 10},
        "n",
        lambda r: not 0 <= r["n"] <= 10,
    ),
    (
        "values_to_be_between",
        {"column": "n", "min_value": 0, "strict_min": True},
        "n",
        lambda r: not r["n"] > 0,
    ),
    ("values_to_be_between", {"column": "n", "max_value": 4.5}, "n", lambda r: not r["n"] <= 4.5),
    # Spark orders NaN above every number: it is outside of any bound above.
    (
        "values_to_be_between",
        {"column": "x", "min_value": 0, "max_value": 10, "strict_max": True},
        "x",
        lambda r: not 0 <= r["x"] < 10,
    ),
    (
        "values_to_be_between",
        {"column": "at", "min_value": "2024-05-02", "max_value": "2024-05-03T00:00:00Z"},
        "at",
        lambda r: not DAY[1] <= r["at"] <= DAY[2],
    ),
    ("values_to_be_in_set", {"column": "n", "value_set": [0, 5]}, "n", lambda r: r["n"] not in (0, 5)),
    ("values_to_be_in_set", {"column": "ok", "value_set": [True]}, "ok", lambda r: not r["ok"]),
    (
        "values_to_not_be_in_set",
        {"column": "s", "value_set": ["", "ab"]},
        "s",
        lambda r: r["s"] in ("", "ab"),
    ),
    (
        "values_to_match_regex",
        {"column": "s", "regex": "^[a-c]+$"},
        "s",
        lambda r: r["s"] not in ("ab", "abc"),
    ),
    (
        "values_to_not_match_regex",
        {"column": "s", "regex": "[0-9]"},
        "s",
        lambda r: r["s"] == "x1" or len(r["s"]) > 10_000,
    ),
    (
        "value_lengths_to_be_between",
        {"column": "s", "min_value": 1, "max_value": 2},
        "s",
        lambda r: not 1 <= len(r["s"]) <= 2,
    ),
    ("value_lengths_to_equal", {"column": "s", "value": 3}, "s", lambda r: len(r["s"]) != 3),
    (
        "pair_values_a_to_be_greater_than_b",
        {"column_A": "n", "column_B": "m"},
        "nm",
        lambda r: not operator.gt(r["n"], r["m"]),
    ),
    (
        "pair_values_a_to_be_greater_than_b",
        {"column_A": "n", "column_B": "m", "or_equal": True},
        "nm",
        lambda r: not operator.ge(r["n"], r["m"]),
    ),
    ("pair_values_to_be_equal", {"column_A": "n", "column_B": "m"}, "nm", lambda r: r["n"] != r["m"]),
]


def columns_of(word: str) -> list[str]:
    return ["n", "m"] if word == "nm" else [word]


def expectations() -> list[Expectation]:
    return [
        Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": "n"}),
        Expectation(type="expect_column_values_to_be_null", kwargs={"column": "n"}),
        *(Expectation(type=f"expect_column_{kind}", kwargs=kwargs) for kind, kwargs, _, _ in CASES),
    ]


def told() -> list[list[Any]]:
    """By expectation the ids of the rows that break it, by plain Python."""
    rows: list[dict[str, Any]] = [
        dict(zip(SCHEMA.replace(",", "").split()[::2], row, strict=True)) for row in ROWS
    ]
    found = [[r["id"] for r in rows if r["n"] is None], [r["id"] for r in rows if r["n"] is not None]]
    return [
        *found,
        *(
            [r["id"] for r in rows if all(r[c] is not None for c in columns_of(word)) and test(r)]
            for _, _, word, test in CASES
        ),
    ]


def test_a_row_breaks_an_expectation_exactly_when_python_says_so(spark: SparkSession) -> None:
    frame = spark.createDataFrame(ROWS, SCHEMA)
    marked = frame.select(
        "id", *[breaks(SOURCE, each).alias(f"b{number}") for number, each in enumerate(expectations())]
    ).collect()
    for number, (each, wanted) in enumerate(zip(expectations(), told(), strict=True)):
        assert [row["id"] for row in marked if row[f"b{number}"]] == wanted, each
        assert wanted, f"a case that nothing breaks shows nothing: {each}"


def test_a_load_is_measured_in_the_pass_that_writes_it(spark: SparkSession) -> None:
    loads = [
        Expectation(type=f"expect_column_{kind}_to_be_between", kwargs={"column": column, "min_value": 0})
        for kind, column in (
            ("min", "at"),
            ("max", "n"),
            ("mean", "m"),
            ("sum", "m"),
            ("stdev", "m"),
            ("unique_value_count", "id"),
        )
    ]
    # Each case twice: as a rule, whose rows are bad, and as a warning, whose rows are not.
    cases = [*expectations()[2:], *(replace(each, severity="warning") for each in expectations())]
    suite = Suite(source=SOURCE, expectations=(*cases, *loads))
    frame = spark.createDataFrame(ROWS, SCHEMA).withColumn(
        "_reason", F.nullif(F.concat_ws("; ", *reasons(suite)), F.lit(""))
    )
    seen = Observation("load")
    frame.observe(seen, *measures(suite)).write.format("noop").mode("overwrite").save()
    row = seen.get
    assert (row["rows"], row["bad"]) == (7, len({name for names in told()[2:] for name in names}))
    for number, wanted in enumerate([*told()[2:], *told()]):
        found = measured(suite, row, number)
        assert found["unexpected"] == len(wanted), suite.expectations[number]
        assert found["missing"] == sum(
            any(
                r[["id", "at", "n", "m", "x", "s", "ok"].index(c)] is None
                for c in suite.expectations[number].columns
            )
            for r in ROWS
        )
    low, high, mean, total, deviation, count = (
        measured(suite, row, number)["value"] for number in range(len(cases), len(suite.expectations))
    )
    assert (low.astimezone(UTC), high, mean, total, count) == (DAY[0], 2_000_000_000, 19 / 5, 19, 7)
    assert deviation == pytest.approx(4.3243496)


def test_a_row_against_a_rule_gets_the_rule_as_its_reason_and_a_warning_gives_none(
    spark: SparkSession,
) -> None:
    rules = [
        Expectation(
            type="expect_column_values_to_be_between", kwargs={"column": "n", "min_value": 0, "max_value": 10}
        ),
        Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": "s"}),
        Expectation(
            type="expect_column_values_to_be_in_set",
            kwargs={"column": "s", "value_set": ["a"]},
            severity="warning",
        ),
    ]
    suite = Suite(source=SOURCE, expectations=tuple(rules))
    texts = [
        '{"id": "1", "at": "2024-05-01", "n": 3, "s": "b"}',
        '{"id": "2", "at": "2024-05-01", "n": 11}',
        '{"id": "3", "at": "2024-05-01", "n": "x", "s": "b"}',
    ]
    schema = "value STRING, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT"
    rows = [(text, DAY[0], None, "t", 0, number) for number, text in enumerate(texts)]
    raw = spark.createDataFrame(rows, schema)
    judged = judge(SOURCE, (), parse(SOURCE, raw), 86_400, suite).orderBy("_offset").collect()
    assert [row["_reason"] for row in judged] == [
        None,
        "n: '11' is not between 0 and 10; s: missing, and expected to be there",
        "n: 'x' is not INT",
    ]
    assert len(reasons(suite)) == 2
