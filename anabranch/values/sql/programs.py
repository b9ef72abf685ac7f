"""Compiled expressions as programs of numpy (anabranch/values/vectors): the very SQL that Spark would run.

The compiled text has all conversions written out, so a program needs no rules of types but the results of
functions (twins.py).
"""

import difflib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from sqlglot import exp

from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import Expression, compiled_node, parsed_expression
from anabranch.values.sql.functions import ALIASES
from anabranch.values.sql.twins import (
    ALLOWED,
    BY_TYPE,
    CASTS,
    COMPARED,
    COMPUTED,
    EVALUATED,
    EXTRACTED,
    REFUSED,
    TRUNCATED,
    TWINNED,
)
from anabranch.values.types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    STRING,
    TIMESTAMP,
    Column,
    DataType,
    parse_type,
)

Methods = tuple[tuple[tuple[type[exp.Expr], ...], Callable[..., "Place"]], ...]
Place = tuple[int, DataType | None]
"""Where a program has a value, and its type; None for NULL."""
Settings = tuple[Any, ...]


def evaluated(
    text: str, schema: tuple[Column, ...], where: str, read_as: Mapping[str, DataType] | None = None
) -> Expression:
    """SQL expression `text` over `schema`, compiled for Spark and for programs alike.

    Columns are cast to `read_as` where they are read, those of DECIMAL and FLOAT to DOUBLE; numbers with a
    fraction are DOUBLE. Raises DeclarationError, beginning with `where`, as `compiled` does, and for what
    has no twin.
    """
    parsed = parsed_expression(text, where)
    for call in parsed.find_all(exp.Anonymous):
        name = call.name.lower()
        _check_function(ALIASES.get(name, name), call.name, f"{where}: {text!r}")
    refused = parsed.find(*REFUSED)
    if refused is not None:
        raise DeclarationError(
            f"{where}: {text!r} has {refused.sql(dialect='spark')!r}, which derived features do not support: "
            "docs/expressions.md has the table of what they do"
        )
    casts: dict[str, DataType] = {
        column.name.lower(): DOUBLE for column in schema if column.type.decimal or column.type.floating
    }
    casts |= {name.lower(): kind for name, kind in (read_as or {}).items()}
    found = compiled_node(parsed.transform(lambda node: _cast(node, casts)), text, schema, where)
    if found.type not in EVALUATED:
        raise DeclarationError(
            f"{where}: {text!r} is {found.type}, which derived features do not support: "
            "cast it, for example to DOUBLE"
        )
    Programmer(schema).add("checked", found, f"{where}: {text!r}")
    return found


def _check_function(name: str, written: str, place: str) -> None:
    if name in ALLOWED:
        return
    near = difflib.get_close_matches(name, sorted(ALLOWED), 1, 0)[0]
    raise DeclarationError(
        f"{place} calls {written}, which derived features cannot compute: the nearest that they can is "
        f"{near}, and docs/expressions.md has the table"
    )


def _cast(node: exp.Expr, casts: Mapping[str, DataType]) -> exp.Expr:
    """A number with a fraction as DOUBLE, a column as `casts` has it; other nodes as they are."""
    kind = casts.get(node.name.lower()) if isinstance(node, exp.Column) else None
    if isinstance(node, exp.Literal) and not node.is_string and "." in str(node.this):
        kind = DOUBLE
    if kind is None:
        return node
    return exp.Cast(this=node.copy(), to=exp.DataType.build(kind.spark, dialect="spark"))


def kept_as(kind: DataType) -> str:
    """How a program keeps values of a type."""
    if kind == BOOLEAN:
        return "boolean"
    if kind == STRING:
        return "text"
    return "double" if kind.floating or kind.decimal else "whole"


class Programmer:
    """Collects compiled expressions over `schema` into one program; later ones may read earlier results."""

    def __init__(self, schema: tuple[Column, ...]) -> None:
        self._types = {column.name: column.type for column in schema}
        self._reads: dict[str, int] = {}
        self._constants: dict[tuple[str, Any], int] = {}
        self._steps: dict[tuple[Any, ...], int] = {}
        self._results: dict[str, Place] = {}
        self._where = ""

    def add(self, name: str, expression: Expression, where: str) -> None:
        """Compute the expression as `name`; raises DeclarationError, beginning with `where`."""
        self._where = where
        place = self._place(parsed_expression(expression.sql, where))
        self._results[name] = (place[0], expression.type)

    def typed(self, text: str, where: str) -> DataType | None:
        """The type of a compiled text, None for NULL; raises as `add` does."""
        self._where = where
        return self._place(parsed_expression(text, where))[1]

    @property
    def described(self) -> dict[str, Any]:
        """The program, see anabranch/values/vectors/programs.py. Places are numbered when it is complete."""
        first_constant, first_step = len(self._reads), len(self._reads) + len(self._constants)

        def moved(place: int) -> int:
            kind, number = place % 3, place // 3
            return number + (0, first_constant, first_step)[kind]

        return {
            "reads": [[name, kept_as(self._types[name])] for name in self._reads],
            "constants": [[kind, value] for kind, value, *_ in self._constants],
            "steps": [
                [twin, [moved(place) for place in takes], *settings] for twin, takes, *settings in self._steps
            ],
            "results": [[name, moved(place)] for name, (place, _) in self._results.items()],
        }

    def _refuse(self, what: str) -> DeclarationError:
        return DeclarationError(
            f"{self._where} needs {what}, which derived features do not support: "
            "docs/expressions.md has the table of what they do"
        )

    def _constant(self, kind: str, value: Any, type_: DataType | None) -> Place:
        key = (kind, value, type(value).__name__)
        number = self._constants.setdefault(key, len(self._constants))  # type: ignore[arg-type]
        return 3 * number + 1, type_

    def _step(
        self, type_: DataType | None, twin: str, *takes: Place, settings: tuple[Any, ...] = ()
    ) -> Place:
        key = (twin, tuple(place for place, _ in takes), *settings)
        return 3 * self._steps.setdefault(key, len(self._steps)) + 2, type_

    def _place(self, node: exp.Expr) -> Place:
        for kinds, method in self.methods:
            if isinstance(node, kinds):
                return method(self, node)
        raise self._refuse(repr(node.sql(dialect="spark")))

    def _column(self, node: exp.Column) -> Place:
        name = node.name
        if name in self._results:
            return self._results[name]
        number = self._reads.setdefault(name, len(self._reads))
        kind = self._types[name]
        return 3 * number, BIGINT if kind.integral else DOUBLE if kind.decimal or kind.floating else kind

    def _literal(self, node: exp.Literal) -> Place:
        if node.is_string:
            return self._constant("text", str(node.this), STRING)
        return self._constant("whole", int(node.this), INT)

    def _null(self, _node: exp.Null) -> Place:
        return self._constant("whole", None, None)

    def _truth(self, node: exp.Boolean) -> Place:
        return self._constant("boolean", bool(node.this), BOOLEAN)

    def _inner(self, node: exp.Paren) -> Place:
        return self._place(node.this)

    def _cast(self, node: exp.Cast) -> Place:
        text = node.to.sql(dialect="spark")
        kind, value = parse_type(text), node.this
        if isinstance(value, exp.Literal) and not value.is_string and not node.args.get("safe"):
            if kind == DOUBLE:
                return self._constant("double", float(Decimal(str(value.this))), DOUBLE)
            if kind == BIGINT:
                return self._constant("whole", int(value.this), BIGINT)
        if isinstance(value, exp.Null):
            return self._constant(kept_as(kind), None, kind)
        return self._converted(self._place(value), kind)

    def _converted(self, place: Place, kind: DataType) -> Place:
        source = place[1]
        if source is None:
            return self._constant(kept_as(kind), None, kind)
        if source == kind or (kind == BIGINT and source.integral):
            return place[0], kind
        if kind == INT and source in (STRING, TIMESTAMP):
            return self._step(INT, "to_int", self._converted(place, BIGINT))
        twin = CASTS.get((BIGINT if source.integral else source, kind))
        if twin is None:
            hint = "; cast it to BIGINT first" if source == DOUBLE and kind == STRING else ""
            raise self._refuse(f"{source} as {kind}{hint}")
        return self._step(kind, twin, place)

    def _negative(self, node: exp.Neg) -> Place:
        place = self._place(node.this)
        return self._step(place[1], "negate", place)

    def _not(self, node: exp.Not) -> Place:
        return self._step(BOOLEAN, "not", self._place(node.this))

    def _is(self, node: exp.Is) -> Place:
        place = self._place(node.this)
        if isinstance(node.expression, exp.Null):
            return self._step(BOOLEAN, "is_null", place)
        return self._step(BOOLEAN, "is_true" if node.expression.this else "is_false", place)

    def _compared(self, node: exp.Binary) -> Place:
        pair = self._typed([self._place(node.left), self._place(node.right)])
        return self._step(BOOLEAN, COMPARED[type(node)], *pair)

    def _typed(self, places: list[Place]) -> list[Place]:
        """The places, a NULL without a type as one of the others' type."""
        kind = next((kind for _, kind in places if kind is not None), None)
        return [self._converted(one, kind) if one[1] is None and kind is not None else one for one in places]

    def _computed(self, node: exp.Binary) -> Place:
        return self._arithmetic(COMPUTED[type(node)], [self._place(node.left), self._place(node.right)])

    def _arithmetic(self, name: str, places: list[Place]) -> Place:
        if name == "div":
            return self._step(BIGINT, "quotient", *places)
        floating = any(kind == DOUBLE for _, kind in places)
        if any(kind is not None and not kind.integral and kind != DOUBLE for _, kind in places):
            raise self._refuse(f"arithmetic with {places[0][1]} and {places[1][1]}")
        return self._step(DOUBLE if floating else BIGINT, BY_TYPE[name][floating], *places)

    def _between(self, node: exp.Between) -> Place:
        value = self._place(node.this)
        low = self._step(BOOLEAN, "at_least", value, self._place(node.args["low"]))
        high = self._step(BOOLEAN, "at_most", value, self._place(node.args["high"]))
        return self._step(BOOLEAN, "and", low, high)

    def _in(self, node: exp.In) -> Place:
        places = self._typed([self._place(node.this), *map(self._place, node.expressions)])
        return self._step(BOOLEAN, "among", *places)

    def _like(self, node: exp.Expr) -> Place:
        escape = str(node.expression.this) if isinstance(node, exp.Escape) else "\\"
        like = node.this if isinstance(node, exp.Escape) else node
        settings: Settings = (like_pattern(str(like.expression.this), escape),)
        value = self._place(like.this)
        if isinstance(like, exp.ILike):
            value = self._step(STRING, "lower", value)
            settings = (like_pattern(str(like.expression.this).lower(), escape),)
        return self._step(BOOLEAN, "like", value, settings=settings)

    def _searched(self, node: exp.RegexpLike) -> Place:
        """What the compiler itself searches: a LIKE of many parts, and whether a text begins as a time."""
        pattern = str(node.expression.this)
        if pattern.startswith("(?s)^"):
            text = pattern.removeprefix("(?s)^").removesuffix("\\z")
            return self._step(BOOLEAN, "like", self._place(node.this), settings=(text,))
        return self._step(BOOLEAN, "begins_with_a_year", self._place(node.this))

    def _case(self, node: exp.Case) -> Place:
        default = node.args.get("default")
        branches = node.args["ifs"]
        results = [self._place(branch.args["true"]) for branch in branches]
        results.append(self._constant("whole", None, None) if default is None else self._place(default))
        *typed, found = self._typed(results)
        for branch, result in zip(reversed(branches), reversed(typed), strict=True):
            found = self._step(result[1], "when", self._place(branch.this), result, found)
        return found

    def _field(self, node: exp.Extract) -> Place:
        field = node.this.name.upper()
        if field == "SECOND":
            raise self._refuse("EXTRACT(SECOND ...), a DECIMAL: write second(...)")
        moment, twin = self._place(node.expression), EXTRACTED.get(field, field.lower())
        if twin not in ("hour", "minute"):
            moment = self._converted(moment, DATE)
        return self._step(INT, twin, moment)

    def _call(self, node: exp.Anonymous) -> Place:
        name = node.name.lower()
        handler = self.calls.get(name)
        if handler is not None:
            return handler(self, name, node.expressions)
        if name not in TWINNED:
            raise self._refuse(name)
        twin, kind = TWINNED[name]
        return self._step(kind, twin, *map(self._place, node.expressions))

    def _moved(self, name: str, nodes: list[exp.Expr]) -> Place:
        if not isinstance(nodes[1], exp.Interval):
            return self._arithmetic(name, [self._place(node) for node in nodes])
        count = int(str(nodes[1].this.this)) * (1 if name == "try_add" else -1)
        place = self._place(nodes[0])
        twin = "moved_day" if place[1] == DATE else "moved"
        return self._step(place[1], twin, place, settings=(count, str(nodes[1].args["unit"]).upper()))

    def _of_numbers(self, name: str, nodes: list[exp.Expr]) -> Place:
        return self._arithmetic(name, [self._place(node) for node in nodes])

    def _chosen(self, name: str, nodes: list[exp.Expr]) -> Place:
        places = self._typed([self._place(node) for node in nodes])
        return self._step(places[0][1], name, *places)

    def _nullif(self, _name: str, nodes: list[exp.Expr]) -> Place:
        value, other = self._typed([self._place(node) for node in nodes])
        test, none = self._step(BOOLEAN, "equal", value, other), self._constant("whole", None, None)
        return self._step(value[1], "when", test, *self._typed([none, value]))

    def _rounded(self, _name: str, nodes: list[exp.Expr]) -> Place:
        place, places = self._place(nodes[0]), nodes[1]
        negative = isinstance(places, exp.Neg | exp.Paren)
        digits = int(str(next(places.find_all(exp.Literal)).this)) * (-1 if negative else 1)
        if place[1] != DOUBLE:
            raise self._refuse(f"round of {place[1]} to {digits} digits: cast it to DOUBLE")
        return self._step(DOUBLE, "round", place, settings=(digits,))

    def _log(self, _name: str, nodes: list[exp.Expr]) -> Place:
        places = [self._place(node) for node in nodes]
        return self._step(DOUBLE, "log" if len(places) == 2 else "ln", *places)

    def _truncated(self, name: str, nodes: list[exp.Expr]) -> Place:
        unit, moment = nodes if name == "date_trunc" else nodes[::-1]
        text = str(unit.this).upper()
        kind = TIMESTAMP if name == "date_trunc" else DATE
        return self._step(kind, name, self._place(moment), settings=(TRUNCATED.get(text, text),))

    def _trimmed(self, _name: str, nodes: list[exp.Expr]) -> Place:
        places = [self._place(node) for node in nodes]
        return self._step(STRING, "trim_of" if len(places) == 2 else "trim", *places)

    calls: ClassVar[dict[str, Callable[..., Place]]] = {
        **dict.fromkeys(("try_add", "try_subtract"), _moved),
        **dict.fromkeys(("try_multiply", "try_mod", "pmod"), _of_numbers),
        **dict.fromkeys(("coalesce", "greatest", "least"), _chosen),
        "nullif": _nullif,
        "round": _rounded,
        "log": _log,
        **dict.fromkeys(("date_trunc", "trunc"), _truncated),
        "btrim": _trimmed,
    }
    """What makes a call of a function that needs more than its twin."""
    methods: ClassVar[Methods] = (
        ((exp.Paren,), _inner),
        ((exp.Column,), _column),
        ((exp.Literal,), _literal),
        ((exp.Null,), _null),
        ((exp.Boolean,), _truth),
        ((exp.Cast,), _cast),
        ((exp.Neg,), _negative),
        ((exp.Not,), _not),
        ((exp.Is,), _is),
        (tuple(COMPARED), _compared),
        (tuple(COMPUTED), _computed),
        ((exp.Between,), _between),
        ((exp.In,), _in),
        ((exp.Like, exp.ILike, exp.Escape), _like),
        ((exp.RegexpLike,), _searched),
        ((exp.Case,), _case),
        ((exp.Extract,), _field),
        ((exp.Anonymous,), _call),
    )
    """What makes the place of each kind of node."""


def like_pattern(text: str, escape: str) -> str:
    """The regular expression of Python for a LIKE."""
    mark = re.escape(escape)
    found = re.findall(rf"{mark}(.)|(%)|(_)|(.)", text, re.DOTALL)
    return "".join(
        re.escape(escaped or letter) if escaped or letter else ".*" if percent else "."
        for escaped, percent, _, letter in found
    )
