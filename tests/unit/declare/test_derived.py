"""Declarations of derived features and of the request: what they give, and what is refused in one line."""

from dataclasses import replace
from typing import Any

import pytest

from anabranch import Derived, Model, Online, Project, Request
from anabranch.declare.derived import RequestColumn
from anabranch.errors import DeclarationError
from anabranch.values.types import BOOLEAN, DOUBLE, INT, STRING, TIMESTAMP
from tests.support.fraud import DERIVED, fraud, spending


def test_derived_features_are_typed_and_stand_after_what_they_read() -> None:
    assert [(one.name, one.type, one.needs, one.asked) for one in fraud.derived_columns] == [
        ("ratio", DOUBLE, ("spent_1h", "spent_7d"), False),
        ("share", DOUBLE, ("spent_1h", "spent_7d"), False),
        ("jump", DOUBLE, ("amount", "spent_7d"), True),
        ("by_web", BOOLEAN, ("channel", "last_paid"), True),
        ("odd_card", BOOLEAN, ("card",), False),
        ("shop_name", STRING, ("card", "last_shop"), False),
    ]
    assert [column.name for column in fraud.columns][-6:] == [one.name for one in fraud.derived_columns]


def test_a_model_reads_features_derived_ones_and_the_request_by_default() -> None:
    everything = replace(fraud, model=Model())
    assert everything.model_features == (
        *("spent_1h", "spent_7d", "payments_1h", "payments_7d", "last_shop", "last_paid"),
        *("ratio", "share", "jump", "by_web", "odd_card", "shop_name", "amount", "channel"),
    )
    assert everything.needed(("share", "by_web", "amount")) == {
        *("spent_1h", "spent_7d", "channel", "last_paid", "amount")
    }
    assert everything.asks(("ratio", "by_web"))
    assert not everything.asks(("ratio", "odd_card"))


def test_the_program_computes_derived_features_over_keys_as_they_are_stored() -> None:
    rows: dict[str, list[Any]] = {
        "spent_1h": [1.0, None],
        "spent_7d": [4.0, 0.0],
        "last_shop": ["abc", None],
        "last_paid": [1714564800000000, None],
        "card": ["7", "8"],
        "amount": [2.0, 1.0],
        "channel": ["web", None],
    }
    assert fraud.program.run(rows, 2) == {
        "ratio": [0.25, None],
        "share": [0.125, None],
        "jump": [0.5, None],
        "by_web": [False, None],
        "odd_card": [True, False],
        "shop_name": ["AB-7", None],
    }
    assert set(fraud.program_without_request.names) == {"ratio", "share", "odd_card", "shop_name"}


def test_another_expression_or_request_is_another_input_of_the_model() -> None:
    other = replace(fraud, derived={**DERIVED, "ratio": Derived("spent_1h / nullif(spent_7d, 1)")})
    assert other.fingerprint != fraud.fingerprint
    asked = replace(fraud, request=Request(schema="amount DOUBLE, channel STRING DEFAULT 'app'"))
    assert asked.fingerprint != fraud.fingerprint


def test_columns_of_the_request_have_types_and_defaults() -> None:
    request = Request(
        schema="amount DOUBLE, channel STRING DEFAULT 'it''s, web', tries INT default 0, new BOOLEAN DEFAULT "
        "true, price DECIMAL(10,2), at TIMESTAMP DEFAULT '2024-05-01', note STRING DEFAULT NULL"
    )
    assert request.columns[:4] == (
        RequestColumn("amount", DOUBLE, True),
        RequestColumn("channel", STRING, False, "it's, web"),
        RequestColumn("tries", INT, False, 0),
        RequestColumn("new", BOOLEAN, False, True),
    )
    assert request.columns[5] == RequestColumn("at", TIMESTAMP, False, "2024-05-01")
    assert request.columns[6] == RequestColumn("note", STRING, False, None)


@pytest.mark.parametrize(
    ("derived", "said"),
    [
        ({"a": "b + 1", "b": "c + 1", "c": "a + 1"}, "derived features are a circle: a -> b -> c -> a"),
        ({"a": "a + 1"}, "derived features are a circle: a -> a"),
        ({"a": "spend_1h"}, "names 'spend_1h', which is no feature and no column of the key or the request"),
        ({"spent_1h": "1"}, "derived feature 'spent_1h' is also a feature column of a view: rename it"),
        ({"card": "1"}, "derived feature 'card' is also a column of the key: rename it"),
        ({"amount": "1"}, "derived feature 'amount' is also a column of the request: rename it"),
        ({"score": "1"}, "derived feature 'score' is also a reserved word of serving tables: rename it"),
        ({"Bad Name": "1"}, "is not a good name"),
        ({"a": "soundex(last_shop)"}, "calls soundex, which derived features cannot compute"),
        ({"a": "spent_1h +"}, "is not a SQL expression"),
        ({"a": "last_paid + 1"}, "adds or subtracts"),
    ],
)
def test_a_bad_derived_feature_is_refused_in_one_line(derived: dict[str, str], said: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        replace(fraud, derived={name: Derived(text) for name, text in derived.items()}, model=Model())
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("amount DOUBLES", "request: column 'amount': type 'DOUBLES' is not supported"),
        ("amount DOUBLE DEFAULT 'x'", "default 'x' is no DOUBLE: write a value without quotes"),
        ("amount DOUBLE DEFAULT x", "default x is no DOUBLE"),
        ("channel STRING DEFAULT web", "default web is no STRING: write a text in quotes"),
        ("blob BINARY", "request: column 'blob' is BINARY: use a number"),
        ("spent_1h DOUBLE DEFAULT 1", "request column 'spent_1h' is also a feature, a column of the key"),
        ("card INT DEFAULT 1", "request column 'card' is also a feature, a column of the key"),
        ("kind STRING", "request column 'kind' is no column of 'chargebacks', the label's source"),
        ("fraud STRING", "request column 'fraud' is STRING, but BOOLEAN in 'chargebacks'"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(schema: str, said: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        replace(fraud, request=Request(schema=schema), derived={}, model=Model())
    assert said in str(raised.value)


def test_an_online_model_reads_no_request() -> None:
    with pytest.raises(DeclarationError, match="the online model scores current rows, which have no request"):
        replace(fraud, model=Model(features=("spent_1h", "jump"), online=Online()))
    assert replace(fraud, model=Model(features=("spent_1h", "ratio"), online=Online())).model is not None


def test_a_project_without_label_needs_no_column_of_the_request_anywhere() -> None:
    plain = Project(
        name="plain",
        views=(spending,),
        request=Request(schema="kind STRING"),
        derived={"both": Derived("concat(kind, card)")},
    )
    assert plain.derived_columns[0].asked
