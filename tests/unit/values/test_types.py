"""Values of each type, from JSON, Spark and drivers to stores, models and JSON."""

from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest

from anabranch.values.texts import JsonNumber
from anabranch.values.times import to_micros
from anabranch.values.types import BIGINT, TIMESTAMP, ArrayType, parse_type

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "kind", "value", "shown"),
    [
        (np.int64(3), "BIGINT", 3, 3),
        (np.float64(0.5), "DOUBLE", 0.5, 0.5),
        (np.bool_(True), "BOOLEAN", True, True),
        (np.int32(19844), "DATE", 19844, "2024-05-01"),
        (date(2024, 5, 1), "DATE", 19844, "2024-05-01"),
        ("2024-05-01", "DATE", 19844, "2024-05-01"),
        (np.int64(to_micros(NOON) + 1), "TIMESTAMP", to_micros(NOON) + 1, "2024-05-01T12:00:00.000001Z"),
        (NOON, "TIMESTAMP", to_micros(NOON), "2024-05-01T12:00:00Z"),
        (NOON.replace(tzinfo=None), "TIMESTAMP", to_micros(NOON), "2024-05-01T12:00:00Z"),
        ("2024-05-01T14:00:00+02:00", "TIMESTAMP", to_micros(NOON), "2024-05-01T12:00:00Z"),
        (Decimal("12"), "DECIMAL(38,0)", 12, 12),
        (Decimal("1.50"), "DECIMAL(12,2)", Decimal("1.50"), "1.50"),
        ("é", "STRING", "é", "é"),
    ],
)
def test_values_are_plain_python_inside_and_iso_8601_in_json(
    raw: object, kind: str, value: object, shown: object
) -> None:
    found = parse_type(kind).value(raw)
    assert (found, type(found)) == (value, type(value))
    assert parse_type(kind).to_json(raw) == parse_type(kind).to_json(found) == shown


def test_lists_are_lists_of_plain_values() -> None:
    found = ArrayType(TIMESTAMP).value([np.int64(to_micros(NOON)), NOON])
    assert found == [to_micros(NOON)] * 2
    assert ArrayType(TIMESTAMP).to_json(found) == ["2024-05-01T12:00:00Z"] * 2
    assert ArrayType(parse_type("BIGINT")).value(np.array([1, 2])) == [1, 2]
    assert ArrayType(parse_type("DECIMAL(38,0)")).value([]) == []


@pytest.mark.parametrize(
    ("kind", "value", "stored", "coded"),
    [
        ("TIMESTAMP", to_micros(NOON), NOON, float(to_micros(NOON))),
        ("DATE", 19844, date(2024, 5, 1), 19844.0),
        ("DECIMAL(38,0)", 12, Decimal(12), 12.0),
        ("BOOLEAN", True, True, 1.0),
        ("STRING", "a", "a", "a"),
    ],
)
def test_values_are_stored_and_fed_to_models(kind: str, value: object, stored: object, coded: object) -> None:
    assert (parse_type(kind).to_cql(value), parse_type(kind).to_model(value)) == (stored, coded)
    assert parse_type(kind).value(stored) == value
    assert parse_type(kind).to_cql(None) is parse_type(kind).to_model(None) is None


@pytest.mark.parametrize("kind", ["TIMESTAMP", "DATE"])
def test_times_outside_of_the_years_1_to_9999_are_no_times(kind: str) -> None:
    for text in ("9999-12-31T23:00:00-05:00", "0001-01-01T00:00:00+01:00"):
        assert not parse_type(kind).reads(text)
    for text in ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"):
        assert parse_type(kind).reads(text)


@pytest.mark.parametrize(
    ("sent", "kind", "accepted", "text"),
    [
        ("-9.292860303920501e17", "BIGINT", True, "-929286030392050100"),
        ("-9.292860303920501e17", "STRING", True, "-9.292860303920501e17"),
        ("9007199254740993.0", "BIGINT", True, "9007199254740993"),
        ("1.10", "STRING", True, "1.10"),
        ("1E+2", "STRING", True, "1E+2"),
        ("-0.0e50", "BIGINT", True, "0"),
        ("0e50", "DECIMAL(10,2)", True, None),
        ("0e1000", "BIGINT", False, None),
        ("1e99999999999999999999", "STRING", True, "1e99999999999999999999"),
        ("1e-99999999999999999999", "BIGINT", False, None),
        ("1.5", "BIGINT", False, None),
    ],
)
def test_a_number_of_json_is_judged_and_kept_as_the_text_that_was_sent(
    sent: str, kind: str, accepted: bool, text: str | None
) -> None:
    number, column = JsonNumber(sent), parse_type(kind)
    assert str(number) == sent
    assert (column.fault(number) is None) == (column.fault(sent) is None) == accepted
    if accepted and column.in_keys:
        assert column.key_text(number) == column.key_text(sent) == text
        assert column.cell(number) == sent
    given = column.given(number)
    assert given is number  # not by way of a double
    assert parse_type("DOUBLE").given(JsonNumber("1.10")) == 1.1


def test_a_double_without_a_fraction_has_all_its_digits_in_whole_numbers() -> None:
    for number in (2.0**53, -9.292860303920501e17, 2.0**62, 7.0):
        assert BIGINT.key_text(number) == str(int(number))
        assert int(float(BIGINT.cell(number))) == int(number)
    assert BIGINT.cell(-9.292860303920501e17) == "-929286030392050048"
    assert BIGINT.fault(2.0**63) is not None
