"""Nested messages: their events, their bounds, and what the documentation shows of them."""

from typing import Any

import msgspec
import pytest

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import EventError
from anabranch.events.event_schemas import event_example, event_schema
from anabranch.events.faults import find_fault
from anabranch.events.messages import check_levels, event_alone, kept_events

SOURCE = Source(
    name="orders",
    topic="orders",
    id="id",
    time="at",
    schema="id STRING, at TIMESTAMP, shop STRING, sku STRING, sizes ARRAY<INT>, note STRING, first INT",
    fields={
        "at": "meta.at",
        "sku": "lines.sku",
        "sizes": "lines.sizes",
        "note": "meta",
        "first": "meta.n[1]",
    },
    explode="lines",
)
PROJECT = Project(
    name="shops", views=(FeatureView(name="by_shop", source=SOURCE, key="shop", features={"n": Count()}),)
)
ORDER: dict[str, Any] = {
    "id": 7,
    "meta": {"at": "2024-05-01", "n": [1, 2]},
    "shop": "s",
    "lines": [{"sku": "a", "sizes": [1]}, {"sku": "b"}],
    "undeclared": 1,
}


def test_a_message_is_one_event_for_each_of_its_items() -> None:
    first, second = (event for event, _ in kept_events(ORDER, SOURCE.nesting))
    assert (first.values["sku"], first.values["sizes"], first.values["first"]) == ("a", [1], 2)
    assert (second.values["sku"], second.values["sizes"], second.position) == ("b", None, 1)


def test_an_item_that_quarantine_kept_reads_as_it_was() -> None:
    for event, kept in kept_events({**ORDER, "lines": [ORDER["lines"][0], None, 5]}, SOURCE.nesting):
        document = msgspec.json.decode(str(kept))
        assert "undeclared" not in document["message"]
        assert event_alone(document, SOURCE.nesting) == event


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"lines": []}, None),
        ({"lines": None}, None),
        ({"lines": [{"sku": "a"}, {"sizes": ["x"]}]}, "lines[1]: sizes: [0]: 'x' is not an INT"),
        ({"lines": ["a"]}, "lines[0]: sku: lines.sku: lines is 'a', not an object"),
        ({"lines": 5}, "explode: lines is 5, not an array"),
        ({"id": None}, "lines[0]: id is missing: it is the id of a 'orders' event"),
        ({"shop": " "}, None),
        ({"shop": ""}, "lines[0]: shop is missing: an event needs its key"),
        ({"meta": "x"}, "at: meta.at: meta is 'x', not an object"),
    ],
)
def test_rest_judges_every_item(change: dict[str, Any], reason: str | None) -> None:
    fault = find_fault({**ORDER, **change}, SOURCE, PROJECT.key_sets(SOURCE))
    assert (fault and fault.reason) == reason


def test_a_message_has_a_bounded_depth() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for number in range(levels):
            value = [value] if number % 2 else {"a": value}
        return value

    check_levels(nested(64))
    with pytest.raises(EventError, match="nested more than 64 levels deep"):
        check_levels(nested(65))
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(EventError, match="nested more than 64 levels deep"):
        check_levels(cyclic)


def test_the_documented_example_can_be_sent_and_the_schema_shows_where_columns_lie() -> None:
    example = event_example(SOURCE)
    assert find_fault(example, SOURCE, PROJECT.key_sets(SOURCE)) is None
    assert example["lines"][0] == {"sku": "sku-1", "sizes": [1]}
    schema = event_schema(SOURCE, PROJECT)
    assert schema["required"] == ["id", "shop"]
    lines = schema["properties"]["lines"]
    assert lines["type"] == ["array", "null"]
    assert lines["items"]["properties"]["sizes"]["type"] == ["array", "null"]
