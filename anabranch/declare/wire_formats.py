"""Wire formats by name: how the messages of a topic are written.

A format is one class, a decoder (anabranch/events/decoders/decoder.py), registered here by its name. The
class is named as text, so that a declaration can be checked in a process that has neither Spark nor the
decoder's libraries.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from anabranch.errors import DeclarationError

UNITS = ("millis", "micros", "nanos")
"""Units of times since 1970 that are written as whole numbers."""
_DECODERS = {
    "json": "anabranch.events.decoders.json_objects:JsonDecoder",
    "csv": "anabranch.events.decoders.csv_lines:CsvDecoder",
    "avro": "anabranch.events.decoders.avro_messages:AvroDecoder",
    "protobuf": "anabranch.events.decoders.protobuf_messages:ProtobufDecoder",
    "debezium": "anabranch.events.decoders.debezium_changes:DebeziumDecoder",
}

_TEXTS = ("json", "csv")
"""Formats without a schema of their own."""
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_kept: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def schemas_in(folder: Path) -> Iterator[None]:
    """Find the files of `wire_schema` from this folder while a module is loaded."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


@contextmanager
def schemas_as_kept() -> Iterator[None]:
    """Take a `wire_schema` as it is: a declaration that was kept was checked when it was built."""
    before = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(before)


def found_schema(form: str, wire_schema: str) -> str:
    """A `wire_schema` with the whole path of its file; raises DeclarationError for an unusable one."""
    if _kept.get():
        return wire_schema
    if form in _TEXTS:
        raise DeclarationError(f"messages of the format {form!r} have no schema: leave `wire_schema` out")
    if form == "debezium" and wire_schema in UNITS:
        return wire_schema
    name, colon, message = wire_schema.rpartition(":") if form == "protobuf" else (wire_schema, "", "")
    if form == "protobuf" and not (name and re.fullmatch(r"[A-Za-z_][\w.]*", message)):
        raise DeclarationError(
            f"wire_schema {wire_schema!r} names no file and message: write 'path.desc:package.Message', "
            "with a descriptor set that 'protoc --include_imports --descriptor_set_out=path.desc' makes"
        )
    place = (_folder.get() or Path()) / Path(name).expanduser()
    if not place.is_file():
        raise DeclarationError(
            f"wire_schema {name!r} is not found ({place}): "
            "write its path from the folder of the project's module"
        )
    return f"{place.resolve()}{colon}{message}"


def register_format(name: str, decoder: str) -> None:
    """Let sources declare ``format="<name>"``, read by the class `decoder`, written ``package.module:Class``.

    The module must be importable wherever Spark's workers run. Raises DeclarationError for a name that has
    another decoder already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not re.fullmatch(r"[\w.]+:\w+", decoder):
        raise DeclarationError(
            f"format {name!r} with decoder {decoder!r}: write a lower-case name and 'package.module:Class'"
        )
    if _DECODERS.setdefault(name, decoder) != decoder:
        raise DeclarationError(
            f"format {name!r} has the decoder {_DECODERS[name]} already: choose another name"
        )


def format_names() -> tuple[str, ...]:
    """The names that a source's `format` may have."""
    return tuple(_DECODERS)


def is_text(name: str) -> bool:
    """Whether messages of a format are texts, whatever their decoder makes of them."""
    return name in _TEXTS


def decoder_class(name: str) -> str:
    """The class that reads a format, as ``package.module:Class``."""
    return _DECODERS[name]
