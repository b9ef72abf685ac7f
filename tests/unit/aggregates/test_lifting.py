"""States of single events without a JVM: the values of SQL, and what blocks make of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from pyspark import cloudpickle

from anabranch import Count, FeatureView, Last, Source, Sum
from anabranch.errors import DeclarationError
from anabranch.states.blocks import Element, one_value
from anabranch.testing.states import lift
from tests.support.law import Event, events_strategy
from tests.unit.folds.test_law import LIFELONG, VIEW

PAYMENTS = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, card STRING, at TIMESTAMP, a DOUBLE, b DOUBLE, n INT, f FLOAT, w DECIMAL(30,4), "
    "d DECIMAL(9,2), s STRING, items ARRAY<INT>",
)
ROW: dict[str, Any] = {
    "id": "1",
    "card": "c",
    "at": 1_700_000_000_000_000,
    "a": 3.0,
    "b": 0.5,
    "n": 7,
    "f": 0.25,
    "w": None,
    "d": None,
    "s": "Kiosk",
    "items": None,
}


def value_of(aggregate: Any, **given: Any) -> Any:
    """The value of an aggregate over one event."""
    view = FeatureView(name="v", source=PAYMENTS, key="card", windows=("1h",), features={"x": aggregate})
    rows, extras = view.lifter.states([{**ROW, **given}], [ROW["at"]])
    moment = np.array([ROW["at"] + 1])
    found = view.layout.finish("x", rows, extras or [()], moment, moment - 1)
    return found.values.tolist()[0] if found.valid[0] else None


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy())
def test_the_state_of_one_event_is_what_arrays_of_it_give(events: list[Event]) -> None:
    for view in (VIEW, LIFELONG):
        rows, times = [dict(event.__dict__) for event in events], [event.time for event in events]
        expected = lift(view, events)
        for place, values in enumerate(view.lifter.values(rows, times)):
            for element, found in expected.items():
                wanted = found.values[place] if found.valid[place] else None
                assert values[element] == wanted, element
            lifted = one_lifted(values)
            for block in view.layout.blocks:
                assert block.state_of(values) == tuple(block.lift(lifted)[0].tolist()), block


def one_lifted(values: Mapping[Element, Any]) -> dict[Element, Any]:
    """Plain values of one event as arrays."""
    return {element: one_value(value, element.kind) for element, value in values.items()}


@pytest.mark.parametrize(
    ("aggregate", "given", "expected"),
    [
        (Sum("a * b"), {}, 1.5),
        (Sum("a / b"), {"b": 0.0}, None),
        (Sum("n * 2"), {}, 14),
        (Sum("f * a"), {}, 0.75),
        (Count(where="s LIKE 'K%' AND a > 1"), {}, 1),
        (Count(where="s LIKE 'K%' AND a > 1"), {"a": float("nan")}, 0),
        (Count(where="s IN ('food', 'Kiosk')"), {}, 1),
        (Count(where="d > 10"), {}, 0),
        (Count(where="d > 10 OR a > 2"), {}, 1),
        (Last("upper(s)"), {}, "KIOSK"),
        (Last("s"), {"s": "é" * 20_000}, "é" * 10_000),
        (Sum("CASE WHEN hour(at) < 23 THEN a ELSE 0 END"), {}, 3.0),
    ],
)
def test_expressions_are_evaluated_for_one_event(aggregate: Any, given: Any, expected: object) -> None:
    assert value_of(aggregate, **given) == expected


@pytest.mark.parametrize(
    ("aggregate", "why"),
    [
        (Last("soundex(s)"), "soundex, which Spark alone computes"),
        (Sum("d * 2"), "'d', DECIMAL(9,2), .* cast it to DOUBLE"),
        (Count(where="s RLIKE '^K'"), "RLIKE, which Spark alone computes"),
        (Sum("size(items)"), "which Spark alone computes|'items', ARRAY"),
    ],
)
def test_what_spark_alone_computes_is_refused_by_the_name_of_the_feature(aggregate: Any, why: str) -> None:
    view = FeatureView(name="v", source=PAYMENTS, key="card", windows=("1h",), features={"x": aggregate})
    with pytest.raises(DeclarationError, match=rf"^view 'v': feature 'x'.*({why.replace('(9,2)', '.9,2.')})"):
        _ = view.lifter


def test_a_view_travels_to_workers_after_events_were_lifted() -> None:
    view = FeatureView(name="v", source=PAYMENTS, key="card", features={"x": Last("upper(s)"), "n": Count()})
    expected = view.lifter.values([ROW], [ROW["at"]])
    sent = cloudpickle.loads(cloudpickle.dumps(view))  # type: ignore[no-untyped-call]
    assert sent.lifter.values([ROW], [ROW["at"]]) == expected
