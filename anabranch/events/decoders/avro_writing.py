"""Events that came as JSON, as Avro by a schema: the opposite of avro_values.py.

A value may be what JSON has for it or a text of it, as in events everywhere: ``45`` or ``"45"`` for a long,
ISO 8601 for times and days. What a schema cannot hold is an error; nothing is rounded.
"""

import re
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Context, Decimal

from anabranch.errors import EventError, MisuseError
from anabranch.events.decoders.avro_schemas import Node
from anabranch.events.decoders.logical import CLOCKS, MOMENTS, PER_SECOND
from anabranch.values.datatype import show
from anabranch.values.numbers import exact_number
from anabranch.values.texts import bare_text, json_text
from anabranch.values.times import DAY, parse_time
from anabranch.values.types import BOOLEAN, DOUBLE

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?)?")
_LONG = {"int": 31, "long": 63}
_MOST_LEVELS, _MOST_DIGITS = 64, 400


def written(node: Node, value: object, path: str = "") -> bytes:
    """The bytes of a value; raises EventError, naming the field, for one that the type cannot hold."""
    return _write(node, value, path, 0)


def _write(node: Node, value: object, path: str, level: int) -> bytes:
    if level > _MOST_LEVELS:
        raise EventError(f"nested more than {_MOST_LEVELS} levels deep")
    if node.kind == "union":
        return _union(node, value, path, level)
    if node.kind == "null":
        if value is not None:
            raise _unfit(value, path, "null")
        return b""
    if value is None:
        raise EventError(f"{path}: it is missing, and its schema says that it never is")
    if node.kind == "record":
        return _record(node, value, path, level)
    if node.kind in ("array", "map"):
        return _block(node, value, path, level)
    return _SINGLE[node.kind](node, value, path)


def _record(node: Node, value: object, path: str, level: int) -> bytes:
    if not isinstance(value, Mapping):
        raise _unfit(value, path, f"an object ({node.name})")
    parts = []
    for name, inner in node.fields:
        given, place = value.get(name), f"{path}.{name}" if path else name
        if given is None and name in node.defaults and name not in value:
            parts.append(_default(inner, node.defaults[name], place, level + 1))
        else:
            parts.append(_write(inner, given, place, level + 1))
    return b"".join(parts)


def _default(node: Node, value: object, path: str, level: int) -> bytes:
    """A default, which for a union is of its first type, and for bytes a text of a letter a byte."""
    if node.kind == "union":
        return _long(0) + _default(node.branches[0], value, path, level)
    if node.kind in ("bytes", "fixed") and isinstance(value, str):
        raw = value.encode("latin-1")
        return (_long(len(raw)) if node.kind == "bytes" else b"") + raw
    if node.logical and isinstance(value, int):
        return _long(value)  # written as the number it is
    return _write(node, value, path, level)


def _union(node: Node, value: object, path: str, level: int) -> bytes:
    first: EventError | None = None
    # A type whose JSON the value is comes before one that reads it from its text.
    order = sorted(range(len(node.branches)), key=lambda one: not _is_like(node.branches[one], value))
    for place in order:
        try:
            return _long(place) + _write(node.branches[place], value, path, level)
        except EventError as error:
            # Of several complaints the first one that is not of null tells most.
            first = first if first is not None or node.branches[place].kind == "null" else error
    raise first or _unfit(value, path, "of any type")


def _is_like(node: Node, value: object) -> bool:
    kinds: tuple[type, ...] = _JSON.get(node.kind, ())
    if isinstance(value, bool):
        return node.kind == "boolean"
    return (value is None and node.kind == "null") or isinstance(value, kinds)


_JSON: dict[str, tuple[type, ...]] = {
    "int": (int,), "long": (int,), "float": (float, Decimal), "double": (float, Decimal), "string": (str,),
    "enum": (str,), "record": (Mapping,), "map": (Mapping,), "array": (list,), "bytes": (Decimal,),
}  # fmt: skip


def _block(node: Node, value: object, path: str, level: int) -> bytes:
    inner = node.branches[0]
    if node.kind == "map":
        if not isinstance(value, Mapping):
            raise _unfit(value, path, "an object")
        parts = [
            _bytes(str(name).encode()) + _write(inner, one, f"{path}.{name}", level + 1)
            for name, one in value.items()
        ]
    else:
        if not isinstance(value, list):
            raise _unfit(value, path, "an array")
        parts = [_write(inner, one, f"{path}[{place}]", level + 1) for place, one in enumerate(value)]
    return (_long(len(parts)) + b"".join(parts) if parts else b"") + b"\0"


def _whole(node: Node, value: object, path: str) -> bytes:
    number = _moment(node, value, path)
    if number is None:
        exact = None if isinstance(value, bool) else exact_number(value, 0)
        if exact is None:
            raise _unfit(value, path, "a whole number")
        # Before it is written out: 1e999999999 has as many digits.
        number = int(exact) if exact.adjusted() < _MOST_DIGITS else 1 << 64
    edge = 1 << _LONG[node.kind]
    if not -edge <= number < edge:
        raise _unfit(value, path, f"an {node.kind}, of {_LONG[node.kind] + 1} bits")
    return _long(number)


def _moment(node: Node, value: object, path: str) -> int | None:
    """Days or moments of a text of them; None for what is no such type, or a number already."""
    unit = MOMENTS.get(node.logical) or CLOCKS.get(node.logical)
    if not isinstance(value, str) or (unit is None and node.logical != "date"):
        return None
    if node.logical in CLOCKS:
        found = _CLOCK.fullmatch(value.strip())
        if found is None:
            raise _unfit(value, path, "a time of day such as 23:59:59.123")
        hours, minutes, seconds = (int(each or 0) for each in found.groups()[:3])
        nanos = (hours * 3600 + minutes * 60 + seconds) * 10**9 + int((found[4] or "").ljust(9, "0"))
    else:
        try:
            micros = parse_time(value)
        except MisuseError as error:
            raise EventError(f"{path}: {error}") from error
        if node.logical == "date":
            return parse_time(bare_text(value)[:10]) // DAY
        nanos = micros * 1000
    whole, rest = divmod(nanos * PER_SECOND[str(unit)], 10**9)
    if rest:
        raise EventError(f"{path}: {show(value)} has digits beyond the {unit} of its schema")
    return whole


def _double(node: Node, value: object, path: str) -> bytes:
    if isinstance(value, bool) or DOUBLE.fault(value) is not None:
        raise _unfit(value, path, "a number")
    try:
        return struct.pack("<d" if node.kind == "double" else "<f", float(bare_text(value)))
    except OverflowError:
        raise _unfit(value, path, "a float, of 32 bits") from None


def _raw(node: Node, value: object, path: str) -> bytes:
    if node.logical == "decimal":
        number = None if isinstance(value, bool) else exact_number(value, max(node.scale, 0))
        if number is None or number.adjusted() >= _MOST_DIGITS:
            raise _unfit(value, path, f"a decimal with {node.scale} digits behind the point")
        unscaled = int(number.scaleb(node.scale, _wide(number)))
        size = node.size if node.kind == "fixed" else (unscaled.bit_length() // 8) + 1
        try:
            raw = unscaled.to_bytes(size, "big", signed=True)
        except OverflowError:
            raise _unfit(value, path, f"a decimal of {size} bytes") from None
    elif node.logical == "uuid" and node.kind == "fixed":
        try:
            raw = uuid.UUID(str(value)).bytes
        except ValueError:
            raise _unfit(value, path, "a UUID") from None
    else:
        raw = _text_bytes(value, path)
    if node.kind == "fixed" and len(raw) != node.size:
        raise EventError(f"{path}: it has {len(raw)} bytes, its schema has {node.size}")
    return raw if node.kind == "fixed" else _bytes(raw)


def _wide(number: Decimal) -> Context:
    return Context(prec=len(number.as_tuple().digits) + 2100, Emax=10**6, Emin=-(10**6))


def _string(_node: Node, value: object, path: str) -> bytes:
    return _bytes(_text_bytes(value, path))


def _text_bytes(value: object, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return (value if isinstance(value, str) else json_text(value)).encode()
    except UnicodeEncodeError:
        raise EventError(f"{path}: the text is not Unicode") from None


def _boolean(_node: Node, value: object, path: str) -> bytes:
    if BOOLEAN.fault(value) is not None:
        raise _unfit(value, path, "true or false")
    return b"\1" if BOOLEAN.key_text(value) == "true" else b"\0"


def _enum(node: Node, value: object, path: str) -> bytes:
    if value not in node.symbols:
        raise _unfit(value, path, f"one of {', '.join(node.symbols[:10])}")
    return _long(node.symbols.index(str(value)))


_SINGLE: dict[str, Callable[[Node, object, str], bytes]] = {
    "int": _whole, "long": _whole, "float": _double, "double": _double, "bytes": _raw, "fixed": _raw,
    "string": _string, "boolean": _boolean, "enum": _enum,
}  # fmt: skip


def _long(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _bytes(raw: bytes) -> bytes:
    return _long(len(raw)) + raw


def _unfit(value: object, path: str, wanted: str) -> EventError:
    shown = show(value) if not isinstance(value, Mapping | list) else json_text(value)[:40]
    return EventError(f"{path or 'the event'}: {shown} is not {wanted}")
