"""Random SQL expressions over a schema with a column of every type, and rows of the extremes of every type."""

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from anabranch.values.functions import SIGNATURES

SCHEMA = (
    "id STRING, k STRING, at TIMESTAMP, t TINYINT, s SMALLINT, n INT, big BIGINT, f FLOAT, x DOUBLE, y DOUBLE, "
    "dec DECIMAL(10,2), wide DECIMAL(36,18), whole DECIMAL(38,0), name STRING, flag BOOLEAN, day DATE, "
    "until TIMESTAMP, bytes BINARY"
)
_LAST, _FIRST = datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), datetime(1, 1, 1, tzinfo=UTC)
_TEXTS = [
    "",
    "7",
    "-0",
    "1e400",
    "12:00",
    "2024-05-01",
    "9999-12-31T23:59:59.999999Z",
    "%41%",
    '{"a":[1]}',
    "ÄÖ\u0000\n'\\",
]


def _row(position: int, sign: int) -> tuple[Any, ...]:
    least, most = (lambda bits: -(1 << (bits - 1))), (lambda bits: (1 << (bits - 1)) - 1)
    edge = most if sign > 0 else least
    moment = _LAST if sign > 0 else _FIRST
    return (
        f"r{position}", "a", moment, edge(8), edge(16), edge(32), edge(64), 3.4e38 * sign, 1.7976931348623157e308 * sign,
        5e-324 * sign, Decimal("99999999.99").copy_sign(sign), Decimal("999999999999999999.999999999999999999").copy_sign(sign),
        Decimal(10**38 - 1).copy_sign(sign), _TEXTS[position % len(_TEXTS)], sign > 0, moment.date(), moment, b"\xff\x00",
    )  # fmt: skip


def _zero(text: str, x: float) -> tuple[Any, ...]:
    zero = Decimal(0)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (
        "z",
        "a",
        epoch,
        0,
        0,
        0,
        0,
        x,
        x,
        -0.0,
        zero,
        zero,
        zero,
        text,
        False,
        date(1582, 10, 4),
        epoch,
        b"",
    )


ROWS: list[tuple[Any, ...]] = [
    *[_row(position, 1 if position % 2 else -1) for position in range(len(_TEXTS))],
    _zero("0", 0.0),
    _zero("nan", float("nan")),
    _zero("x" * 5000, float("inf")),
    ("-", "a", _FIRST, -1, -1, -1, -1, -1.0, -1.0, 0.5, Decimal("-0.01"), Decimal(-1), Decimal(1), "a,b", True,
     date(2024, 2, 29), datetime(2300, 1, 1, tzinfo=UTC), b"a"),
    ("o", "a", _FIRST, *[None] * 15),
]  # fmt: skip

_COLUMNS = {
    "WHOLE": ["t", "s", "n", "big"],
    "INT": ["t", "s", "n", "big"],
    "DOUBLE": ["f", "x", "y", "n", "big", "dec", "wide", "whole"],
    "STRING": ["name", "n", "x", "at", "day", "flag"],
    "BYTES": ["name", "bytes"],
    "BOOLEAN": ["flag"],
    "DATE": ["day", "until", "name"],
    "TIMESTAMP": ["at", "until", "day", "name"],
    "ANY": ["n", "x", "name", "day", "bytes"],
    "ARRAY": ["split(name, ',')", "array(n, big)"],
    "DECIMAL(8,6)": ["dec", "n", "3.5"],
}
_LITERALS = {"#": ["2", "0", "-1"], "'": ["'$.a'"], "~": ["','", "'[a-z]+'"], "@": ["'yyyy-MM-dd HH:mm'"]}
_GIVES = {"BIGINT": ("WHOLE", "INT", "DOUBLE"), "INT": ("WHOLE", "INT", "DOUBLE"), "DOUBLE": ("DOUBLE",)}
_NESTED = {name: _GIVES.get(one.result, (one.result,)) for name, one in SIGNATURES.items()}
_OPERATORS = {
    "DOUBLE": ["({0} / {1})", "({0} * {1})", "({0} - {1})", "({0} % {1})", "abs({0})", "round({0}, 2)", "(-{0})"],
    "WHOLE": [
        "({0} * {1})", "({0} + {1})", "({0} % {1})", "({0} DIV {1})", "(-{0})", "abs({0})", "pmod({0}, {1})", "({0} & {1})",
        "CAST(x AS BIGINT)", "CAST({0} AS TINYINT)", "ceil(x)", "floor(f)", "round({0}, -2)", "size(split(name, ','))",
    ],
    "BOOLEAN": ["({0} > {1})", "({0} IS NULL)", "({0} BETWEEN {1} AND 3)", "({0} IN (1, {1}))", "(NOT {0} = {1})"],
    "STRING": ["concat({0}, {1})", "CASE WHEN flag THEN {0} ELSE {1} END", "coalesce({0}, {1})", "element_at(split(name, ','), n)"],
    "TIMESTAMP": ["({0} + INTERVAL 1 DAY)", "({0} - INTERVAL 3 MONTH)", "date_trunc('HOUR', {0})", "to_timestamp(name)"],
    "DATE": ["({0} + 1)", "trunc({0}, 'MM')", "to_date(name)", "to_date(name, 'yyyy-MM-dd')"],
}  # fmt: skip
_TAKES = {"BOOLEAN": "DOUBLE"}


class Expressions:
    """A source of random expressions; equal seeds give equal ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def of(self, kind: str, depth: int) -> str:
        """An expression that a parameter of such a kind takes."""
        pick = self._random.choice
        if kind in _LITERALS:
            return pick(_LITERALS[kind])
        nested = [name for name, kinds in _NESTED.items() if kind in kinds]
        if depth > 0 and kind in _OPERATORS and (not nested or self._random.random() < 0.5):
            inner = _TAKES.get(kind, kind)
            return pick(_OPERATORS[kind]).format(self.of(inner, depth - 1), self.of(inner, depth - 1))
        if depth > 0 and nested:
            return self.call(pick(nested), depth - 1)
        return pick(_COLUMNS[kind])

    def call(self, name: str, depth: int) -> str:
        """A call of a function with random arguments."""
        signature = SIGNATURES[name]
        count = self._random.randint(signature.required, len(signature.parameters))
        arguments = [self.of(kind, depth) for kind in signature.parameters[:count]]
        return f"{name}({', '.join(arguments)})"

    def any(self, depth: int) -> str:
        """An expression of any type."""
        return self.of(self._random.choice(list(_OPERATORS)), depth)
