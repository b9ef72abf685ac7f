"""Just enough of Spark's SQL, a row at a time in plain Python, to evaluate the elements of states."""

import hashlib
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp

from anabranch.values.texts import json_text

Row = Mapping[str, Any]
Evaluate = Callable[[Row], Any]
_BINARY: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.LT: lambda a, b: _number(a) < _number(b),
    exp.GTE: lambda a, b: _number(a) >= _number(b),
    exp.EQ: lambda a, b: a == b,
    exp.GT: lambda a, b: _number(a) > _number(b),
    exp.Mul: lambda a, b: a * b,
    exp.Sub: lambda a, b: a - b,
    exp.Add: lambda a, b: a + b,
    exp.Div: lambda a, b: a / b,
    exp.BitwiseAnd: lambda a, b: a & b,
    exp.BitwiseRightShift: lambda a, b: a >> b,
    exp.IntDiv: lambda a, b: int(a // b),  # of what divides without a rest
}


_TRIED: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.SafeAdd: lambda a, b: a + b,
    exp.SafeSubtract: lambda a, b: a - b,
    exp.SafeMultiply: lambda a, b: a * b,
    exp.SafeDivide: lambda a, b: a / b if b else None,
}
"""The `try_` functions: NULL for a zero divisor, and for a whole number beyond 64 bits."""


def _tried(value: Any) -> Any:
    return None if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else value


def _number(value: Any) -> Any:
    """Spark sorts NaN above every number."""
    return math.inf if isinstance(value, float) and math.isnan(value) else value


def _text(value: Any) -> str:
    return json_text(value) if isinstance(value, bool | float) else str(value)


@lru_cache(maxsize=4096)
def compile_sql(text: str) -> Evaluate:
    """A function from a row to the value of the expression; None is NULL."""
    return _compile(sqlglot.parse_one(text, dialect="spark"))


def _compile(node: exp.Expr) -> Evaluate:
    if isinstance(node, exp.Paren):
        return _compile(node.this)
    if isinstance(node, exp.Case):
        return _case(node)
    if isinstance(node, exp.Cast):
        return _cast(node)
    found = _leaf(node) or _logic(node) or _halves(node) or _arithmetic(node) or _of_texts(node)
    if found is None:
        raise NotImplementedError(
            f"{type(node).__name__}: {node.sql(dialect='spark')}: "
            "teach anabranch/testing/elements.py this expression"
        )
    return found


def _leaf(node: exp.Expr) -> Evaluate | None:
    if isinstance(node, exp.Column):
        name = node.name
        return lambda row: row[name]
    if isinstance(node, exp.Literal):
        constant = (
            node.this if node.is_string else int(node.this) if node.this.isdigit() else float(node.this)
        )
        return lambda _: constant
    if isinstance(node, exp.Null):
        return lambda _: None
    if isinstance(node, exp.Boolean):
        truth = bool(node.this)
        return lambda _: truth
    if isinstance(node, exp.HexString):
        blob = bytes.fromhex(node.this)
        return lambda _: blob
    return None


def _logic(node: exp.Expr) -> Evaluate | None:
    if isinstance(node, exp.And):
        left, right = _compile(node.left), _compile(node.right)
        return lambda row: bool(left(row)) and bool(right(row))  # NULL is as good as false under CASE
    if isinstance(node, exp.Not):
        denied = _compile(node.this)
        return lambda row: not denied(row)
    if isinstance(node, exp.Is):
        inner, wanted = _compile(node.this), _compile(node.expression)({})
        return lambda row: inner(row) is wanted
    if isinstance(node, exp.In):
        sought, among = _compile(node.this), [_compile(one) for one in node.expressions]
        return lambda row: None if (v := sought(row)) is None else v in [one(row) for one in among]
    return None


def _halves(node: exp.Expr) -> Evaluate | None:
    """What takes a DECIMAL of many digits apart."""
    if isinstance(node, exp.Floor):
        lowered = _compile(node.this)
        return lambda row: None if (value := lowered(row)) is None else Decimal(math.floor(value))
    if isinstance(node, exp.Anonymous) and node.name.lower() == "pmod":
        above, below = (_compile(part) for part in node.expressions)
        return lambda row: None if (value := above(row)) is None else Decimal(int(value) % int(below(row)))
    return None


def _arithmetic(node: exp.Expr) -> Evaluate | None:
    if isinstance(node, (exp.Abs, exp.Neg)):
        inner, sign = _compile(node.this), isinstance(node, exp.Neg)
        return lambda row: None if (value := inner(row)) is None else -value if sign else abs(value)
    if isinstance(node, exp.Nanvl):
        first, second = _compile(node.this), _compile(node.expression)
        return lambda row: second(row) if isinstance(v := first(row), float) and math.isnan(v) else v
    if isinstance(node, exp.UnixMicros | exp.UnixDate):  # rows hold times as these numbers
        return _compile(node.this)
    if isinstance(node, exp.Anonymous) and node.name.lower() == "shiftright":
        shifted, bits = (_compile(part) for part in node.expressions)
        return lambda row: None if (value := shifted(row)) is None else value >> bits(row)
    if type(node) in _TRIED:
        attempt, one, two = _TRIED[type(node)], _compile(node.this), _compile(node.expression)
        return lambda row: (
            None if (a := one(row)) is None or (b := two(row)) is None else _tried(attempt(a, b))
        )
    if isinstance(node, exp.Binary) and type(node) in _BINARY:
        operation, left, right = _BINARY[type(node)], _compile(node.left), _compile(node.right)
        return lambda row: None if (a := left(row)) is None or (b := right(row)) is None else operation(a, b)
    return None


def _of_texts(node: exp.Expr) -> Evaluate | None:
    if isinstance(node, exp.Concat):
        parts = [_compile(part) for part in node.expressions]
        return lambda row: (
            None if None in (values := [part(row) for part in parts]) else values[0][:0].join(values)
        )
    if isinstance(node, exp.Left):
        whole, letters = _compile(node.this), _compile(node.expression)
        return lambda row: None if (value := whole(row)) is None else value[: letters(row)]
    if isinstance(node, exp.Length):
        counted = _compile(node.this)
        return lambda row: None if (value := counted(row)) is None else len(value)
    if isinstance(node, exp.SHA2):  # of a text
        text = _compile(node.this)
        return lambda row: None if (v := text(row)) is None else hashlib.sha256(v.encode()).hexdigest()
    if isinstance(node, exp.Unhex):  # of a digest
        hashed = _compile(node.this.this)
        return lambda row: None if (value := hashed(row)) is None else hashlib.sha256(value).digest()
    if isinstance(node, exp.Anonymous) and node.name.lower() == "octet_length":
        measured = _compile(node.expressions[0])
        return lambda row: None if (value := measured(row)) is None else len(value)
    return None


def _case(node: exp.Case) -> Evaluate:
    branches = [(_compile(branch.this), _compile(branch.args["true"])) for branch in node.args["ifs"]]

    default = (lambda _: None) if node.args.get("default") is None else _compile(node.args["default"])

    def run(row: Row) -> Any:
        return next((value(row) for condition, value in branches if condition(row)), default(row))

    return run


def _cast(node: exp.Cast) -> Evaluate:
    inner, kind = _compile(node.this), node.to.sql(dialect="spark")
    casts: dict[str, Callable[[Any], Any]] = {
        "DOUBLE": float,
        "STRING": _text,
        "BIGINT": int,
        "INT": int,
        "DECIMAL": Decimal,
    }
    target = casts.get(kind.split("(")[0], lambda value: value)
    if kind == "BINARY":
        return lambda row: None if (value := inner(row)) is None else value.encode()
    return lambda row: None if (value := inner(row)) is None else target(value)
