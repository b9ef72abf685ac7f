"""Where columns lie in nested messages: what a declaration may say."""

from typing import Any

import pytest

from anabranch import Source
from anabranch.errors import DeclarationError

SCHEMA = "id STRING, at TIMESTAMP, who STRING, amount DOUBLE, note STRING"


def source(**changed: Any) -> Source:
    given: dict[str, Any] = {"name": "sales", "topic": "sales", "id": "id", "time": "at", "schema": SCHEMA}
    return Source(**{**given, **changed})


def test_a_column_without_a_path_is_the_field_of_its_name() -> None:
    nesting = source(fields={"amount": "payload.amounts[0].value"}).nesting
    assert nesting.path("amount") == ("payload", "amounts", 0, "value")
    assert nesting.path("who") == ("who",)
    assert nesting.fields == {"id", "at", "who", "payload", "note"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fields": {"price": "a.b"}}, "'price' is no column: the schema has id, at, who, amount, note"),
        ({"fields": {"amount": "a..b"}}, "column 'amount': 'a..b' is not a path"),
        ({"fields": {"amount": 7}}, "fields must give a path by column"),
        ({"fields": {"amount": "who"}}, "columns 'who' and 'amount' both lie at who"),
        (
            {"fields": {"amount": "a[0]", "who": "a.b"}},
            "a is an array for one of 'who' and 'amount'",
        ),
        ({"fields": {"who": "amount.who"}}, "'who' lies within amount, where column 'amount' is DOUBLE"),
        ({"fields": {"amount": "items.x"}, "explode": "items["}, "explode: 'items[' is not a path"),
        ({"explode": "items"}, "no column is taken from the items of items"),
        ({"fields": {"id": "items.id"}, "explode": "items"}, "'id' must be STRING and lie outside of items"),
        (
            {"fields": {"amount": "a.b.c", "who": "a[0]"}, "explode": "a.b"},
            "a is an array for one of 'explode'",
        ),
        ({"fields": {"who": "a.b"}, "format": "csv"}, "format 'csv' are rows without nesting"),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeclarationError) as error:
        source(**changed)
    assert str(error.value).startswith("source 'sales': ")
    assert reason in str(error.value)


def test_a_text_column_may_hold_what_other_columns_are_taken_from() -> None:
    assert source(fields={"who": "note.who"}).nesting.path("note") == ("note",)
