import json
from dataclasses import replace
from typing import Any

import pytest

from anabranch.declare.sources import Source
from anabranch.events.expectations import derived_suite
from anabranch.events.faults import Fault, find_fault, find_text_fault
from anabranch.events.messages import EXACT
from anabranch.values.times import parse_time
from anabranch.values.types import parse_type

SOURCE = Source(
    name="sales",
    topic="sales",
    id="sale_id",
    time="sold_at",
    schema="sale_id BIGINT, sold_at TIMESTAMP, shop STRING, customer INT, price DECIMAL(6,2)",
)
KEYS = (("shop",), ("shop", "customer"))
GOOD = {"sale_id": 1, "sold_at": "2024-05-01T12:00:00Z", "shop": "s1", "price": 2.5}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("INT", [45, 45.0, "45", " 45 ", "45.0", "4.5e1", -(2**31)],
         [45.5, True, "x", "", 2**31, 1e300, {}, [], "1e-2"]),
        ("TINYINT", [127], [128]),
        ("SMALLINT", [-32768], [-32769]),
        ("BIGINT", [2**63 - 1, str(2**63 - 1)], [2**63, 10**400]),
        ("DOUBLE", [1, 1.5, "1.5", "-1e3", ".5", "NaN", "Infinity"], ["1e999", True, "x", 10**400, "12d"]),
        ("FLOAT", [1.5, "inf"], ["1e39"]),
        ("DECIMAL(6,2)", [9999.99, "9999.99", "1.2300", 0, "0e9"],
         [10000, "1e5", "1.239", 0.001, True, "x", "1e999999999999999999999"]),
        ("STRING", ["", "x", 7, 1.5, True, {}, []], ["\ud800"]),
        ("BOOLEAN", [True, False, "true", "F", 1, 0], [2, "maybe", []]),
        ("DATE", ["2024-02-29", "2024-05-01T12:00:00Z"], ["2023-02-29", "20240501", 19844, "today"]),
        ("TIMESTAMP",
         ["2024-05-01", "2024-05-01T12:00", "2024-05-01 12:00:00.123456789+02:00", "2024-05-01T12:00:00Z"],
         ["2024-05-01T25:00:00Z", "12:00", 1714564800, "2024-W01-1", "2024-05-01T12:00:00+99:00",
          "2024-05-01T12:00:00+18:01", "0001-01-01T00:00:00+01:00"]),
    ],
)  # fmt: skip
def test_values_are_of_their_declared_type(kind: str, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if parse_type(kind).fault(value) is not None] == []
    assert [value for value in bad if parse_type(kind).fault(value) is None] == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("1" * 1001, "more than 1,000 digits"),
        ("-0." + "1" * 1001, "more than 1,000 digits"),
        ('{"' + "z" * 50_001 + '": 1}', "longer than 50,000 letters"),
        ("1" * 1000, None),
        ("-0." + "1" * 1000, None),
        ('"' + "1" * 2000 + '"', None),
        ('{"' + "z" * 50_000 + '": 1}', None),
    ],
)
def test_what_sparks_parser_refuses_in_any_field_is_refused(more: str, said: str | None) -> None:
    text = json.dumps(GOOD)[:-1] + f', "more": {more}' + "}"
    assert find_fault(json.loads(text), SOURCE, KEYS) is None
    fault = find_text_fault(text.encode(), SOURCE)
    assert (fault is None) if said is None else (fault is not None and said in fault.reason)


def test_a_number_whose_exponent_no_decimal_has_is_judged_as_any_other() -> None:
    text = '{"sale_id": 1, "sold_at": "2024-05-01", "shop": "s1", "%s": 1.5E-99999999999999999999}'
    faults = {
        name: find_fault(EXACT.decode((text % name).encode()), SOURCE, KEYS) for name in ("price", "more")
    }
    assert faults["more"] is None
    assert faults["price"] is not None
    assert faults["price"].field == "price"


def test_good_event_has_no_fault_and_unknown_fields_are_ignored() -> None:
    assert find_fault({**GOOD, "more": [1]}, SOURCE, KEYS) is None
    assert find_fault({**GOOD, "price": None}, SOURCE, KEYS) is None


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"sale_id": None}, "sale_id", "sale_id is missing: it is the id of a 'sales' event"),
        ({"sold_at": None}, "sold_at", "sold_at is missing: it is the time of a 'sales' event"),
        ({"shop": None}, "shop", "shop is missing: an event needs its key"),
        ({"shop": ""}, "shop", "shop is missing: an event needs its key"),
        ({"shop": "a\x1fb"}, "shop", "shop: a key may have 8192 bytes and not the control character U+001F"),
        (
            {"shop": "x" * 9000},
            "shop",
            "shop: a key may have 8192 bytes and not the control character U+001F",
        ),
        ({"customer": "abc"}, "customer", "customer: 'abc' is not an INT"),
        (
            {"sold_at": "yesterday"},
            "sold_at",
            "sold_at: 'yesterday' is not a TIMESTAMP: write ISO 8601, such as 2024-05-01T12:00:00Z",
        ),
    ],
)
def test_fault_names_field_and_reason(change: dict[str, Any], field: str, reason: str) -> None:
    fault = find_fault({**GOOD, **change}, SOURCE, KEYS)
    assert fault is not None
    assert (fault.field, fault.reason) == (field, reason)


def test_event_with_one_of_several_keys_is_good() -> None:
    assert find_fault({**GOOD, "shop": None, "customer": 4}, SOURCE, (("shop",), ("customer",))) is None


def test_event_from_the_future_is_refused() -> None:
    latest = parse_time("2024-05-01T12:00:00Z")
    assert find_fault(GOOD, SOURCE, KEYS, latest) is None
    fault = find_fault({**GOOD, "sold_at": "2024-05-01T12:00:01"}, SOURCE, KEYS, latest)
    assert fault is not None
    assert fault.field == "sold_at"
    assert "future" in fault.reason


def test_an_event_of_a_source_without_an_id_needs_none() -> None:
    bare = replace(SOURCE, id=None)
    event = {name: value for name, value in GOOD.items() if name != "sale_id"}
    assert find_fault(event, bare, KEYS) is None
    assert find_fault(event, SOURCE, KEYS) == Fault(
        "sale_id", "sale_id is missing: it is the id of a 'sales' event"
    )
    assert find_fault([], bare, KEYS) == Fault("sold_at", "an event is a JSON object, not an array")
    # A load is not expected to have different ids, for it has none.
    columns = {name for each in derived_suite(bare, ("shop",)).expectations for name in each.columns}
    assert columns == {"sold_at", "shop"}


def test_event_is_an_object() -> None:
    assert find_fault([1], SOURCE, KEYS) is not None
    assert find_fault("x", SOURCE, KEYS) is not None


def test_events_have_the_columns_of_their_source_whatever_their_names() -> None:
    odd = ("Unit Price", "a.b", "start", "it's", "Größe")
    schema = "id STRING, at TIMESTAMP, " + ", ".join(f"`{name}` INT" for name in odd)
    source = Source(name="odd", id="id", time="at", schema=schema)
    event = {"id": "1", "at": "2024-05-01T12:00:00Z", **dict.fromkeys(odd, 1), "_arrival": "ignored"}
    assert find_fault(event, source, (("Unit Price", "a.b"),)) is None
    assert "a.b" in str(find_fault({**event, "a.b": None}, source, (("Unit Price", "a.b"),)))
    assert "Größe" in str(find_fault({**event, "Größe": "x"}, source, ()))
