"""Binary messages through Spark: landed, kept in quarantine and replayed, with the values of JSON."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Last, Project, Source
from anabranch.errors import UnavailableError
from anabranch.events.copies import distinct
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.decoders.schemas import Schemas, WriterSchema, framed, is_registry_away
from anabranch.events.judging import from_topic, parse
from anabranch.events.rows import kept_value
from anabranch.folds.merge import Tiles, merge
from anabranch.folds.spark import tiles
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, TimeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import prepare_events
from anabranch.values.times import to_micros
from batch.landing.loader import SourceLoader
from batch.quality.quarantine import Replayed, replay
from tests.support.schemas import Known, encoded, record
from tests.support.stores import stores_with

ARRIVAL = datetime(2024, 5, 1, 12, tzinfo=UTC)
MESSAGES = "value BINARY, timestamp TIMESTAMP, timestampType INT, topic STRING, partition INT, offset BIGINT"
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}
OLD = record(("id", "string"), ("shop", "string"), ("at", MICROS), ("x", "double"))
NEW = record(
    ("note", ["null", "bytes"]), ("id", "long"), ("at", MICROS), ("shop", ["null", "string"]),
    ("price", ["null", PRICE]), ("x", ["null", "float"]),
)  # fmt: skip
SCHEMA = "id STRING, shop STRING, at TIMESTAMP, x DOUBLE, price DECIMAL(20,4), note BINARY"
NOON = 1_714_557_600_000_001


def source_of(form: str, **more: Any) -> Source:
    return Source(name="sales", topic="sales", id="id", time="at", schema=SCHEMA, format=form, **more)


def kafka(spark: SparkSession, *values: bytes | None) -> DataFrame:
    rows = [(value, ARRIVAL, 1, "sales", 0, offset) for offset, value in enumerate(values)]
    return spark.createDataFrame(rows, MESSAGES)


def parsed(spark: SparkSession, source: Source, schemas: Schemas, *values: bytes | None) -> list[Row]:
    raw = from_topic(kafka(spark, *values), TimeSettings())
    return parse(source, raw, decoder_of(source, schemas)).orderBy("_offset").collect()


def avro(schema: int, value: dict[str, Any]) -> bytes:
    return framed(schema, encoded(OLD if schema == 1 else NEW, value))


def test_messages_of_several_schemas_have_the_values_of_json(spark: SparkSession) -> None:
    at, price = NOON, (12_345_678_901_234_567_891).to_bytes(9, "big")
    messages = [
        avro(1, {"id": "a", "shop": "é", "at": at, "x": 0.1}),
        avro(2, {"id": 2, "shop": None, "at": at, "x": None, "note": None, "price": None}),
        avro(2, {"id": 3, "shop": "b", "at": at, "x": 1.5, "note": "é".encode(), "price": price}),
        avro(1, {"id": "d", "shop": "", "at": 0, "x": float("nan")}),
    ]  # fmt: skip
    texts = [
        '{"id": "a", "shop": "é", "at": "2024-05-01T10:00:00.000001Z", "x": 0.1}',
        '{"id": 2, "at": "2024-05-01T10:00:00.000001Z"}',
        '{"id": 3, "shop": "b", "at": "2024-05-01T10:00:00.000001Z", "x": 1.5, "note": "é",'
        ' "price": 1234567890123456.7891}',
        '{"id": "d", "shop": "", "at": "1970-01-01", "x": NaN}',
    ]
    names = [column.name for column in source_of("json").columns]
    ours = parsed(spark, source_of("avro"), Known({1: OLD, 2: NEW}), *messages)
    theirs = parsed(spark, source_of("json"), Known(), *(text.encode() for text in texts))
    assert [row["_reason"] for row in ours] == [None] * 4
    assert [[repr(row[name]) for name in names] for row in ours] == [
        [repr(row[name]) for name in names] for row in theirs
    ]


def test_what_cannot_be_read_is_kept_byte_by_byte_and_lands_when_its_schema_is_known(
    spark: SparkSession, tmp_path: Path
) -> None:
    source, lake = source_of("avro"), Lake(LakeSettings(root=str(tmp_path / "lake")))
    view = FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()})
    project = Project(name="shops", views=(view,))
    late = {
        "id": 7,
        "shop": "a",
        "at": NOON,
        "x": -3.140000104904175,
        "note": bytes(range(128, 192)),
        "price": b"\x80",
    }
    messages = [
        avro(1, {"id": "a", "shop": "a", "at": NOON, "x": 1.0}),
        avro(2, late),
        b"\xff\xfe nonsense",
        avro(1, {"id": "b", "shop": "a", "at": NOON, "x": 1.0})[:-3],
    ]  # fmt: skip
    prepare_events(spark, lake, project, source)
    opened = stores_with(None, spark=spark, lake=lake, schemas=Known({1: OLD}))
    opened.settings = type("Times", (), {"times": TimeSettings()})()
    loader = SourceLoader(stores=opened, project=project, source=source, gate=None)
    events = parse(
        source, from_topic(kafka(spark, *messages), TimeSettings()), decoder_of(source, opened.schemas)
    )
    load, _ = loader.stage(loader.judge(events))
    assert load.commit({"first": 0})
    bad = lake.quarantine(spark, project)
    kept = bad.select(kept_value(F.col("raw")).cast("binary").alias("raw"), "reason").collect()
    assert {bytes(row["raw"]) for row in kept} == set(messages[1:])
    assert sorted(row["reason"].partition(":")[0] for row in kept) == [
        "no schema",
        "truncated",
        "unknown schema",
    ]

    vars(opened)["schemas"] = Known({1: OLD, 2: NEW})
    assert replay(opened, project, source, Silent()) == Replayed(landed=1, bad=2)
    (row,) = lake.events(spark, project, source).where("id = '7'").collect()
    assert bytes(row["note"]) == late["note"]
    assert (row["x"], str(row["price"])) == (late["x"], "-0.0128")


class Away(Known):
    """A registry that does not answer."""

    def by_id(self, number: int) -> WriterSchema:
        raise UnavailableError(f"the schema registry at http://nowhere does not answer ({number})")


def test_a_registry_that_is_away_ends_the_batch_and_quarantines_nothing(spark: SparkSession) -> None:
    message = avro(1, {"id": "a", "shop": "a", "at": NOON, "x": 1.0})
    with pytest.raises(PythonException) as raised:
        parsed(spark, source_of("avro"), Away(), message)
    assert is_registry_away(str(raised.value))


def test_a_fixed_schema_lies_beside_its_project(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "sale.avsc"
    file.write_text(json.dumps(NEW))
    source = source_of("avro", wire_schema=str(file))
    value = {"id": 2, "shop": "b", "at": NOON, "x": 2.5, "note": None, "price": None}
    first, second = parsed(spark, source, Known(), encoded(NEW, value), b"\xff")
    assert (first["id"], first["x"], first["_reason"]) == ("2", 2.5, None)
    assert str(second["_reason"]).startswith("truncated")


CUSTOMERS = Source(
    name="customers",
    topic="sales",
    id="change",
    time="at",
    schema="change STRING, at TIMESTAMP, gone BOOLEAN, id BIGINT, city STRING, rating INT",
    format="debezium",
    fields={"change": "__id", "at": "__ts_ms", "gone": "__deleted"},
)
CUSTOMER = FeatureView(
    name="customer",
    source=CUSTOMERS,
    key="id",
    features={"city": Last("coalesce(city, '')"), "rating": Last("rating"), "gone": Last("gone")},
)


def test_the_last_values_of_a_tables_changes_are_its_current_rows(spark: SparkSession) -> None:
    """Rows read in a snapshot, created, updated, deleted; one change comes twice, and none in order."""
    rows: dict[int, dict[str, Any] | None] = {}
    changes: list[bytes] = []

    def change(op: str, key: int, **values: Any) -> None:
        before, at = rows.get(key), 1_714_557_600_000 + 1000 * len(changes)
        rows[key] = after = None if op == "d" else {"id": key, **(before or {}), **values}
        place = {"connector": "postgresql", "db": "d", "table": "t", "lsn": len(changes), "ts_ms": at}
        envelope = {"before": before, "after": after, "source": place, "op": op, "ts_ms": at + 5}
        changes.append(json.dumps(envelope).encode())

    change("r", 1, city="Oslo", rating=3)
    change("r", 2, city="Bath", rating=1)
    change("c", 3, city="Rome", rating=2)
    change("u", 1, city=None)
    change("u", 2, rating=5)
    change("d", 3)
    change("u", 1, rating=4)
    change("d", 2)
    change("c", 2, city="Ely", rating=7)
    sent = [changes[position] for position in (8, 2, 5, 0, 7, 3, 6, 6, 4, 1)]
    read = parse(CUSTOMERS, from_topic(kafka(spark, *sent, None), TimeSettings()), decoder_of(CUSTOMERS))
    assert [row["_reason"] for row in read.collect()] == [None] * len(sent)
    events = distinct(CUSTOMERS, read.where("_reason IS NULL"))
    found: dict[str, list[Tiles]] = {}
    for row in tiles([CUSTOMER], events, 3600).collect():
        extras = [None if one is None else bytes(one) for one in row["extra"]]
        start = np.array([to_micros(row["tile_start"].astimezone())], dtype=np.int64)
        tile = Tiles(start, np.array([row["state"]]), [extras])
        found.setdefault(row["key"], []).append(tile)
    assert {key: len(each) for key, each in found.items()} == {"1": 1, "2": 1, "3": 1}
    merged = {key: merge(CUSTOMER, None, each[0], NOON + 10**9).values for key, each in found.items()}
    assert {key: dict(values) for key, values in merged.items()} == {
        str(key): {"city": row["city"] or "", "rating": row["rating"], "gone": False}
        if row is not None
        else {"city": "Rome", "rating": 2, "gone": True}
        for key, row in rows.items()
    }
