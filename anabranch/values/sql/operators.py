"""Operators of SQL expressions as safe Spark SQL: parsed nodes to typed terms."""

import math
import re
from decimal import Decimal
from functools import reduce
from typing import ClassVar

from sqlglot import exp

from anabranch.errors import DeclarationError
from anabranch.values.names import listed, quoted
from anabranch.values.numbers import WholeType
from anabranch.values.sql.calls import call
from anabranch.values.sql.conditions import CONDITIONS, Makers
from anabranch.values.sql.functions import AGGREGATES, ALIASES, UNSTEADY
from anabranch.values.sql.nested_calls import part_of
from anabranch.values.sql.terms import (
    Term,
    common_type,
    convert,
    decimal_result,
    exact,
    may_convert,
    number,
    plain,
    text_term,
)
from anabranch.values.types import (
    BIGINT,
    BINARY,
    BOOLEAN,
    DOUBLE,
    STRING,
    Column,
    DataType,
    MapType,
    parse_type,
)

_UNITS = ["YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND"]
_ARITHMETIC: dict[type[exp.Expr], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Mod: "%"}
_TRIES = {"+": "try_add", "-": "try_subtract", "*": "try_multiply", "%": "try_mod"}
_BITS: dict[type[exp.Expr], str] = {exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^"}
_SHIFTS: dict[type[exp.Expr], str] = {
    exp.BitwiseLeftShift: "shiftleft",
    exp.BitwiseRightShift: "shiftright",
}
_ARGUMENTS = {
    *("this", "expression", "expressions", "to", "ifs", "true", "false", "default", "low", "high", "quoted"),
    *("is_string", "negate", "safe", "typed", "unit", "table", "db", "catalog"),
}
"""Parts of nodes that make a difference here; an option beside them, such as a FORMAT, is not supported."""
_LOOSE = (*_BITS, *_SHIFTS, exp.DPipe)
"""Operators whose precedence differs between parsers."""


class Compiler:
    """Terms of one expression `text` over columns by lower-case name."""

    def __init__(self, text: str, columns: dict[str, Column], where: str) -> None:
        self.text, self.columns, self.where = text, columns, where

    def error(self, reason: str) -> DeclarationError:
        """The error that names the place and the expression."""
        return DeclarationError(f"{self.where}: {self.text!r} {reason}")

    def check(self, parsed: exp.Expr) -> None:
        """Raise for what is no expression of one row, before its types are looked at."""
        names = {call.name.lower() for call in parsed.find_all(exp.Anonymous)}
        bare = {column.parts[0].name.lower() for column in parsed.find_all(exp.Column)} - set(self.columns)
        if UNSTEADY & (names | bare):
            raise self.error("changes from run to run: use only the event's own columns")
        if (
            parsed.find(exp.Window, exp.Query, exp.Any, exp.IgnoreNulls, exp.Values)
            or AGGREGATES & names
            or isinstance(parsed, exp.Command)
        ):
            raise self.error(
                "is not a row expression: use columns, literals, operators and functions of one row"
            )

    def known(self, column: exp.Column) -> Term:
        """A declared column, or a part of one such as ``payload.kind``; raises when there is none."""
        name, *parts = (part.name for part in column.parts)
        if name.lower() not in self.columns or (parts and not self.columns[name.lower()].type.nested):
            raise DeclarationError(
                f"{self.where}: no column {column.sql(dialect='spark')!r}: "
                f"{listed(name, [c.name for c in self.columns.values()], 'the source has')}"
            )
        found = self.columns[name.lower()]
        return reduce(
            lambda term, part: part_of(self, term, part), parts, Term(quoted(found.name), found.type)
        )

    def term(self, node: exp.Expr) -> Term:
        """The node as safe SQL; raises for what Anabranch cannot evaluate."""
        options = {name for name, value in node.args.items() if value} - _ARGUMENTS
        for kinds, method in self.methods:
            if isinstance(node, kinds) and not options:
                return method(self, node)
        raise self.error(f"has {node.sql(dialect='spark')!r}, which is not supported in expressions")

    def as_type(self, term: Term, kind: DataType, what: str) -> Term:
        """The term converted to `kind`; raises when there is no such conversion."""
        if not may_convert(term.type, kind):
            raise self.error(f"has {term.type} where {what} takes {kind}: convert it")
        if term.type == STRING and isinstance(term.literal, str) and kind not in (STRING, BINARY):
            read = DOUBLE if kind.decimal else kind  # a cast rounds to the digits of a DECIMAL
            if read.fault(term.literal) is not None:
                hint = f": write {kind.hint}" if kind.hint else f", which is no {kind}"
                raise self.error(f"has {term.sql} where {what} takes {kind}{hint}")
        return convert(term, kind)

    def condition(self, node: exp.Expr) -> Term:
        """A BOOLEAN term."""
        term = self.term(node)
        if term.type not in (BOOLEAN, None):
            raise self.error(
                f"has {node.sql(dialect='spark')!r} of type {term.type} where a condition stands"
            )
        return convert(term, BOOLEAN)

    def together(self, terms: list[Term], what: str) -> list[Term]:
        """Terms converted to their common type; raises when there is none. NaN becomes NULL."""
        kind = reduce(common_type, (term.type for term in terms))
        if any(term.type is not None and common_type(term.type, kind) != kind for term in terms):
            kinds = " and ".join(dict.fromkeys(str(term.type) for term in terms))
            raise self.error(f"uses {kinds} together in {what}: convert them to one type with CAST")
        return terms if kind is None else [self.as_type(term, kind, what) for term in terms]

    def compared(self, terms: list[Term], what: str) -> list[Term]:
        """Terms as `together` gives them, where NaN is NULL: it is no value."""
        found = self.together(terms, what)
        for before, term in zip(terms, found, strict=True):
            text = before.literal if before.type == STRING and term.type != STRING else None
            if isinstance(text, str) and "nan" in text.lower():
                raise self.error(f"has {before.sql} in {what}, which is NULL for NaN: use isnan")
        if any(term.type is not None and term.type.nested for term in found):
            raise self.error(f"compares nested values in {what}, which is not supported: compare their parts")
        return [
            Term(f"nanvl({term.sql}, CAST(NULL AS {term.type}))", term.type)
            if term.type is not None and term.type.floating and term.literal is None
            else term
            for term in found
        ]

    def _paren(self, node: exp.Expr) -> Term:
        return self.term(node.this)

    def _column(self, node: exp.Column) -> Term:
        found = self.known(node)
        return found if found.type is None else Term(found.sql, plain(found.type))

    def _part(self, node: exp.Dot) -> Term:
        return part_of(self, self.term(node.this), node.name)

    def _literal(self, node: exp.Literal) -> Term:
        text = str(node.this)
        if node.is_string:
            return self._text(node)
        if re.fullmatch(r"\d+", text):
            return number(int(text))
        if re.fullmatch(r"\d*\.?\d*", text):
            return number(Decimal(text))
        size = float(text)
        if size == math.inf or (size == 0 and re.search("[1-9]", re.split("[eE]", text)[0])):
            raise self.error(f"has {text}, which no DOUBLE holds")
        return Term(f"{text}D", DOUBLE, Decimal(text))

    def _text(self, node: exp.Expr) -> Term:
        return text_term(str(node.this))

    def _constant(self, node: exp.Expr) -> Term:
        if isinstance(node, exp.HexString):
            return Term(f"X'{node.this}'", BINARY)
        return Term("NULL", None) if isinstance(node, exp.Null) else Term(str(node.this).upper(), BOOLEAN)

    def _cast(self, node: exp.Cast) -> Term:
        term = self.term(node.this)
        text = node.to.sql(dialect="spark")
        try:
            kind = parse_type(text)
        except DeclarationError as error:
            raise self.error(f"has a cast: {error}") from error
        if kind.nested:
            raise self.error(f"has a cast to {kind}: only single values can be cast")
        return self.as_type(term, plain(kind), "CAST")

    def _negative(self, node: exp.Neg) -> Term:
        term = self.term(node.this)
        return self.negated(term)

    def negated(self, term: Term) -> Term:
        """The number with the other sign; NULL where its type does not hold it."""
        if isinstance(term.literal, int | Decimal):
            if term.type == DOUBLE:
                return Term(f"(-{term.sql})", DOUBLE, -term.literal)
            return number(-term.literal)
        if term.type is None or not term.type.numeric:
            raise self.error(f"negates {term.type}, which is no number")
        if isinstance(term.type, WholeType):
            return Term(f"try_subtract(0L, {convert(term, BIGINT).sql})", BIGINT)
        if term.type.decimal:  # Spark's own negation and abs round to 34 digits
            return Term(f"try_cast(try_subtract(0, {term.sql}) AS {term.type})", term.type)
        return Term(f"(-{term.sql})", term.type)

    def chosen(self, tests: list[str], results: list[Term]) -> Term:
        """CASE of the tests; one more result than tests is the default."""
        found = self.together(results, "the results of CASE")
        whens = " ".join(f"WHEN {test} THEN {term.sql}" for test, term in zip(tests, found, strict=False))
        default = f" ELSE {found[-1].sql}" if len(found) > len(tests) else ""
        return Term(f"CASE {whens}{default} END", found[0].type)

    def _arithmetic(self, node: exp.Binary) -> Term:
        self._settled(node)
        operator = _ARITHMETIC[type(node)]
        if isinstance(node.left, exp.Interval) or isinstance(node.right, exp.Interval):
            return self._shifted(node, operator)
        return self.calculated(operator, self.term(node.left), self.term(node.right))

    def calculated(self, operator: str, left: Term, right: Term) -> Term:
        """A sum, difference, product or remainder: NULL where its type does not hold it."""
        pair = (left.type, right.type)
        if left.type is not None and left.type.time and right.type is not None:
            if (operator in "+-" and not left.type.categorical) or right.type.time:
                raise self.error(
                    f"adds or subtracts {left.type} and {right.type}: use datediff, unix_micros, or INTERVAL"
                )
            return call(self, "date_add" if operator == "+" else "date_sub", [left, right])
        kind = common_type(*pair)
        if kind is None or (kind == STRING) or not kind.numeric:
            raise self.error(
                f"computes with {' and '.join(str(one) for one in pair)}: convert them to numbers"
            )
        if kind.integral:
            a, b = (self.as_type(term, BIGINT, operator).sql for term in (left, right))
            return Term(f"{_TRIES[operator]}({a}, {b})", BIGINT)
        if kind.decimal:
            one, two = exact(left), exact(right)
            result = decimal_result(operator, one, two) if one and two else None
            if one and two and result:
                a, b = convert(left, one).sql, convert(right, two).sql
                return Term(f"{_TRIES[operator]}({a}, {b})", result)
            kind = DOUBLE
        a, b = (self.as_type(term, kind, operator).sql for term in (left, right))
        return Term(f"try_mod({a}, {b})" if operator == "%" else f"({a} {operator} {b})", kind)

    def _shifted(self, node: exp.Binary, operator: str) -> Term:
        left, right = node.left, node.right
        if isinstance(left, exp.Interval) and operator == "+":
            left, right = right, left
        if not isinstance(right, exp.Interval) or isinstance(left, exp.Interval) or operator not in "+-":
            raise self.error("has an INTERVAL that is not added to or subtracted from a time")
        unit = str(right.args.get("unit") or "").upper().rstrip("S")
        count = str(right.this.this) if isinstance(right.this, exp.Literal) else ""
        if unit not in _UNITS or not re.fullmatch(r"-?\d{1,7}", count):
            raise self.error(
                f"has {right.sql(dialect='spark')!r}: write an INTERVAL of a whole number and one unit of "
                f"{', '.join(_UNITS)}"
            )
        moment = self.term(left)
        if moment.type is None or not moment.type.time:
            raise self.error(f"adds an INTERVAL to {moment.type}: it must be a TIMESTAMP or a DATE")
        return Term(f"{_TRIES[operator]}({moment.sql}, INTERVAL '{count}' {unit})", self._moved(moment, unit))

    def _moved(self, moment: Term, unit: str) -> DataType | None:
        if moment.type is not None and moment.type.categorical and unit in ("HOUR", "MINUTE", "SECOND"):
            raise self.error(f"adds an INTERVAL of {unit} to a DATE: cast it to TIMESTAMP")
        return moment.type

    def _divided(self, node: exp.Div) -> Term:
        left, right = self.term(node.left), self.term(node.right)
        return self.quotient(left, right)

    def quotient(self, left: Term, right: Term) -> Term:
        """A DOUBLE: NULL where the divisor is zero."""
        a, b = self.as_type(left, DOUBLE, "/"), self.as_type(right, DOUBLE, "/")
        for term in (left, right):
            if term.type is not None and not term.type.numeric and term.type != STRING:
                raise self.error(f"divides {left.type} by {right.type}, which are not numbers")
        return Term(f"try_divide({a.sql}, {b.sql})", DOUBLE)

    def _whole_quotient(self, node: exp.IntDiv) -> Term:
        left, right = self.term(node.left), self.term(node.right)
        kinds = [term.type for term in (left, right)]
        if any(kind is not None and not kind.integral and not kind.decimal for kind in kinds):
            raise self.error(f"has {kinds[0]} DIV {kinds[1]}: both must be whole numbers or DECIMAL")
        if common_type(*kinds) is not None and not any(kind is not None and kind.decimal for kind in kinds):
            a, b = convert(left, BIGINT).sql, convert(right, BIGINT).sql
            # The quotient of the least BIGINT and -1 is none.
            return Term(
                f"CASE WHEN {b} = -1L THEN try_subtract(0L, {a}) ELSE {a} div nullif({b}, 0L) END", BIGINT
            )
        return convert(self.quotient(left, right), BIGINT)

    def _bits(self, node: exp.Binary) -> Term:
        self._settled(node)
        left, right = self.term(node.left), self.term(node.right)
        if any(term.type is not None and not term.type.integral for term in (left, right)):
            raise self.error(f"combines the bits of {left.type} and {right.type}: both must be whole numbers")
        if type(node) in _SHIFTS:
            return call(self, _SHIFTS[type(node)], [left, right])
        found = self.together([left, right], "bits")
        return Term(f"({found[0].sql} {_BITS[type(node)]} {found[1].sql})", found[0].type)

    def _inverted(self, node: exp.BitwiseNot) -> Term:
        term = self.term(node.this)
        if term.type is None or not term.type.integral:
            raise self.error(f"inverts the bits of {term.type}: it must be a whole number")
        return Term(f"(~{term.sql})", term.type)

    def _joined(self, node: exp.DPipe) -> Term:
        self._settled(node)
        return call(self, "concat", [self.term(node.left), self.term(node.right)])

    def _settled(self, node: exp.Binary) -> None:
        for part in (node.left, node.right):
            mixed = isinstance(part, exp.Binary) and type(part) is not type(node)
            if mixed and (isinstance(part, _LOOSE) or isinstance(node, _LOOSE)):
                raise self.error("mixes operators whose order is not plain: write parentheses")

    def _element(self, node: exp.Bracket) -> Term:
        if len(node.expressions) != 1:
            raise self.error("takes a slice of an array: use element_at")
        whole, place = self.term(node.this), self.term(node.expressions[0])
        return call(self, "element_at" if isinstance(whole.type, MapType) else "get", [whole, place])

    def _field(self, node: exp.Extract) -> Term:
        return call(self, "extract", [Term("", STRING, node.this.name), self.term(node.expression)])

    def _call(self, node: exp.Anonymous) -> Term:
        name = node.name.lower()
        return call(self, ALIASES.get(name, name), [self.term(part) for part in node.expressions])

    methods: ClassVar[Makers] = (
        ((exp.Paren,), _paren),
        ((exp.Column,), _column),
        ((exp.Dot,), _part),
        ((exp.Literal,), _literal),
        ((exp.RawString,), _text),
        ((exp.Boolean, exp.Null, exp.HexString), _constant),
        ((exp.Cast,), _cast),
        ((exp.Neg,), _negative),
        *CONDITIONS,
        (tuple(_ARITHMETIC), _arithmetic),
        ((exp.Div,), _divided),
        ((exp.IntDiv,), _whole_quotient),
        (tuple(_BITS) + tuple(_SHIFTS), _bits),
        ((exp.BitwiseNot,), _inverted),
        ((exp.DPipe,), _joined),
        ((exp.Bracket,), _element),
        ((exp.Extract,), _field),
        ((exp.Anonymous,), _call),
    )
    """What makes a term of each kind of node."""
