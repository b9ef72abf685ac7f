"""What the law is tested with: a view of every aggregate and random events."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from anabranch import (
    AGGREGATES,
    Aggregate,
    Count,
    Covariance,
    Distinct,
    FeatureView,
    Last,
    Mean,
    Rate,
    Slope,
    Source,
    Sum,
    TimeSince,
    Top,
    Variance,
)
from anabranch.folds.grains import LIFELONG, is_lifelong, steps
from anabranch.values.sql.expressions import compiled
from anabranch.values.sql.row_functions import Evaluate, RowFunctions
from anabranch.values.times import HOUR, MINUTE, floor_to, parse_duration

START = 1_700_000_000_000_000 // HOUR * HOUR
SCHEMA = "id STRING, key STRING, time TIMESTAMP, x DOUBLE, n BIGINT, d DECIMAL(12,2), s STRING, b BOOLEAN"
source = Source(name="things", topic="things", id="id", time="time", schema=SCHEMA)


@dataclass(frozen=True)
class Event:
    """One event of the test source; times in microseconds."""

    id: str
    key: str
    time: int
    arrival: int
    x: float | None = None
    n: int | None = None
    d: Decimal | None = None
    s: str | None = None
    b: bool | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The values of its columns."""
        return self.__dict__

    def value(self, text: str) -> Any:
        """The value of a column or expression, for the oracle."""
        return self.row[text] if text in self.row else _condition(text)(self.row)


@lru_cache
def _condition(text: str) -> Evaluate:
    """A filter or a constant of the test view, as a function of an event's columns."""
    return RowFunctions(source.columns).add(compiled(text, source.columns, "test").sql, "test")


ARGUMENTS: dict[str, dict[str, Any]] = {
    "Histogram": {"edges": (-10.0, 0.0, 0.5, 1e6)},
    "FirstK": {"k": 3},
    "LastK": {"k": 3},
    "TopK": {"k": 4},
    "BottomK": {"k": 2},
    "DecayedSum": {"half_life": "1d"},
    "DecayedMean": {"half_life": "6h"},
    "Distinct": {"most": 6},
    "ApproxPercentile": {"percentage": 0.9},
    "Top": {"k": 2},
}
COLUMNS = {
    "numbers": "xnd",
    "numbers, BOOLEAN, DATE and TIMESTAMP": "xndb",
    "BOOLEAN": "b",
    "every type": "xndsb",
    "STRING, whole numbers, BOOLEAN and DATE": "nsb",
}


BY_CATEGORY: dict[str, Aggregate] = {
    "by_count": Count(by="s", among=("a", "b")),
    "by_sum": Sum("d", by="s", among={"e": "é", "none": ""}, where="n > 0"),
    "by_mean": Mean("x", by="n", among=(-5, 0, 2**62)),
    "by_last": Last("s", by="s", among=("a", "z")),
    "by_distinct": Distinct("n", most=6, by="s", among=("a",)),
}
"""One aggregate of each kind of state by category; all others are filtered in the same way."""

RANKED: dict[str, Aggregate] = {
    "map_count": Count("x", by="s", most=2),
    "map_sum": Sum("d", by="s", most=3, where="n > 0"),
    "map_wide": Sum("n", by="b", most=2),
    "map_float": Sum("x", by="n", most=20),
    "rank_sum": Top("s", 2, total="d"),
}
"""Maps of categories, and those with the largest sums."""


def features_of(windows: str) -> dict[str, Aggregate]:
    """Every aggregate that such windows ("finite" or "none") allow, over every column it takes, with and
    without a filter, and some by category.
    """
    out: dict[str, Aggregate] = {}
    for kind in AGGREGATES:
        if kind.windows not in ("any", windows):
            continue
        made: Any = kind
        for column in COLUMNS[kind.takes]:
            more = dict(ARGUMENTS.get(kind.__name__, {}))
            if issubclass(kind, Covariance):
                more["other"] = "n" if column == "x" else "x"
            name = f"{kind.__name__.lower()}_{column}"
            out[name] = made(column, **more)
            out[f"{name}_some"] = made(column, **more, where="n > 0")
    return out | BY_CATEGORY | RANKED


_FEW: dict[str, Aggregate] = {
    "n": Count(),
    "total": Sum("x"),
    "last": Last("s"),
    "rate": Rate("n"),
    "idle": TimeSince(),
    "kinds": Distinct("s"),
    "spread": Variance("n"),
    "by": Sum("d", by="s", among=("a",)),
    "map": Count(by="s", most=20),
}


@st.composite
def shifted_views(draw: st.DrawFn) -> FeatureView:
    """A view of a few features over one to three windows of random widths, most with random offsets."""
    hop = draw(st.sampled_from([None, None, "5m", "1m"]))
    windows = set()
    for _ in range(draw(st.integers(1, 3))):
        width = draw(st.sampled_from([15, 60, 90, 5 * 60, 12 * 60, 30 * 60, 7 * 24 * 60]))  # minutes
        step = int(hop[:-1]) if hop else 60 if width >= 12 * 60 else 5
        offset = draw(st.integers(0, 8 * 24 * 60 // step)) * step
        windows.add(f"{width}m offset {offset}m" if offset else f"{width}m")
    return FeatureView(
        name="shifted", source=source, key="key", windows=tuple(sorted(windows)), hop=hop, features=_FEW
    )


SHIFTED = FeatureView(
    name="shifted",
    source=source,
    key="key",
    windows=("2h offset 25m", "7d", "1h offset 1d", "7d offset 2d", "week to date Asia/Kolkata"),
    features=_FEW,
)


def make_view(windows: tuple[str, ...] = ("1h", "12h", "7d"), hop: str | None = None) -> FeatureView:
    """A view of everything over the test source."""
    features = features_of("finite" if windows else "none")
    return FeatureView(
        name="everything" if windows else "lifelong",
        source=source,
        key="key",
        windows=windows,
        hop=hop,
        features=features,
    )


finite = st.one_of(
    st.floats(-1e6, 1e6).map(lambda value: round(value, 6)),
    st.sampled_from([0.0, 1e-3, 1e9, -1e9, math.nan, math.inf]),
)


@st.composite
def events_strategy(draw: st.DrawFn, days: int = 9) -> list[Event]:
    """Events of two keys over some days: any order, late ones, early ones by up to 5 minutes, null
    values, repeated ids.
    """
    count = draw(st.integers(0, 40))
    out = []
    for position in range(count):
        time = (
            START
            + draw(st.integers(0, days * 24 * 60)) * MINUTE
            + draw(st.sampled_from([0, 1, 999_999, 30_000_000]))
        )
        lag = draw(st.sampled_from([-5 * MINUTE, -1, 0, 1, MINUTE, 3 * HOUR, 50 * HOUR]))
        out.append(
            Event(
                id=f"e{draw(st.integers(0, count)) if draw(st.booleans()) else position}",
                key=draw(st.sampled_from("ab")),
                time=time,
                arrival=time + lag,
                x=draw(st.none() | finite),
                n=draw(st.none() | st.integers(-5, 5) | st.sampled_from([2**62, -(2**62), 2**53 + 1])),
                d=draw(st.none() | st.decimals(-999_999, 999_999, places=2)),
                s=draw(st.none() | st.sampled_from(["", "a", "b", "é", "z\u20ac", "long" * 26])),
                b=draw(st.none() | st.booleans()),
            )
        )
    # Two first arrivals at one instant would leave the winner open: real arrivals carry an offset as well.
    return [replace_arrival(event, position) for position, event in enumerate(out)]


def replace_arrival(event: Event, position: int) -> Event:
    """The event with its position as the last digits of its arrival."""
    return Event(**{**event.__dict__, "arrival": event.arrival // 1000 * 1000 + position})


def start_of(view: FeatureView, cut: int, time: int) -> int | None:
    """The start of the grain that `grains.start_sql` computes, for one time."""
    if time >= cut:
        return time
    for since, step in steps(view, cut):
        if time >= since:
            return floor_to(time, step)
    return LIFELONG if is_lifelong(view) else None


def scale_of(aggregate: Any, events: Sequence[Event]) -> float:
    """How large a rounding of a fold may be, in units of 1e-12: sums of sizes, squares of sizes for
    second moments.
    """
    columns = [aggregate.argument, getattr(aggregate, "other", None) or aggregate.argument]
    found = [[getattr(event, column, None) for event in events] for column in columns]
    sizes = [
        [abs(float(v)) for v in values if isinstance(v, int | float | Decimal) and math.isfinite(v)]
        for values in found
    ]
    largest = [max(size, default=0.0) for size in sizes]
    power = {"Variance": 2, "Covariance": 2, "StdDev": 1}.get(type(aggregate).__name__)
    if isinstance(aggregate, Slope):
        # The mean of times is right to 0.03 microseconds, which the steepest slope there may be
        # makes an error of.
        times = sorted({event.time for event in events})
        gap = min((b - a for a, b in pairwise(times)), default=1)
        return 1e12 * (0.1 / gap + 1e-9) * largest[0] * parse_duration(aggregate.per) / gap
    if power == 2:
        return largest[0] * largest[1] * len(events)
    return (sum(sizes[0]) if power is None else 1e3 * largest[0]) + 1.0
