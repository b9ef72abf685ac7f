"""Arguments of functions in SQL expressions: checked and converted to what the function takes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from anabranch.values.sql.functions import LONGEST, is_date_pattern
from anabranch.values.sql.patterns import most_letters, pattern_fault
from anabranch.values.sql.terms import Term, convert
from anabranch.values.types import BIGINT, BINARY, STRING, ArrayType, DataType, parse_type

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler

Handler = Callable[["Compiler", str, list[Term]], Term]
"""Makes the term of a call of a function by its name, with arguments."""
Handlers = dict[str, tuple[int, int, Handler]]
"""By name: the least and the largest number of arguments, and what makes the call."""


def argument(compiler: "Compiler", name: str, kind: str, term: Term) -> Term:
    """The term as the parameter `kind` of function `name` takes it (functions.py); raises for another."""
    if kind in "#'~@":
        check_literal(compiler, name, kind, term)
        return term
    if kind == "ARRAY":
        if not isinstance(term.type, ArrayType):
            raise compiler.error(f"calls {name} with {term.type}, not with an array")
        return term
    if term.type is not None and term.type.nested:
        raise compiler.error(f"calls {name} with {term.type}, which it does not take")
    if kind == "ANY":
        return term
    if kind == "BYTES":
        return term if term.type == BINARY else convert(term, STRING)
    if kind == "STRING" and term.type == BINARY:
        raise compiler.error(f"calls {name} with BINARY: convert it with CAST")
    wanted = BIGINT if kind == "WHOLE" else parse_type(kind)
    if wanted.integral and term.type is not None and not term.type.integral:
        raise compiler.error(f"calls {name} with {term.type}, not with a whole number")
    if wanted.numeric and term.type is not None and not (term.type.numeric or term.type == STRING):
        raise compiler.error(f"calls {name} with {term.type}, not with a number")
    if wanted.time and term.type is not None and not (term.type.time or term.type == STRING):
        raise compiler.error(f"calls {name} with {term.type}, not with a time")
    return compiler.as_type(term, wanted, name)


def check_literal(compiler: "Compiler", name: str, kind: str, term: Term) -> None:
    """Raise unless the term is a literal that the parameter `kind` of function `name` takes."""
    value = term.literal
    if kind == "#":
        if not isinstance(value, int) or abs(value) > LONGEST:
            raise compiler.error(
                f"calls {name} with {term.sql}: write a whole number up to {LONGEST:,} in its place"
            )
        return
    if not isinstance(value, str):
        raise compiler.error(f"calls {name} with {term.sql}: write a text in quotes in its place")
    fault = pattern_fault(value) if kind == "~" else None
    if fault is not None:
        raise compiler.error(f"has the regular expression {value!r}, which {fault}")
    if kind == "@" and not is_date_pattern(value):
        raise compiler.error(f"has {value!r}, which is not a pattern of dates such as 'yyyy-MM-dd HH:mm'")


def searched(text: str, pattern: Term, most: int = LONGEST) -> str:
    """SQL of a text for the regular expression: NULL when it has more letters than may be searched."""
    return f"CASE WHEN length({text}) <= {min(most, most_letters(str(pattern.literal)))} THEN {text} END"


def one_of(compiler: "Compiler", term: Term, names: list[str]) -> str:
    """SQL of a text that is one of `names`; raises for another."""
    if str(term.literal).upper() not in names:
        raise compiler.error(f"has {term.sql} where one of {', '.join(names)} stands in quotes")
    return term.sql


def array_of(compiler: "Compiler", name: str, terms: list[Term]) -> tuple[Term, DataType]:
    """The first argument, which must be an array, and the type of its items."""
    if not isinstance(terms[0].type, ArrayType):
        raise compiler.error(f"calls {name} with {terms[0].type}, not with an array")
    return terms[0], terms[0].type.inner


def single_items(compiler: "Compiler", name: str, inner: DataType) -> None:
    """Raise unless the items of an array are single values."""
    if inner.nested:
        raise compiler.error(f"calls {name} with an array of {inner}, not of single values")
