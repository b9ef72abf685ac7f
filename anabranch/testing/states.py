"""States of plain events in numpy, stored as batch and stream store them: without Spark, servers or a JVM."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from anabranch.aggregates.layout import States
from anabranch.declare.views import FeatureView
from anabranch.folds.merge import BatchPart, Tiles
from anabranch.states.blocks import Lifted, Rows, Values
from anabranch.values.times import HOUR, floor_to

SLOT = HOUR
SLACK = 6 * HOUR


class Stored(Protocol):
    """An event of which states are made; times in microseconds."""

    @property
    def id(self) -> Any:
        """What copies of one event share."""

    @property
    def time(self) -> int:
        """Event time."""

    @property
    def arrival(self) -> int:
        """When it came."""

    @property
    def row(self) -> Mapping[str, Any]:
        """Values by column, NULL as None, times as numbers."""


Make = Callable[[FeatureView, Sequence[Sequence[Stored]]], tuple[Rows, list[States]]]
"""What makes one state of each group of events."""


def lift(view: FeatureView, events: Sequence[Stored]) -> Lifted:
    """Elements of events as Spark's SQL would give them."""
    found = view.lifter.values([event.row for event in events], [event.time for event in events])
    return {
        element: _values([values[element] for values in found], element.kind)
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


def single_states(view: FeatureView, events: Sequence[Stored]) -> tuple[Rows, list[States]]:
    """One state an event."""
    rows, extras = view.lifter.states([event.row for event in events], [event.time for event in events])
    return rows, extras or [[] for _ in events]


def states(view: FeatureView, groups: Sequence[Sequence[Stored]]) -> tuple[Rows, list[States]]:
    """One state a group of events."""
    layout = view.layout
    single, more = single_states(view, [event for group in groups for event in group])
    ends = list(accumulate(map(len, groups), initial=0))
    places = [slice(start, end) for start, end in pairwise(ends)]
    rows = [layout.reduce(single[place]) for place in places]
    extras: list[States] = [layout.reduce_extras(more[place]) for place in places]
    return (np.stack(rows) if rows else np.empty((0, layout.width))), extras


def batch_part(
    view: FeatureView, events: Sequence[Stored], cut: int, slack: int = SLACK, make: Make = states
) -> BatchPart:
    """The batch part of one key's distinct events that arrived before the cut."""
    pieces: dict[tuple[int, int], list[Stored]] = {}
    for event in events:
        if event.time >= cut:
            pieces.setdefault((0, event.time), []).append(event)
            continue
        hops = set()
        for position, span in enumerate(view.spans):
            since = span.collapsed_from(cut, slack)
            if (since is None or event.time >= since) and event.time < span.head(cut):
                pieces.setdefault((-1 - position, 0), []).append(event)
            elif (tail := span.tail(cut)) is not None and tail <= event.time < span.head(cut + slack):
                hops.add(span.hop)
        for hop in hops:
            pieces.setdefault((hop, floor_to(event.time, hop)), []).append(event)
    rows, extras = make(view, list(pieces.values()))
    labels = np.array(list(pieces), dtype=np.float64).reshape(-1, 2)
    return BatchPart(cut, slack, np.concatenate([labels, rows], axis=1), extras)


def tiles(view: FeatureView, events: Sequence[Stored], make: Make = states) -> Tiles:
    """Tiles of one key's distinct events, of any slots, in the view's tiers."""
    wide = _tier(view, events, view.tiers[0], make)
    apart = {event.id for event in events if event.time > event.arrival and event.time % view.tiers[0]}
    there = [event for event in events if event.id not in apart]
    fine = [_tier(view, there, width, make) for width in view.tiers[1:]]
    return replace(wide, fine=fine[0] if fine else None)


def _tier(view: FeatureView, events: Sequence[Stored], width: int, make: Make) -> Tiles:
    pieces: dict[tuple[int, int], list[Stored]] = {}
    for event in events:
        start = event.time if event.time > event.arrival else floor_to(event.time, width)
        pieces.setdefault((floor_to(event.arrival, SLOT), start), []).append(event)
    rows, extras = make(view, list(pieces.values()))
    return Tiles(np.array([start for _, start in pieces], dtype=np.int64), rows, extras)
