"""Protocol Buffers: messages of a type in a descriptor set, bare or in the frame of a schema registry.

A bare message never begins with a zero byte, so both are told apart, message by message:

    00 | 00 00 00 07 | 00        | the message     of the first type of schema 7
    00 | 00 00 00 07 | 04 02 00  | the message     of the first type within the second one
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from google.protobuf import any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from anabranch.declare.sources import Source
from anabranch.errors import DeclarationError, EventError, MisuseError
from anabranch.events.decoders.decoder import MessageDecoder
from anabranch.events.decoders.logical import moment_text, plain_json
from anabranch.events.decoders.schemas import FRAME, Schemas, framed, schema_id
from anabranch.values.datatype import show
from anabranch.values.numbers import exact_number
from anabranch.values.texts import bare_text, json_text
from anabranch.values.times import format_time, parse_time
from anabranch.values.types import BOOLEAN, DataType

_WELL_KNOWN = (any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_GOOGLE = "google.protobuf."
_PLAIN = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_WRAPPERS = {f"{_GOOGLE}{kind}Value" for kind in _PLAIN}
_TREES = {f"{_GOOGLE}{kind}" for kind in ("Struct", "Value", "ListValue")}
_WHOLE = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
          FieldDescriptor.CPPTYPE_UINT64)  # fmt: skip
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_MOST_LEVELS, _MOST_DIGITS = 64, 20


@dataclass(frozen=True)
class ProtobufDecoder(MessageDecoder):
    """Messages of the type `name` of a descriptor set; `schemas` only writes the frame."""

    descriptors: bytes
    name: str
    schemas: Schemas

    @classmethod
    def opened(cls, source: Source, schemas: Schemas) -> Self:
        """The decoder of a source. Raises MisuseError when the file lacks the message or a column's field."""
        if source.wire_schema is None:
            raise MisuseError(
                f"source {source.name!r} has the format 'protobuf' and no wire_schema: "
                'declare wire_schema="path.desc:package.Message"'
            )
        place, _, name = source.wire_schema.rpartition(":")
        try:
            decoder = cls(Path(place).read_bytes(), name, schemas)
            descriptor = message_class(decoder.descriptors, name).DESCRIPTOR
        except (OSError, EventError) as error:
            raise DeclarationError(f"source {source.name!r}: wire_schema {place}: {error}") from error
        for column, path in source.nesting.paths:
            if path[0] not in descriptor.fields_by_name:
                known = ", ".join(list(descriptor.fields_by_name)[:20])
                raise DeclarationError(
                    f"source {source.name!r}: {name} lacks a field for column {column.name!r} ({known}): "
                    "correct the descriptor set, or say in `fields` where the column lies"
                )
        return decoder

    @property
    def type(self) -> type[Message]:
        """The class of the messages."""
        return message_class(self.descriptors, self.name)

    def decode(self, value: bytes) -> Mapping[str, object]:
        """The fields of one message by name; one that can be absent and is has no value."""
        start = 0 if not value or value[0] != 0 else self._after_frame(value)
        try:
            return _fields(self.type.FromString(value[start:]))
        except DecodeError as error:
            raise EventError(f"malformed Protocol Buffers: no {self.name} ({error})"[:200]) from None

    def given(self, value: object, kind: DataType) -> object:
        """A value as its column has it; bytes of any type but BINARY are UTF-8, as in JSON."""
        return super().given(value if kind.binary else plain_json(value), kind)

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        """The event as a message; in the frame of the subject ``<topic>-value`` where the registry has it."""
        message = self.type()
        try:
            ParseDict(_given(message.DESCRIPTOR, event, "", 0), message)
        except ParseError as error:
            raise EventError(f"the event is no {self.name}: {error}"[:300]) from error
        value: bytes = message.SerializeToString()
        latest = self.schemas.latest(f"{source.topic}-value")
        if latest is None:
            return value
        place = _place(message.DESCRIPTOR)
        numbers = b"\0" if place == [0] else b"".join(map(_zigzag, [len(place), *place]))
        return framed(latest.id, numbers + value)

    def _after_frame(self, value: bytes) -> int:
        """Where the message begins behind its frame; raises EventError for one of another type."""
        schema_id(value)  # which says what a short one lacks
        place = FRAME

        def number() -> int:
            nonlocal place
            found = shift = 0
            while shift < 64:
                if place >= len(value):
                    raise EventError("truncated: the message ends within the numbers of its type")
                byte = value[place]
                place += 1
                found |= (byte & 127) << shift
                if byte < 128:
                    return (found >> 1) ^ -(found & 1)
                shift += 7
            raise EventError("malformed Protocol Buffers: the numbers of its type are none")

        count = number()
        if not 0 <= count <= _MOST_LEVELS:
            raise EventError(f"malformed Protocol Buffers: its type lies {count} levels deep")
        found, wanted = [number() for _ in range(count)] or [0], _place(self.type.DESCRIPTOR)
        if found != wanted:
            raise EventError(
                f"another type: the message is number {found} of its schema, {self.name} is {wanted}"
            )
        return place


@lru_cache(maxsize=64)
def message_class(descriptors: bytes, name: str) -> type[Message]:
    """The class of a message of a serialized descriptor set; raises EventError for what is missing."""
    pool = DescriptorPool()
    try:
        files = {one.name: one for one in FileDescriptorSet.FromString(descriptors).file}
        for module in _WELL_KNOWN:
            known = FileDescriptorSet().file.add()
            module.DESCRIPTOR.CopyToProto(known)
            files.setdefault(known.name, known)
        for one in files.values():
            _add(pool, files, one.name, ())
        found: type[Message] = GetMessageClass(pool.FindMessageTypeByName(name))
        return found
    except DecodeError:
        raise EventError("it is no descriptor set: make it with protoc --descriptor_set_out") from None
    except KeyError:
        raise EventError(
            f"it has no message {name!r}: it has the files {', '.join(sorted(files)[:20])}"
        ) from None
    except TypeError as error:
        raise EventError(
            f"it cannot be used ({error}): make it with protoc --include_imports"[:300]
        ) from None


def _add(pool: DescriptorPool, files: Mapping[str, Any], name: str, above: tuple[str, ...]) -> None:
    """Add a file to the pool behind those that it imports."""
    file = files.get(name)
    if file is None or name in above:
        return
    for imported in file.dependency:
        _add(pool, files, imported, (*above, name))
    pool.AddSerializedFile(file.SerializeToString())  # once more changes nothing


def _place(descriptor: Descriptor) -> list[int]:
    """The numbers of a message in its file: of the one at the top, and within each the next."""
    file = FileDescriptorProto()
    descriptor.file.CopyToProto(file)
    names = descriptor.full_name.removeprefix(f"{file.package}." if file.package else "").split(".")
    place, messages = [], file.message_type
    for name in names:
        place.append([one.name for one in messages].index(name))
        messages = messages[place[-1]].nested_type
    return place


def _zigzag(number: int) -> bytes:
    rest, out = number << 1, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def _fields(message: Message) -> dict[str, object]:
    return {field.name: _of_field(message, field) for field in message.DESCRIPTOR.fields}


def _of_field(message: Message, field: FieldDescriptor) -> object:
    if field.is_repeated:
        items = getattr(message, field.name)
        if _is_map(field):
            values = field.message_type.fields_by_name["value"]
            return {_key(name): _single(values, items[name]) for name in items}
        return [_single(field, one) for one in items]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(field, getattr(message, field.name))


def _key(name: object) -> str:
    return json_text(name)


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return bool(field.is_repeated and kind is not None and kind.GetOptions().map_entry)


def _single(field: FieldDescriptor, value: Any) -> object:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    if name in _WRAPPERS:
        return value.value
    if name == f"{_GOOGLE}Timestamp":
        return moment_text(value.seconds * 10**9 + value.nanos, "nanos")
    if name in _TREES or name == f"{_GOOGLE}Duration":
        return MessageToDict(value)
    return _fields(value)


def _given(descriptor: Descriptor, value: Any, path: str, level: int) -> Any:
    """A message's values as `ParseDict` takes them."""
    if level > _MOST_LEVELS:
        raise EventError(f"nested more than {_MOST_LEVELS} levels deep")
    if not isinstance(value, Mapping):
        raise EventError(f"{path or 'the event'}: {show(value)} is not an object ({descriptor.full_name})")
    fields = descriptor.fields_by_name
    return {
        name: _given_field(fields[name], one, f"{path}.{name}" if path else name, level)
        for name, one in value.items()
        if name in fields and one is not None
    }


def _given_field(field: FieldDescriptor, value: Any, path: str, level: int) -> Any:
    if _is_map(field) and isinstance(value, Mapping):
        inner = field.message_type.fields_by_name["value"]
        return {name: _given_one(inner, one, f"{path}.{name}", level) for name, one in value.items()}
    if field.is_repeated and isinstance(value, list):
        return [_given_one(field, one, f"{path}[{place}]", level) for place, one in enumerate(value)]
    if field.is_repeated:
        raise EventError(f"{path}: {show(value)} is not an {'object' if _is_map(field) else 'array'}")
    return _given_one(field, value, path, level)


def _given_one(field: FieldDescriptor, value: Any, path: str, level: int) -> Any:
    if field.message_type is None:
        return _given_value(field.cpp_type, field.type, value, path)
    name = field.message_type.full_name
    if name in _WRAPPERS:
        inner = field.message_type.fields_by_name["value"]
        return _given_value(inner.cpp_type, inner.type, value, path)
    if name == f"{_GOOGLE}Timestamp":
        try:
            return format_time(parse_time(str(value)))
        except MisuseError as error:
            raise EventError(f"{path}: {error}") from error
    if name in _TREES or name == f"{_GOOGLE}Duration":
        return _plain(value)
    return _given(field.message_type, value, path, level + 1)


def _given_value(kind: int, wire: int, value: Any, path: str) -> Any:
    if kind in _WHOLE:
        number = None if isinstance(value, bool) else exact_number(value, 0)
        if number is None or number.adjusted() >= _MOST_DIGITS:
            raise EventError(f"{path}: {show(value)} is not a whole number of 64 bits")
        return int(number)
    if kind in _FLOATS:
        text = bare_text(value)
        return {"NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity"}.get(text, text)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if BOOLEAN.fault(value) is not None:
            raise EventError(f"{path}: {show(value)} is not true or false")
        return BOOLEAN.key_text(value) == "true"
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return str(value) if isinstance(value, Decimal) else value
    text = value if isinstance(value, str) else json_text(value)
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise EventError(f"{path}: the text is not Unicode") from None
    return base64.b64encode(raw).decode() if wire == FieldDescriptor.TYPE_BYTES else text


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
