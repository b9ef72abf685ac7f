from datetime import UTC, date, datetime
from typing import Any

import pytest
from pyspark.sql.datasource import (
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNotNull,
    IsNull,
    LessThan,
    StringStartsWith,
)

from anabranch.stores.cassandra.data_source.filters import TIMES, Pushed, push

TYPES = {
    "key": "text",
    "n": "bigint",
    "x": "double",
    "s": "text",
    "b": "boolean",
    "t": "timestamp",
    "d": "date",
    "f": "float",
    "l": "frozen<list<bigint>>",
}
MOMENT = datetime(2024, 5, 1, 12, tzinfo=UTC)


def pushed(*filters: Filter) -> tuple[Pushed, list[Filter]]:
    return push(filters, "key", TYPES)


def test_a_filter_on_the_key_is_left_to_cassandra_alone() -> None:
    assert pushed(IsNotNull(("key",)), EqualTo(("key",), "a")) == (Pushed(keys=("a",)), [])
    assert pushed(In(("key",), ("a", "b", "a", None))) == (Pushed(keys=("a", "b")), [])
    assert pushed(In(("key",), ("a", "b")), EqualTo(("key",), "b"))[0].keys == ("b",)
    assert pushed(EqualTo(("key",), "a"), EqualTo(("key",), "b"))[0].keys == ()


def test_comparisons_drop_rows_and_spark_evaluates_them_again() -> None:
    filters: list[Filter] = [
        EqualTo(("s",), "a"),
        GreaterThan(("x",), 0.5),
        LessThan(("n",), 7),
        GreaterThanOrEqual(("t",), MOMENT),
        EqualTo(("b",), True),
        LessThan(("d",), date(2024, 5, 1)),
    ]
    found, left = pushed(*filters)
    assert left == filters
    assert found.conditions == ('"s" = ?', '"x" > ?', '"n" < ?', '"t" >= ?', '"b" = ?', '"d" < ?')
    assert found.values == ("a", 0.5, 7, MOMENT, True, date(2024, 5, 1))
    assert found.keys is None


def test_times_that_are_kept_as_texts_are_compared_to_the_microsecond() -> None:
    asked = GreaterThanOrEqual(("last",), MOMENT.replace(year=9, microsecond=1))
    found, left = push([asked], "key", {**TYPES, "last": TIMES})
    assert (found.conditions, found.values) == (('"last" >= ?',), ("0009-05-01T12:00:00.000001Z",))
    assert left == [asked]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("x", 0.0),  # two zeros are one to Spark and two to Cassandra
        ("x", float("nan")),
        ("f", 0.1),  # which float this is, the two need not agree on
        ("t", MOMENT.replace(microsecond=1)),  # finer than Cassandra keeps
        ("t", MOMENT.replace(tzinfo=None)),
        ("l", 1),
        ("s", 1),
        ("n", True),
        ("unknown", 1),
    ],
)
def test_comparisons_that_cassandra_may_evaluate_differently_are_left_to_spark(
    column: str, value: Any
) -> None:
    asked = GreaterThanOrEqual((column,), value)
    assert pushed(asked) == (Pushed(), [asked])


def test_other_filters_stay_with_spark() -> None:
    filters: list[Filter] = [
        StringStartsWith(("s",), "a"),
        IsNull(("x",)),
        IsNotNull(("x",)),
        In(("n",), (1, 2)),
        EqualTo(("struct", "n"), 1),
        GreaterThan(("key",), "a"),
    ]
    assert pushed(*filters) == (Pushed(), filters)


def test_a_table_whose_partition_has_several_columns_is_not_looked_up() -> None:
    found, left = push([EqualTo(("key",), "a")], None, TYPES)
    assert (found.keys, len(left)) == (None, 1)
