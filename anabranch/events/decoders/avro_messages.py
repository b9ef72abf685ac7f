"""Avro: values in the frame of a schema registry, each by its writer's schema, or bare ones of one schema."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anabranch.declare.sources import Source
from anabranch.errors import DeclarationError, EventError, MisuseError
from anabranch.events.decoders.avro_columns import Rows, Wanted, is_readable, read_columns
from anabranch.events.decoders.avro_schemas import AvroSchema, compiled, node_at
from anabranch.events.decoders.avro_values import read_value
from anabranch.events.decoders.avro_writing import written
from anabranch.events.decoders.decoder import MessageDecoder
from anabranch.events.decoders.logical import plain_json
from anabranch.events.decoders.schemas import FRAME, NoSchemas, Schemas, WriterSchema, framed, schema_id
from anabranch.values.types import DataType

_LARGEST_SCHEMA = 8 * 2**20


@dataclass(frozen=True)
class AvroDecoder(MessageDecoder):
    """Avro messages: bare values of the `fixed` schema, else values that each name their writer's schema."""

    schemas: Schemas = field(default_factory=NoSchemas)
    fixed: str | None = None

    @classmethod
    def opened(cls, source: Source, schemas: Schemas) -> Self:
        """The decoder of a source. Raises MisuseError without a schema, or with one that lacks a column."""
        if source.wire_schema is None:
            if isinstance(schemas, NoSchemas):
                raise MisuseError(
                    f"source {source.name!r} has the format {source.format!r} and no wire_schema: set "
                    "bus.schema_registry to the address of your schema registry, or declare a file.avsc"
                )
            return cls(schemas=schemas)
        decoder = cls.of_file(source, schemas)
        check_columns(source, compiled(str(decoder.fixed)), f"wire_schema {source.wire_schema}")
        return decoder

    @classmethod
    def of_file(cls, source: Source, schemas: Schemas) -> Self:
        """The decoder of bare values of the schema in the source's file."""
        text = schema_file(source)
        check_schema(source, text)
        return cls(schemas=schemas, fixed=text)

    def decode(self, value: bytes) -> Mapping[str, object]:
        """The fields of one message."""
        start = 0 if self.fixed is not None else FRAME
        found = read_value(
            self._schema(None if self.fixed is not None else schema_id(value)).root, value, start
        )
        if not isinstance(found, dict):
            raise EventError("the message's schema is no record: its value has no fields")
        return found

    def given(self, value: object, kind: DataType) -> object:
        """A value as its column has it; bytes of any type but BINARY are UTF-8, as in JSON."""
        return super().given(value if kind.binary else plain_json(value), kind)

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        """The event by the latest schema of the subject ``<topic>-value``, or by the fixed schema."""
        if self.fixed is not None:
            return written(compiled(self.fixed).root, event)
        latest = latest_schema(source, self.schemas)
        schema = compiled(latest.text, latest.references)
        check_columns(source, schema, f"the latest schema of {subject_of(source)}")
        return framed(latest.id, written(schema.root, event))

    def _schema(self, number: int | None) -> AvroSchema:
        if number is None:
            return compiled(str(self.fixed))
        found = self.schemas.by_id(number)
        if found.kind != "AVRO":
            raise EventError(f"schema {number} is of the kind {found.kind}, where AVRO is declared")
        return compiled(found.text, found.references)

    def _cells(self, source: Source, values: Any) -> Any:
        """By column where the schema allows, message by message where not, and where one is at fault."""
        gathered = _Gathered(source, len(values))
        for number, rows in self._by_schema(values.cast(pa.binary()), gathered):
            self._read(source, number, values.cast(pa.binary()), rows, gathered)
        return gathered.cells()

    def _by_schema(self, values: Any, gathered: "_Gathered") -> Iterator[tuple[int | None, Rows]]:
        """The rows of messages by the id of their schema; faults of messages that name none are noted."""
        valid = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False))
        if self.fixed is not None:
            yield None, valid
            return
        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :][: len(values) + 1]
        buffer = values.buffers()[2]
        data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)
        size = np.diff(offsets)[valid]
        begin = offsets[:-1][valid].astype(np.int64)
        long_enough = size >= FRAME
        framed_rows = np.zeros(len(valid), np.bool_)
        framed_rows[long_enough] = data[begin[long_enough]] == 0
        for row in valid[~framed_rows].tolist():
            gathered.note(row, _fault_of(values[row].as_py()))
        rows, begin = valid[framed_rows], begin[framed_rows]
        if not len(rows):
            return
        heads = data[begin[:, None] + np.arange(1, FRAME)].copy().view(">u4").reshape(-1)
        for number in np.unique(heads).tolist():
            yield number, rows[heads == number]

    def _read(
        self, source: Source, number: int | None, values: Any, rows: Rows, gathered: "_Gathered"
    ) -> None:
        try:
            schema = self._schema(number)
        except EventError as error:
            gathered.note_all(rows, str(error))
            return
        wanted = _wanted(source)
        single = not any(column.type.nested for column in source.columns)
        if single and schema.root.kind == "record" and is_readable(schema, wanted):
            whole = len(rows) == len(values)
            taken = values if whole else values.take(pa.array(rows))
            columns, wrong = read_columns(schema, taken, 0 if number is None else FRAME, wanted)
            good = pa.array(~wrong)
            gathered.add(rows[~wrong], [each.filter(good) for each in columns] if wrong.any() else columns)
            rows = rows[wrong]
        for row in rows.tolist():
            gathered.add_row(row, self._rows(source, values[row].as_py())[0])


class _Gathered:
    """The cells of a batch of messages, collected in any order."""

    def __init__(self, source: Source, size: int) -> None:
        self._names = [column.name for column in source.columns]
        self._kinds = [column.type.cell_arrow for column in source.columns]
        self._size = size
        self._faults: list[str | None] = [None] * size
        self._parts: list[tuple[Rows, list[Any]]] = []
        self._rows: list[int] = []
        self._single: list[list[object]] = []

    def note(self, row: int, fault: str) -> None:
        self._faults[row] = fault

    def note_all(self, rows: Rows, fault: str) -> None:
        for row in rows.tolist():
            self._faults[row] = fault

    def add(self, rows: Rows, columns: list[Any]) -> None:
        if len(rows):
            self._parts.append((rows, columns))

    def add_row(self, row: int, cells: list[object]) -> None:
        fault = cells[len(self._kinds)]
        self._faults[row] = None if fault is None else str(fault)
        self._rows.append(row)
        self._single.append(cells)

    def cells(self) -> Any:
        if self._rows:
            columns = [
                pa.array([cells[place] for cells in self._single], kind)
                for place, kind in enumerate(self._kinds)
            ]
            self._parts.append((np.array(self._rows, np.int64), columns))
        arrays = [self._column(place, kind) for place, kind in enumerate(self._kinds)]
        return pa.StructArray.from_arrays(
            [*arrays, pa.array(self._faults, pa.string())], names=[*self._names, "_fault"]
        )

    def _column(self, place: int, kind: Any) -> Any:
        if not self._parts:
            return pa.nulls(self._size, kind)
        if len(self._parts) == 1 and np.array_equal(self._parts[0][0], np.arange(self._size)):
            return self._parts[0][1][place]
        at = np.full(self._size, -1, np.int64)
        at[np.concatenate([rows for rows, _ in self._parts])] = np.arange(
            sum(len(rows) for rows, _ in self._parts)
        )
        return pa.concat_arrays([columns[place] for _, columns in self._parts]).take(
            pa.array(at, mask=at < 0)
        )


def subject_of(source: Source) -> str:
    """The subject of the schema registry that has the schemas of a source's messages."""
    return f"{source.topic}-value"


def latest_schema(source: Source, schemas: Schemas) -> WriterSchema:
    """The schema that new messages of a source are written with; raises MisuseError when there is none."""
    latest = schemas.latest(subject_of(source))
    if latest is None:
        raise MisuseError(
            f"source {source.name!r}: the schema registry has no subject {subject_of(source)!r}: "
            "register the schema of its messages there first"
        )
    return latest


def schema_file(source: Source) -> str:
    """The text of the file that a source's `wire_schema` names; raises MisuseError when it cannot be read."""
    place = Path(str(source.wire_schema))
    try:
        if place.stat().st_size > _LARGEST_SCHEMA:
            raise MisuseError(
                f"source {source.name!r}: {place} is larger than a schema, {_LARGEST_SCHEMA} bytes"
            )
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(
            f"source {source.name!r}: wire_schema {place} cannot be read ({error}): make it readable UTF-8"
        ) from error


def check_schema(source: Source, text: str) -> None:
    """Raise DeclarationError when the text of a source's file is no Avro schema."""
    try:
        compiled(text)
    except EventError as error:
        reason = str(error).replace("the message's schema", f"wire_schema {source.wire_schema}")
        raise DeclarationError(f"source {source.name!r}: {reason}") from error


def check_columns(source: Source, schema: AvroSchema, what: str) -> None:
    """Raise MisuseError when a schema has no field for a column of the source."""
    for column, path in source.nesting.paths:
        if node_at(schema.root, path) == []:
            known = ", ".join(name for name, _ in schema.root.fields[:20])
            raise MisuseError(
                f"source {source.name!r}: {what} has no field for column {column.name!r}: it has {known}; "
                "correct the schema, or say in `fields` where the column lies"
            )


def _wanted(source: Source) -> Sequence[Wanted]:
    return [
        Wanted(path, binary=column.type.binary, exact_text=column.type.text)
        for column, path in source.nesting.paths
    ]


def _fault_of(value: bytes) -> str:
    try:
        schema_id(value)
    except EventError as error:
        return str(error)
    raise AssertionError("a message that names its schema has no fault")
