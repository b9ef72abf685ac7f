"""Paths into nested messages: how they are written, and what lies at them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import DeclarationError, EventError
from anabranch.values.paths import MOST_STEPS, parse_path, path_text, value_at

MESSAGE: dict[str, Any] = {
    "payload": {"amount": {"value": 1.5}, "none": None, "kind": "card", "Kind": "upper"},
    "items": [{"sku": "a"}, None, {"sku": "c"}],
    "a.b": {"it's": {"in `ticks`": 7}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("payload.amount.value", 1.5),
        ("payload.Kind", "upper"),
        ("payload.kinds", None),
        ("payload.none.value", None),
        ("items[2].sku", "c"),
        ("items[1].sku", None),
        ("items[3].sku", None),
        ("`a.b`.it's.`in ``ticks```", 7),
    ],
)
def test_a_path_leads_to_its_value_or_to_nothing(path: str, value: object) -> None:
    assert value_at(MESSAGE, parse_path(path)) == value


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("payload.kind.code", "payload.kind.code: payload.kind is 'card', not an object"),
        ("items.sku", "items.sku: items is an array, not an object"),
        ("payload[0]", "payload[0]: payload is an object, not an array"),
        ("items[0][1]", "items[0][1]: items[0] is an object, not an array"),
    ],
)
def test_a_path_that_leads_through_something_else_says_what_was_found(path: str, reason: str) -> None:
    with pytest.raises(EventError) as error:
        value_at(MESSAGE, parse_path(path))
    assert str(error.value) == reason


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "[0]", "a[", "a[x]", "a[-1]", "a[0]b", "a.[0]", "a`b", "`a", " a", "a. b",
     "``", ".".join(["a"] * (MOST_STEPS + 1))],
)  # fmt: skip
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError, match="is not a path: write names divided by dots"):
        parse_path(text)


@given(st.lists(st.text(min_size=1) | st.integers(0, 99), min_size=1, max_size=MOST_STEPS - 1))
def test_a_path_reads_as_it_is_written(steps: list[str | int]) -> None:
    path = ("root", *steps)
    assert parse_path(path_text(path)) == path
