"""Random SQL expressions over a schema with a column of every type, and rows of each type's extremes."""

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from anabranch.values.sql.functions import SIGNATURES

SCHEMA = (
    "id STRING, k STRING, at TIMESTAMP, t TINYINT, s SMALLINT, n INT, big BIGINT, f FLOAT, x DOUBLE, "
    "y DOUBLE, dec DECIMAL(10,2), wide DECIMAL(36,18), whole DECIMAL(38,0), name STRING, flag BOOLEAN, "
    "day DATE, until TIMESTAMP, bytes BINARY"
)
_TEXTS = ("", "7", "-0", "1e400", "12:00", "2024-05-01", "9999-12-31T23:59:59.999999Z", "%41%", "ÄÖ\0\n'\\")
_EDGES = {
    1: datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    -1: datetime(1, 1, 1, tzinfo=UTC),
    0: datetime(1970, 1, 1, tzinfo=UTC),
}


def row(position: int, sign: int, **changed: Any) -> dict[str, Any]:
    """An event of the largest values of every type (`sign` 1), the smallest (-1) or zeros (0)."""
    wholes = {
        name: {1: (1 << bits - 1) - 1, -1: -(1 << bits - 1), 0: 0}[sign]
        for name, bits in (("t", 8), ("s", 16), ("n", 32), ("big", 64))
    }
    decimals = {"dec": "99999999.99", "wide": f"{'9' * 18}.{'9' * 18}", "whole": "9" * 38}
    return {
        "id": f"r{position}",
        "k": "a",
        "at": _EDGES[sign],
        **wholes,
        "f": 3.4e38 * sign,
        "x": 1.7976931348623157e308 * sign,
        "y": 5e-324 * sign,
        **{name: Decimal(text).copy_sign(sign) if sign else Decimal(0) for name, text in decimals.items()},
        "name": _TEXTS[position % len(_TEXTS)],
        "flag": sign > 0,
        "day": _EDGES[sign].date(),
        "until": _EDGES[sign],
        "bytes": b"\xff\0" if sign else b"",
        **changed,
    }


def extremes() -> list[dict[str, Any]]:
    """Events with the extremes of every type, NaN, infinities, -0.0, odd texts, and NULL."""
    rows = [row(position, 1 if position % 2 else -1) for position in range(len(_TEXTS))]
    odd = [("nan", float("nan")), ("inf", float("inf")), ("x" * 5000, -0.0)]
    rows += [row(20 + i, 0, name=name, x=x, f=x) for i, (name, x) in enumerate(odd)]
    rows.append(row(30, -1, t=-1, s=-1, n=-1, big=-1, x=-1.0, y=0.5, day=date(2024, 2, 29), name="a,b"))
    nothing = row(40, 0)
    return [*rows, {**dict.fromkeys(nothing), "id": "none", "k": "a", "at": nothing["at"]}]


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
    "DOUBLE": "({0} / {1})|({0} * {1})|({0} - {1})|({0} % {1})|abs({0})|round({0}, 2)|(-{0})|nanvl({0}, {1})",
    "WHOLE": "({0} * {1})|({0} + {1})|({0} % {1})|({0} DIV {1})|(-{0})|abs({0})|pmod({0}, {1})|({0} & {1})|"
    "CAST(x AS BIGINT)|CAST({0} AS TINYINT)|ceil(x)|floor(f)|round({0}, -2)|size(split(name, ','))|big << n",
    "BOOLEAN": "({0} > {1})|({0} IS NULL)|({0} BETWEEN {1} AND 3)|({0} IN (1, {1}))|(NOT {0} = {1})",
    "STRING": "concat({0}, {1})|CASE WHEN flag THEN {0} ELSE {1} END|element_at(split({0}, ','), n)|{0} || n",
    "TIMESTAMP": "(until + INTERVAL 1 DAY)|at - INTERVAL 3 MONTH|date_trunc('HOUR', {0})|to_timestamp(name)",
    "DATE": "(day + 1)|trunc({0}, 'MM')|to_date(name)|to_date(name, 'yyyy-MM-dd')|date_sub({0}, n)",
}
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
            form = pick(_OPERATORS[kind].replace("||", "\0").split("|")).replace("\0", "||")
            return f"({form.format(self.of(inner, depth - 1), self.of(inner, depth - 1))})"
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
