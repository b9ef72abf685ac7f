"""Calls of functions that choose between values, and of functions of numbers."""

from typing import TYPE_CHECKING

from anabranch.values.numbers import DecimalType, WholeType
from anabranch.values.sql.arguments import Handler, Handlers, argument
from anabranch.values.sql.terms import Term, common_type, convert, exact, rounded
from anabranch.values.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    INT,
)

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler


def _together(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    joined = compiler.compared if name in ("greatest", "least") else compiler.together
    found = joined(terms, name)
    return Term(f"{name}({', '.join(term.sql for term in found)})", found[0].type)


def _nullif(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = compiler.compared(terms, "nullif")
    return Term(f"CASE WHEN {left.sql} = {right.sql} THEN NULL ELSE {terms[0].sql} END", terms[0].type)


def _nvl2(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    return compiler.chosen([f"{terms[0].sql} IS NOT NULL"], terms[1:])


def _nanvl(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = (compiler.as_type(term, DOUBLE, "nanvl") for term in terms)
    return Term(f"nanvl({left.sql}, {right.sql})", DOUBLE)


def _equal_null(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = compiler.compared(terms, "equal_null")
    return Term(f"({left.sql} <=> {right.sql})", BOOLEAN)


def _signed_number(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    negated = compiler.negated(terms[0])
    return negated if name == "negative" else terms[0]


def _or_zero(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    zero = Term("0", INT, 0)
    return (
        _together(compiler, "coalesce", [terms[0], zero])
        if name == "zeroifnull"
        else _nullif(compiler, name, [terms[0], zero])
    )


def _arithmetic(operator: str) -> Handler:
    return lambda compiler, _name, terms: compiler.calculated(operator, *terms)


def _pmod(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    kind = common_type(terms[0].type, terms[1].type)
    if kind is None or not kind.numeric:
        raise compiler.error(f"calls {name} with {terms[0].type} and {terms[1].type}, not with two numbers")
    kind = BIGINT if kind.integral else DOUBLE
    left, right = convert(terms[0], kind), convert(terms[1], kind)
    return Term(f"pmod({left.sql}, nullif({right.sql}, {convert(Term('0', INT, 0), kind).sql}))", kind)


def _size(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    if term.type is None or not term.type.numeric:
        raise compiler.error(f"calls {name} with {term.type}, not with a number")
    if term.type.floating:
        return Term(f"abs({term.sql})", term.type)
    value = convert(term, BIGINT) if isinstance(term.type, WholeType) else term
    return Term(
        f"CASE WHEN {value.sql} < 0 THEN {compiler.negated(value).sql} ELSE {value.sql} END", value.type
    )


def _edge(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    if term.type is not None and term.type.integral:
        return convert(term, BIGINT)
    if isinstance(term.type, DecimalType):
        scale = term.type.scale
        kind = DecimalType(min(term.type.precision - scale + 1, 38)) if scale else term.type
        return Term(f"{name}({term.sql})", kind)
    number = argument(compiler, name, "DOUBLE", term).sql
    return Term(f"{name}(CASE WHEN abs({number}) < 9.2E18D THEN {number} END)", BIGINT)


def _round(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term, places = terms[0], terms[1].literal if len(terms) > 1 else 0
    if not isinstance(places, int) or abs(places) > 38:
        raise compiler.error(f"calls {name} with {terms[1].sql}: write a whole number from -38 to 38")
    if term.type is not None and term.type.floating:
        return Term(f"{name}({term.sql}, {places})", term.type)
    decimal = exact(term)
    if decimal is None:
        return Term(f"{name}({argument(compiler, name, 'DOUBLE', term).sql}, {places})", DOUBLE)
    whole = isinstance(term.type, WholeType)
    if whole and places >= 0:
        return term
    kind = rounded(decimal, places)
    if kind is None:
        raise compiler.error(f"rounds {term.type}, which gives more than 38 digits: cast it to fewer")
    found = Term(f"{name}({convert(term, decimal).sql}, {places})", kind)
    return convert(found, BIGINT) if whole else found


_MANY = 1000
NUMBER_CALLS: Handlers = {
    **dict.fromkeys(("coalesce", "greatest", "least"), (2, _MANY, _together)),
    "nullif": (2, 2, _nullif),
    "nvl2": (3, 3, _nvl2),
    "equal_null": (2, 2, _equal_null),
    **dict.fromkeys(("negative", "positive"), (1, 1, _signed_number)),
    **dict.fromkeys(("zeroifnull", "nullifzero"), (1, 1, _or_zero)),
    "nanvl": (2, 2, _nanvl),
    "try_add": (2, 2, _arithmetic("+")),
    "try_subtract": (2, 2, _arithmetic("-")),
    "try_multiply": (2, 2, _arithmetic("*")),
    "mod": (2, 2, _arithmetic("%")),
    "try_divide": (2, 2, lambda compiler, _name, terms: compiler.quotient(*terms)),
    "pmod": (2, 2, _pmod),
    "abs": (1, 1, _size),
    **dict.fromkeys(("ceil", "floor"), (1, 1, _edge)),
    **dict.fromkeys(("round", "bround"), (1, 2, _round)),
}
