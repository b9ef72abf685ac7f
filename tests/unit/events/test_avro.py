"""Avro messages: by column and one by one they are read alike, and as fastavro reads them."""

import io
import json
import math
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.declare.sources import Source
from anabranch.errors import EventError, MisuseError
from anabranch.events.decoders.avro_messages import AvroDecoder
from anabranch.events.decoders.avro_schemas import compiled
from anabranch.events.decoders.avro_values import MOST_LEVELS, read_value
from anabranch.events.decoders.avro_writing import written
from anabranch.events.decoders.decoder import MessageDecoder
from anabranch.events.decoders.schemas import WriterSchema, framed
from tests.support.schemas import Known, encoded, record

COLUMNS = ("a", "b", "c", "d")
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-micros"}
DAY = {"type": "int", "logicalType": "date"}
CLOCK = {"type": "long", "logicalType": "time-micros"}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 3}
UUID = {"type": "string", "logicalType": "uuid"}
SMALL = {**PRICE, "type": "fixed", "name": "D", "size": 4, "precision": 9, "scale": 2}
KIND = {"type": "enum", "name": "K", "symbols": ["food", "travel"]}
DEBEZIUM = {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}

_long = st.integers(-(2**63), 2**63 - 1)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("string", st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
    ("long", _long),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("double", st.floats()),
    ("float", st.floats(width=32)),
    ("boolean", st.booleans()),
    ("bytes", st.binary(max_size=10)),
    ("null", st.none()),
    (MICROS, _long),
    (MILLIS, _long),
    (LOCAL, st.integers(-(10**16), 10**16)),
    (DAY, st.integers(-(2**31), 2**31 - 1)),
    (CLOCK, st.integers(-10, 86_400_000_010)),
    (PRICE, st.binary(max_size=9)),
    (DEBEZIUM, st.integers(-(10**16), 10**16)),
    ({"type": "enum", "name": "E", "symbols": ["x", "y", "z"]}, st.sampled_from(["x", "y", "z"])),
    ({"type": "fixed", "name": "F", "size": 3}, st.binary(min_size=3, max_size=3)),
]


def source_of(schema: str = "a STRING, b STRING, c BINARY, d BIGINT, at TIMESTAMP", **more: Any) -> Source:
    return Source(name="s", topic="t", id="a", time="at", schema=schema, format="avro", **more)


@st.composite
def types(draw: st.DrawFn, number: int) -> tuple[Any, st.SearchStrategy[Any]]:
    kind, values = draw(st.sampled_from(LEAVES))
    if isinstance(kind, dict) and "name" in kind:
        kind = {**kind, "name": f"{kind['name']}{number}"}
    shape = draw(st.sampled_from(["plain", "plain", "nullable", "array", "map", "nested"]))
    if shape == "nullable" and kind != "null":
        branches = draw(st.permutations(["null", kind]))
        return branches, st.none() | values
    if shape == "array":
        return {"type": "array", "items": kind}, st.lists(values, max_size=3)
    if shape == "map":
        return {"type": "map", "values": kind}, st.dictionaries(st.text("kl", max_size=2), values, max_size=3)
    if shape == "nested":
        inner = record(("in", kind), ("also", "long"), name=f"N{number}")
        return inner, st.fixed_dictionaries({"in": values, "also": _long})
    return kind, values


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], list[Any]]:
    names = draw(st.permutations(["a", "b", "c", "d", "more"]))
    kinds = {name: draw(types(number)) for number, name in enumerate(names)}
    schema = record(*((name, kind) for name, (kind, _) in kinds.items()))
    value = st.fixed_dictionaries({name: values for name, (_, values) in kinds.items()})
    return schema, draw(st.lists(value, min_size=1, max_size=6))


def _is_one_number(one: Any, other: Any) -> bool:
    try:
        return float(one) == float(other) or (math.isnan(float(one)) and math.isnan(float(other)))
    except (TypeError, ValueError):
        return False


def cells(decoder: AvroDecoder, source: Source, values: list[bytes | None]) -> list[dict[str, Any]]:
    """The cells by column, checked to be those of each message alone."""
    array = pa.array([b"before", *values], pa.binary())[1:]
    rows: list[dict[str, Any]] = decoder._cells(source, array).to_pylist()
    alone = MessageDecoder._cells(decoder, source, array).to_pylist()
    for row, other in zip(rows, alone, strict=True):
        for name, one in row.items():
            # Texts of one number may differ: 1e+20 and 1.0E20.
            same = one == other[name] or _is_one_number(one, other[name])
            assert same, (row["_fault"], other["_fault"], name)
    return rows


@settings(max_examples=40, deadline=None)
@given(messages(), st.data())
def test_by_column_and_one_by_one_messages_are_read_alike(
    drawn: tuple[dict[str, Any], list[Any]], data: st.DataObject
) -> None:
    schema, values = drawn
    whole = [encoded(schema, value) for value in values]
    broken = [one[: data.draw(st.integers(0, len(one)))] for one in whole]
    flipped = [
        one[:place] + bytes([data.draw(st.integers(0, 255))]) + one[place + 1 :]
        for one in whole
        for place in [data.draw(st.integers(0, max(len(one) - 1, 0)))]
    ]
    other = record(("a", "string"), ("at", MICROS))
    decoder = AvroDecoder(schemas=Known({1: schema, 2: other}))
    sent = [framed(1, one) for one in (*whole, *broken, *flipped, b"", *(one + b"\0" for one in whole))]
    sent += [framed(2, encoded(other, {"a": "é", "at": 5})), framed(3, b"x"), b"{}", b"\0\0", b""]
    kinds = [f"{name} {data.draw(st.sampled_from(['STRING', 'BINARY', 'BIGINT']))}" for name in COLUMNS]
    source = source_of(", ".join([*kinds, "at TIMESTAMP"]).replace("a BINARY", "a STRING"))
    cells(decoder, source, data.draw(st.permutations([*sent, None])))


@settings(max_examples=40, deadline=None)
@given(messages())
def test_values_are_those_that_fastavro_reads(drawn: tuple[dict[str, Any], list[Any]]) -> None:
    schema, values = drawn
    plain = json.loads(json.dumps(schema).replace("logicalType", "unread").replace("connect.name", "unread2"))
    for value in values:
        message = encoded(schema, value)
        wanted = fastavro.schemaless_reader(io.BytesIO(message), fastavro.parse_schema(plain), None)
        assert repr(read_value(compiled(json.dumps(plain)).root, message)) == repr(wanted)


@settings(max_examples=25, deadline=None)
@given(messages())
def test_what_is_written_is_read_back(drawn: tuple[dict[str, Any], list[Any]]) -> None:
    schema, values = drawn
    root = compiled(json.dumps(schema)).root
    for value in values:
        read = read_value(root, encoded(schema, value))
        assert repr(read_value(root, written(root, read))) == repr(read)


def one(schema: Any, value: Any, column: str = "a STRING", **more: Any) -> Any:
    source = source_of(f"{column}, at TIMESTAMP", **more)
    decoder = AvroDecoder(schemas=Known({1: schema}))
    (row,) = cells(decoder, source, [framed(1, encoded(schema, value))])
    return row["_fault"] or row["a"]


@pytest.mark.parametrize(
    ("kind", "value", "cell"),
    [
        (MICROS, 1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z"),
        (MILLIS, -1, "1969-12-31T23:59:59.999Z"),
        (LOCAL, 0, "1970-01-01T00:00:00.000000Z"),
        (DEBEZIUM, 1_700_000_000_000_000, "2023-11-14T22:13:20.000000Z"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1, "1970-01-01T00:00:00.000000001Z"),
        ({"type": "int", "connect.name": "io.debezium.time.Date"}, 19_675, "2023-11-14"),
        (DAY, -1, "1969-12-31"),
        (CLOCK, 86_399_000_000, "23:59:59.000000"),
        (MICROS, 2**62, str(2**62)),
        (PRICE, (-1234).to_bytes(2, "big", signed=True), "-1.234"),
        (PRICE, b"", "0.000"),
        (SMALL, b"\0\0\1\0", "2.56"),
        (UUID, "6f0c6b1e-8b52-4e0a-9d5c-0f6f3c2b7a11", "6f0c6b1e-8b52-4e0a-9d5c-0f6f3c2b7a11"),
        (["null", "string"], None, None),
        (["string", "long"], 5, "5"),
        ("float", 0.10000000149011612, "0.10000000149011612"),
        ("boolean", True, "true"),
        ({"type": "array", "items": "long"}, [1, 2], "[1,2]"),
        ({"type": "map", "values": "bytes"}, {"k": b"v"}, '{"k":"v"}'),
        (record(("x", DAY), name="X"), {"x": 0}, '{"x":"1970-01-01"}'),
    ],
)  # fmt: skip
def test_every_type_becomes_the_text_of_a_cell(kind: Any, value: Any, cell: str | None) -> None:
    assert one(record(("a", kind)), value={"a": value}) == cell


def test_paths_lead_through_records_and_unions() -> None:
    inner = record(("value", ["null", "double"]), name="Amount")
    schema = record(("payload", ["null", record(("amount", inner), name="Payload")]))
    at = {"fields": {"a": "payload.amount.value"}}
    assert one(schema, {"payload": {"amount": {"value": 2.5}}}, "a STRING", **at) == "2.5"
    assert one(schema, {"payload": None}, "a STRING", **at) is None
    other = record(("payload", ["string", record(("amount", inner), name="Payload")]))
    assert "payload is 'x', not an object" in one(other, {"payload": "x"}, "a STRING", **at)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"a": 1}', "no schema: the message begins with the byte 123"),
        (b"", "no schema: the message is empty"),
        (b"\0\0\0", "truncated: the message has 3 bytes, the id of its schema needs 5"),
        (framed(9, b"\2x"), "unknown schema: 9"),
        (framed(1, b"\4x"), "truncated: a has 2 bytes, 1 are left"),
        (framed(1, b""), "truncated: the message ends within a"),
        (framed(1, b"\2xx"), "1 bytes are left behind the value"),
        (framed(1, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\1x"), "bytes, 1 are left"),
        (framed(1, b"\1x"), "a has the length -1"),
        (framed(1, b"\2\xff"), "the text is not UTF-8"),
        (framed(1, b"\xff" * 11), "a number of more than 64 bits"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(value: bytes, reason: str) -> None:
    decoder = AvroDecoder(schemas=Known({1: record(("a", "string"))}))
    (row,) = cells(decoder, source_of("a STRING, at TIMESTAMP"), [value])
    assert reason in row["_fault"]


def test_a_message_cannot_nest_without_end_nor_declare_what_it_does_not_have() -> None:
    tree = {
        "type": "record", "name": "T",
        "fields": [{"name": "a", "type": "string"}, {"name": "under", "type": ["null", "T"]}],
    }  # fmt: skip
    decoder, source = AvroDecoder(schemas=Known({1: tree})), source_of("a STRING, at TIMESTAMP")

    def nested(levels: int) -> bytes:
        return framed(1, b"\2x\2" * (levels - 1) + b"\2x\0")

    few, many, deepest = cells(decoder, source, [nested(3), nested(100), nested(300_000)])
    assert few["a"] == "x"
    assert many["_fault"] == deepest["_fault"] == f"nested more than {MOST_LEVELS} levels deep"
    # Items of no bytes cost a message nothing, and its reader much.
    empty = AvroDecoder(schemas=Known({1: record(("a", {"type": "array", "items": "null"}))}))
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    (row,) = cells(empty, source, [framed(1, huge)])
    assert "too many items" in row["_fault"]


@pytest.mark.parametrize(
    "schema",
    [
        "no JSON",
        '{"type": "nothing"}',
        '{"type": "record", "name": "R", "fields": [{"name": "a"}]}',
        "[" * 5000,
        '"string"',
    ],
)
def test_a_schema_that_is_none_puts_its_messages_in_quarantine(schema: str) -> None:
    class Nonsense(Known):
        def by_id(self, number: int) -> WriterSchema:
            return WriterSchema(id=number, text=schema)

    (row,) = cells(AvroDecoder(schemas=Nonsense()), source_of("a STRING, at TIMESTAMP"), [framed(1, b"\2x")])
    assert str(row["_fault"]).startswith("the message's schema is no ")


def test_an_event_is_written_by_the_latest_schema() -> None:
    schema = {
        "type": "record", "name": "R", "fields": [
            {"name": "a", "type": "string"},
            {"name": "at", "type": MICROS},
            {"name": "price", "type": ["null", PRICE], "default": None},
            {"name": "kind", "type": KIND, "default": "food"},
            {"name": "n", "type": ["null", "long"], "default": None},
        ],
    }  # fmt: skip
    source = source_of("a STRING, at TIMESTAMP, price DECIMAL(20,3), n INT")
    decoder = AvroDecoder(schemas=Known({7: schema}))
    event = {"a": "x", "at": "2024-05-01T12:00:00.000001Z", "price": Decimal("1234567890123.456"), "n": "5"}
    message = decoder.encode(source, event)
    assert message[:5] == b"\0\0\0\0\7"
    read: Any = fastavro.schemaless_reader(io.BytesIO(message[5:]), fastavro.parse_schema(schema), None)
    assert (read["a"], read["price"], read["kind"], read["n"]) == (
        "x",
        Decimal("1234567890123.456"),
        "food",
        5,
    )
    assert decoder.decode(message)["at"] == "2024-05-01T12:00:00.000001Z"
    for wrong, reason in (
        ({**event, "price": Decimal("0.0001")}, "price: 0.0001 is not a decimal with 3 digits"),
        ({**event, "n": 1.5}, "n: 1.5 is not a whole number"),
        ({**event, "n": Decimal("1e999999999")}, "is not a whole number"),
        ({**event, "price": Decimal("1e999999999")}, "is not a decimal"),
        ({**event, "kind": "fun"}, "kind: 'fun' is not one of food, travel"),
        ({"at": event["at"]}, "a: it is missing"),
        ({**event, "at": "noon"}, "is not ISO 8601"),
    ):
        with pytest.raises(EventError, match=reason.replace("(", r"\(")):
            decoder.encode(source, wrong)


def test_a_column_that_the_schema_lacks_is_an_error_before_anything_is_published() -> None:
    decoder = AvroDecoder(schemas=Known({1: record(("a", "string"))}))
    with pytest.raises(MisuseError, match="latest schema of t-value has no field for column 'at': it has a"):
        decoder.encode(source_of("a STRING, at TIMESTAMP"), {"a": "x"})
    unknown = Source(name="s", topic="u", id="a", time="at", schema="a STRING, at TIMESTAMP", format="avro")
    with pytest.raises(MisuseError, match="no subject 'u-value'"):
        decoder.encode(unknown, {"a": "x"})


def test_numbers_of_avro_that_are_no_numbers_keep_their_names() -> None:
    assert one(record(("a", "double")), {"a": math.inf}) == "Infinity"
