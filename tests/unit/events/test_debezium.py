"""Debezium's changes: the row that each leaves, in JSON with and without a schema, and in Avro."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from anabranch import Source
from anabranch.errors import MisuseError
from anabranch.events.decoders.decoder import MessageDecoder, decoder_of
from anabranch.events.decoders.schemas import framed
from tests.support.schemas import Known, encoded, record

SCHEMA = "change STRING, id BIGINT, city STRING, price DECIMAL(10,2), seen TIMESTAMP, born DATE, raw BINARY, "
FIELDS = {"change": "__id", "at": "__ts_ms", "gone": "__deleted", "op": "__op", "lsn": "__source.lsn"}
PLACE = {"connector": "postgresql", "db": "d", "table": "t", "lsn": 5, "txId": 1, "ts_ms": 1_700_000_000_123}
ROW = {"id": 1, "city": "Bath", "price": "2.50", "seen": None, "born": 19_000, "raw": None}


def source_of(**more: Any) -> Source:
    schema = f"{SCHEMA}at TIMESTAMP, gone BOOLEAN, op STRING, lsn BIGINT"
    kept: dict[str, Any] = {"fields": FIELDS, **more}
    return Source(name="t", topic="t", id="change", time="at", schema=schema, format="debezium", **kept)


def cells(
    *messages: object, source: Source | None = None, known: Known | None = None
) -> list[dict[str, Any]]:
    source = source or source_of()
    decoder = decoder_of(source, known or Known())
    assert isinstance(decoder, MessageDecoder)
    sent = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
    found: list[dict[str, Any]] = decoder._cells(source, pa.array(sent, pa.binary())).to_pylist()
    return found


def change(op: str, before: object = None, after: object = None, **more: Any) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "source": {**PLACE, **more},
        "op": op,
        "ts_ms": 1_700_000_009_000,
    }


@pytest.mark.parametrize("op", ["r", "c", "u"])
def test_a_row_that_was_read_created_or_updated_is_its_after_image(op: str) -> None:
    (found,) = cells(change(op, {**ROW, "city": "Ely"}, ROW))
    assert (found["_fault"], found["city"], found["op"], found["gone"]) == (None, "Bath", op, "false")
    assert (found["at"], found["lsn"], found["born"]) == ("2023-11-14T22:13:20.123Z", "5", "2022-01-08")


@pytest.mark.parametrize("around", [{}, {"schema": None}])
def test_a_change_is_read_within_a_payload_that_has_no_schema(around: dict[str, Any]) -> None:
    assert cells({**around, "payload": change("c", None, ROW)})[0]["city"] == "Bath"


def test_a_deleted_row_is_its_before_image_and_a_column_tells_it() -> None:
    (found,) = cells(change("d", {"id": 1, "city": None}))
    assert (found["id"], found["city"], found["gone"], found["op"]) == ("1", None, "true", "d")


def test_the_time_of_a_change_is_the_finest_that_is_told() -> None:
    told = {**change("c", None, ROW, ts_us=1_700_000_000_123_456), "ts_ns": 1_700_000_009_000_000_001}
    at, read = (
        cells(told, source=source_of(fields={**FIELDS, "at": path}))[0]["at"]
        for path in ("__ts_ms", "__read_at")
    )
    assert (at, read) == ("2023-11-14T22:13:20.123456Z", "2023-11-14T22:13:29.000000001Z")


def test_a_change_that_comes_again_has_its_identity_and_every_other_one_another() -> None:
    first = change("u", None, ROW)
    again = {**change("u", None, ROW, ts_ms=1_700_000_000_123), "ts_ms": 1_700_000_099_000}
    others = [change("u", None, ROW, lsn=6), change("u", None, {**ROW, "city": "Ely"}), change("d", ROW)]
    ids = [one["change"] for one in cells(first, again, *others)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    without = [one["change"] for one in cells({**first, "source": None}, {**again, "source": None})]
    assert len(set(without)) == 2


def test_the_envelope_may_have_its_schema_beside_it_and_its_numbers_are_what_that_says() -> None:
    def typed(name: str, kind: str, logical: str = "", **more: Any) -> dict[str, Any]:
        return {"field": name, "type": kind, "optional": True, "name": logical, **more}

    row = {
        "type": "struct", "field": "after", "fields": [
            typed("id", "int64"), typed("city", "string"),
            typed("price", "bytes", "org.apache.kafka.connect.data.Decimal", parameters={"scale": "2"}),
            typed("seen", "int64", "io.debezium.time.MicroTimestamp"),
            typed("born", "int32", "io.debezium.time.Date"), typed("raw", "bytes"),
        ],
    }  # fmt: skip
    after = {
        "id": 2**60, "city": "é", "price": base64.b64encode((-250).to_bytes(2, "big", signed=True)).decode(),
        "seen": 1_700_000_000_000_001, "born": -1, "raw": base64.b64encode(b"\xff\0").decode(),
    }  # fmt: skip
    (found,) = cells({"schema": {"type": "struct", "fields": [row]}, "payload": change("c", None, after)})
    assert found["_fault"] is None
    assert [found[name] for name in ("id", "city", "price", "seen", "born", "raw")] == [
        str(2**60), "é", "-2.50", "2023-11-14T22:13:20.000001Z", "1969-12-31", b"\xff\0",
    ]  # fmt: skip


def test_without_a_schema_the_declaration_says_the_unit_of_times() -> None:
    (silent,) = cells(change("c", None, {**ROW, "seen": 1_700_000_000_000}))
    assert silent["_fault"].startswith("the time 1700000000000 has no unit: let the connector send schemas")
    for unit, number in (("millis", 1_700_000_000_000), ("micros", 1_700_000_000_000_000)):
        (found,) = cells(change("c", None, {**ROW, "seen": number}), source=source_of(wire_schema=unit))
        assert str(found["seen"]).startswith("2023-11-14T22:13:20.000")


def test_numbers_keep_their_digits_and_rows_that_are_flat_already_are_events() -> None:
    text = b'{"id": 1, "price": 12345678.90, "__op": "u", "__deleted": "false", "__ts_ms": "2023-01-01"}'
    (found,) = cells(text)
    assert (found["price"], found["gone"], found["at"]) == ("12345678.90", "false", "2023-01-01")


def test_an_envelope_in_avro_is_read_by_its_writers_schema() -> None:
    seen = {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}
    row = record(("id", "long"), ("city", ["null", "string"]), ("seen", ["null", seen]), name="Value")
    place = record(("lsn", ["null", "long"]), ("ts_ms", "long"), name="Source")
    schema = record(
        ("before", ["null", row]), ("after", ["null", "Value"]), ("source", place), ("op", "string"),
        ("ts_ms", ["null", "long"]), name="Envelope",
    )  # fmt: skip
    value: Mapping[str, Any] = {
        "before": None, "after": {"id": 4, "city": None, "seen": 1}, "source": {"lsn": 9, "ts_ms": 0},
        "op": "r", "ts_ms": 5,
    }  # fmt: skip
    found, torn = cells(
        framed(3, encoded(schema, value)), framed(3, encoded(schema, value))[:-2], known=Known({3: schema})
    )
    assert (found["id"], found["seen"], found["lsn"]) == ("4", "1970-01-01T00:00:00.000001Z", "9")
    assert found["at"] == "1970-01-01T00:00:00.000Z"
    assert torn["_fault"].startswith("truncated")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"nonsense", "malformed JSON"),
        (b"[1]", "malformed JSON: a change is a JSON object, not an array"),
        (b"[" * 100_000, "malformed JSON"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested more than 64 levels deep"),
        (change("t"), "the change 't' is of no row"),
        (change("d"), "the change 'd' has no row in 'before': let the table log it"),
        (framed(9, b"x"), "unknown schema"),
    ],
)
def test_what_is_no_change_says_why(message: object, reason: str) -> None:
    (found,) = cells(message)
    assert str(found["_fault"]).startswith(reason)


def test_changes_are_not_published() -> None:
    source = source_of()
    with pytest.raises(MisuseError, match="only reads"):
        decoder_of(source, Known()).encode(source, {})
