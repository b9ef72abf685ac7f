"""Calls of functions of texts."""

from typing import TYPE_CHECKING

from anabranch.values.sql.arguments import Handlers, argument, check_literal, searched
from anabranch.values.sql.functions import LARGEST
from anabranch.values.sql.patterns import pattern_fault, sought
from anabranch.values.sql.terms import Term, convert, text_term
from anabranch.values.types import (
    BIGINT,
    BINARY,
    BOOLEAN,
    STRING,
    ArrayType,
)

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler


def _concat(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    if all(term.type == BINARY for term in terms):
        return Term(f"concat({', '.join(term.sql for term in terms)})", BINARY)
    texts = [argument(compiler, name, "STRING", term).sql for term in terms]
    return Term(f"concat({', '.join(texts)})", STRING)


def _hex(_compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    whole = term.type is not None and term.type.integral
    kept = term if term.type == BINARY else convert(term, BIGINT if whole else STRING)
    return Term(f"{name}({kept.sql})", STRING)


def _matches(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    subject = argument(compiler, "rlike", "STRING", terms[0])
    check_literal(compiler, "rlike", "~", terms[1])
    pattern = text_term(sought(str(terms[1].literal)))
    return Term(f"({searched(subject.sql, pattern)} RLIKE {pattern.sql})", BOOLEAN)


def _groups(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    text = argument(compiler, name, "STRING", terms[0])
    check_literal(compiler, name, "~", terms[1])
    group = terms[2].literal if len(terms) > 2 else 1
    if not isinstance(group, int) or group < 0:
        raise compiler.error(f"calls {name} with {terms[2].sql}: write the number of a group in its place")
    fault = pattern_fault(str(terms[1].literal), group)
    if fault is not None:
        raise compiler.error(f"has the regular expression {terms[1].literal!r}, which {fault}")
    kind = STRING if name == "regexp_extract" else ArrayType(STRING)
    return Term(f"{name}({searched(text.sql, terms[1])}, {terms[1].sql}, {group})", kind)


def _replaced(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    text = argument(compiler, name, "STRING", terms[0])
    check_literal(compiler, name, "~", terms[1])
    check_literal(compiler, name, "'", terms[2])
    by = str(terms[2].literal)
    used = [int(one) if one.isdigit() else -1 for one in _after_marks(by)]
    if -1 in used or pattern_fault(str(terms[1].literal), max(used, default=0)) is not None:
        raise compiler.error(f"replaces by {by!r}, which names a group that the regular expression has not")
    short = searched(text.sql, terms[1], LARGEST // (len(by) + 1))
    return Term(f"{name}({short}, {terms[1].sql}, {terms[2].sql})", STRING)


def _after_marks(text: str) -> list[str]:
    """What follows each `$` that is not escaped; `x` after a backslash at the end."""
    out, place = [], 0
    while place < len(text):
        if text[place] == "\\":
            out += [] if place + 1 < len(text) else ["x"]
            place += 1
        elif text[place] == "$":
            out.append(text[place + 1 : place + 2] or "x")
        place += 1
    return out


_MANY = 1000
TEXT_CALLS: Handlers = {
    "concat": (1, _MANY, _concat),
    "hex": (1, 1, _hex),
    "rlike": (2, 2, _matches),
    **dict.fromkeys(("regexp_extract", "regexp_extract_all"), (2, 3, _groups)),
    "regexp_replace": (3, 3, _replaced),
}
