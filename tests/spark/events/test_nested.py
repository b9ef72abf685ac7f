"""Nested messages: landing, the stream and REST read them alike."""

import json
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Row, SparkSession

from anabranch import Source
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import decode
from anabranch.events.faults import find_fault
from anabranch.events.judging import judge, parse

ARRIVAL = datetime(2024, 5, 2, tzinfo=UTC)
LATEST = int(ARRIVAL.timestamp()) * 1_000_000 + 300_000_000
RAW = "value STRING, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT"
PAYMENTS = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, at TIMESTAMP, card STRING, amount DOUBLE, fee DECIMAL(10,2), first STRING, "
    "rest STRING",
    fields={
        "at": "meta.at",
        "card": "`meta`.`the.card`",
        "amount": "payload.amount.value",
        "fee": "payload.Fee",
        "first": "payload.lines[0].sku",
        "rest": "payload.lines",
    },
)
GOOD: dict[str, Any] = {
    "id": "1",
    "meta": {"at": "2024-05-01T10:00:00Z", "the.card": "c1"},
    "payload": {"amount": {"value": 1.5}, "Fee": 0.1, "fee": "other", "lines": [{"sku": "a"}, {"sku": 7}]},
}


def with_payload(**changed: object) -> str:
    return json.dumps({**GOOD, "payload": {**GOOD["payload"], **changed}})


def judged(spark: SparkSession, source: Source, keys: tuple[tuple[str, ...], ...], *texts: str) -> list[Row]:
    rows = [(text, ARRIVAL, None, "payments", 0, number) for number, text in enumerate(texts)]
    return (
        judge(source, keys, parse(source, spark.createDataFrame(rows, RAW)), 300).orderBy("_offset").collect()
    )


def refused(text: str, source: Source, keys: tuple[tuple[str, ...], ...]) -> str | None:
    """Why REST refuses an event."""
    try:
        fault = find_fault(decode(text.encode(), exact=source.keeps_digits), source, keys, LATEST)
    except ProblemError as problem:
        return problem.detail
    return None if fault is None else fault.reason


def test_columns_are_taken_from_their_paths_and_a_wrong_way_is_quarantined(spark: SparkSession) -> None:
    deep = "[" * 64 + "]" * 64
    cases = {
        json.dumps(GOOD): None,
        with_payload(amount=None, lines=[]): None,
        with_payload(amount={"value": " 7 "}, lines=[None]): None,
        with_payload(amount=5): "amount: payload.amount.value: payload.amount is 5, not an object",
        with_payload(amount={"value": [1]}): "amount: payload.amount.value is an array, not DOUBLE",
        with_payload(amount={"value": "x"}): "amount: 'x' is not",
        with_payload(lines={"sku": 1}): (
            "first: payload.lines[0].sku: payload.lines is an object, not an array"
        ),
        with_payload(Fee=0.001): "fee: '0.001' is not",
        json.dumps(GOOD)[:-1] + ', "payload": {"amount": {"value": 9}}}': None,  # the last of duplicates
        json.dumps({**GOOD, "meta": None}): "no event time",
        json.dumps({**GOOD, "undeclared": json.loads(deep[1:-1])}): None,
        json.dumps({**GOOD, "undeclared": json.loads(deep)}): "nested more than 64 levels deep",
        '{"id": "1", "x": ' + "[" * 5000 + "]" * 5000 + "}": "nested more than 64 levels deep",
        "[]": "malformed JSON: one JSON object is expected",
        json.dumps(GOOD) + " {}": "malformed JSON: one JSON object is expected",
        '{"id": "\\ud800"}': "the text is not Unicode",
    }
    rows = judged(spark, PAYMENTS, (("card",),), *cases)
    for (text, wanted), row in zip(cases.items(), rows, strict=True):
        said = refused(text, PAYMENTS, (("card",),))
        assert (row["_reason"] is None) == (wanted is None) == (said is None), (
            text[:200],
            row["_reason"],
            said,
        )
        assert wanted is None or row["_reason"].startswith(wanted)
        assert row["_raw"] == text
    found = [tuple(rows[number][name] for name in ("amount", "first", "rest")) for number in (0, 1, 2, 8)]
    assert found == [
        (1.5, "a", '[{"sku":"a"},{"sku":7}]'),
        (None, None, "[]"),
        (7.0, None, "[null]"),
        (9.0, None, None),
    ]
    assert (rows[0]["card"], str(rows[0]["fee"])) == ("c1", "0.10")
