"""A type that is added from outside goes through declarations, states, stores, models and the API's document.

tests/spark/folds/test_seams.py reads it from text and builds with it.
"""

from dataclasses import dataclass

import pyarrow as pa

from anabranch import FeatureView, Label, Last, LastK, Max, Model, Project, Source
from anabranch.answers.predict import shown_features
from anabranch.declare.sources import key_columns
from anabranch.events.faults import find_fault
from anabranch.folds.merge import merge
from anabranch.stores.cassandra.current_rows import current_columns
from anabranch.stores.models.inputs import model_inputs
from anabranch.testing.states import SLOT, batch_part, tiles
from anabranch.values.times import HOUR
from anabranch.values.types import parse_schema, register_type
from serving.api.openapi import Declared
from tests.support.law import START, Event
from tests.support.toys import YearType

register_type(YearType)
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
