"""Values folded in another order agree with the recomputed ones, and wrong values do not."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import Covariance, Project
from anabranch.declare.views import FeatureColumn
from anabranch.folds.training_sets import features_before
from anabranch.testing import oracle
from anabranch.values.times import DAY, HOUR
from batch.building.recomputing import agrees, with_witnesses
from tests.support.law import START, Event, events_strategy, make_view
from tests.unit.folds.test_law import as_run, at_position, served

EVERYTHING = make_view(("7d",))
VIEW = replace(
    EVERYTHING,
    features={
        name: aggregate
        for name, aggregate in EVERYTHING.features.items()
        if "size" in aggregate.witnesses() or isinstance(aggregate, Covariance)
    },
)
(WITNESSED,) = with_witnesses(Project(name="law", views=(VIEW,))).views
AT = START + 9 * DAY


def _recomputed(events: list[Event]) -> dict[str, object]:
    ordered = sorted(oracle.distinct(events), key=lambda event: (event.key, event.time))
    return at_position(features_before(WITNESSED, as_run(WITNESSED, ordered, [("a", AT)])), 0)


def _disagreeing(
    events: list[Event], values: dict[str, object]
) -> list[tuple[FeatureColumn, object, object]]:
    row = _recomputed(events)
    return [
        (column, row[column.name], values[column.name])
        for column in VIEW.columns
        if not agrees(VIEW.parts[column.part], column, row, values[column.name])
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), hours=st.none() | st.integers(0, 6))
def test_values_served_from_batch_and_tiles_agree_with_the_recomputed(
    events: list[Event], hours: int | None
) -> None:
    cut = None if hours is None else AT - hours * HOUR
    arrived = [event for event in events if event.arrival < AT]
    assert not _disagreeing(arrived, served(VIEW, arrived, "a", cut, AT))


def _events(values: list[tuple[float, int]]) -> list[Event]:
    times = [START + 3 * DAY + position * 4 * HOUR for position in range(len(values))]
    return [
        Event(id=str(time), key="a", time=time, arrival=time, x=x, n=n)
        for time, (x, n) in zip(times, values, strict=True)
    ]


@pytest.mark.parametrize(
    "values",
    [
        [(1e9, 2**62), (-1e9, 2**62), (1e-3, -(2**62)), (1e9, 5), (0.0, -(2**62))],
        [(1e9 + i % 3, 2**62 + 4096 * i) for i in range(30)],
        [(1e9, 1), (-1e9, 2), (1e-3, 3)],
    ],
    ids=["cancelling", "far from zero", "a small rest"],
)
def test_values_that_cancel_agree(values: list[tuple[float, int]]) -> None:
    events = _events(values)
    for cut in (None, AT - HOUR):
        assert not _disagreeing(events, served(VIEW, events, "a", cut, AT))


@pytest.mark.parametrize("further", [[], [(1e200, 5)]], ids=["plain", "beside a number that is too large"])
def test_a_wrong_value_disagrees(further: list[tuple[float, int]]) -> None:
    events = _events([(float(i * i % 7), i * 3 % 11 + 1) for i in range(20)] + further)
    right = _recomputed(events)
    numbers = {name: value for name, value in right.items() if isinstance(value, float)}
    numbers = {column.name: numbers[column.name] for column in VIEW.columns if column.name in numbers}
    assert numbers
    wrong = right | {name: value * 1.0001 + 0.001 for name, value in numbers.items()}
    assert {column.name for column, _, _ in _disagreeing(events, wrong)} == numbers.keys()
