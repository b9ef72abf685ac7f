"""One Avro value from its bytes, in Python: the decoder that says what is wrong, and that reads every schema.

Nothing that a message declares is believed: lengths and counts are compared with the bytes that are left
before anything is made of them, and depth is bounded. avro_columns.py reads the same by column.
"""

import struct
from collections.abc import Callable
from typing import Any

from anabranch.errors import EventError
from anabranch.events.decoders.avro_schemas import Node
from anabranch.events.decoders.logical import decimal_text, logical_text

MOST_LEVELS = 64
"""Records, arrays and maps within one another."""
MOST_ITEMS = 1_000_000
"""Of all arrays and maps of one message; items may take no bytes at all."""
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


def read_value(node: Node, value: bytes, start: int = 0) -> Any:
    """The value of the bytes from `start`, which must end with it. Raises EventError with the reason.

    Records and maps are dicts, arrays lists; times, days and decimals are texts (logical.py), enums their
    symbols. A string that is not UTF-8 is its bytes.
    """
    reader = _Reader(value, start)
    found = reader.read(node, 0, "")
    if reader.place != len(value):
        raise EventError(
            f"malformed Avro: {len(value) - reader.place} bytes are left behind the value; "
            "it was written with another schema"
        )
    return found


class _Reader:
    def __init__(self, value: bytes, place: int) -> None:
        self.value, self.place, self.items = value, place, 0

    def read(self, node: Node, level: int, path: str) -> Any:
        single = _SINGLE.get(node.kind)
        if single is not None:
            return single(self, node, path)
        if node.kind == "union":
            return self.read(self._choice(node.branches, path, "union"), level, path)
        if level >= MOST_LEVELS:
            raise EventError(f"nested more than {MOST_LEVELS} levels deep")
        if node.kind != "record":
            return self._block(node, level + 1, path)
        found = {
            name: self.read(inner, level + 1, f"{path}.{name}" if path else name)
            for name, inner in node.fields
        }
        return _variable(found) if node.logical == "variable-decimal" else found

    def null(self, _node: Node, _path: str) -> None:
        return None

    def whole(self, node: Node, path: str) -> object:
        number = self._long(path)
        if node.kind == "int" and not -(2**31) <= number < 2**31:
            raise EventError(f"malformed Avro: {path or 'the value'} is {number}, an int has 32 bits")
        return logical_text(number, node.logical) if node.logical else number

    def floating(self, node: Node, path: str) -> float:
        kind = _DOUBLE if node.kind == "double" else _FLOAT
        number: float = kind.unpack(self._take(kind.size, path))[0]
        return number

    def boolean(self, _node: Node, path: str) -> bool:
        byte = self._take(1, path)[0]
        if byte > 1:
            raise EventError(f"malformed Avro: {path or 'the value'} is {byte}, a boolean is 0 or 1")
        return byte == 1

    def text(self, _node: Node, path: str) -> str | bytes:
        taken = self._take(self._length(path), path)
        try:
            return taken.decode()
        except UnicodeDecodeError:
            return taken  # whether a column wants it is not known here

    def raw(self, node: Node, path: str) -> object:
        value = self._take(node.size if node.kind == "fixed" else self._length(path), path)
        return logical_text(value, node.logical, node.scale) if node.logical else value

    def symbol(self, node: Node, path: str) -> object:
        return self._choice(node.symbols, path, "enum")

    def _block(self, node: Node, level: int, path: str) -> Any:
        inner, is_map = node.branches[0], node.kind == "map"
        pairs: dict[str, Any] = {}
        items: list[Any] = []
        while count := self._long(path):
            if count < 0:
                count = -count
                self._long(path)  # the bytes of the block, for readers that skip it
            self.items += count
            if self.items > MOST_ITEMS:
                raise EventError(f"too many items: {path} has more than {MOST_ITEMS:,}")
            for _ in range(count):
                if is_map:
                    name = self._take(self._length(path), path).decode(errors="replace")
                    pairs[name] = self.read(inner, level, path)
                else:
                    items.append(self.read(inner, level, path))
        return pairs if is_map else items

    def _long(self, path: str) -> int:
        number = shift = 0
        while True:
            if self.place >= len(self.value):
                raise EventError(f"truncated: the message ends within {path or 'its value'}")
            byte = self.value[self.place]
            self.place += 1
            number |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise EventError(f"malformed Avro: {path or 'the value'} is a number of more than 64 bits")
        if number >= 2**64:
            raise EventError(f"malformed Avro: {path or 'the value'} is a number of more than 64 bits")
        return (number >> 1) ^ -(number & 1)

    def _length(self, path: str) -> int:
        length = self._long(path)
        if length < 0:
            raise EventError(f"malformed Avro: {path or 'the value'} has the length {length}")
        return length

    def _take(self, length: int, path: str) -> bytes:
        left = len(self.value) - self.place
        if length > left:
            raise EventError(f"truncated: {path or 'the value'} has {length} bytes, {left} are left")
        self.place += length
        return self.value[self.place - length : self.place]

    def _choice(self, choices: Any, path: str, kind: str) -> Any:
        place = self._long(path)
        if not 0 <= place < len(choices):
            raise EventError(
                f"malformed Avro: {path or 'the value'} is number {place} of the {len(choices)} of its {kind}"
            )
        return choices[place]


_SINGLE: dict[str, Callable[[_Reader, Node, str], Any]] = {
    "null": _Reader.null, "boolean": _Reader.boolean, "int": _Reader.whole, "long": _Reader.whole,
    "float": _Reader.floating, "double": _Reader.floating, "string": _Reader.text, "bytes": _Reader.raw,
    "fixed": _Reader.raw, "enum": _Reader.symbol,
}  # fmt: skip


def _variable(found: dict[str, Any]) -> Any:
    """Debezium's decimal whose scale is that of each value."""
    scale, value = found.get("scale"), found.get("value")
    if isinstance(scale, int) and isinstance(value, bytes) and abs(scale) <= 1000:
        return decimal_text(int.from_bytes(value, "big", signed=True), scale)
    return found
