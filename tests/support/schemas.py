"""Schemas of binary messages for tests: a registry in memory, and messages that other libraries write."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from anabranch.errors import EventError
from anabranch.events.decoders.schemas import WriterSchema


@dataclass(frozen=True)
class Known:
    """A registry of what is handed to it."""

    schemas: Mapping[int, Any] = field(default_factory=dict)

    def by_id(self, number: int) -> WriterSchema:
        if number not in self.schemas:
            raise EventError(f"unknown schema: {number}")
        return WriterSchema(id=number, text=json.dumps(self.schemas[number]))

    def latest(self, subject: str) -> WriterSchema | None:
        known = self.schemas and subject == "t-value"
        return self.by_id(max(self.schemas)) if known else None

    def __hash__(self) -> int:
        return id(self)


def record(*fields: tuple[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": one, "type": kind} for one, kind in fields]}


def encoded(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


STRING, DOUBLE, INT64 = (
    FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_INT64,
)  # fmt: skip
BOOL = FieldDescriptorProto.TYPE_BOOL
TIMESTAMP = ".google.protobuf.Timestamp"


def descriptor_set(name: str, fields: Mapping[str, Any]) -> bytes:
    """A descriptor set with the message ``shop.<name>``, as protoc makes it; each field is optional."""
    file = FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name=name)
    for number, (field_name, kind) in enumerate(fields.items()):
        typed: dict[str, Any] = {"type": kind}
        if kind == TIMESTAMP:
            typed = {"type": FieldDescriptorProto.TYPE_MESSAGE, "type_name": kind}
        else:
            typed |= {"proto3_optional": True, "oneof_index": len(message.oneof_decl)}
            message.oneof_decl.add(name=f"_{field_name}")
        message.field.add(name=field_name, number=number + 1, label=1, **typed)
    found = FileDescriptorSet(file=[file])
    timestamp_pb2.DESCRIPTOR.CopyToProto(found.file.add())
    return bytes(found.SerializeToString())
