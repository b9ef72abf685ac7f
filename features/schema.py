"""Schemas and SQL expressions of a declaration, understood without a JVM: names, types and which columns are used.

Parsing and typing are sqlglot's (Spark dialect). Spark itself types the same expressions again when they are
compiled, and a difference is an error there, so a guess here can never change a result.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types

from features.errors import DeclarationError

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


BIGINT, DOUBLE, STRING, BOOLEAN = DataType("BIGINT"), DataType("DOUBLE"), DataType("STRING"), DataType("BOOLEAN")


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
    raise DeclarationError(f"type {text.strip()!r} is not supported: use {', '.join(_SIMPLE)} or DECIMAL(p,s)")


@lru_cache(maxsize=256)
def parse_schema(ddl: str) -> tuple[Column, ...]:
    """Columns of DDL such as ``"id STRING, at TIMESTAMP, price DECIMAL(10,2)"``, in order."""
    columns: list[Column] = []
    for part in re.split(r",(?![^(]*\))", ddl):
        match = re.fullmatch(r"\s*(`[^`]+`|[A-Za-z_]\w*)\s*:?\s+(.+?)(?:\s+NOT\s+NULL)?(?:\s+COMMENT\s+'[^']*')?\s*", part, re.IGNORECASE | re.DOTALL)
        if match is None:
            raise DeclarationError(f"schema part {part.strip()!r} is not understood: write columns as 'name TYPE' with commas between them")
        columns.append(Column(match[1].strip("`"), parse_type(match[2])))
    names = [column.name.lower() for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(f"column {name!r} stands twice in the schema: give each column its own name")
        if name.startswith("_"):
            raise DeclarationError(f"column {name!r} begins with an underscore, which is kept for the lake's own columns: rename it")
    return tuple(columns)


def _parse(text: str, where: str) -> exp.Expr:
    try:
        parsed = sqlglot.parse(text, dialect="spark")
    except SqlglotError as error:
        raise DeclarationError(f"{where}: {text!r} is not a SQL expression: {str(error).splitlines()[0]}") from error
    # The text becomes part of a longer one, where a comment would swallow the rest.
    loose = any(token.comments or token.token_type == sqlglot.TokenType.SEMICOLON for token in sqlglot.tokenize(text, dialect="spark"))
    if len(parsed) != 1 or parsed[0] is None or loose:
        raise DeclarationError(f"{where}: {text!r} is not one SQL expression: write one, without semicolon and comments")
    return parsed[0]


@lru_cache(maxsize=4096)
def columns_used(text: str) -> tuple[str, ...]:
    """Names of the columns that an expression reads, each once."""
    found = (column.name for column in _parse(text, "expression").find_all(exp.Column))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4096)
def expression_type(text: str, schema: tuple[Column, ...], where: str) -> DataType | None:
    """The type of SQL expression `text` over `schema`; None when it cannot be told without Spark.

    Raises DeclarationError, beginning with `where`, for bad syntax, an unknown column, or an expression that is not
    row by row (aggregates, window functions, subqueries).
    """
    parsed = _parse(text, where)
    wrong = parsed.find(exp.AggFunc, exp.Window, exp.Query)
    unsteady = parsed.find(exp.Rand, exp.Randn, exp.CurrentTimestamp, exp.CurrentDate, exp.Uuid)
    if unsteady is not None:
        raise DeclarationError(f"{where}: {text!r} changes from run to run: a feature may read only the event's own columns")
    if wrong is not None or isinstance(parsed, exp.Command):
        raise DeclarationError(f"{where}: {text!r} is not a row expression: use columns, literals, operators and functions of one row")
    known = {column.name.lower(): column for column in schema}
    for column in parsed.find_all(exp.Column):
        if column.name.lower() not in known or column.table:
            raise DeclarationError(f"{where}: no column {column.sql(dialect='spark')!r}: the source has {', '.join(c.name for c in schema)}")
    if isinstance(parsed, exp.Column):
        return known[parsed.name.lower()].type
    exact = _decimal(parsed, {name: column.type for name, column in known.items()})
    if exact is not None and exact.name == "DECIMAL":
        return exact
    for column in parsed.find_all(exp.Column):
        column.set("table", exp.to_identifier("t"))
        column.set("this", exp.to_identifier(known[column.name.lower()].name))
    wrapped = exp.select(parsed.as_("x")).from_("t")
    typed = annotate_types(wrapped, schema={"t": {c.name: str(c.type) for c in schema}}, dialect="spark")
    kind = typed.selects[0].type
    if kind is None or kind.this in (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL):
        return None
    try:
        found = parse_type(kind.sql(dialect="spark"))
    except DeclarationError:
        return None
    # Other decimal arithmetic (division, functions) has rules of Spark's own, and is taken as DOUBLE.
    return None if found.name == "DECIMAL" and not isinstance(parsed, exp.Cast) else found


_DIGITS = {"TINYINT": 3, "SMALLINT": 5, "INT": 10, "BIGINT": 20}


def _decimal(node: exp.Expr, types: Mapping[str, DataType]) -> DataType | None:
    """The type of sums, differences and products of whole numbers and DECIMALs by Spark's rules; None for anything else.

    Source: Spark's DecimalPrecision. What would pass 38 digits loses scale there, so it has no exact type here.
    """
    if isinstance(node, (exp.Paren, exp.Neg)):
        return _decimal(node.this, types)
    if isinstance(node, exp.Column):
        found = types[node.name.lower()]
        return found if found.integral or found.name == "DECIMAL" else None
    if isinstance(node, exp.Literal):
        digits = re.fullmatch(r"(\d+)(?:\.(\d+))?", "" if node.is_string else node.this)
        if digits is None:
            return None
        shown = len(digits[1].lstrip("0") + (digits[2] or "")) or 1
        # A whole literal is an INT that brings no more digits than it shows.
        return DataType("INT", shown) if digits[2] is None else DataType("DECIMAL", shown, len(digits[2]))
    if not isinstance(node, (exp.Mul, exp.Add, exp.Sub)):
        return None
    left, right = _decimal(node.left, types), _decimal(node.right, types)
    if left is None or right is None:
        return None
    if left.integral and right.integral:
        return BIGINT
    (p1, s1), (p2, s2) = ((t.precision or _DIGITS[t.name], t.scale) for t in (left, right))
    scale = s1 + s2 if isinstance(node, exp.Mul) else max(s1, s2)
    precision = p1 + p2 + 1 if isinstance(node, exp.Mul) else max(p1 - s1, p2 - s2) + scale + 1
    return DataType("DECIMAL", precision, scale) if precision <= 38 else None
