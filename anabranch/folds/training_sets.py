"""Point-in-time features in numpy: each window's state strictly before each query's time, many keys at once.

The input is a sorted run of whole keys, events and queries separate. There is no loop over keys: keys are
numbered, binary searches over (key, time) find the edges of windows, and blocks fold ranges of positions
(ranges.py).

With arrivals, a query sees only events that had arrived before its time: its ranges are cut at the other
events, and the states of the pieces are merged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.views import FeatureView
from anabranch.states.blocks import Element, Values
from anabranch.states.extras import Bytes, Extra
from anabranch.states.ranges import prepare

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class SortedRun:
    """Events and queries, each sorted by (key, time): `key` numbers the keys of both, times are microseconds.

    With `arrival`, the arrival times of the events, queries see only events that had arrived.
    """

    key: Whole
    time: Whole
    lifted: Mapping[Element, Values]
    query_key: Whole
    query_time: Whole
    arrival: Whole | None = None


@dataclass(frozen=True)
class _Pieces:
    """Ranges [first, end) of event positions. The ranges of one `owner` (sorted), a query, are merged."""

    first: Whole
    end: Whole
    owner: Whole


@np.errstate(over="ignore", invalid="ignore")  # values beyond DOUBLE are NULL (Formula)
def features_before(view: FeatureView, run: SortedRun) -> dict[str, Values]:
    """Values of every feature column of `view` for each query, from events strictly before its time.

    Features that are computed from whole ranges (sketches) cannot honour arrivals; callers check that.
    """
    layout, out = view.layout, {}
    now = _positions(run.key, run.time, run.query_key, run.query_time)
    folders = {block: prepare(block, run.lifted) for block in layout.blocks}
    unknown = None if run.arrival is None else _unknown(run, run.arrival)
    for span in view.spans:
        tails, heads = span.tails(run.query_time), span.heads(run.query_time)
        first = _first(run, tails)
        ends_now = heads is run.query_time
        end = now if ends_now else _positions(run.key, run.time, run.query_key, heads)
        since = np.zeros(len(end), dtype=np.int64) if tails is None else tails
        pieces = _Pieces(first, end, np.arange(len(end))) if unknown is None else _cut(first, end, *unknown)
        rows = np.empty((len(end), layout.width))
        for block, over in folders.items():
            rows[:, layout.slices[block]] = block.gather(over(pieces.first, pieces.end), pieces.owner)
        extras = np.empty((len(end), len(layout.extras)), dtype=object)
        for position, extra in enumerate(layout.extras):
            extras[:, position] = _gather_extras(
                extra, extra.over(run.lifted, pieces.first, pieces.end), pieces.owner, len(end)
            )
        states = list(extras)
        for name in view.features:
            column = next(c.name for c in view.columns if c.feature == name and c.window == span)
            exactly = layout.bounds[name].exactly
            direct = None if exactly is None else exactly(run.lifted, first, end)
            out[column] = layout.finish(name, rows, states, heads, since) if direct is None else direct
    return {column.name: out[column.name] for column in view.columns}


def _first(run: SortedRun, tails: Whole | None) -> Whole:
    if tails is None:
        first: Whole = np.searchsorted(run.key, run.query_key, side="left").astype(np.int64)
        return first
    return _positions(run.key, run.time, run.query_key, tails)


def _positions(key: Whole, time: Whole, asked_key: Whole, asked_time: Whole) -> Whole:
    """The position in (key, time) of the first entry of each key at or after the time asked for."""
    low = np.searchsorted(key, asked_key, side="left").astype(np.int64)
    high = np.searchsorted(key, asked_key, side="right").astype(np.int64)
    # A binary search within [low, high) for all keys at once takes as many steps as the largest key needs.
    steps = int(np.max(high - low, initial=0)).bit_length()
    last = max(len(time) - 1, 0)
    for _ in range(steps):
        open_ = low < high
        middle = (low + high) >> 1
        before = open_ & (time[np.minimum(middle, last)] < asked_time) if len(time) else open_
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _unknown(run: SortedRun, arrival: Whole) -> tuple[Whole, Whole]:
    """Sorted pairs (query, event position) of events that lie before a query's time and arrived later."""
    # Of an event these are the queries after its time and up to its arrival.
    after = _positions(run.query_key, run.query_time, run.key, run.time + 1)
    until = _positions(run.query_key, run.query_time, run.key, arrival + 1)
    count = np.maximum(until - after, 0)
    event = np.repeat(np.arange(len(count)), count)
    query = np.arange(len(event)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(after, count)
    order = np.lexsort((event, query))
    return query[order], event[order]


def _cut(first: Whole, end: Whole, query: Whole, event: Whole) -> _Pieces:
    """The ranges without the events of the pairs."""
    inside = (event >= first[query]) & (event < end[query])
    query, event = query[inside], event[inside]
    owner = np.concatenate([np.arange(len(first)), query])
    start, stop = np.concatenate([first, event + 1]), np.concatenate([end, event])
    order = np.lexsort((start, owner))
    # Each piece ends at the next missing event, so the ends are sorted as the starts are.
    return _Pieces(start[order], stop[np.lexsort((stop, owner))], owner[order])


def _gather_extras(extra: Extra, states: Bytes, owner: Whole, count: int) -> Bytes:
    if len(states) == count:
        return states
    states_of: list[list[bytes]] = [[] for _ in range(count)]
    for who, state in zip(owner.tolist(), states.tolist(), strict=True):
        if state is not None:
            states_of[who].append(state)
    out = np.empty(count, dtype=object)
    out[:] = [extra.merge(parts) if parts else None for parts in states_of]
    return out
