"""Protocol Buffers: every kind of field, bare messages and framed ones, read and written."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from anabranch import Source
from anabranch.declare.wire_formats import found_schema
from anabranch.errors import DeclarationError, EventError
from anabranch.events.decoders.decoder import MessageDecoder, decoder_of
from anabranch.events.decoders.protobuf_messages import ProtobufDecoder
from anabranch.events.decoders.schemas import WriterSchema
from tests.support.schemas import Known

SCHEMA = "id STRING, at TIMESTAMP, n BIGINT, x DOUBLE, kind STRING, note BINARY, tags STRING, city STRING"
_KINDS = {
    "int64": FieldDescriptorProto.TYPE_INT64, "string": FieldDescriptorProto.TYPE_STRING,
    "double": FieldDescriptorProto.TYPE_DOUBLE, "bytes": FieldDescriptorProto.TYPE_BYTES,
    "bool": FieldDescriptorProto.TYPE_BOOL, "uint64": FieldDescriptorProto.TYPE_UINT64,
}  # fmt: skip


def descriptors(*, with_imports: bool = True) -> bytes:
    """A file `sale.proto` of package `shop` with the message `Sale`, as protoc compiles it."""
    file = FileDescriptorProto(name="sale.proto", package="shop", syntax="proto3")
    imports = (timestamp_pb2, wrappers_pb2, struct_pb2)
    file.dependency.extend(one.DESCRIPTOR.name for one in imports)
    file.message_type.add(name="First")
    kinds = file.enum_type.add(name="Kind")
    for number, name in enumerate(("UNKNOWN", "FOOD")):
        kinds.value.add(name=name, number=number)
    sale = file.message_type.add(name="Sale")
    place = sale.nested_type.add(name="Place")
    place.field.add(name="city", number=1, type=_KINDS["string"], label=1)
    place.field.add(name="within", number=2, type=11, type_name=".shop.Sale.Place", label=1)
    sale.oneof_decl.add(name="way")
    sale.oneof_decl.add(name="_n")
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("id", "string", {}), ("at", ".google.protobuf.Timestamp", {}),
        ("n", "int64", {"proto3_optional": True, "oneof_index": 1}),
        ("x", ".google.protobuf.DoubleValue", {}),
        ("kind", ".shop.Kind", {"type": 14}), ("note", "bytes", {}), ("tags", "string", {"label": 3}),
        ("place", ".shop.Sale.Place", {}), ("cash", "bool", {"oneof_index": 0}),
        ("card", "string", {"oneof_index": 0}), ("more", ".google.protobuf.Struct", {}),
        ("big", "uint64", {}),
    ]  # fmt: skip
    for number, (name, kind, more) in enumerate(fields, 1):
        named = {"type": 11, "type_name": kind} if kind.startswith(".") else {"type": _KINDS[kind]}
        sale.field.add(name=name, number=number, **{**named, "label": 1, **more})
    found = FileDescriptorSet(file=[file])
    for one in imports if with_imports else ():
        one.DESCRIPTOR.CopyToProto(found.file.add())
    return bytes(found.SerializeToString())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "sale.desc"
    place.write_bytes(descriptors())
    return place


def source_of(file: Path, message: str = "shop.Sale", schema: str = SCHEMA, **more: Any) -> Source:
    return Source(
        name="sales", topic="t", id="id", time="at", schema=schema, format="protobuf",
        wire_schema=f"{file}:{message}", **{"fields": {"city": "place.city"}, **more},
    )  # fmt: skip


def opened(source: Source, known: Known | None = None) -> ProtobufDecoder:
    decoder = decoder_of(source, known or Known())
    assert isinstance(decoder, ProtobufDecoder)
    return decoder


def cells(source: Source, *messages: bytes) -> list[dict[str, Any]]:
    decoder = opened(source)
    assert isinstance(decoder, MessageDecoder)
    found: list[dict[str, Any]] = decoder._cells(source, pa.array(messages, pa.binary())).to_pylist()
    return found


def sale(source: Source, **values: Any) -> Any:
    return opened(source).type(**values)


def test_every_kind_of_field_becomes_a_cell(file: Path) -> None:
    source = source_of(file, schema=f"{SCHEMA}, cash BOOLEAN, card STRING, more STRING, big DECIMAL(20,0)")
    message = sale(source, id="a", kind=1, note=b"\xff", tags=["p", "q"], card="visa", big=2**64 - 1)
    message.at.FromNanoseconds(1_700_000_000_000_000_001)
    message.n, message.x.value, message.place.city = 0, 0.5, "Bath"
    message.more.update({"k": [1, None]})
    (found,) = cells(source, message.SerializeToString())
    assert found == {
        "id": "a", "at": "2023-11-14T22:13:20.000000001Z", "n": "0", "x": "0.5", "kind": "FOOD",
        "note": b"\xff", "tags": '["p","q"]', "city": "Bath", "cash": None, "card": "visa",
        "more": '{"k":[1.0,null]}', "big": str(2**64 - 1), "_fault": None,
    }  # fmt: skip


def test_what_can_be_absent_and_is_has_no_value_and_the_rest_its_default(file: Path) -> None:
    (found,) = cells(source_of(file), sale(source_of(file), id="a").SerializeToString())
    assert found == {
        "id": "a", "at": None, "n": None, "x": None, "kind": "UNKNOWN", "note": b"", "tags": "[]",
        "city": None, "_fault": None,
    }  # fmt: skip


def test_a_message_in_the_frame_of_a_registry_is_told_from_a_bare_one(file: Path) -> None:
    source = source_of(file)
    value = sale(source, id="a").SerializeToString()
    bare, first, whole, another, short, none = cells(
        source, value, b"\0\0\0\0\7\2\2" + value, b"\0\0\0\0\xff\x02\x02" + value,
        b"\0\0\0\0\7\0" + value, b"\0\0", b"\0\0\0\0\7",
    )  # fmt: skip
    assert bare["id"] == first["id"] == whole["id"] == "a"
    assert another["_fault"] == "another type: the message is number [0] of its schema, shop.Sale is [1]"
    assert short["_fault"].startswith("truncated")
    assert none["_fault"] == "truncated: the message ends within the numbers of its type"


@pytest.mark.parametrize(
    "value", [b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05a", b"\xff" * 20, b"\x42\x02\x12\x05", b"\x0a\x01\xff"]
)
def test_a_malformed_message_says_so(file: Path, value: bytes) -> None:
    (found,) = cells(source_of(file), value)
    assert found["_fault"].startswith("malformed Protocol Buffers: no shop.Sale")


def test_a_message_cannot_nest_without_end(file: Path) -> None:
    inner = b""
    for _ in range(200):
        size, length = len(inner), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        inner = b"\x12" + length + bytes([size]) + inner
    size, length = len(inner), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    (found,) = cells(source_of(file), b"\x0a\x01a\x42" + length + bytes([size]) + inner)
    assert found["_fault"].startswith("malformed Protocol Buffers")


def test_an_event_is_written_bare_or_in_the_frame_of_its_subject(file: Path) -> None:
    source = source_of(file)
    event = {
        "id": 7, "at": "2024-05-01T12:00:00.5", "n": Decimal("45"), "x": Decimal("1.5"), "kind": "FOOD",
        "note": "é", "tags": ["p"], "place": {"city": "Bath"}, "other": 1,
    }  # fmt: skip
    bare = opened(source, Known()).encode(Source(**{**_fields_of(source), "topic": "nobody"}), event)
    (found,) = cells(source, bare)
    assert [found[name] for name in ("id", "at", "n", "x", "kind", "note", "tags", "city")] == [
        "7", "2024-05-01T12:00:00.500000000Z", "45", "1.5", "FOOD", "é".encode(), '["p"]', "Bath",
    ]  # fmt: skip

    class Proto(Known):
        def by_id(self, number: int) -> WriterSchema:
            return WriterSchema(id=number, kind="PROTOBUF", text="syntax ...")

    assert opened(source, Proto({9: None})).encode(source, event) == b"\0\0\0\0\x09\2\2" + bare
    for wrong, reason in (
        ({**event, "n": "many"}, "n: 'many' is not a whole number"),
        ({**event, "n": Decimal("1e999999999")}, "is not a whole number of 64 bits"),
        ({**event, "at": "noon"}, "at: time 'noon' is not ISO 8601"),
        ({**event, "place": 5}, "place: 5 is not an object"),
        ({**event, "kind": "FUN"}, "the event is no shop.Sale"),
        ({**event, "tags": "p"}, "tags: 'p' is not an array"),
    ):
        with pytest.raises(EventError, match=reason):
            opened(source).encode(source, wrong)


def _fields_of(source: Source) -> dict[str, Any]:
    names = ("name", "schema", "id", "time", "format", "fields", "wire_schema")
    return {name: getattr(source, name) for name in names}


def test_a_descriptor_that_cannot_serve_is_an_error_of_the_declaration(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DeclarationError, match=r"it has no message 'shop.Sail': it has the files .*sale.proto"
    ):
        opened(source_of(file, "shop.Sail"))
    with pytest.raises(DeclarationError, match=r"shop.Sale lacks a field for column 'price' \(id, at"):
        opened(source_of(file, schema=f"{SCHEMA}, price DOUBLE"))
    noise = tmp_path / "noise.desc"
    noise.write_bytes(b"\xff\xff nonsense")
    with pytest.raises(DeclarationError, match="it is no descriptor set: make it with protoc"):
        opened(source_of(noise))
    alone = tmp_path / "alone.desc"
    alone.write_bytes(descriptors(with_imports=False))
    assert opened(source_of(alone)).type.DESCRIPTOR.full_name == "shop.Sale"
    for text, reason in (
        ("sale.desc", "names no file and message"),
        (f"{tmp_path}/none.desc:shop.Sale", "not found"),
    ):
        with pytest.raises(DeclarationError, match=reason):
            found_schema("protobuf", text)
