"""Debezium's change events: the row of a table after each change is the event, so that `Last` is its row.

    {"schema": ..., "payload": {"before": {...}, "after": {...}, "source": {...}, "op": "u", "ts_ms": ...}}

A message is an envelope in JSON, with or without its schema, or in Avro. Its fields, for columns and the
paths of `fields`, are those of the row, as Debezium's own unwrapping names them:

    a column      its value in `after`; of a delete, in `before`, as far as the table logs it
    __op          r (read in a snapshot), c (created), u (updated) or d (deleted)
    __deleted     whether the change deleted the row
    __ts_ms       when the database made the change, as a time: of `source` the finest of ts_ns, ts_us, ts_ms
    __read_at     when Debezium read the change, as a time
    __source      where it made it: an object
    __id          identifies the change: a message that comes again has the same

Rows that an unwrapping has flattened already are events as they are. Tombstones are none.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.declare.wire_formats import UNITS
from anabranch.errors import EventError
from anabranch.events.decoders.avro_messages import AvroDecoder
from anabranch.events.decoders.avro_values import MOST_LEVELS
from anabranch.events.decoders.decoder import Decoder, MessageDecoder
from anabranch.events.decoders.logical import CONNECT, day_text, decimal_text, logical_text, moment_text
from anabranch.events.decoders.schemas import Schemas, is_framed
from anabranch.events.messages import check_levels
from anabranch.values.datatype import show
from anabranch.values.texts import JsonNumber
from anabranch.values.types import DATE, TIMESTAMP, DataType

_ROWS = {"r": "after", "c": "after", "u": "after", "d": "before"}
_TIMES = {"ts_ns": "nanos", "ts_us": "micros", "ts_ms": "millis"}
_NOT_OF_THE_CHANGE = ("ts_ms", "ts_us", "ts_ns", "snapshot", "version", "sequence")
"""What Debezium says of a change anew when it reads it again."""


@dataclass(frozen=True)
class _Number:
    """A number of a JSON envelope without a schema, whose meaning the column decides."""

    value: int


@dataclass(frozen=True)
class DebeziumDecoder(MessageDecoder):
    """Change events. `unit`: that of times which JSON without a schema has as whole numbers."""

    avro: AvroDecoder
    unit: str | None = None

    @classmethod
    def opened(cls, source: Source, schemas: Schemas) -> Self:
        """The decoder of a source; Avro needs a schema registry, or the file of `wire_schema`."""
        if source.wire_schema is None or source.wire_schema in UNITS:
            return cls(AvroDecoder(schemas=schemas), source.wire_schema)
        return cls(AvroDecoder.of_file(source, schemas))

    def messages(self, raw: DataFrame) -> DataFrame:
        """The changes: a tombstone, which follows a delete, is none."""
        return raw.where(F.col("value").isNotNull())

    def decode(self, value: bytes) -> Mapping[str, object]:
        """The fields of the row that a change left."""
        if self.avro.fixed is not None or is_framed(value):
            return _change(self.avro.decode(value), value)
        try:
            found = json.loads(value, parse_float=JsonNumber)
        except (ValueError, RecursionError):
            raise EventError(
                "malformed JSON: a change is one JSON object, or Avro of a schema registry"
            ) from None
        if not isinstance(found, dict):
            raise EventError(f"malformed JSON: a change is a JSON object, not {show(found)}")
        check_levels(found)
        payload = found.get("payload")
        if isinstance(payload, dict) and isinstance(found.get("schema"), dict):
            return _change(_typed(payload, found["schema"]), value)
        alone = found.get("schema") is None and set(found) <= {"schema", "payload"}
        return _change(payload if alone and isinstance(payload, dict) else found, value, bare=True)

    def given(self, value: object, kind: DataType) -> object:
        """A value as its column has it; a whole number without a schema is what the column says it is."""
        if isinstance(value, _Number):
            if kind == DATE:
                return day_text(value.value)
            if kind == TIMESTAMP:
                if self.unit is None:
                    raise EventError(
                        f"the time {value.value} has no unit: let the connector send schemas, or declare "
                        'wire_schema="millis", "micros" or "nanos"'
                    )
                return moment_text(value.value, self.unit)
            return value.value
        return self.avro.given(_plain(value), kind)

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        """Raises MisuseError: changes come from a database."""
        return Decoder.encode(self, source, event)


def _plain(value: Any) -> Any:
    """A value within objects and arrays without marks."""
    if isinstance(value, _Number):
        return value.value
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _change(envelope: Mapping[str, Any], raw: bytes, *, bare: bool = False) -> dict[str, object]:
    """The fields of a row with those of its change; `bare` where JSON has no schema."""
    if "op" not in envelope or not {"after", "before", "source"} & set(envelope):
        return {name: _numbers(one) for name, one in envelope.items()} if bare else dict(envelope)
    operation = envelope["op"]
    side = _ROWS.get(str(operation))
    if side is None:
        raise EventError(
            f"the change {show(operation)} is of no row: r, c, u and d are read, "
            "a truncated table or a message of the database is none"
        )
    row = envelope.get(side)
    if not isinstance(row, Mapping):
        raise EventError(
            f"the change {operation!r} has no row in {side!r}: let the table log it "
            "(PostgreSQL: a primary key, or REPLICA IDENTITY FULL)"
        )
    source = envelope.get("source")
    place = source if isinstance(source, Mapping) else {}
    fields = {name: _numbers(one) for name, one in row.items()} if bare else dict(row)
    return {
        **fields,
        "__op": operation,
        "__deleted": operation == "d",
        "__ts_ms": _moment(place) or _moment(envelope),
        "__read_at": _moment(envelope),
        "__source": source,
        "__id": _identity(envelope, place, raw),
    }


def _moment(told: Mapping[str, Any]) -> object:
    """The time of a change or its reading, as finely as it is told; newer versions tell it more finely."""
    for name, unit in _TIMES.items():
        if isinstance(told.get(name), int):
            return moment_text(told[name], unit)
    return told.get("ts_ms")


def _identity(envelope: Mapping[str, Any], place: Mapping[str, Any], raw: bytes) -> str:
    """A digest of the change: where the database made it, and what it was before and after.

    Without a place it is the whole message.
    """
    where = {name: one for name, one in place.items() if name not in _NOT_OF_THE_CHANGE}
    if not where:
        return hashlib.sha256(raw).hexdigest()[:32]
    parts = [where, envelope.get("op"), envelope.get("before"), envelope.get("after")]
    text = json.dumps(parts, sort_keys=True, default=_shown)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _shown(value: object) -> object:
    if isinstance(value, JsonNumber):
        return float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _numbers(value: Any) -> Any:
    """Whole numbers marked, so that their columns decide what they are."""
    return _Number(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _typed(value: Any, schema: Mapping[str, Any], level: int = 0) -> Any:
    """A value of JSON with a schema of Kafka Connect, its times, decimals and bytes as they are meant."""
    if value is None or level > MOST_LEVELS:
        return value
    kind, logical = schema.get("type"), CONNECT.get(str(schema.get("name", "")), "")
    if logical == "variable-decimal" and isinstance(value, dict):
        return _variable(value)
    if kind == "struct" and isinstance(value, dict):
        known = {str(one.get("field")): one for one in schema.get("fields") or () if isinstance(one, dict)}
        return {name: _typed(one, known.get(name, {}), level + 1) for name, one in value.items()}
    if kind == "array" and isinstance(value, list):
        return [_typed(one, schema.get("items") or {}, level + 1) for one in value]
    if kind == "map" and isinstance(value, dict):
        return {name: _typed(one, schema.get("values") or {}, level + 1) for name, one in value.items()}
    if kind == "bytes" and isinstance(value, str):
        parameters = schema.get("parameters")
        scale = str(parameters.get("scale", 0)) if isinstance(parameters, dict) else "0"
        return logical_text(_decoded(value), logical, int(scale) if scale.lstrip("-").isdigit() else 0)
    return logical_text(value, logical)


def _variable(value: Mapping[str, Any]) -> object:
    scale, unscaled = value.get("scale"), value.get("value")
    if isinstance(scale, int) and isinstance(unscaled, str) and abs(scale) <= 1000:
        return decimal_text(int.from_bytes(_decoded(unscaled), "big", signed=True), scale)
    return dict(value)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise EventError(f"{show(text)} is no Base64, which JSON has for bytes") from None
