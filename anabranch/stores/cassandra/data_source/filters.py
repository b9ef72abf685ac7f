"""The part of Spark's filters that Cassandra evaluates: lookups of keys, and comparisons that drop rows.

Spark evaluates every filter but those on keys again. A comparison that the two might evaluate differently
(times finer than milliseconds, the two zeros of floating point) is not pushed down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pyspark.sql.datasource import (
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNotNull,
    LessThan,
    LessThanOrEqual,
)

from anabranch.values.times import sortable_time

_SIGNS: dict[type[Filter], str] = {
    EqualTo: "=",
    GreaterThan: ">",
    GreaterThanOrEqual: ">=",
    LessThan: "<",
    LessThanOrEqual: "<=",
}
TIMES = "time"
"""Among CQL types: texts that are times and sort as they do (`sortable_time`)."""
_COMPARED = {
    TIMES,
    "text",
    "varchar",
    "ascii",
    "bigint",
    "int",
    "smallint",
    "double",
    "timestamp",
    "date",
    "boolean",
}


@dataclass(frozen=True)
class Pushed:
    """Cassandra's part of filters: `keys` to look up (None: all), and conditions with their values."""

    keys: tuple[Any, ...] | None = None
    conditions: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()


def push(filters: Sequence[Filter], key: str | None, types: Mapping[str, str]) -> tuple[Pushed, list[Filter]]:
    """Split filters that must all hold into Cassandra's part and Spark's.

    `key` is the partition key, where that is one column; `types` are the CQL types of the columns.
    """
    keys: list[Any] | None = None
    conditions: list[str] = []
    values: list[Any] = []
    left: list[Filter] = []
    for one in filters:
        path: tuple[str, ...] = getattr(one, "attribute", ())
        column = path[0] if len(path) == 1 else ""
        wanted = _keys(one) if key is not None and column == key else None
        if wanted is not None:
            keys = wanted if keys is None else [value for value in keys if value in wanted]
        elif not (column == key and isinstance(one, IsNotNull)):  # a key is never missing
            left.append(one)
            if column != key and _same(one, types.get(column, "")):
                conditions.append(f'"{column}" {_SIGNS[type(one)]} ?')
                value = one.value  # type: ignore[attr-defined]
                values.append(sortable_time(value) if types[column] == TIMES else value)
    return Pushed(
        None if keys is None else tuple(dict.fromkeys(keys)), tuple(conditions), tuple(values)
    ), left


def _keys(one: Filter) -> list[Any] | None:
    if isinstance(one, EqualTo):
        return [one.value]
    return [value for value in one.value if value is not None] if isinstance(one, In) else None


def _same(one: Filter, kind: str) -> bool:
    """Whether Cassandra leaves out nothing that Spark would keep."""
    if (
        type(one) not in _SIGNS
        or kind not in _COMPARED
        or (kind == "boolean" and not isinstance(one, EqualTo))
    ):
        return False
    value = one.value  # type: ignore[attr-defined]
    if isinstance(value, bool) or kind == "boolean":
        return kind == "boolean" and isinstance(value, bool)
    if isinstance(value, float):
        return kind == "double" and math.isfinite(value) and value != 0
    if isinstance(value, datetime):
        whole = value.microsecond % 1000 == 0
        return value.tzinfo is not None and (kind == TIMES or (kind == "timestamp" and whole))
    if isinstance(value, date):
        return kind == "date"
    if isinstance(value, int):
        return kind in ("bigint", "int", "smallint")
    return isinstance(value, str) and kind in ("text", "varchar", "ascii")
