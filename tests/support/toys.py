"""What Anabranch does not have, written as a user would add it: a type, a kind of window, an aggregate with
its own block.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from anabranch import Aggregate
from anabranch.aggregates.base import Bound, Folded
from anabranch.declare.windows import Window
from anabranch.states.blocks import Element, Lifted, Rows, Sums, Values
from anabranch.states.formulas import Formula, double
from anabranch.states.sums import Tally
from anabranch.values.datatype import DataType, JsonSchema
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, from_micros, to_micros
from anabranch.values.types import DOUBLE

OFFSETS = {"today": 0, "today_delhi": 5 * HOUR + 30 * MINUTE}


class YearType(DataType):
    """Years, written as Y and four digits; a whole number inside."""

    name = "YEAR"
    aliases = ("VINTAGE",)
    integral = True
    cql = "smallint"
    example = "Y2024"
    hint = "Y and four digits, such as Y2024"
    state_array = np.int32
    spark = "INT"
    arrow = pa.int32()
    json_schema: ClassVar[JsonSchema] = {"type": "string", "pattern": r"^Y\d{4}$"}

    def cell_sql(self, text: str) -> str:
        return rf"try_cast(regexp_extract({text}, r'^\s*Y(\d\d\d\d)\s*$', 1) AS INT)"

    def reads(self, value: object) -> bool:
        return isinstance(value, str) and bool(re.fullmatch(r"\s*Y\d{4}\s*", value))

    def value(self, raw: Any) -> Any:
        return int(raw.strip()[1:]) if isinstance(raw, str) else super().value(raw)

    def to_json(self, value: Any) -> Any:
        return None if value is None else f"Y{self.value(value)}"


@dataclass(frozen=True)
class TodayWindow(Window):
    """The events since midnight, ``today`` by UTC and ``today_delhi`` by the time of Delhi, 5 hours and
    30 minutes ahead.
    """

    offset: int = 0

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Self | None:  # noqa: ARG003 - its hop is fixed
        offset = OFFSETS.get(text)
        return None if offset is None else cls(text, 30 * MINUTE if offset else DAY, offset)

    def tail(self, at: int) -> int:
        return floor_to(at + self.offset, DAY) - self.offset


def midnight(window: TodayWindow, at: int) -> int:
    """The same by the calendar, for the oracle."""
    zone = timezone(timedelta(microseconds=window.offset))
    local = from_micros(at).astimezone(zone)
    return to_micros(datetime(local.year, local.month, local.day, tzinfo=zone).astimezone(UTC))


@dataclass(frozen=True)
class LogTotal(Sums):
    """Sum of the logarithms of an element's positive values: [sum]."""

    element: Element
    empty = (0.0,)

    def sql(self) -> tuple[str, ...]:
        return (f"coalesce(sum(ln({self.element.sql})), 0D)",)

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        logs = np.log(np.where(found.valid, found.values, 1).astype(np.float64))
        return np.asarray(logs, dtype=np.float64)[:, None]


@dataclass(frozen=True, init=False)
class GeometricMean(Aggregate):
    """Geometric mean of the positive values. No positive values: null."""

    def over(self, kind: DataType) -> Bound:
        positive = Element(
            sql=f"(CASE WHEN {double(self.text, self.where).sql} > 0D THEN CAST(({self.text}) AS DOUBLE) END)"
        )
        return Bound(DOUBLE, Formula(_root), (LogTotal(positive), Tally(positive)), exactness="to rounding")

    def plain(self, items: Sequence[tuple[int, Any]], at: int, since: int) -> float | None:
        positive = [float(value) for _, value in items if value > 0]
        return math.exp(math.fsum(map(math.log, positive)) / len(positive)) if positive else None


def _root(found: Folded) -> Values:
    count = found.rows[1][:, 0]
    return Values(np.exp(found.rows[0][:, 0] / np.maximum(count, 1)), count > 0)
