"""Conditions and choices of SQL expressions as safe Spark SQL."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from anabranch.values.sql.calls import call
from anabranch.values.sql.terms import Term, in_quotes
from anabranch.values.types import BOOLEAN, STRING

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler

Makers = tuple[tuple[tuple[type[exp.Expr], ...], Callable[[Any, Any], Term]], ...]
"""What makes the term of nodes of some classes, from the compiler and the node."""
_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "<=>",
    exp.NullSafeNEQ: "<=>",
}


def _not(compiler: "Compiler", node: exp.Not) -> Term:
    return Term(f"(NOT {compiler.condition(node.this).sql})", BOOLEAN)


def _logic(compiler: "Compiler", node: exp.Connector) -> Term:
    word = "AND" if isinstance(node, exp.And) else "OR"
    return Term(f"({compiler.condition(node.left).sql} {word} {compiler.condition(node.right).sql})", BOOLEAN)


def _is(compiler: "Compiler", node: exp.Is) -> Term:
    if isinstance(node.expression, exp.Null):
        return Term(f"({compiler.term(node.this).sql} IS NULL)", BOOLEAN)
    if not isinstance(node.expression, exp.Boolean):
        raise compiler.error(f"has {node.sql(dialect='spark')!r}, which is not supported in expressions")
    return Term(f"({compiler.condition(node.this).sql} IS {str(node.expression.this).upper()})", BOOLEAN)


def _comparison(compiler: "Compiler", node: exp.Binary) -> Term:
    left, right = compiler.compared([compiler.term(node.left), compiler.term(node.right)], "a comparison")
    sql = f"({left.sql} {_COMPARISONS[type(node)]} {right.sql})"
    return Term(f"(NOT {sql})" if isinstance(node, exp.NullSafeNEQ) else sql, BOOLEAN)


def _between(compiler: "Compiler", node: exp.Between) -> Term:
    bounds = [compiler.term(node.this), compiler.term(node.args["low"]), compiler.term(node.args["high"])]
    value, low, high = (term.sql for term in compiler.compared(bounds, "BETWEEN"))
    return Term(f"({value} BETWEEN {low} AND {high})", BOOLEAN)


def _in(compiler: "Compiler", node: exp.In) -> Term:
    if not node.expressions:
        raise compiler.error("has IN without a list of values")
    terms = [compiler.term(node.this), *map(compiler.term, node.expressions)]
    value, *listed = (term.sql for term in compiler.compared(terms, "IN"))
    return Term(f"({value} IN ({', '.join(listed)}))", BOOLEAN)


def _like(compiler: "Compiler", node: exp.Expr) -> Term:
    escape = node.expression.this if isinstance(node, exp.Escape) else "\\"
    like = node.this if isinstance(node, exp.Escape) else node
    pattern = compiler.term(like.expression)
    if not isinstance(pattern.literal, str) or len(escape) != 1:
        raise compiler.error("has a LIKE whose pattern is no text: write one, or use contains or startswith")
    if re.search(re.escape(escape) + rf"(?![%_{re.escape(escape)}])", pattern.literal):
        raise compiler.error(
            f"has a LIKE in whose pattern {escape} stands before another letter than % and _"
        )
    value = compiler.as_type(compiler.term(like.this), STRING, "LIKE").sql
    ignored = isinstance(like, exp.ILike)
    tokens = re.findall(rf"{re.escape(escape)}(.)|(%)|(_)|(.)", pattern.literal, re.DOTALL)
    if sum(bool(percent) for _, percent, _, _ in tokens[:-1]) > 1:
        subject = f"lower({value})" if ignored else value
        found = _in_turn(tokens).lower() if ignored else _in_turn(tokens)
        sql = f"({subject} RLIKE '{in_quotes(found)}')"
    else:
        sql = f"({value} {'ILIKE' if ignored else 'LIKE'} {pattern.sql} ESCAPE '{in_quotes(escape)}')"
    return Term(f"(NOT {sql})" if like.args.get("negate") else sql, BOOLEAN)


def _in_turn(tokens: list[tuple[str, str, str, str]]) -> str:
    """A regular expression for a LIKE that finds part after part: Spark's own tries all places of each."""
    parts = [""]
    for escaped, percent, one, letter in tokens:
        if percent:
            parts.append("")
        else:
            parts[-1] += "." if one else re.escape(escaped or letter)
    return rf"(?s)^{parts[0]}{''.join(f'(?>.*?{part})' for part in parts[1:-1])}.*{parts[-1]}\z"


def _matches(compiler: "Compiler", node: exp.RegexpLike) -> Term:
    return call(compiler, "rlike", [compiler.term(node.this), compiler.term(node.expression)])


def _case(compiler: "Compiler", node: exp.Case) -> Term:
    branches = node.args["ifs"]
    default = node.args.get("default")
    results = [compiler.term(branch.args["true"]) for branch in branches]
    results += [compiler.term(default)] if default is not None else []
    if node.this is None:
        tests = [compiler.condition(branch.this).sql for branch in branches]
    else:
        subject = compiler.term(node.this)
        pairs = [compiler.compared([subject, compiler.term(branch.this)], "CASE") for branch in branches]
        tests = [f"({left.sql} = {right.sql})" for left, right in pairs]
    return compiler.chosen(tests, results)


def _if(compiler: "Compiler", node: exp.If) -> Term:
    results = [compiler.term(node.args["true"])]
    results += [compiler.term(node.args["false"])] if node.args.get("false") is not None else []
    return compiler.chosen([compiler.condition(node.this).sql], results)


CONDITIONS: Makers = (
    ((exp.Not,), _not),
    ((exp.And, exp.Or), _logic),
    ((exp.Is,), _is),
    (tuple(_COMPARISONS), _comparison),
    ((exp.Between,), _between),
    ((exp.In,), _in),
    ((exp.Like, exp.ILike, exp.Escape), _like),
    ((exp.RegexpLike,), _matches),
    ((exp.Case,), _case),
    ((exp.If,), _if),
)
