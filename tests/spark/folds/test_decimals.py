"""DECIMAL arithmetic is exact from declaration to value, also where it needs more than 64 bits."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import FeatureView, Label, Last, Max, Min, Model, Project, Source, Sum
from anabranch.folds.merge import LABELS, BatchPart, merge
from anabranch.folds.spark import batch_rows, grains, point_in_time
from anabranch.values.sql.expressions import expression_type
from anabranch.values.times import DAY, to_micros
from anabranch.values.types import DecimalType, parse_schema

pytestmark = pytest.mark.usefixtures("compiled")

SCHEMA = "id STRING, key STRING, at TIMESTAMP, price DECIMAL(10,2), amount DECIMAL(25,9), quantity INT"
SOURCE = Source(name="sales", topic="sales", id="id", time="at", schema=SCHEMA)
FEATURES = {
    "spent": Sum("price * quantity"),
    "amount_sum": Sum("amount"),
    "low": Min("amount"),
    "high": Max("amount"),
    "last": Last("amount"),
}
VIEW = FeatureView(name="v", source=SOURCE, key="key", windows=("1d",), features=FEATURES)
START = datetime(2024, 5, 1, tzinfo=UTC)
AMOUNTS = [
    Decimal("9999999999999999.999999999"),
    Decimal("-0.000000001"),
    Decimal("-9999999999999999.999999998"),
    Decimal("123456789012345.5"),
]
ROWS = [
    (f"s{i}", "a", START + timedelta(minutes=i), Decimal("99999999.99"), amount, 2_147_483_647 - i, START)
    for i, amount in enumerate(AMOUNTS)
]
EXPECTED = {
    "spent_1d": sum((Decimal("99999999.99") * (2_147_483_647 - i) for i in range(len(AMOUNTS))), Decimal(0)),
    "amount_sum_1d": sum(AMOUNTS, Decimal(0)),
    "low_1d": min(AMOUNTS),
    "high_1d": max(AMOUNTS),
    "last_1d": AMOUNTS[-1],
}


def test_types_of_decimal_arithmetic_are_sparks(spark: SparkSession) -> None:
    frame = spark.createDataFrame([], SCHEMA)
    # Whole numbers alone are computed in 64 bits (tests/spark/values).
    for text in (
        "price * quantity",
        "price + amount",
        "-(price - 1)",
        "price * 1.25",
        "amount - quantity",
    ):
        found = expression_type(text, parse_schema(SCHEMA), "f")
        assert found is not None
        assert (
            str(found).lower() == frame.select(F.expr(text).alias("x")).schema["x"].dataType.simpleString()
        ), text
    assert expression_type("price * quantity", parse_schema(SCHEMA), "f") == DecimalType(21, 2)


def test_sums_and_extremes_of_wide_decimals_are_exact_in_batch_and_training(spark: SparkSession) -> None:
    events = spark.createDataFrame(ROWS, f"{SCHEMA}, _arrival TIMESTAMP")
    cut = to_micros(START) + DAY // 2
    (row,) = batch_rows(VIEW, grains(VIEW, events, cut), cut, DAY).collect()
    part = BatchPart(cut, DAY, np.array(row["states"]).reshape(-1, LABELS + VIEW.layout.width))
    assert dict(merge(VIEW, part, None, cut).values) == EXPECTED
    project = Project(
        name="p", views=(VIEW,), label=Label(source=SOURCE, key="key", target="price > 0"), model=Model()
    )
    asked = spark.createDataFrame([("a", START + timedelta(hours=12))], "key STRING, at TIMESTAMP")
    (trained,) = point_in_time(project, {"sales": events}, asked, "at").collect()
    assert {column.name: column.type.value(trained[column.name]) for column in VIEW.columns} == EXPECTED
