"""Nested messages: landing, the stream and REST read them alike."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from anabranch import FeatureView, Project, Source, Sum
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import decode
from anabranch.events.faults import find_fault
from anabranch.events.judging import judge, parse
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import prepare_events
from anabranch.values.sql.expressions import compiled
from batch.landing.ingest import ingest
from batch.landing.loader import SourceLoader
from batch.quality.quarantine import ReplayChoice, Replayed, pending, replay
from tests.support.stores import stores

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
        fault = find_fault(decode(text.encode(), exact=True), source, keys, LATEST)
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


ORDERS = Source(
    name="orders",
    topic="orders",
    id="id",
    time="at",
    schema="id STRING, at TIMESTAMP, shop STRING, sku STRING, count INT, price DECIMAL(20,4)",
    fields={"sku": "cart.items.sku", "count": "cart.items.count", "price": "cart.items.price[0]"},
    explode="cart.items",
)
ORDER: dict[str, Any] = {"id": 7, "at": "2024-05-01T10:00:00Z", "shop": "s", "note": "x" * 100}


def order(*items: object, **changed: object) -> str:
    return json.dumps({**ORDER, "cart": {"items": list(items), "other": 1}, **changed})


def test_every_item_of_an_array_is_an_event_and_a_wrong_one_is_quarantined_alone(
    spark: SparkSession, tmp_path: Path
) -> None:
    first, second = {"sku": "a", "count": 2, "price": ["1.50"]}, {"sku": "b", "count": " 3 "}
    good: dict[str, list[Any]] = {
        order(first, second, None): [("7#0", "a", 2), ("7#1", "b", 3), ("7#2", None, None)],
        order(): [],
        order(cart=None): [],
        order(first, id=None, cart={}): [],
    }
    bad: dict[str, list[Any]] = {
        order(first, 5, {"sku": "b", "count": "many"}, id="8"): [
            None,
            "cart.items[1]: sku: cart.items.sku: cart.items is 5, not an object",
            "count: 'many' is not INT",
        ],
        order(cart={"items": first}): ["explode: cart.items is an object, not an array"],
        order(cart=[first]): ["explode: cart.items: cart is an array, not an object"],
        order(*[0] * 10_001): ["explode: cart.items has 10,001 items, a message may have 10,000"],
        order(*[{}] * 40, shop="x" * 500_000): [
            "explode: the items of cart.items repeat the rest of the message, to more than 16,777,216 bytes"
        ],
        order(first, id=None): ["no id: id is missing"],
        order(first, at="noon"): ["at: 'noon' is not TIMESTAMP"],
    }
    rows = judged(spark, ORDERS, (("shop",),), *good, *bad)
    by_message: dict[int, list[Row]] = {}
    for row in rows:
        by_message.setdefault(row["_offset"], []).append(row)
    for number, (text, wanted) in enumerate({**good, **bad}.items()):
        found, said = by_message.get(number, []), refused(text, ORDERS, (("shop",),))
        if text in good:
            assert [(row["id"], row["sku"], row["count"]) for row in found] == wanted
            assert said is None
            assert all(row["_reason"] is None for row in found)
        else:
            for row, reason in zip(found, wanted, strict=True):
                assert (row["_reason"] or "").startswith(str(reason or ""))
            assert said is not None

    # Quarantine keeps an item with what it needs of its message, and a replay reads it again.
    lake = Lake(LakeSettings(root=str(tmp_path / "lake")))
    by_shop = FeatureView(name="by_shop", source=ORDERS, key="shop", features={"n": Sum("count")})
    project, opened = Project(name="shops", views=(by_shop,)), stores(spark=spark, lake=lake)
    prepare_events(spark, lake, project, ORDERS)
    loader = SourceLoader(stores=opened, project=project, source=ORDERS, gate=None)
    events = [(next(iter(bad)), ARRIVAL, None, "orders", 0, 0)]
    load, _ = loader.stage(loader.judge(parse(ORDERS, spark.createDataFrame(events, RAW))))
    assert load.commit({"first": 0})
    kept = [json.loads(row["raw"]) for row in pending(opened, project, ORDERS).collect()]
    shared = {"id": "8", "at": ORDER["at"], "shop": "s"}
    assert sorted(kept, key=lambda each: each["_position"]) == [
        {"_position": 1, "item": 5, "message": shared},
        {"_position": 2, "item": {"sku": "b", "count": "many"}, "message": shared},
    ]
    choice = ReplayChoice(changes={"count": "replace(count, 'many', '9')"})
    assert replay(opened, project, ORDERS, Silent(), choice=choice) == Replayed(landed=1, bad=1)
    landed = lake.events(spark, project, ORDERS).select("id", "sku", "count").collect()
    assert {tuple(row) for row in landed} == {("8#0", "a", 2), ("8#2", "b", 9)}


VISITS = Source(
    name="visits",
    topic="visits",
    id="id",
    time="at",
    schema="id STRING, at TIMESTAMP, who STRING, tags ARRAY<STRING>, sizes ARRAY<INT>, "
    "prices MAP<STRING, DECIMAL(38,18)>, payload STRUCT<kind: STRING, Seen: TIMESTAMP, raw: BINARY, "
    "lines: ARRAY<STRUCT<sku: STRING, x: DOUBLE>>>",
)
VISIT: dict[str, Any] = {
    "id": "1",
    "at": "2024-05-01T10:00:00Z",
    "who": "w",
    "tags": ["x", 7, None, {"a": 1}],
    "sizes": ["3", " ", 45.0],
    "prices": {"a.b": 12345678901234567890.123456789012345678, "": "0.5"},
    "payload": {
        "kind": "k",
        "seen": "not read",
        "Seen": "2024-05-01",
        "lines": [{"x": 1e3}, None],
        "raw": "é",
    },
}
PARTS = {
    "size(tags)": 4,
    "tags[1]": "7",
    "tags[-1]": None,
    "tags[9]": None,
    "tags[3]": '{"a":1}',
    "array_contains(tags, 'x')": True,
    "sizes[0] + element_at(sizes, 3)": 48,
    "element_at(sizes, 0)": None,
    "sizes[1]": None,
    "prices['a.b']": Decimal("12345678901234567890.123456789012345678"),
    "prices[who]": None,
    "element_at(prices, '')": Decimal("0.500000000000000000"),
    "size(prices)": 2,
    "map_contains_key(prices, tags[2])": None,
    "array_join(sort_array(map_keys(prices)), '|')": "|a.b",
    "payload.kind": "k",
    "payload.seen": datetime(2024, 5, 1, tzinfo=UTC).replace(tzinfo=None),
    "payload.raw": bytearray("é".encode()),
    "payload.lines[0].x / 0": None,
    "payload.lines[0].x + 1": 1001.0,
    "payload.lines[1].sku IS NULL": True,
    "array_max(payload.lines.x)": 1000.0,
    "size(map_values(prices))": 2,
}


def test_nested_columns_are_landed_and_sql_reads_their_parts(spark: SparkSession, tmp_path: Path) -> None:
    number = "12345678901234567890.123456789012345678"
    text = json.dumps(VISIT, ensure_ascii=False).replace(str(float(number)), number)
    assert number in text
    cases = {
        text: None,
        json.dumps({**VISIT, **dict.fromkeys(("tags", "sizes", "prices", "payload"))}): None,
        json.dumps({**VISIT, "tags": '["x"]', "prices": "{}", "payload": " "}): None,
        json.dumps({**VISIT, "tags": "x"}): "tags: 'x' is not an array",
        json.dumps({**VISIT, "tags": {}}): "tags: an object is not an array",
        json.dumps({**VISIT, "sizes": [1, 2.5]}): "sizes: [1]: 2.5 is not an INT",
        json.dumps({**VISIT, "prices": {"a": "1e99"}}): "prices: ['a']: '1e99' is not a DECIMAL(38,18)",
        json.dumps(
            {**VISIT, "payload": {"lines": [{"x": True}]}}
        ): "payload: lines: [0]: x: true is not a DOUBLE",
        json.dumps({**VISIT, "sizes": [0] * 10_001}): "sizes: 10,001 items, where an array may have 10,000",
    }
    keys = (("who",),)
    rows = judged(spark, VISITS, keys, *cases)
    for (message, wanted), row in zip(cases.items(), rows, strict=True):
        said = refused(message, VISITS, keys)
        assert (row["_reason"] is None) == (wanted is None) == (said is None), (
            message[:100],
            row["_reason"],
            said,
        )
        assert wanted is None or row["_reason"].startswith(wanted)

    # SQL over them, typed without Spark, has Spark's types and values, of NULLs too.
    schema = ", ".join(f"{column.name} {column.type.spark}" for column in VISITS.columns)
    good = spark.createDataFrame(
        [tuple(row[column.name] for column in VISITS.columns) for row in rows[:3]], schema
    ).coalesce(1)
    compiled_parts = {part: compiled(part, VISITS.columns, "here") for part in PARTS}
    asked = good.select(*[F.expr(one.sql).alias(f"c{i}") for i, one in enumerate(compiled_parts.values())])
    for field, (part, one) in zip(asked.schema.fields, compiled_parts.items(), strict=True):
        assert field.dataType.simpleString() == one.type.stored, part
    first, second, _ = asked.collect()
    assert dict(zip(PARTS, first, strict=True)) == PARTS
    assert {part for part, value in zip(PARTS, second, strict=True) if value is not None} == {
        "payload.lines[1].sku IS NULL"
    }

    # The lake keeps them; CSV files give them as JSON text, Parquet as they are or with other types.
    lake = Lake(LakeSettings(root=str(tmp_path / "lake")))
    kinds = FeatureView(
        name="kinds",
        source=VISITS,
        key="who",
        features={"x": Sum("sizes[0]", where="array_contains(tags, 'x') AND payload.kind = 'k'")},
    )
    project, opened = Project(name="walks", views=(kinds,)), stores(spark=spark, lake=lake)
    files = {
        "a.json": text + "\n",
        "b.csv": csv_of({**VISIT, "id": "2"}),
        "c.csv": csv_of({**VISIT, "id": "3", "tags": 5}),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    other = good.limit(1).selectExpr(
        "'4' AS id", "at", "who", "tags", "CAST(sizes AS ARRAY<BIGINT>) AS sizes", "prices", "payload"
    )
    other.write.parquet(str(tmp_path / "d"))
    paths = [str(tmp_path / name) for name in files] + [
        str(path) for path in (tmp_path / "d").glob("*.parquet")
    ]
    ingest(opened, project, "visits", paths, Silent())
    landed = {row["id"]: row for row in lake.events(spark, project, VISITS).collect()}
    assert set(landed) == {"1", "2", "4"}
    for row in landed.values():
        assert row["sizes"] == [3, None, 45]
        assert row["payload"]["lines"][0]["x"] == 1000.0
        assert row["payload"]["raw"] == bytearray("é".encode())
    (bad,) = pending(opened, project, VISITS).collect()
    assert bad["reason"] == "tags: 5 is not an array"
    again = replay(opened, project, VISITS, Silent(), choice=ReplayChoice(changes={"tags": "'[\"y\"]'"}))
    assert again == Replayed(landed=1, bad=0)


def csv_of(event: dict[str, Any]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(event)
    writer.writerow([json.dumps(each) if isinstance(each, dict | list) else each for each in event.values()])
    return lines.getvalue()
