"""Types of nested values: STRUCT, ARRAY and MAP.

A value of an event is a JSON object or array, or a text of JSON, as CSV files have it. Its parts are read by
the rules of their own types: a part may be text, one of nothing but spaces is unknown, undeclared fields of
a STRUCT are ignored.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from anabranch.values.datatype import DataType, JsonSchema, show
from anabranch.values.names import quoted
from anabranch.values.texts import AROUND, JsonNumber

MOST_ITEMS = 10_000
"""Items of an array or a map, and of a message that is exploded."""


def _no_number(text: str) -> float:
    raise ValueError(text)


class NestedType(DataType):
    """A type whose values have parts. It has no order, is in no key, and no state holds it."""

    nested = True
    in_keys = False
    categorical = False
    model_kind = "list"

    @property
    def foldable(self) -> bool:
        return False

    def given(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.strip(AROUND):
            return None
        try:
            return json.loads(value, parse_float=JsonNumber, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return value

    def reads(self, value: object) -> bool:
        return self.fault(value) is None

    def cell_sql(self, text: str) -> str:
        return self.parts_sql(text, 0)

    @abstractmethod
    def parts_sql(self, sql: str, depth: int) -> str:
        """As `cell_sql`, at a `depth` of lambdas, which need names of their own."""

    @property
    def event_schema(self) -> JsonSchema:
        return self.json_schema

    def to_model(self, value: Any) -> Any:
        return value


def part_fault(kind: DataType, value: object, place: str, *, strict: bool) -> str | None:
    """Why a part of a value is not of its type, with its place in the value; None when it is, or unknown."""
    value = value if strict else kind.given(value)
    fault = None if value is None else kind.fault(value, strict=strict)
    return fault and f"{place}: {fault}"


def part_cell(kind: DataType, value: object) -> Any:
    """A part of a value as a cell."""
    value = kind.given(value)
    return None if value is None else kind.cell(value)


def part_sql(kind: DataType, sql: str, depth: int) -> str:
    """SQL of a part of a cell in its type; `depth` tells the lambdas of arrays and maps apart."""
    return kind.parts_sql(sql, depth) if isinstance(kind, NestedType) else kind.cell_sql(sql)


class ArrayType(NestedType):
    """Lists of `inner`."""

    name = "ARRAY"

    def __init__(self, inner: DataType) -> None:
        self.inner = inner

    def __str__(self) -> str:
        return f"ARRAY<{self.inner}>"

    @property
    def spark(self) -> str:
        return f"ARRAY<{self.inner.spark}>"

    @property
    def stored(self) -> str:
        return f"array<{self.inner.stored}>"

    @property
    def cell_spark(self) -> str:
        return f"ARRAY<{self.inner.cell_spark}>"

    @property
    def arrow(self) -> pa.DataType:
        return pa.list_(self.inner.arrow)

    @property
    def cell_arrow(self) -> pa.DataType:
        return pa.list_(self.inner.cell_arrow)

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        if not isinstance(value, list | tuple):
            return f"{show(value)} is not an array"
        if len(value) > MOST_ITEMS:
            return f"{len(value):,} items, where an array may have {MOST_ITEMS:,}"
        faults = (part_fault(self.inner, one, f"[{place}]", strict=strict) for place, one in enumerate(value))
        return next((fault for fault in faults if fault is not None), None)

    def cell(self, value: Any) -> Any:
        return [part_cell(self.inner, one) for one in value]

    def parts_sql(self, sql: str, depth: int) -> str:
        part = part_sql(self.inner, f"_part{depth}", depth + 1)
        return f"transform({sql}, _part{depth} -> {part})"

    def value(self, raw: Any) -> Any:
        return None if raw is None else [self.inner.value(one) for one in raw]

    def to_json(self, value: Any) -> Any:
        return None if value is None else [self.inner.to_json(one) for one in value]

    @property
    def json_schema(self) -> JsonSchema:
        return {"type": "array", "items": nullable(self.inner.json_schema)}

    @property
    def example(self) -> Any:
        return [self.inner.example]

    @property
    def cql(self) -> str:  # type: ignore[override]
        # Frozen, so that writing a list again leaves no tombstone.
        return f"frozen<list<{self.inner.cql}>>"

    def to_cql(self, value: Any) -> Any:
        return None if value is None else [self.inner.to_cql(one) for one in value]


class StructType(NestedType):
    """Values with named fields, each of a type of its own."""

    name = "STRUCT"

    def __init__(self, fields: tuple[tuple[str, DataType], ...]) -> None:
        self.fields = fields

    def __str__(self) -> str:
        return f"STRUCT<{', '.join(f'{name}: {kind}' for name, kind in self.fields)}>"

    @property
    def spark(self) -> str:
        return f"STRUCT<{','.join(f'{name}:{kind.spark}' for name, kind in self.fields)}>"

    @property
    def stored(self) -> str:
        return f"struct<{','.join(f'{name}:{kind.stored}' for name, kind in self.fields)}>"

    @property
    def cell_spark(self) -> str:
        return f"STRUCT<{','.join(f'{name}:{kind.cell_spark}' for name, kind in self.fields)}>"

    @property
    def arrow(self) -> pa.DataType:
        return pa.struct([(name, kind.arrow) for name, kind in self.fields])

    @property
    def cell_arrow(self) -> pa.DataType:
        return pa.struct([(name, kind.cell_arrow) for name, kind in self.fields])

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        if not isinstance(value, Mapping):
            return f"{show(value)} is not an object"
        faults = (part_fault(kind, value.get(name), name, strict=strict) for name, kind in self.fields)
        return next((fault for fault in faults if fault is not None), None)

    def cell(self, value: Any) -> Any:
        return {name: part_cell(kind, value.get(name)) for name, kind in self.fields}

    def parts_sql(self, sql: str, depth: int) -> str:
        parts = ", ".join(
            f"'{name}', {part_sql(kind, f'{sql}.{quoted(name)}', depth)}" for name, kind in self.fields
        )
        return f"CASE WHEN {sql} IS NOT NULL THEN named_struct({parts}) END"

    def value(self, raw: Any) -> Any:
        return None if raw is None else {name: kind.value(raw[name]) for name, kind in self.fields}

    def to_json(self, value: Any) -> Any:
        return None if value is None else {name: kind.to_json(value[name]) for name, kind in self.fields}

    @property
    def json_schema(self) -> JsonSchema:
        return {
            "type": "object",
            "properties": {name: nullable(kind.json_schema) for name, kind in self.fields},
        }

    @property
    def example(self) -> Any:
        return {name: kind.example for name, kind in self.fields}


class MapType(NestedType):
    """Values of one type by names."""

    name = "MAP"

    def __init__(self, inner: DataType) -> None:
        self.inner = inner

    def __str__(self) -> str:
        return f"MAP<STRING, {self.inner}>"

    @property
    def spark(self) -> str:
        return f"MAP<STRING,{self.inner.spark}>"

    @property
    def stored(self) -> str:
        return f"map<string,{self.inner.stored}>"

    @property
    def cell_spark(self) -> str:
        return f"MAP<STRING,{self.inner.cell_spark}>"

    @property
    def arrow(self) -> pa.DataType:
        return pa.map_(pa.string(), self.inner.arrow)

    @property
    def cell_arrow(self) -> pa.DataType:
        return pa.map_(pa.string(), self.inner.cell_arrow)

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        if not isinstance(value, Mapping):
            return f"{show(value)} is not an object"
        if len(value) > MOST_ITEMS:
            return f"{len(value):,} names, where a map may have {MOST_ITEMS:,}"
        faults = (part_fault(self.inner, one, f"[{name!r}]", strict=strict) for name, one in value.items())
        return next((fault for fault in faults if fault is not None), None)

    def cell(self, value: Any) -> Any:
        return [(str(name), part_cell(self.inner, one)) for name, one in value.items()]

    def parts_sql(self, sql: str, depth: int) -> str:
        part = part_sql(self.inner, f"_part{depth}", depth + 1)
        return f"transform_values({sql}, (_name{depth}, _part{depth}) -> {part})"

    def value(self, raw: Any) -> Any:
        return None if raw is None else {name: self.inner.value(one) for name, one in dict(raw).items()}

    def to_json(self, value: Any) -> Any:
        return None if value is None else {name: self.inner.to_json(one) for name, one in value.items()}

    @property
    def json_schema(self) -> JsonSchema:
        return {"type": "object", "additionalProperties": nullable(self.inner.json_schema)}

    @property
    def example(self) -> Any:
        return {"name": self.inner.example}

    @property
    def cql(self) -> str:  # type: ignore[override]
        return f"frozen<map<text, {self.inner.cql}>>"

    def to_cql(self, value: Any) -> Any:
        return None if value is None else {name: self.inner.to_cql(one) for name, one in value.items()}


def nullable(schema: JsonSchema) -> JsonSchema:
    """The JSON Schema that also takes null."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **values, "type": [*kinds, "null"]}
