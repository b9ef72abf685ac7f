"""Additions from outside (tests/support/toys.py) go from text through builds and training sets of Spark."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from pyspark.sql import SparkSession

from anabranch import FeatureView, Label, Last, Max, Model, Project, Source
from anabranch.declare.windows import register_window
from anabranch.events.judging import parse
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.folds.merge import LABELS, BatchPart, merge
from anabranch.folds.spark import batch_rows, grains, point_in_time
from anabranch.testing import oracle
from anabranch.values.times import DAY, HOUR, MINUTE, from_micros, to_micros
from anabranch.values.types import register_type
from tests.support.law import START, Event
from tests.support.law import source as things
from tests.support.toys import GeometricMean, TodayWindow, YearType, midnight

pytestmark = pytest.mark.usefixtures("compiled")
register_type(YearType)
register_window(TodayWindow)
oracle.BEGINNINGS["TodayWindow"] = midnight
NOON = to_micros(datetime(2024, 5, 1, 12, tzinfo=UTC))
SCHEMA = "id STRING, key STRING, time TIMESTAMP, grown YEAR"
SOURCE = Source(name="wines", topic="wines", id="id", time="time", schema=SCHEMA)
VIEW = FeatureView(
    name="years",
    source=SOURCE,
    key="key",
    windows=("7d",),
    features={"last": Last("grown"), "newest": Max("grown")},
)


def test_a_new_type_goes_from_text_to_answers_and_training_sets(spark: SparkSession) -> None:
    cells = ["Y1999", " Y2024 ", "Y1987", "last year", None]
    raw = [
        (
            json.dumps(
                {"id": str(i), "key": "a", "time": from_micros(NOON + i * HOUR).isoformat(), "grown": cell}
            ),
            from_micros(NOON + i * HOUR),
        )
        for i, cell in enumerate(cells)
    ]
    lake = ", ".join(f"{name} {kind}" for name, kind in LAKE_COLUMNS.items() if name != "_arrival")
    frame = spark.createDataFrame(raw, "value STRING, _arrival TIMESTAMP").selectExpr(
        "*", *[f"CAST(NULL AS {part.split()[1]}) AS {part.split()[0]}" for part in lake.split(", ")]
    )
    events = parse(SOURCE, frame).persist()
    assert [row["_reason"] for row in events.where("_reason IS NOT NULL").collect()] == [
        "grown: 'last year' is not YEAR (Y and four digits, such as Y2024)"
    ]
    good = events.where("_reason IS NULL")
    cut = NOON + DAY
    (row,) = batch_rows(VIEW, grains(VIEW, good, cut), cut, DAY).collect()
    part = BatchPart(cut, DAY, np.array(row["states"]).reshape(-1, LABELS + VIEW.layout.width))
    expected = {"last_7d": 1987, "newest_7d": 2024}
    assert dict(merge(VIEW, part, None, cut).values) == expected
    label = Label(source=SOURCE, key="key", target="grown > 2000")
    project = Project(name="cellar", views=(VIEW,), label=label, model=Model())
    asked = spark.createDataFrame([("a", from_micros(cut))], "key STRING, time TIMESTAMP")
    (trained,) = point_in_time(project, {"wines": good}, asked, "time").collect()
    assert {column.name: column.type.value(trained[column.name]) for column in VIEW.columns} == expected


def test_a_new_aggregate_and_a_new_window_are_built_by_spark(spark: SparkSession) -> None:
    view = FeatureView(
        name="growth",
        source=things,
        key="key",
        windows=("1h", "today"),
        features={"growth": GeometricMean("x")},
    )
    events = [
        Event(id=f"{i}", key="a", time=START + i * MINUTE, arrival=START + i * MINUTE, x=float(i % 7 - 1))
        for i in range(0, 1500, 31)
    ]
    frame = spark.createDataFrame(
        [(one.id, one.key, from_micros(one.time), one.x, from_micros(one.arrival)) for one in events],
        "id STRING, key STRING, time TIMESTAMP, x DOUBLE, _arrival TIMESTAMP",
    )
    cut = START + DAY + HOUR
    (row,) = batch_rows(view, grains(view, frame, cut), cut, HOUR).collect()
    part = BatchPart(cut, HOUR, np.array(row["states"]).reshape(-1, LABELS + view.layout.width))
    expected = oracle.answer(view, events, "a", cut)
    assert expected["growth_today"] is not None
    assert dict(merge(view, part, None, cut).values) == pytest.approx(expected, rel=1e-9)
    label = Label(source=things, key="key", target="x > 0")
    project = Project(name="growing", views=(view,), label=label, model=Model())
    asked = spark.createDataFrame([("a", from_micros(cut))], "key STRING, time TIMESTAMP")
    (trained,) = point_in_time(project, {"things": frame}, asked, "time").collect()
    assert {name: trained[name] for name in expected} == pytest.approx(expected, rel=1e-9)
