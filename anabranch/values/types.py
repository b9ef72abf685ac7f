"""Types by name, and schemas."""

import re
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from anabranch.errors import DeclarationError
from anabranch.values.datatype import Column, DataType, JsonSchema, counted
from anabranch.values.dates import DATE, TIMESTAMP, DateType, TimestampType
from anabranch.values.names import check_column_names, folded
from anabranch.values.nested import ArrayType, MapType, StructType, nullable
from anabranch.values.numbers import (
    BIGINT,
    DOUBLE,
    BigIntType,
    DecimalType,
    DoubleType,
    FloatType,
    IntType,
    SmallIntType,
    TinyIntType,
)
from anabranch.values.texts import bare_text, cell_text, json_text

__all__ = [
    "BIGINT",
    "BINARY",
    "BOOLEAN",
    "DATE",
    "DOUBLE",
    "INT",
    "STRING",
    "TIMESTAMP",
    "ArrayType",
    "Column",
    "DataType",
    "DecimalType",
    "MapType",
    "StructType",
    "nullable",
]

_TOKEN = re.compile(r"`[^`]*`|\([^)]*\)|'[^']*'|[<>,]|[^<>,`('\s]+|\s+|.", re.DOTALL)
_COLUMN = re.compile(
    r"\s*(`[^`]+`|[A-Za-z_]\w*)\s*:?\s+(.+?)(?:\s+NOT\s+NULL)?(?:\s+COMMENT\s+'[^']*')?\s*",
    re.IGNORECASE | re.DOTALL,
)
_MOST_LEVELS = 16
"""Types within one another."""
_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
_BOOLEANS = _TRUE | _FALSE


class BooleanType(DataType):
    """True and false."""

    name = "BOOLEAN"
    cql = "boolean"
    model_kind = "boolean"
    example = True
    json_types = (bool,)
    state_array = np.bool_
    expected = "true or false"
    arrow = pa.bool_()
    json_schema: ClassVar[JsonSchema] = {"type": "boolean"}

    def reads(self, value: object) -> bool:
        return bare_text(value).lower() in _BOOLEANS

    def key_text(self, value: object) -> str | None:
        return None if self.fault(value) is not None else str(bare_text(value).lower() in _TRUE).lower()

    @property
    def event_schema(self) -> JsonSchema:
        return {"type": ["string", "boolean", "number"], "description": f"A {self}"}

    def read(self, given: Any) -> Any:
        return None if given is None else bare_text(given).lower() in _TRUE

    def number_sql(self, argument: str) -> str:
        return f"CAST({argument} AS INT)"


class StringType(DataType):
    """Unicode texts."""

    name = "STRING"
    aliases: ClassVar[tuple[str, ...]] = ("VARCHAR", "CHAR", "TEXT")
    text = True
    cql = "text"
    model_kind = "text"
    example = "text"
    expected = "a text"
    arrow = pa.string()
    json_schema: ClassVar[JsonSchema] = {"type": "string"}
    event_schema: ClassVar[JsonSchema] = {"type": ["string", "number", "boolean", "object", "array"]}
    """A number, object or array is its JSON text, as when it is landed."""

    @classmethod
    def declared(cls, arguments: tuple[int, ...]) -> Self | None:  # noqa: ARG003 - VARCHAR(10) is a STRING
        return cls()

    def cell_sql(self, text: str) -> str:
        return text

    def reads(self, value: object) -> bool:
        return not any("\ud800" <= letter <= "\udfff" for letter in json_text(value))

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        # Of an event an object or array is kept as its JSON text.
        fault = super().fault(value if strict else json_text(value), strict=strict)
        return fault and ("the text is not Unicode" if isinstance(value, str) or not strict else fault)

    def key_text(self, value: object) -> str | None:
        return None if self.fault(value) is not None else json_text(value)

    def read(self, given: Any) -> Any:
        return None if given is None else cell_text(given)

    def to_model(self, value: Any) -> Any:
        return value

    def from_bytes(self, value: bytes) -> Any:
        return value.decode()


class BinaryType(StringType):
    """Bytes; in text and JSON the UTF-8 bytes of the text."""

    name = "BINARY"
    aliases: ClassVar[tuple[str, ...]] = ()
    in_keys = False
    categorical = False
    cql = "blob"
    model_kind = "binary"
    expected = "a text with a BINARY"
    arrow = pa.binary()

    @classmethod
    def declared(cls, arguments: tuple[int, ...]) -> Self | None:
        return None if arguments else cls()

    def cell_sql(self, text: str) -> str:
        return f"CAST({text} AS BINARY)"

    def read(self, given: Any) -> Any:
        return given if given is None or isinstance(given, bytes) else cell_text(given).encode()

    def identity_sql(self, argument: str, where: str | None) -> str:
        return counted(f"CAST(({argument}) AS BINARY)", where)

    def from_bytes(self, value: bytes) -> Any:
        return value


INT, BOOLEAN, STRING, BINARY = IntType(), BooleanType(), StringType(), BinaryType()
_TYPES: dict[str, type[DataType]] = {}


def register_type(kind: type[DataType]) -> None:
    """Make `kind` known to schemas by its name and aliases."""
    for name in (kind.name, *kind.aliases):
        _TYPES[name] = kind
    parse_schema.cache_clear()


def type_names() -> tuple[str, ...]:
    """Names of all types, aliases left out."""
    return tuple(dict.fromkeys(kind.name for kind in _TYPES.values()))


def parse_type(text: str) -> DataType:
    """The type written as `text`, such as ``DECIMAL(10,2)``; raises DeclarationError for other texts."""
    return _parse_type(text, 0)


def _parse_type(text: str, level: int) -> DataType:
    nested = re.fullmatch(r"\s*(STRUCT|ARRAY|MAP)\s*<(.*)>\s*", text, re.IGNORECASE | re.DOTALL)
    if nested is not None:
        return _parse_nested(nested[1].upper(), nested[2], text.strip(), level + 1)
    match = re.fullmatch(r"\s*([A-Za-z_]+)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*", text)
    kind = _TYPES.get(match[1].upper()) if match else None
    arguments = tuple(int(part) for part in match.groups()[1:] if part) if match else ()
    parsed = None if kind is None else kind.declared(arguments)
    if parsed is None:
        names = ", ".join(name for name in type_names() if name != "DECIMAL")
        raise DeclarationError(
            f"type {text.strip()!r} is not supported: use {names}, DECIMAL(p,s), STRUCT<name: TYPE>, "
            "ARRAY<TYPE> or MAP<STRING, TYPE>"
        )
    return parsed


def _parse_nested(word: str, inside: str, text: str, level: int) -> DataType:
    if level > _MOST_LEVELS:
        raise DeclarationError(f"type {text[:80]!r}... has more than {_MOST_LEVELS} levels: use fewer")
    parts = _split(inside)
    if word == "ARRAY" and len(parts) == 1:
        return ArrayType(_parse_type(parts[0], level))
    if word == "MAP" and len(parts) == 2:
        if parse_type(parts[0]) != STRING:
            raise DeclarationError(f"type {text!r}: the names of a map are STRING: write MAP<STRING, TYPE>")
        return MapType(_parse_type(parts[1], level))
    if word != "STRUCT":
        raise DeclarationError(f"type {text!r} is not understood: write ARRAY<TYPE> or MAP<STRING, TYPE>")
    fields: dict[str, tuple[str, DataType]] = {}
    for part in parts:
        match = re.fullmatch(r"\s*(`[A-Za-z_]\w*`|[A-Za-z_]\w*)(?:\s*:\s*|\s+)(.+)", part, re.DOTALL)
        if match is None:
            raise DeclarationError(
                f"type {text!r}: {part.strip()!r} is no field: write fields as 'name: TYPE' with letters, "
                "digits and underscores; give a value of another name a column of its own by `fields`"
            )
        name = match[1].strip("`")
        if folded(name) in fields:
            raise DeclarationError(f"type {text!r}: duplicate field {name!r}: upper and lower case are one")
        fields[folded(name)] = (name, _parse_type(match[2], level))
    return StructType(tuple(fields.values()))


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    parts, depth = [""], 0
    for piece in _TOKEN.findall(text):
        depth += {"<": 1, ">": -1}.get(piece, 0)
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


@lru_cache(maxsize=256)
def parse_schema(ddl: str) -> tuple[Column, ...]:
    """Columns of DDL such as ``"id STRING, at TIMESTAMP, price DECIMAL(10,2)"``, in order."""
    columns: list[Column] = []
    for part in _split(ddl):
        match = _COLUMN.fullmatch(part)
        if match is None:
            raise DeclarationError(
                f"schema part {part.strip()!r} is not understood: write columns as 'name TYPE', "
                "separated by commas, and a name with other characters than letters, digits and "
                "underscores in backticks"
            )
        name = match[1].strip("`")
        try:
            columns.append(Column(name, parse_type(match[2])))
        except DeclarationError as error:
            raise DeclarationError(f"column {name!r}: {error}") from error
    check_column_names(column.name for column in columns)
    return tuple(columns)


_NUMBERS = (TinyIntType, SmallIntType, IntType, BigIntType, FloatType, DoubleType)
for _kind in (*_NUMBERS, StringType, BooleanType, DateType, TimestampType, BinaryType, DecimalType):
    register_type(_kind)
