"""Training equals serving for derived features and the request, and both equal the expression over a fold."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.answers.features import Answer
from anabranch.answers.predict import predict
from anabranch.answers.requests import Asked
from anabranch.errors import MisuseError
from anabranch.folds.spark import point_in_time, request_columns, with_derived
from anabranch.values.times import DAY, HOUR, MINUTE, from_micros, to_micros
from batch.scoring.features import with_request
from batch.training.training_sets import label_rows, training_set
from tests.support.fraud import chargebacks, fraud, payments
from tests.unit.answers.test_derived_answers import Recorder

START = datetime(2024, 5, 1, tzinfo=UTC)


def _events(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    drawn = random.Random(seed)
    paid = [
        {
            "payment_id": f"p{i}",
            "card": drawn.choice([1, 2, 3, None]),
            "amount": drawn.choice([0.0, -3.5, 10.0, 0.1, 1e300, None]),
            "shop": drawn.choice(["straße", "ab", "", None]),
            "paid_at": START + timedelta(minutes=drawn.randrange(0, 3 * 24 * 60)),
        }
        for i in range(60)
    ]
    claimed = [
        {
            "chargeback_id": f"c{i}",
            "card": 1 + i % 4,
            "amount": drawn.choice([5.0, 0.0, None]),
            "fraud": bool(i % 2),
            "claimed_at": START + timedelta(minutes=drawn.randrange(0, 4 * 24 * 60), seconds=1),
        }
        for i in range(12)
    ]
    return paid, claimed


def _fold(paid: list[dict[str, Any]], card: int, at: int) -> dict[str, Any]:
    """The obvious fold: the features of a card strictly before a time."""
    found = sorted(
        ((to_micros(one["paid_at"]), one) for one in paid if one["card"] == card), key=lambda pair: pair[0]
    )
    before = [(time, one) for time, one in found if time < at]
    values: dict[str, Any] = {"last_shop": None, "last_paid": before[-1][0] if before else None}
    shops = [one["shop"] for _, one in before if one["shop"] is not None]
    values["last_shop"] = shops[-1] if shops else None
    for name, width, hop in (("1h", HOUR, 5 * MINUTE), ("7d", 7 * DAY, HOUR)):
        inside = [one for time, one in before if time >= (at - width) // hop * hop]
        amounts = [one["amount"] for one in inside if one["amount"] is not None]
        values[f"spent_{name}"] = sum(amounts) if amounts else None
        values[f"payments_{name}"] = len(inside)
    return values


def _expected(values: dict[str, Any], card: int, amount: float | None) -> dict[str, Any]:
    """The expressions as plain Python."""
    hour, week, paid, shop = (values[name] for name in ("spent_1h", "spent_7d", "last_paid", "last_shop"))
    ratio = hour / week if hour is not None and week else None
    return {
        "ratio": ratio,
        "share": None if ratio is None else ratio / 2,
        "jump": amount / week if amount is not None and week else None,
        "by_web": None if paid is None else from_micros(paid).hour < 6,
        "odd_card": card % 2 == 1,
        "shop_name": None if shop is None else f"{shop[:2].upper()}-{card}",
    }


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, float) and isinstance(found[name], float):
            assert found[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name
        else:
            assert found[name] == value, name


def test_derived_features_of_training_rows_equal_those_of_answers_and_the_fold(spark: SparkSession) -> None:
    paid, claimed = _events(7)
    events = {
        name: spark.createDataFrame(rows, schema)
        .coalesce(1)
        .withColumns({"_arrival": F.lit(None).cast("timestamp"), "_file": F.lit("history.csv")})
        for name, rows, schema in (
            ("payments", paid, payments.schema),
            ("chargebacks", claimed, chargebacks.schema),
        )
    }
    assert fraud.label is not None
    own = events["chargebacks"]
    labels = label_rows(fraud.label, own, request_columns(fraud, own))
    known = with_derived(fraud, point_in_time(fraud, events, labels, "_time"))
    trained = training_set(fraud, events, labels).toArrow().to_pylist()
    rows = known.toArrow().to_pylist()
    assert len(rows) == len(trained) == len(claimed)
    by_row = {(row["_key"], row["_time"]): row for row in trained}
    for row in rows:
        at, card, amount = to_micros(row["_time"]), row["card"], row["amount"]
        values = _fold(paid, card, at)
        expected = _expected(values, card, amount)
        assert_close({name: row[name] for name in expected}, expected)
        stored = Answer({"card": str(card)}, values, at)
        asked = Asked({"card": str(card)}, {}, request={"amount": amount, "channel": "web"})
        (served,) = predict(fraud, Recorder(fraud.model_features), [asked], [stored], at)
        inputs = {name: by_row[str(card), at][name] for name in fraud.model_features}
        assert_close(inputs, served.used)


def test_rows_of_users_bring_the_request_typed_or_get_its_defaults(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("7", " 2.5 ")], "card STRING, amount STRING")
    found = with_request(fraud, rows, {"card": fraud.key_types["card"]}).collect()
    assert [tuple(row) for row in found] == [(7, 2.5, "web")]
    with pytest.raises(MisuseError, match="the rows lack the request's column 'amount'"):
        with_request(fraud, rows.drop("amount"), {})
