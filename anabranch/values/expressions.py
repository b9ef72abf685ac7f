"""SQL expressions of a declaration, parsed and typed without a JVM.

sqlglot parses and types them (Spark dialect). Spark types the same expressions again when it compiles them,
and a difference is an error, so a wrong guess here cannot change a result.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types

from anabranch.errors import DeclarationError
from anabranch.values.numbers import WholeType
from anabranch.values.types import BIGINT, Column, DataType, DecimalType, parse_type


def _parse(text: str, where: str) -> exp.Expr:
    try:
        parsed = sqlglot.parse(text, dialect="spark")
    except SqlglotError as error:
        raise DeclarationError(
            f"{where}: {text!r} is not a SQL expression: {str(error).splitlines()[0]}"
        ) from error
    # The text becomes part of a longer one, which a comment would cut short.
    loose = any(
        token.comments or token.token_type == sqlglot.TokenType.SEMICOLON
        for token in sqlglot.tokenize(text, dialect="spark")
    )
    if len(parsed) != 1 or parsed[0] is None or loose:
        raise DeclarationError(
            f"{where}: {text!r} is not one SQL expression: write one, without semicolon and comments"
        )
    return parsed[0]


@lru_cache(maxsize=4096)
def columns_used(text: str) -> tuple[str, ...]:
    """Names of the columns that an expression reads, without duplicates."""
    names = (column.name for column in _parse(text, "expression").find_all(exp.Column))
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=4096)
def expression_type(text: str, schema: tuple[Column, ...], where: str) -> DataType | None:
    """The type of SQL expression `text` over `schema`; None when only Spark can tell.

    Raises DeclarationError, beginning with `where`, for bad syntax, an unknown column, or an expression
    that is not evaluated row by row (aggregates, window functions, subqueries).
    """
    parsed = _parse(text, where)
    wrong = parsed.find(exp.AggFunc, exp.Window, exp.Query)
    unsteady = parsed.find(exp.Rand, exp.Randn, exp.CurrentTimestamp, exp.CurrentDate, exp.Uuid)
    if unsteady is not None:
        raise DeclarationError(f"{where}: {text!r} changes from run to run: use only the event's own columns")
    if wrong is not None or isinstance(parsed, exp.Command):
        raise DeclarationError(
            f"{where}: {text!r} is not a row expression: "
            "use columns, literals, operators and functions of one row"
        )
    known = {column.name.lower(): column for column in schema}
    for column in parsed.find_all(exp.Column):
        if column.name.lower() not in known or column.table:
            raise DeclarationError(
                f"{where}: no column {column.sql(dialect='spark')!r}: "
                f"the source has {', '.join(c.name for c in schema)}"
            )
    if isinstance(parsed, exp.Column):
        return known[parsed.name.lower()].type
    exact = _decimal(parsed, {name: column.type for name, column in known.items()})
    if exact is not None and exact.decimal:
        return exact
    for column in parsed.find_all(exp.Column):
        column.set("table", exp.to_identifier("t"))
        column.set("this", exp.to_identifier(known[column.name.lower()].name))
    wrapped = exp.select(parsed.as_("x")).from_("t")
    typed = annotate_types(wrapped, schema={"t": {c.name: c.type.spark for c in schema}}, dialect="spark")
    kind = typed.selects[0].type
    if kind is None or kind.this in (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL):
        return None
    try:
        inferred = parse_type(kind.sql(dialect="spark"))
    except DeclarationError:
        return None
    # Other decimal arithmetic (division, functions) follows rules of Spark's own and is taken as DOUBLE.
    return None if inferred.decimal and not isinstance(parsed, exp.Cast) else inferred


class _Digits(NamedTuple):
    """A whole number or DECIMAL of `precision` digits, `scale` of them behind the point."""

    integral: bool
    precision: int
    scale: int = 0


_WHOLE = {8: 3, 16: 5, 32: 10, 64: 20}
"""Digits of a whole number by its bits."""


def _decimal(node: exp.Expr, types: Mapping[str, DataType]) -> DataType | None:
    """The type of an expression of exact numbers; None for any other expression."""
    digits = _digits(node, types)
    if digits is None:
        return None
    return BIGINT if digits.integral else DecimalType(digits.precision, digits.scale)


def _digits(node: exp.Expr, types: Mapping[str, DataType]) -> _Digits | None:
    """Digits of sums, differences and products of exact numbers; None for any other expression.

    Source: Spark's DecimalPrecision. A result of more than 38 digits loses scale in Spark, so it has no
    exact type.
    """
    if isinstance(node, (exp.Paren, exp.Neg)):
        return _digits(node.this, types)
    if isinstance(node, exp.Column):
        kind = types[node.name.lower()]
        if isinstance(kind, DecimalType):
            return _Digits(False, kind.precision, kind.scale)
        return _Digits(True, _WHOLE[kind.bits]) if isinstance(kind, WholeType) else None
    if isinstance(node, exp.Literal):
        parts = re.fullmatch(r"(\d+)(?:\.(\d+))?", "" if node.is_string else node.this)
        if parts is None:
            return None
        shown = len(parts[1].lstrip("0") + (parts[2] or "")) or 1
        # A whole literal is an INT that brings no more digits than it shows.
        return _Digits(parts[2] is None, shown, len(parts[2] or ""))
    if not isinstance(node, (exp.Mul, exp.Add, exp.Sub)):
        return None
    left, right = _digits(node.left, types), _digits(node.right, types)
    if left is None or right is None:
        return None
    if left.integral and right.integral:
        return _Digits(True, _WHOLE[64])
    (_, p1, s1), (_, p2, s2) = left, right
    scale = s1 + s2 if isinstance(node, exp.Mul) else max(s1, s2)
    precision = p1 + p2 + 1 if isinstance(node, exp.Mul) else max(p1 - s1, p2 - s2) + scale + 1
    return _Digits(False, precision, scale) if precision <= 38 else None
