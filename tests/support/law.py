"""What the law is tested with: a view of every aggregate, random events, and states folded in numpy as Spark
folds them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasketches
import numpy as np
from hypothesis import strategies as st

from anabranch import AGGREGATES, Aggregate, Covariance, FeatureView, Source
from anabranch.aggregates.layout import States
from anabranch.folds.grains import LIFELONG, is_lifelong, steps
from anabranch.folds.merge import BatchPart, Tiles
from anabranch.states.blocks import TIME, Lifted, Rows, Values
from anabranch.states.extras import Extra, LeadingTexts
from anabranch.states.sketches import DistinctSketch, QuantileSketch, ValueSet
from anabranch.values.times import HOUR, MINUTE, floor_to
from tests.support.oracle import Event
from tests.support.sql import compile_sql

SLOT = HOUR
SLACK = 6 * HOUR
START = 1_700_000_000_000_000 // HOUR * HOUR
SCHEMA = "id STRING, key STRING, time TIMESTAMP, x DOUBLE, n BIGINT, d DECIMAL(12,2), s STRING, b BOOLEAN"
source = Source(name="things", topic="things", id="id", time="time", schema=SCHEMA)


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
}
COLUMNS = {
    "numbers": "xnd",
    "numbers, BOOLEAN, DATE and TIMESTAMP": "xndb",
    "BOOLEAN": "b",
    "every type": "xndsb",
    "STRING, whole numbers, BOOLEAN and DATE": "nsb",
}


def features_of(windows: str) -> dict[str, Aggregate]:
    """Every aggregate that such windows ("finite" or "none") allow, over every column it takes, with and
    without a filter.
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
    return out


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
                s=draw(st.none() | st.sampled_from(["", "a", "b", "é", "z\u20ac"])),
                b=draw(st.none() | st.booleans()),
            )
        )
    # Two first arrivals at one instant would leave the winner open: real arrivals carry an offset as well.
    return [replace_arrival(event, position) for position, event in enumerate(out)]


def replace_arrival(event: Event, position: int) -> Event:
    """The event with its position as the last digits of its arrival."""
    return Event(**{**event.__dict__, "arrival": event.arrival // 1000 * 1000 + position})


def lift(view: FeatureView, events: Sequence[Event]) -> Lifted:
    """Elements of events as Spark's SQL would give them."""
    rows = [{**event.__dict__, TIME: event.time} for event in events]
    return {
        element: _values([compile_sql(element.sql)(row) for row in rows], element.kind)
        for element in view.layout.elements
    }


def _values(raw: list[object], kind: str) -> Values:
    valid = np.array([value is not None for value in raw], dtype=bool)
    if kind == "binary":
        out = np.empty(len(raw), dtype=object)
        out[:] = raw
        return Values(out, valid)
    return Values(
        np.array(
            [0 if value is None else value for value in raw],
            dtype=np.int64 if kind == "whole" else np.float64,
        ),
        valid,
    )


def states(view: FeatureView, groups: Sequence[Sequence[Event]]) -> tuple[Rows, list[States]]:
    """One state a group of events."""
    rows: list[Rows] = []
    extras: list[States] = []
    for group in groups:
        lifted = lift(view, group)
        rows.append(
            view.layout.reduce(np.concatenate([block.lift(lifted) for block in view.layout.blocks], axis=1))
        )
        extras.append([_extra_state(extra, lifted) for extra in view.layout.extras])
    return (np.stack(rows) if rows else np.empty((0, view.layout.width))), extras


def _extra_state(extra: Extra, lifted: Lifted) -> bytes | None:
    """What Spark's own aggregate would make of the events."""
    if isinstance(extra, LeadingTexts):
        whole: list[bytes | None] = extra.over(
            lifted, np.array([0]), np.array([len(lifted[extra.element].values)])
        ).tolist()
        return whole[0]
    found = lifted[extra.elements[0]]
    values = found.values[found.valid].tolist()
    if not values:
        return None
    if isinstance(extra, ValueSet):
        return extra.merge([len(value).to_bytes(4, "big") + value for value in values])
    sketch: Any
    if isinstance(extra, DistinctSketch):
        sketch = datasketches.hll_sketch(extra.log_size, datasketches.tgt_hll_type.HLL_8)
    elif isinstance(extra, QuantileSketch):
        sketch = datasketches.kll_doubles_sketch(extra.size)
    else:
        sketch = datasketches.frequent_strings_sketch(8)
    for value in values:
        sketch.update(value.decode() if isinstance(value, bytes) else value)
    return bytes(sketch.serialize_compact() if isinstance(extra, DistinctSketch) else sketch.serialize())


def batch_part(view: FeatureView, events: Sequence[Event], cut: int, slack: int = SLACK) -> BatchPart:
    """The batch part of one key's distinct events that arrived before the cut."""
    pieces: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        if event.time >= cut:
            pieces.setdefault((0, event.time), []).append(event)
            continue
        hops = set()
        for position, span in enumerate(view.spans):
            since = span.collapsed_from(cut, slack)
            if since is None or event.time >= since:
                pieces.setdefault((-1 - position, 0), []).append(event)
            tail = span.tail(cut)
            if tail is not None and since is not None and tail <= event.time < since:
                hops.add(span.hop)
        for hop in hops:
            pieces.setdefault((hop, floor_to(event.time, hop)), []).append(event)
    rows, extras = states(view, list(pieces.values()))
    labels = np.array(list(pieces), dtype=np.float64).reshape(-1, 2)
    return BatchPart(cut, slack, np.concatenate([labels, rows], axis=1), extras)


def tiles(view: FeatureView, events: Sequence[Event]) -> Tiles:
    """Tiles of one key's distinct events, of any slots, in the view's tiers."""
    wide = _tier(view, events, view.tiers[0])
    ahead = {event.id for event in events if event.time > event.arrival}
    fine = [
        _tier(view, [event for event in events if event.id not in ahead], width) for width in view.tiers[1:]
    ]
    return replace(wide, fine=fine[0] if fine else None)


def _tier(view: FeatureView, events: Sequence[Event], width: int) -> Tiles:
    pieces: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        start = event.time if event.time > event.arrival else floor_to(event.time, width)
        pieces.setdefault((floor_to(event.arrival, SLOT), start), []).append(event)
    rows, extras = states(view, list(pieces.values()))
    return Tiles(np.array([start for _, start in pieces], dtype=np.int64), rows, extras)


def start_of(view: FeatureView, cut: int, time: int) -> int | None:
    """The start of the grain that `grains.start_sql` computes, for one time."""
    if time >= cut:
        return time
    for since, step in steps(view, cut):
        if time >= since:
            return floor_to(time, step)
    return LIFELONG if is_lifelong(view) else None
