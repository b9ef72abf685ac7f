"""The extremes of every type through every aggregate: exact, a finite float, or NULL; never an exception."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import (
    AGGREGATES,
    Aggregate,
    Correlation,
    Count,
    Covariance,
    Distinct,
    FeatureView,
    Kurtosis,
    Last,
    LastK,
    Mean,
    Skewness,
    Slope,
    Source,
    StdDev,
    Sum,
)
from anabranch.folds.merge import Tiles, merge
from anabranch.folds.training_sets import features_before
from anabranch.testing import oracle
from anabranch.testing.states import SLOT, states
from anabranch.values.times import DAY, FIRST, HOUR, LAST, MINUTE, format_time
from tests.support.drill import LONG
from tests.support.law import ARGUMENTS, START, Event
from tests.unit.folds.test_law import as_run, at_position, served

SOURCE = Source(
    name="edges",
    id="id",
    time="time",
    schema="id STRING, key STRING, time TIMESTAMP, x DOUBLE, n BIGINT, i INT, d DECIMAL(18,4), s STRING, "
    "b BOOLEAN, u TIMESTAMP, day DATE",
)
COLUMNS = {
    "numbers": "x n i d",
    "numbers, BOOLEAN, DATE and TIMESTAMP": "x n i d b u day",
    "BOOLEAN": "b",
    "every type": "x n i d b u day s",
    "STRING, whole numbers, BOOLEAN and DATE": "n i b s",
}
LARGEST = 1.7976931348623157e308
VALUES: dict[str, list[Any]] = {
    "x": [LARGEST, -LARGEST, 5e-324, -0.0, 0.0, math.nan, math.inf, -math.inf, 1.5e308, 1.0, None],
    "n": [2**63 - 1, -(2**63), 2**53 + 1, -1, 0, None],
    "i": [2**31 - 1, -(2**31), 0, None],
    "d": [Decimal(10**18 - 1).scaleb(-4), -Decimal(10**18 - 1).scaleb(-4), Decimal("0.0001"), None],
    "s": ["", "\0", "\U0010ffff", "a" * 5000, "-0.0", None],
    "b": [True, False, None],
    "u": [FIRST, FIRST + 1, LAST, LAST - 1, -1, 0, 10_413_792_000_000_001, 10_413_792_000_000_003, None],
    "day": [FIRST // DAY, LAST // DAY, -1, 0, None],
}
_ROUNDED = "Mean Rate Variance StdDev Skewness Kurtosis Covariance Correlation Slope DecayedSum DecayedMean"
FLOATING = set(_ROUNDED.split())


@dataclass(frozen=True)
class Edge(Event):
    """An event with a value of every type."""

    i: int | None = None
    u: int | None = None
    day: int | None = None


def features(windows: str) -> dict[str, Aggregate]:
    """Every aggregate over every type that it takes."""
    out: dict[str, Aggregate] = {}
    for kind in AGGREGATES:
        made: Any = kind
        for column in COLUMNS[kind.takes].split() if kind.windows in ("any", windows) else ():
            more = dict(ARGUMENTS.get(kind.__name__, {}))
            more |= {"other": "x"} if issubclass(kind, Covariance) else {}
            out[f"{kind.__name__}_{column}".lower()] = made(column, **more)
    return out


VIEWS = [
    FeatureView(name="w", source=SOURCE, key="key", windows=("7d",), features=features("finite")),
    FeatureView(name="l", source=SOURCE, key="key", features=features("none")),
]


@st.composite
def edges(draw: st.DrawFn) -> list[Event]:
    """Events of one key within some hours, of extreme values."""
    count = draw(st.integers(1, 6))
    times = [START + draw(st.integers(0, 6 * 60)) * MINUTE for _ in range(count)]
    return [
        Edge(
            id=f"e{position}",
            key="a",
            time=time,
            arrival=time + draw(st.sampled_from([0, 2 * HOUR])),
            **{name: draw(st.sampled_from(values)) for name, values in VALUES.items()},
        )
        for position, time in enumerate(times)
    ]


def right(aggregate: Aggregate, events: list[Event], found: Any, expected: Callable[[], Any]) -> bool:
    """Whether a value is the oracle's, and for floats none that DOUBLE does not hold."""
    name, column = type(aggregate).__name__, str(aggregate.argument)
    if isinstance(found, float) and not math.isfinite(found):
        return False
    if name in FLOATING or (name == "Sum" and column == "x"):
        if name not in ("Sum", "Mean"):
            return found is None or isinstance(found, float)
        values = [getattr(event, column) for event in events]
        exact = [Fraction(value) for value in values if value is not None and math.isfinite(value)]
        total, size = sum(exact, Fraction(0)), sum((abs(value) for value in exact), Fraction(0))
        total /= len(exact) if name == "Mean" and exact else 1
        if found is None:
            return not exact or bool(abs(total) > Fraction(LARGEST) * Fraction(999_999_999, 10**9))
        return bool(abs(Fraction(found) - total) <= Fraction(1, 10**9) * max(size, Fraction(1)))
    return bool(found == expected())


def assert_right(view: FeatureView, events: list[Event], found: dict[str, Any], at: int) -> None:
    """Every feature is right."""
    for column in view.columns:
        aggregate = view.parts[column.part]
        value = found[column.name]
        expected = partial(oracle.fold, aggregate, events, at, at - 7 * DAY)
        assert right(aggregate, events, value, expected), (
            column.name,
            value,
        )
        column.type.to_json(value)


@pytest.mark.proof("extremes of every type, every aggregate: 1,000 histories, answers equal a plain fold")
@settings(max_examples=1000 if LONG else 15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=edges(), cut=st.integers(3, 9))
def test_extremes_are_exact_in_answers(events: list[Event], cut: int) -> None:
    at = START + 9 * SLOT
    for view in VIEWS:
        assert_right(view, events, served(view, events, "a", START + cut * SLOT, at), at)


@pytest.mark.proof(
    "extremes of every type, every aggregate: 1,000 histories, training rows equal a plain fold"
)
@settings(max_examples=1000 if LONG else 15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=edges())
def test_extremes_are_exact_in_training_rows(events: list[Event]) -> None:
    at = START + 9 * SLOT
    ordered = sorted(events, key=lambda event: event.time)
    for view in VIEWS:
        found = at_position(features_before(view, as_run(view, ordered, [("a", at)])), 0)
        assert_right(view, events, found, at)


def test_numbers_beyond_1e70_do_not_count_in_moments() -> None:
    """As Spark, whose own moments of them are NaN once they have met an empty buffer."""
    some = {kind.__name__.lower(): kind("x") for kind in (StdDev, Skewness, Kurtosis, Slope)}
    chosen = {**some, "covariance": Covariance("x", "x"), "correlation": Correlation("x", "x")}
    view = FeatureView(name="w", source=SOURCE, key="key", windows=("7d",), features=chosen)
    at = START + 9 * SLOT

    def answer(values: list[float], cut: int) -> dict[str, Any]:
        times = [START + place * SLOT for place in range(len(values))]
        pairs = zip(times, values, strict=True)
        events: list[Event] = [Edge(id=f"{time}", key="a", time=time, arrival=time, x=x) for time, x in pairs]
        trained = at_position(features_before(view, as_run(view, events, [("a", at)])), 0)
        found = served(view, events, "a", START + cut * SLOT, at)
        assert found == {name: value and pytest.approx(value) for name, value in trained.items()}
        return found

    for cut in range(3, 6):
        assert set(answer([1.5e308, -1.5e308, 1e70, LARGEST], cut).values()) == {None}
        apart = answer([1.0, math.nan, 2.0, math.nan, 4.0], cut)
        assert answer([1.0, 1.5e308, 2.0, -1e70, 4.0], cut) == apart
        assert None not in answer([9e69, -9e69, 8e69, 1.0, 9e69], cut).values()


def test_what_an_expression_cannot_compute_is_null_and_stops_nothing() -> None:
    chosen = {"n": Count(), "revenue": Sum("i * 60000"), "unit": Mean("n / i"), "over": Sum("n * n")}
    view = FeatureView(name="w", source=SOURCE, key="key", windows=("7d",), features=chosen)
    rows = [(300, 2), (300, 3), (2**40, 0), (None, 50_000)]
    events: list[Event] = [
        Edge(id=f"{i}", key="a", time=START + i, arrival=START + i * HOUR, n=n, i=count)
        for i, (n, count) in enumerate(rows)
    ]
    expected = {"n_7d": 4, "revenue_7d": 3_000_300_000, "unit_7d": 125.0, "over_7d": 180_000}
    at = START + 5 * SLOT
    assert served(view, events, "a", START + 2 * SLOT, at) == expected
    trained = at_position(features_before(view, as_run(view, events, [("a", at)])), 0)
    assert {
        name: view.columns[i].type.value(value) for i, (name, value) in enumerate(trained.items())
    } == expected


def test_long_texts_are_cut_and_told_apart_by_digests() -> None:
    texts = ["a" * 600_000 + ending for ending in "xyx"]
    events: list[Event] = [
        Edge(id=text[-1], key="a", time=START + i, arrival=START, s=text) for i, text in enumerate(texts)
    ]
    chosen = {"last": Last("s"), "few": LastK("s", 2), "kinds": Distinct("s")}
    view = FeatureView(name="w", source=SOURCE, key="key", windows=("7d",), features=chosen)
    rows, extras = states(view, [events])
    assert len(rows) == 1
    assert sum(len(state or b"") for state in extras[0]) < 40_000
    found = dict(merge(view, None, Tiles(np.array([START]), rows, extras), START + DAY).values)
    assert found == {"last_7d": "a" * 10_000, "few_7d": ["a" * 10_000] * 2, "kinds_7d": 2}


def test_years_1_to_9999_are_written_to_the_microsecond() -> None:
    assert format_time(LAST) == "9999-12-31T23:59:59.999999Z"
    assert format_time(FIRST) == "0001-01-01T00:00:00Z"
