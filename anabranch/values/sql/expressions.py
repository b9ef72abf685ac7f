"""SQL expressions of a declaration: parsed, typed and made safe without a JVM.

An expression is compiled once, when the declaration is constructed, to Spark SQL that no event can make fail:
where Spark's ANSI mode raises an error (division by zero, overflow, a cast, an index), the value is NULL, as
Spark's functions `try_divide`, `try_add`, `try_cast`, `get` give it. Batch, stream, training sets and tests
evaluate the compiled text. What Spark would refuse is refused here.
"""

import re
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.dialects.spark import Spark
from sqlglot.errors import SqlglotError
from sqlglot.parsers.spark import SparkParser

from anabranch.errors import DeclarationError
from anabranch.values.sql.operators import Compiler
from anabranch.values.sql.terms import in_years
from anabranch.values.types import Column, DataType


class Expression(NamedTuple):
    """A compiled expression: Spark SQL that never raises an error, and its type."""

    sql: str
    type: DataType


class _Parser(SparkParser):
    """Spark's parser, in which functions keep the names that they have in Spark."""

    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
        name: parser
        for name, parser in SparkParser.FUNCTION_PARSERS.items()
        if name in ("CAST", "TRY_CAST", "EXTRACT")
    }
    NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}


class _Dialect(Spark):
    Parser = _Parser


def parsed_expression(text: str, where: str) -> exp.Expr:
    """The text as one parsed expression; raises DeclarationError, beginning with `where`, for any other."""
    try:
        tokens = sqlglot.tokenize(text, dialect="spark")
        parsed = sqlglot.parse(text, dialect=_Dialect)
    except SqlglotError as error:
        raise DeclarationError(
            f"{where}: {text!r} is not a SQL expression: {str(error).splitlines()[0]}"
        ) from error
    except RecursionError as error:
        raise _too_deep(text, where) from error
    # The text becomes part of a longer one, which a comment would cut short.
    loose = any(token.comments or token.token_type == sqlglot.TokenType.SEMICOLON for token in tokens)
    if len(parsed) != 1 or parsed[0] is None or loose:
        raise DeclarationError(
            f"{where}: {text!r} is not one SQL expression: write one, without semicolon and comments"
        )
    for token in tokens:
        shown = text[token.start : token.end + 1]
        if token.token_type == sqlglot.TokenType.STRING and re.search(
            r"\\(?![\\'\"nrt%_])", shown.replace(r"\\", "")
        ):
            raise DeclarationError(
                f"{where}: in the text {shown} Spark would drop a backslash: write r{shown} or double it"
            )
    return parsed[0]


@lru_cache(maxsize=4096)
def columns_used(text: str) -> tuple[str, ...]:
    """Names of the columns that an expression reads, without duplicates."""
    parsed = parsed_expression(text, "expression")
    names = (column.parts[0].name for column in parsed.find_all(exp.Column))
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=4096)
def compiled(text: str, schema: tuple[Column, ...], where: str) -> Expression:
    """SQL expression `text` over `schema`, made safe.

    Raises DeclarationError, beginning with `where`, for bad syntax, an unknown column or function, types that
    do not fit, or an expression that is not evaluated row by row (aggregates, window functions, subqueries).
    """
    return compiled_node(parsed_expression(text, where), text, schema, where)


def compiled_node(parsed: exp.Expr, text: str, schema: tuple[Column, ...], where: str) -> Expression:
    """The parsed form of `text` as `compiled` gives it; errors show the text."""
    try:
        return _compiled(parsed, text, schema, where)
    except RecursionError as error:
        raise _too_deep(text, where) from error


def _too_deep(text: str, where: str) -> DeclarationError:
    return DeclarationError(
        f"{where}: {text[:200]!r} is nested too deeply: use fewer parentheses, calls and operators"
    )


def _compiled(parsed: exp.Expr, text: str, schema: tuple[Column, ...], where: str) -> Expression:
    compiler = Compiler(text, {column.name.lower(): column for column in schema}, where)
    compiler.check(parsed)
    if isinstance(parsed, exp.Column):
        found = compiler.known(parsed)
        if found.type is not None:
            return Expression(found.sql, found.type)
    term = compiler.term(parsed)
    if term.type is None:
        raise DeclarationError(f"{where}: {text!r} is always NULL: leave it out")
    return Expression((in_years(term) if term.type.time else term).sql, term.type)


def expression_type(text: str, schema: tuple[Column, ...], where: str) -> DataType:
    """The type of SQL expression `text` over `schema`; raises as `compiled` does."""
    return compiled(text, schema, where).type
