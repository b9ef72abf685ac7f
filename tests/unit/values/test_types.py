"""Values of each type there and back, and a type that is added from outside."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from anabranch import FeatureView, Label, Last, LastK, Max, Model, Project, Source
from anabranch.answers.predict import shown_features
from anabranch.declare.sources import key_columns
from anabranch.events.faults import find_fault
from anabranch.folds.merge import merge
from anabranch.stores.cassandra.current_rows import current_columns
from anabranch.stores.models.inputs import model_inputs
from anabranch.values.times import HOUR, to_micros
from anabranch.values.types import TIMESTAMP, ArrayType, parse_schema, parse_type, register_type
from serving.api.openapi import Declared
from tests.support.law import SLOT, START, batch_part, tiles
from tests.support.oracle import Event
from tests.support.toys import YearType

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
register_type(YearType)


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


# A type from outside: tests/spark/folds/test_toys.py reads it from text and builds with it.

SOURCE = Source(
    name="wines",
    topic="wines",
    id="id",
    time="time",
    schema="id STRING, key STRING, time TIMESTAMP, grown YEAR, bottled VINTAGE",
)
VIEW = FeatureView(
    name="years",
    source=SOURCE,
    key="key",
    windows=("7d",),
    features={"last": Last("grown"), "newest": Max("grown"), "both": LastK("grown", 2)},
)
PROJECT = Project(
    name="cellar",
    views=(VIEW,),
    label=Label(source=SOURCE, key="key", target="grown > 2000"),
    model=Model(metric="rmse"),
)


@dataclass(frozen=True)
class Wine(Event):
    """An event with a year."""

    grown: int | None = None


def test_a_new_type_is_declared_and_checked() -> None:
    assert [column.type.name for column in SOURCE.columns[-2:]] == ["YEAR", "YEAR"]
    assert parse_schema("grown YEAR")[0].type == YearType()
    assert key_columns("grown", SOURCE, "here") == ("grown",)
    event = {"id": "1", "key": "a", "time": "2024-05-01"}
    assert find_fault({**event, "grown": "Y1999"}, SOURCE, (("key",),)) is None
    fault = find_fault({**event, "grown": 1999}, SOURCE, (("key",),))
    assert fault is not None
    assert fault.reason == "grown: 1999 is not a YEAR: write Y and four digits, such as Y2024"


def test_a_new_type_is_coded_in_states_and_comes_back() -> None:
    events = [
        Wine(id=f"{i}", key="a", time=START + i * HOUR, arrival=START + i * HOUR, grown=year)
        for i, year in enumerate((1999, 2024, 1987, None))
    ]
    cut, at = START + 2 * SLOT, START + 5 * HOUR
    known = batch_part(VIEW, [one for one in events if one.arrival < cut], cut)
    found = merge(VIEW, known, tiles(VIEW, [one for one in events if one.arrival >= cut]), at)
    assert found.values == {"last_7d": 1987, "newest_7d": 2024, "both_7d": [1987, 2024]}
    assert shown_features(PROJECT, found.values) == {
        "last_7d": "Y1987",
        "newest_7d": "Y2024",
        "both_7d": ["Y1987", "Y2024"],
    }


def test_a_new_type_has_a_place_in_stores_models_and_the_document() -> None:
    assert current_columns(PROJECT)["last_7d"].cql == "smallint"
    assert current_columns(PROJECT)["both_7d"].cql == "frozen<list<smallint>>"
    assert [given.kind for given in model_inputs(PROJECT)] == ["number", "number"]
    assert YearType().arrow == pa.int32()
    declared = Declared(PROJECT)
    assert declared.parts["features"]["properties"]["last_7d"]["pattern"] == YearType().json_schema["pattern"]
    assert declared.predict_examples()["features"]["value"]["features"]["last_7d"] == "Y2024"
