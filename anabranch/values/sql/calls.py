"""Calls of functions in SQL expressions as safe Spark SQL."""

import difflib
import re
from typing import TYPE_CHECKING

from anabranch.values.sql.arguments import Handlers, argument, array_of, searched, single_items
from anabranch.values.sql.functions import SIGNATURES, Signature
from anabranch.values.sql.nested_calls import NESTED_CALLS
from anabranch.values.sql.number_calls import NUMBER_CALLS
from anabranch.values.sql.terms import Term
from anabranch.values.sql.text_calls import TEXT_CALLS
from anabranch.values.sql.time_calls import TIME_CALLS
from anabranch.values.types import ArrayType, DataType, parse_type

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler

_HANDLERS: Handlers = {**NUMBER_CALLS, **TEXT_CALLS, **TIME_CALLS, **NESTED_CALLS}


def call(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    """The call of a function by its name; raises for an unknown one and for arguments that do not fit."""
    if name in _HANDLERS:
        least, most, handler = _HANDLERS[name]
        if not least <= len(terms) <= most:
            raise compiler.error(f"calls {name} with {len(terms)} arguments")
        return handler(compiler, name, terms)
    if name not in SIGNATURES:
        near = difflib.get_close_matches(name, known_functions(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "docs/expressions.md lists those that are"
        raise compiler.error(f"calls {name}, which is not a supported function: {hint}")
    return _signed(compiler, name, SIGNATURES[name], terms)


def known_functions() -> list[str]:
    """Names of all functions that expressions may call, without their aliases."""
    return sorted({*SIGNATURES, *_HANDLERS})


def _signed(compiler: "Compiler", name: str, signature: Signature, terms: list[Term]) -> Term:
    kinds = list(signature.parameters)
    if signature.repeats:
        kinds += kinds[-1:] * (len(terms) - len(kinds))
    if not signature.required <= len(terms) <= len(kinds):
        raise compiler.error(f"calls {name} with {len(terms)} arguments, not {len(signature.parameters)}")
    sql = [
        argument(compiler, name, kind, term).sql
        for kind, term in zip(kinds[: len(terms)], terms, strict=True)
    ]
    if "ARRAY" in kinds and name == "array_join":
        single_items(compiler, name, array_of(compiler, name, terms)[1])
    if "~" in kinds:
        sql[0] = searched(sql[0], terms[1])
    given = {"": ", ".join(sql), **{str(position): one for position, one in enumerate(sql)}}
    text = re.sub(r"\{(\d*)\}", lambda found: given.get(found[1], "''"), signature.template)
    return Term(text, _type(signature.result))


def _type(text: str) -> DataType:
    return ArrayType(parse_type(text[6:-1])) if text.startswith("ARRAY<") else parse_type(text)
