"""Many Avro messages of one schema at a time: numpy walks the schema once, field by field over all messages.

    data      the bytes of all messages, as Arrow has them
    place     by message, the byte that is read next
    end       by message, the byte after its last
    wrong     messages that this reading gives up: avro_values.py reads them again and says why

A field is decoded for those messages that have it: in a union, each type for its own messages. Arrays and
maps are passed over; a column that lies in one, or that is a record, is not read here (`is_readable`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anabranch.events.decoders.avro_schemas import AvroSchema, Node, node_at
from anabranch.events.decoders.logical import CLOCKS, MOMENTS, PER_SECOND, logical_text
from anabranch.values.numbers import BEYOND_WHOLE, WHOLE
from anabranch.values.times import FIRST, LAST, SECOND

Path = tuple[str | int, ...]
Rows = NDArray[np.int64]
_MOST_PASSES = 2000
"""Of loops over the items of arrays; messages with more are read one by one."""
_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_DAYS = (FIRST // (86_400 * SECOND), LAST // (86_400 * SECOND))
_PADDING = np.zeros(16, np.uint8)


@dataclass(frozen=True)
class Wanted:
    """A column to be read: its path, and whether its cells are bytes instead of texts."""

    path: Path
    binary: bool = False
    exact_text: bool = False
    """Whether texts of floating-point numbers are kept as texts: then they are not read here."""


def is_readable(schema: AvroSchema, wanted: Sequence[Wanted]) -> bool:
    """Whether messages of the schema can be read by column: each column has single values or none."""
    return not schema.is_recursive and all(_is_single(schema.root, each) for each in wanted)


def _is_single(root: Node, wanted: Wanted) -> bool:
    nodes = node_at(root, wanted.path)
    if nodes is None or any(node.kind in ("record", "array", "map") for node in nodes):
        return False
    return not (wanted.exact_text and any(node.kind in ("float", "double") for node in nodes))


def read_columns(
    schema: AvroSchema, values: pa.BinaryArray, start: int, wanted: Sequence[Wanted]
) -> tuple[list[pa.Array], NDArray[np.bool_]]:
    """The columns of messages without NULLs whose values begin at byte `start`, and which were not read."""
    batch = _Batch(values, start)
    columns = [_Cells(batch, each.binary) for each in wanted]
    leaves: dict[Path, list[_Cells]] = {}
    for each, cells in zip(wanted, columns, strict=True):
        leaves.setdefault(each.path, []).append(cells)
    batch.walk(schema.root, batch.all, (), leaves)
    batch.wrong |= batch.place != batch.end
    return [cells.array() for cells in columns], batch.wrong


@dataclass
class _Cells:
    """The cells of one column, collected type by type."""

    batch: "_Batch"
    binary: bool
    parts: list[tuple[Rows, pa.Array]] = field(default_factory=list)

    def add(self, rows: Rows, cells: pa.Array) -> None:
        if len(rows):
            self.parts.append((rows, cells))

    def array(self) -> pa.Array:
        kind, size = pa.binary() if self.binary else pa.string(), len(self.batch.all)
        if not self.parts:
            return pa.nulls(size, kind)
        rows = [part for part, _ in self.parts]
        cells = [each if each.type == kind else each.cast(kind) for _, each in self.parts]
        if len(rows) == 1 and rows[0] is self.batch.all:
            return cells[0]
        places = np.full(size, -1, np.int64)
        places[np.concatenate(rows)] = np.arange(sum(map(len, rows)))
        return pa.concat_arrays(cells).take(pa.array(places, mask=places < 0))


class _Batch:
    def __init__(self, values: pa.BinaryArray, start: int) -> None:
        offsets = np.frombuffer(values.buffers()[1], np.int32)[
            values.offset : values.offset + len(values) + 1
        ]
        data = values.buffers()[2]
        bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        self.data = np.concatenate([bytes_, _PADDING])
        self.last = len(bytes_)
        self.place = offsets[:-1].astype(np.int64) + start
        self.end = offsets[1:].astype(np.int64)
        self.all = np.arange(len(values), dtype=np.int64)
        self.wrong = self.place > self.end

    def walk(self, node: Node, rows: Rows, path: Path, leaves: dict[Path, list[_Cells]]) -> None:
        """Read a value of each of the rows, or pass it over where no column wants it."""
        cells = leaves.get(path, ())
        if node.kind == "record":
            for name, inner in node.fields:
                self.walk(inner, rows, (*path, name), leaves)
        elif node.kind == "union":
            branch = self.longs(rows)
            self.give_up(rows[(branch < 0) | (branch >= len(node.branches))])
            for number, inner in enumerate(node.branches):
                chosen = branch == number
                self.walk(inner, rows if chosen.all() else rows[chosen], path, leaves)
        elif node.kind in ("array", "map"):
            self.pass_over(node, rows)
        elif node.kind != "null":
            _LEAVES[node.kind](self, node, rows, cells)

    def give_up(self, rows: Rows) -> None:
        """Leave messages to the other reader; what they hold is not read on."""
        self.wrong[rows] = True
        self.place[rows] = self.end[rows]

    def pass_over(self, node: Node, rows: Rows) -> None:
        """Move behind the arrays or maps of the rows."""
        inner, left = node.branches[0], rows
        passes = 0
        while len(left):
            count = self.longs(left)
            sized = count < 0
            if sized.any():
                self.longs(left[sized])  # the bytes of the block
            count = np.abs(count)
            left, count = left[count > 0], count[count > 0]
            within, remaining = left, count
            while len(within):
                passes += 1
                if passes > _MOST_PASSES:
                    self.give_up(within)
                    left = left[:0]
                    break
                if node.kind == "map":
                    self.spans(within)
                self.walk(inner, within, (), {})
                going = (remaining > 1) & ~self.wrong[within]
                within, remaining = within[going], remaining[going] - 1
            left = left[~self.wrong[left]]

    def longs(self, rows: Rows) -> NDArray[np.int64]:
        """A zigzag number of each row."""
        place = self.place[rows]
        byte = self.data[np.minimum(place, self.last)]
        value = (byte & 127).astype(np.uint64)
        place += 1
        more, shift = np.flatnonzero(byte > 127), 7
        while len(more):
            if shift > 63:
                place[more] = np.iinfo(np.int64).max >> 1
                break
            byte = self.data[np.minimum(place[more], self.last)]
            value[more] |= (byte & 127).astype(np.uint64) << np.uint64(shift)
            place[more] += 1
            if shift == 63:
                place[more[byte > 1]] = np.iinfo(np.int64).max >> 1
            more, shift = more[byte > 127], shift + 7
        self.move(rows, place)
        return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)

    def move(self, rows: Rows, place: NDArray[np.int64]) -> None:
        """Go on at `place`; a message that ends before is given up."""
        self.place[rows] = place
        beyond = place > self.end[rows]
        if beyond.any():
            self.give_up(rows[beyond])

    def spans(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Begin and length of a text or bytes of each row; no length where the message ends before."""
        length = self.longs(rows)
        left = self.end[rows] - self.place[rows]
        beyond = (length < 0) | (length > left)
        if beyond.any():
            self.give_up(rows[beyond])
            length = np.where(beyond, 0, length)
        begin = self.place[rows]
        self.place[rows] = begin + length
        return begin, length

    def fixed(self, rows: Rows, size: int) -> NDArray[np.uint8]:
        """`size` bytes of each row."""
        begin = self.place[rows]
        self.move(rows, begin + size)
        found: NDArray[np.uint8] = self.data[np.minimum(begin[:, None] + np.arange(size), self.last)]
        return found

    def gathered(self, begin: NDArray[np.int64], length: NDArray[np.int64]) -> pa.BinaryArray:
        """The bytes of these spans, one value each."""
        offsets = np.zeros(len(begin) + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        places = np.repeat(begin - offsets[:-1], length)
        places += np.arange(offsets[-1])
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(self.data[places])]
        return pa.Array.from_buffers(pa.binary(), len(begin), buffers)


def _leaf_long(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:
    value = batch.longs(rows)
    if node.kind == "int":
        batch.give_up(rows[(value < -(2**31)) | (value >= 2**31)])
    for each in cells:
        each.add(rows, _whole(batch, node.logical, rows, value))


def _whole(batch: _Batch, logical: str, rows: Rows, value: NDArray[np.int64]) -> pa.Array:
    if logical in MOMENTS:
        unit = MOMENTS[logical]
        per_second = PER_SECOND[unit]
        seconds = value // per_second
        value = _within(batch, rows, value, (seconds >= FIRST // SECOND) & (seconds <= LAST // SECOND))
        text = pa.array(value).cast(pa.timestamp(_UNITS[unit], "UTC")).cast(pa.string())
        return pc.replace_substring(text, " ", "T")
    if logical == "date":
        value = _within(batch, rows, value, (value >= _DAYS[0]) & (value <= _DAYS[1]))
        return pa.array(value.astype(np.int32)).cast(pa.date32()).cast(pa.string())
    if logical in CLOCKS:
        return pa.array([str(logical_text(one, logical)) for one in value.tolist()], pa.string())
    return pa.array(value).cast(pa.string())


def _within(
    batch: _Batch, rows: Rows, value: NDArray[np.int64], inside: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The values with 0 for those that are no times, whose messages are left to the other reader."""
    if inside.all():
        return value
    batch.wrong[rows[~inside]] = True
    return np.where(inside, value, 0)


def _leaf_double(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:
    size, kind = (8, "<f8") if node.kind == "double" else (4, "<f4")
    raw = batch.fixed(rows, size)
    for each in cells:
        number = raw.copy().view(kind).reshape(-1).astype(np.float64)
        each.add(rows, _shown(number))


def _shown(number: NDArray[np.float64]) -> pa.StringArray:
    """Doubles as texts, with all their digits where they can have no fraction, as in `ExactType.cell`."""
    text = pa.array(number).cast(pa.string())
    whole = (np.abs(number) >= WHOLE) & (np.abs(number) < BEYOND_WHOLE)
    if not whole.any():
        return text
    digits = pa.array(np.where(whole, number, 0).astype(np.int64)).cast(pa.string())
    return pc.if_else(pa.array(whole), digits, text)


def _leaf_bytes(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:
    begin, length = batch.spans(rows)
    for each in cells:
        found = batch.gathered(begin, length)
        if node.logical in ("decimal", "uuid"):
            found = _by_value(node, found.to_pylist())
        each.add(rows, found if each.binary else _texts(batch, rows, found))


def _by_value(node: Node, values: list[bytes]) -> pa.Array:
    return pa.array([_encoded(logical_text(one, node.logical, node.scale)) for one in values], pa.binary())


def _encoded(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _texts(batch: _Batch, rows: Rows, found: pa.BinaryArray) -> pa.StringArray:
    """The bytes as texts; messages with bytes that are no UTF-8 are left to the other reader."""
    try:
        return found.cast(pa.string())
    except pa.ArrowInvalid:
        good = np.array([_is_text(one) for one in found.to_pylist()], np.bool_)
        batch.wrong[rows[~good]] = True
        return pc.if_else(pa.array(good), found, pa.scalar(b"", pa.binary())).cast(pa.string())


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _leaf_string(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:  # noqa: ARG001
    begin, length = batch.spans(rows)
    for each in cells:
        # Also for bytes: a text that is no UTF-8 is none.
        each.add(rows, _texts(batch, rows, batch.gathered(begin, length)))


def _leaf_boolean(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:  # noqa: ARG001
    byte = batch.fixed(rows, 1)[:, 0]
    batch.give_up(rows[byte > 1])
    for each in cells:
        each.add(rows, pa.array(byte == 1).cast(pa.string()))


def _leaf_enum(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:
    place = batch.longs(rows)
    outside = (place < 0) | (place >= len(node.symbols))
    batch.give_up(rows[outside])
    for each in cells:
        symbols = pa.array(node.symbols or [""], pa.string())
        each.add(rows, symbols.take(pa.array(np.where(outside, 0, place))))


def _leaf_fixed(batch: _Batch, node: Node, rows: Rows, cells: Sequence[_Cells]) -> None:
    raw = batch.fixed(rows, node.size)
    for each in cells:
        values = [one.tobytes() for one in raw]
        found = (
            _by_value(node, values) if node.logical in ("decimal", "uuid") else pa.array(values, pa.binary())
        )
        each.add(rows, found if each.binary else _texts(batch, rows, found))


_LEAVES: dict[str, Callable[[_Batch, Node, Rows, Sequence[_Cells]], None]] = {
    "int": _leaf_long,
    "long": _leaf_long,
    "float": _leaf_double,
    "double": _leaf_double,
    "bytes": _leaf_bytes,
    "string": _leaf_string,
    "boolean": _leaf_boolean,
    "enum": _leaf_enum,
    "fixed": _leaf_fixed,
}
