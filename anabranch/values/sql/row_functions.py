"""Compiled SQL as functions of one row, without a JVM: for the elements that states are made of.

The forms that aggregates write around an author's argument are evaluated in plain Python, which is ten times
as quick as arrays for one row. Any other part of an expression becomes a result of one program of numpy
(programs.py), computed before the functions are called.

Values are the library's: a TIMESTAMP in microseconds, a DATE in days, a DECIMAL as Decimal or int, BINARY as
bytes; None is NULL.
"""

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, ClassVar

from sqlglot import exp

from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import Expression, parsed_expression
from anabranch.values.sql.programs import Programmer
from anabranch.values.texts import json_text
from anabranch.values.times import format_time
from anabranch.values.types import (
    BIGINT,
    BINARY,
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    STRING,
    TIMESTAMP,
    Column,
    DataType,
    DecimalType,
    parse_type,
)
from anabranch.values.vectors.programs import Program

Row = Mapping[str, Any]
Evaluate = Callable[[Row], Any]
Typed = tuple[Evaluate, DataType | None]
"""A function of a row and the type of its values; None for NULL."""
_EXACTLY = Context(prec=100, rounding=ROUND_HALF_UP, Emax=999_999, Emin=-999_999)
_WIDE = DecimalType(38, 0)
_YEAR = r"^\s*[0-9]{4}"
"""The pattern by which compiled casts tell whether a text begins as a time."""
_BY_SPARK_ALONE = (
    "which Spark alone computes: docs/expressions.md has the table of what is computed without it"
)


class _UnfitError(Exception):
    """A form that plain Python does not evaluate."""


class RowFunctions:
    """Functions of rows for SQL texts over `schema`: `add` each text, then call them on rows of `ready`."""

    def __init__(self, schema: tuple[Column, ...]) -> None:
        self._schema = schema
        self._types = {column.name: column.type for column in schema}
        self._leaves: dict[str, tuple[str, DataType | None]] = {}
        self._program: Program | None = None
        self._where = ""

    def add(self, text: str, where: str) -> Evaluate:
        """The function of a compiled text; raises DeclarationError, beginning with `where`, without one."""
        self._where, self._program = where, None
        return self._function(parsed_expression(text, where))[0]

    def ready(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows with what the functions read beside columns."""
        if not self._leaves:
            return rows
        if self._program is None:
            self._program = self._programmed()
        program = self._program
        found = program.run({name: [row[name] for row in rows] for name in program.reads}, len(rows))
        return [
            {**row, **{name: values[place] for name, values in found.items()}}
            for place, row in enumerate(rows)
        ]

    def _programmed(self) -> Program:
        programmer = Programmer(self._schema)
        for text, (name, kind) in self._leaves.items():
            programmer.add(name, Expression(text, kind or BIGINT), self._where)
        return Program(programmer.described)

    def _function(self, node: exp.Expr) -> Typed:
        method = self._methods.get(type(node))
        if method is not None:
            leaves = dict(self._leaves)
            try:
                return method(self, node)
            except _UnfitError:
                self._leaves = leaves
        return self._leaf(node)

    def _leaf(self, node: exp.Expr) -> Typed:
        """A part that a program evaluates."""
        for column in node.find_all(exp.Column):
            kind, above = self._types[column.name], column.parent
            while isinstance(above, exp.Paren):
                above = above.parent
            as_double = isinstance(above, exp.Cast) and parse_type(above.to.sql(dialect="spark")) == DOUBLE
            if kind.nested or kind.binary or ((kind.decimal or kind == _FLOAT) and not as_double):
                raise DeclarationError(
                    f"{self._where} computes with {column.name!r}, {kind}, which one event cannot be "
                    "evaluated for without Spark: "
                    + ("cast it to DOUBLE in the expression" if kind.numeric else "use it as it is")
                )
        text = node.sql(dialect="spark")
        if text not in self._leaves:
            self._leaves[text] = (f"_leaf_{len(self._leaves)}", self._typed(node, text))
        name, found = self._leaves[text]
        return operator.itemgetter(name), found

    def _typed(self, node: exp.Expr, text: str) -> DataType | None:
        searched = [str(one.expression.this) for one in node.find_all(exp.RegexpLike)]
        if any(pattern != _YEAR for pattern in searched):
            raise DeclarationError(f"{self._where} needs RLIKE, {_BY_SPARK_ALONE}")
        try:
            return Programmer(self._schema).typed(text, self._where)
        except DeclarationError as error:
            what = str(error).partition(", which derived features do not support")[0]
            raise DeclarationError(f"{what}, {_BY_SPARK_ALONE}") from error

    def _column(self, node: exp.Column) -> Typed:
        return operator.itemgetter(node.name), self._types[node.name]

    def _inner(self, node: exp.Paren) -> Typed:
        return self._function(node.this)

    def _literal(self, node: exp.Literal) -> Typed:
        if node.is_string:
            return _constant(str(node.this)), STRING
        if not str(node.this).isdigit():
            raise _UnfitError
        return _constant(int(str(node.this))), INT

    def _null(self, _node: exp.Null) -> Typed:
        return _constant(None), None

    def _truth(self, node: exp.Boolean) -> Typed:
        return _constant(bool(node.this)), BOOLEAN

    def _bytes(self, node: exp.HexString) -> Typed:
        return _constant(bytes.fromhex(str(node.this))), BINARY

    def _cast(self, node: exp.Cast) -> Typed:
        kind = parse_type(node.to.sql(dialect="spark"))
        if isinstance(node.this, exp.Literal):
            text = str(node.this.this)
            if kind == DOUBLE:
                return _constant(float(text)), kind
            if kind.integral:
                return _constant(int(text)), kind
            if kind.decimal:
                return _constant(Decimal(text)), kind
            raise _UnfitError
        value, source = self._function(node.this)
        if source is None:
            return _constant(None), kind
        return _strict(_converted(source, kind), value), kind

    def _case(self, node: exp.Case) -> Typed:
        if node.this is not None:
            raise _UnfitError
        default = node.args.get("default")
        found = [(self._condition(one.this), self._function(one.args["true"])) for one in node.args["ifs"]]
        other, kind = (_constant(None), None) if default is None else self._function(default)
        kind = next((each for _, (_, each) in found if each is not None), kind)
        if len(found) == 1:
            (test, (value, _)) = found[0]
            return lambda row: value(row) if test(row) else other(row), kind
        branches = [(test, value) for test, (value, _) in found]

        def chosen(row: Row) -> Any:
            for test, value in branches:
                if test(row):
                    return value(row)
            return other(row)

        return chosen, kind

    def _condition(self, node: exp.Expr) -> Evaluate:
        value, kind = self._function(node)
        if kind not in (BOOLEAN, None):
            raise _UnfitError
        return value

    def _is(self, node: exp.Is) -> Typed:
        if not isinstance(node.expression, exp.Null):
            raise _UnfitError
        value, _ = self._function(node.this)
        return lambda row: value(row) is None, BOOLEAN

    def _not(self, node: exp.Not) -> Typed:
        return _strict(operator.not_, self._condition(node.this)), BOOLEAN

    def _and(self, node: exp.And) -> Typed:
        return self._joint(node, decisive=False)

    def _or(self, node: exp.Or) -> Typed:
        return self._joint(node, decisive=True)

    def _joint(self, node: exp.And | exp.Or, *, decisive: bool) -> Typed:
        """AND or OR, which one side decides by being `decisive`, whatever the other is."""
        left, right = self._condition(node.left), self._condition(node.right)

        def joint(row: Row) -> Any:
            one = left(row)
            if one is decisive:
                return decisive
            other = right(row)
            return decisive if other is decisive else None if one is None or other is None else not decisive

        return joint, BOOLEAN

    def _compared(self, node: exp.Binary) -> Typed:
        (left, one), (right, other) = self._function(node.left), self._function(node.right)
        floating = _comparable(one, other)
        compare = _COMPARED[type(node)]
        return _strict_pair(_with_nan(compare) if floating else compare, left, right), BOOLEAN

    def _between(self, node: exp.Between) -> Typed:
        bounds = ((exp.GTE, node.args["low"]), (exp.LTE, node.args["high"]))
        low, high = (kind(this=node.this.copy(), expression=bound.copy()) for kind, bound in bounds)
        return self._and(exp.And(this=low, expression=high))

    def _in(self, node: exp.In) -> Typed:
        if not node.expressions:
            raise _UnfitError
        value, kind = self._function(node.this)
        places = [self._function(each) for each in node.expressions]
        if any(_comparable(kind, other) for _, other in places):
            raise _UnfitError

        def among(row: Row) -> Any:
            found = value(row)
            if found is None:
                return None
            listed = [each(row) for each, _ in places]
            return True if found in listed else None if None in listed else False

        return among, BOOLEAN

    def _computed(self, node: exp.Binary) -> Typed:
        (left, one), (right, other) = self._function(node.left), self._function(node.right)
        compute = _COMPUTED[type(node)]
        if one == DOUBLE and other == DOUBLE:
            return _strict_pair(compute, left, right), DOUBLE
        # Of whole numbers and DECIMAL, compiled texts have these operators in wrappers alone: none overflows.
        if one is None or other is None or one.floating or other.floating:
            raise _UnfitError
        if one.integral and other.integral:
            return _strict_pair(compute, left, right), BIGINT
        if not one.numeric or not other.numeric:
            raise _UnfitError
        exactly = _EXACT[type(node)]
        return _strict_pair(lambda a, b: exactly(Decimal(a), Decimal(b)), left, right), _WIDE

    def _quotient(self, node: exp.IntDiv) -> Typed:
        (left, one), (right, other) = self._function(node.left), self._function(node.right)
        if one != _WIDE or other is None or not other.decimal:
            raise _UnfitError
        return _strict_pair(
            lambda a, b: int(_EXACTLY.divide_int(Decimal(a), Decimal(b))), left, right
        ), BIGINT

    def _bits(self, node: exp.BitwiseAnd) -> Typed:
        (left, one), (right, other) = self._function(node.left), self._function(node.right)
        if one is None or other is None or not (one.integral and other.integral):
            raise _UnfitError
        return _strict_pair(operator.and_, left, right), BIGINT

    def _negative(self, node: exp.Neg) -> Typed:
        value, kind = self._function(node.this)
        if kind is None or not (kind.floating or isinstance(node.this, exp.Literal | exp.Cast)):
            raise _UnfitError
        return _strict(operator.neg, value), kind

    def _call(self, node: exp.Anonymous) -> Typed:
        method = self._calls.get(node.name.lower())
        if method is None:
            raise _UnfitError
        return method(self, node.expressions)

    def _double(self, nodes: list[exp.Expr]) -> Typed:
        if not isinstance(nodes[0], exp.Literal) or not nodes[0].is_string:
            raise _UnfitError
        return _constant(float(str(nodes[0].this))), DOUBLE

    def _size(self, nodes: list[exp.Expr]) -> Typed:
        value, kind = self._function(nodes[0])
        if kind is None or not (kind.floating or kind.decimal):
            raise _UnfitError
        return _strict(abs, value), kind

    def _nanvl(self, nodes: list[exp.Expr]) -> Typed:
        (value, kind), (other, _) = self._function(nodes[0]), self._function(nodes[1])
        if kind != DOUBLE:
            raise _UnfitError

        def number(row: Row) -> Any:
            found = value(row)
            return other(row) if found is not None and math.isnan(found) else found

        return number, DOUBLE

    def _floor(self, nodes: list[exp.Expr]) -> Typed:
        value, kind = self._function(nodes[0])
        if kind is None or not kind.decimal:
            raise _UnfitError
        return _strict(lambda found: Decimal(math.floor(found)), value), _WIDE

    def _remainder(self, nodes: list[exp.Expr]) -> Typed:
        (left, one), (right, other) = self._function(nodes[0]), self._function(nodes[1])
        if one != _WIDE or other is None or not other.decimal:
            raise _UnfitError
        return _strict_pair(lambda a, b: Decimal(int(a) % int(b)), left, right), _WIDE

    def _shifted(self, nodes: list[exp.Expr]) -> Typed:
        (value, kind), (places, _) = self._function(nodes[0]), self._function(nodes[1])
        if kind is None or not kind.integral:
            raise _UnfitError
        return _strict_pair(operator.rshift, value, places), BIGINT

    def _itself(self, nodes: list[exp.Expr]) -> Typed:
        value, kind = self._function(nodes[0])
        if kind not in (TIMESTAMP, DATE):
            raise _UnfitError
        return value, BIGINT if kind == TIMESTAMP else INT

    def _left(self, nodes: list[exp.Expr]) -> Typed:
        (value, kind), (letters, _) = self._function(nodes[0]), self._function(nodes[1])
        if kind is None or not kind.text:
            raise _UnfitError
        return _strict_pair(lambda text, count: text[:count], value, letters), kind

    def _joined(self, nodes: list[exp.Expr]) -> Typed:
        parts = [self._function(node) for node in nodes]
        kinds, values = {kind for _, kind in parts}, [value for value, _ in parts]
        if kinds not in ({BINARY}, {STRING}):
            raise _UnfitError
        kind = parts[0][1]
        nothing: Any = b"" if kind == BINARY else ""
        return (
            lambda row: None if None in (found := [value(row) for value in values]) else nothing.join(found),
            kind,
        )

    def _length(self, nodes: list[exp.Expr]) -> Typed:
        value, kind = self._function(nodes[0])
        if kind != BINARY:
            raise _UnfitError
        return _strict(len, value), INT

    def _digest(self, nodes: list[exp.Expr]) -> Typed:
        hashed = nodes[0]
        if not isinstance(hashed, exp.Anonymous) or hashed.name.lower() != "sha2":
            raise _UnfitError
        value, kind = self._function(hashed.expressions[0])
        if kind != BINARY:
            raise _UnfitError
        return _strict(lambda found: hashlib.sha256(found).digest(), value), BINARY

    def _digits(self, nodes: list[exp.Expr]) -> Typed:
        value, kind = self._function(nodes[0])
        if kind != STRING:
            raise _UnfitError
        return _strict(lambda found: hashlib.sha256(found.encode()).hexdigest(), value), STRING

    _calls: ClassVar[dict[str, Callable[["RowFunctions", list[exp.Expr]], Typed]]] = {
        "double": _double,
        "abs": _size,
        "nanvl": _nanvl,
        "floor": _floor,
        "pmod": _remainder,
        "shiftright": _shifted,
        "unix_micros": _itself,
        "unix_date": _itself,
        "left": _left,
        "concat": _joined,
        "octet_length": _length,
        "unhex": _digest,
        "sha2": _digits,
    }
    _methods: ClassVar[dict[type[exp.Expr], Callable[["RowFunctions", Any], Typed]]] = {
        exp.Column: _column,
        exp.Paren: _inner,
        exp.Literal: _literal,
        exp.Null: _null,
        exp.Boolean: _truth,
        exp.HexString: _bytes,
        exp.Cast: _cast,
        exp.TryCast: _cast,
        exp.Case: _case,
        exp.Is: _is,
        exp.Not: _not,
        exp.And: _and,
        exp.Or: _or,
        **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), _compared),
        exp.Between: _between,
        exp.In: _in,
        **dict.fromkeys((exp.Add, exp.Sub, exp.Mul), _computed),
        exp.IntDiv: _quotient,
        exp.BitwiseAnd: _bits,
        exp.Neg: _negative,
        exp.Anonymous: _call,
    }


_FLOAT = parse_type("FLOAT")
_COMPARED: dict[type[exp.Expr], Callable[[Any, Any], bool]] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
_COMPUTED: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: operator.add,
    exp.Sub: operator.sub,
    exp.Mul: operator.mul,
}
_EXACT: dict[type[exp.Expr], Callable[[Decimal, Decimal], Decimal]] = {
    exp.Add: _EXACTLY.add,
    exp.Sub: _EXACTLY.subtract,
    exp.Mul: _EXACTLY.multiply,
}


def _constant(value: Any) -> Evaluate:
    return lambda _: value


def _strict(function: Callable[[Any], Any], value: Evaluate) -> Evaluate:
    return lambda row: None if (found := value(row)) is None else function(found)


def _strict_pair(function: Callable[[Any, Any], Any], left: Evaluate, right: Evaluate) -> Evaluate:
    def pair(row: Row) -> Any:
        one, other = left(row), right(row)
        return None if one is None or other is None else function(one, other)

    return pair


def _comparable(one: DataType | None, other: DataType | None) -> bool:
    """Whether two types compare as floats, and not exactly; raises for types that do not compare."""
    if one is None or other is None:
        return False
    if one.floating and other.floating:
        return True
    exact = one.numeric and other.numeric and not one.floating and not other.floating
    if exact or (one == other and not one.nested):
        return False
    raise _UnfitError


def _with_nan(compare: Callable[[Any, Any], bool]) -> Callable[[float, float], bool]:
    """The comparison where NaN is equal to itself and above every number, as in Spark."""

    def compared(one: float, other: float) -> bool:
        if math.isnan(one) or math.isnan(other):
            return compare(math.isnan(one), math.isnan(other))
        return compare(one, other)

    return compared


def _converted(source: DataType, kind: DataType) -> Callable[[Any], Any]:
    """What casts values of a type to another; NULL for one that does not fit."""
    if kind == source:
        return lambda value: value
    if kind == DOUBLE and (source.numeric or source == BOOLEAN):
        return float
    if kind.integral and (source.integral or source.decimal or source == BOOLEAN):
        edge = 1 << (getattr(kind, "bits", 64) - 1)
        return lambda value: whole if -edge <= (whole := int(value)) < edge else None
    if isinstance(kind, DecimalType) and (source.integral or source.decimal):
        return lambda value: _as_decimal(value, kind)
    if kind == BINARY and source == STRING:
        return lambda value: value.encode("utf-8", "surrogatepass")
    if kind == STRING:
        return _texts(source)
    raise _UnfitError


def _as_decimal(value: Any, kind: DecimalType) -> Decimal | None:
    try:
        found = Decimal(value).quantize(Decimal(1).scaleb(-kind.scale), context=_EXACTLY)
    except InvalidOperation:
        return None
    return found if not found or found.adjusted() < kind.precision - kind.scale else None


def _texts(source: DataType) -> Callable[[Any], str]:
    """What writes values of a type as Spark's CAST(... AS STRING) does."""
    if source.integral or source in (BOOLEAN, DOUBLE):
        return json_text
    if source == DATE:
        return lambda value: str(DATE.to_json(value))
    if source == TIMESTAMP:
        return _moment_text
    if isinstance(source, DecimalType) and source is not _WIDE:
        return lambda value: f"{Decimal(value):.{source.scale}f}"
    raise _UnfitError


def _moment_text(value: int) -> str:
    text = format_time(value).removesuffix("Z").replace("T", " ")
    return text.rstrip("0") if "." in text else text
