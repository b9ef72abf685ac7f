"""Schemas and SQL expressions of a declaration, understood without a JVM: names, types and which columns are used.

Parsing and typing are sqlglot's (Spark dialect). Spark itself types the same expressions again when they are
compiled, and a difference is an error there, so a guess here can never change a result.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from anabranch.errors import DeclarationError

_ALIASES = {"INTEGER": "INT", "LONG": "BIGINT", "SHORT": "SMALLINT", "BYTE": "TINYINT", "REAL": "FLOAT", "DEC": "DECIMAL",
            "NUMERIC": "DECIMAL", "TIMESTAMP_LTZ": "TIMESTAMP", "VARCHAR": "STRING", "CHAR": "STRING", "TEXT": "STRING"}  # fmt: skip


INTEGERS = ("TINYINT", "SMALLINT", "INT", "BIGINT")


FLOATS = ("FLOAT", "DOUBLE")


_SIMPLE = (*INTEGERS, *FLOATS, "STRING", "BOOLEAN", "DATE", "TIMESTAMP", "BINARY")


@dataclass(frozen=True)
class DataType:
    """A Spark SQL type by name; `precision` and `scale` only for DECIMAL."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})" if self.name == "DECIMAL" else self.name

    @property
    def inner(self) -> "DataType":
        """What an ARRAY holds; any other type is its own."""
        return parse_type(self.name[6:-1]) if self.array else self

    @property
    def array(self) -> bool:
        """A list of values (of aggregates such as LastK; sources have none)."""
        return self.name.startswith("ARRAY<")

    @property
    def integral(self) -> bool:
        """Whole numbers of up to 64 bits."""
        return self.name in INTEGERS

    @property
    def wide(self) -> bool:
        """A DECIMAL of more digits than 64 bits hold."""
        return self.name == "DECIMAL" and self.precision > 18

    @property
    def numeric(self) -> bool:
        """Anything that can be added."""
        return self.integral or self.name in FLOATS or self.name == "DECIMAL"

    @property
    def text(self) -> bool:
        """Values of no fixed length."""
        return self.name in ("STRING", "BINARY")


BIGINT, DOUBLE, STRING, BOOLEAN = (
    DataType("BIGINT"),
    DataType("DOUBLE"),
    DataType("STRING"),
    DataType("BOOLEAN"),
)


@dataclass(frozen=True)
class Column:
    """One column of a schema."""

    name: str
    type: DataType


def parse_type(text: str) -> DataType:
    """The type written as `text`, for example ``DECIMAL(10,2)``; raises DeclarationError for nested or unknown types."""
    match = re.fullmatch(r"\s*([A-Za-z_]+)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*", text)
    name = _ALIASES.get(match[1].upper(), match[1].upper()) if match else ""
    if match and name == "DECIMAL":
        precision, scale = int(match[2] or 10), int(match[3] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return DataType("DECIMAL", precision, scale)
    elif match and name in _SIMPLE and (match[2] is None or name == "STRING"):
        return DataType(name)
    raise DeclarationError(
        f"type {text.strip()!r} is not supported: use {', '.join(_SIMPLE)} or DECIMAL(p,s)"
    )


@lru_cache(maxsize=256)
def parse_schema(ddl: str) -> tuple[Column, ...]:
    """Columns of DDL such as ``"id STRING, at TIMESTAMP, price DECIMAL(10,2)"``, in order."""
    columns: list[Column] = []
    for part in re.split(r",(?![^(]*\))", ddl):
        match = re.fullmatch(
            r"\s*(`[^`]+`|[A-Za-z_]\w*)\s*:?\s+(.+?)(?:\s+NOT\s+NULL)?(?:\s+COMMENT\s+'[^']*')?\s*",
            part,
            re.IGNORECASE | re.DOTALL,
        )
        if match is None:
            raise DeclarationError(
                f"schema part {part.strip()!r} is not understood: write columns as 'name TYPE' with commas between them"
            )
        columns.append(Column(match[1].strip("`"), parse_type(match[2])))
    names = [column.name.lower() for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(
                f"column {name!r} stands twice in the schema: give each column its own name"
            )
        if name.startswith("_"):
            raise DeclarationError(
                f"column {name!r} begins with an underscore, which is kept for the lake's own columns: rename it"
            )
    return tuple(columns)
