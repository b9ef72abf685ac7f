"""Which events had arrived by a query's time: ranges of sorted events without those that had not.

Positions are those of events sorted by (key, time). Work is done for a bounded number of pairs of a query and
an event at once, however many events of a key arrived late.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
MOST = 2**21
"""Pairs of a query and an event that are in memory at once; those of one query may be more."""


@dataclass(frozen=True)
class Pieces:
    """Ranges [first, end) of event positions. The ranges of one `owner` (sorted), a query, are merged."""

    first: Whole
    end: Whole
    owner: Whole


@dataclass(frozen=True)
class LateEvents:
    """For each event, the queries [after, until) of its key that come after its time, up to its arrival."""

    after: Whole
    until: Whole
    queries: int

    @classmethod
    def of(cls, query_key: Whole, query_time: Whole, key: Whole, time: Whole, arrival: Whole) -> "LateEvents":
        """The queries, sorted by (key, time), that miss an event which arrived at their time or later."""
        after = positions(query_key, query_time, key, time + 1)
        until = positions(query_key, query_time, key, arrival + 1)
        return cls(after, np.maximum(after, until), len(query_key))

    def pairs(self, first: Whole, end: Whole, examined: NDArray[np.bool_]) -> Iterator[tuple[Whole, Whole]]:
        """Sorted pairs (query, event position) of the examined queries, whole queries at a time.

        The events are in [`first`, `end`), positions for each query.
        """
        late = self.until > self.after
        event, after, until = np.flatnonzero(late), self.after[late], self.until[late]
        edges = np.zeros(self.queries + 1, dtype=np.int64)
        np.add.at(edges, after, 1)
        np.subtract.at(edges, until, 1)
        counts = np.cumsum(edges[:-1])
        for low, high in _shares(counts):
            since, to = np.maximum(after, low), np.minimum(until, high)
            count = np.maximum(to - since, 0)
            who = np.repeat(event, count)
            query = _runs(since, count)
            inside = examined[query] & (who >= first[query]) & (who < end[query])
            who, query = who[inside], query[inside]
            if len(who):
                order = np.lexsort((who, query))
                yield query[order], who[order]


def uncut(first: Whole, end: Whole) -> Pieces:
    """One range a query."""
    return Pieces(first, end, np.arange(len(end)))


def cut(first: Whole, end: Whole, query: Whole, event: Whole) -> Pieces:
    """The ranges of queries without the events of sorted pairs (query, event position)."""
    inside = (event >= first[query]) & (event < end[query])
    query, event = query[inside], event[inside]
    owner = np.concatenate([np.arange(len(first)), query])
    start, stop = np.concatenate([first, event + 1]), np.concatenate([end, event])
    order = np.lexsort((start, owner))
    # Each piece ends at the next missing event, so the ends are sorted as the starts are.
    return Pieces(start[order], stop[np.lexsort((stop, owner))], owner[order])


def along(pieces: Pieces, query: Whole, event: Whole) -> Pieces:
    """The ranges of queries and one event more of each `query`, which comes after all of its ranges."""
    owner = np.concatenate([pieces.owner, query])
    order = np.argsort(owner, kind="stable")
    first, end = np.concatenate([pieces.first, event]), np.concatenate([pieces.end, event + 1])
    return Pieces(first[order], end[order], owner[order])


def gathered(pieces: Pieces, owners: Whole) -> Iterator[tuple[Whole, Whole, Whole, Whole]]:
    """The events of the pieces of some owners (sorted), side by side.

    Yields, for some owners at a time, these, the positions of their events, and each owner's range among
    these positions.
    """
    mine = np.isin(pieces.owner, owners)
    place = np.searchsorted(owners, pieces.owner[mine])
    first, count = pieces.first[mine], np.maximum(pieces.end[mine] - pieces.first[mine], 0)
    total = np.bincount(place, weights=count, minlength=len(owners)).astype(np.int64)
    for low, high in _shares(total, whole=True):
        here = slice(np.searchsorted(place, low), np.searchsorted(place, high))
        edges = np.concatenate([[0], np.cumsum(total[low:high])])
        yield owners[low:high], _runs(first[here], count[here]), edges[:-1], edges[1:]


def positions(key: Whole, time: Whole, asked_key: Whole, asked_time: Whole) -> Whole:
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


def _shares(counts: Whole, *, whole: bool = False) -> Iterator[tuple[int, int]]:
    """Ranges of places whose counts sum to about MOST; `whole` includes those that have nothing to count."""
    if not len(counts) or not (whole or counts.any()):
        return
    share = (np.cumsum(counts) - counts) // MOST
    edges = [0, *(np.flatnonzero(np.diff(share)) + 1).tolist(), len(counts)]
    yield from pairwise(edges)


def _runs(start: Whole, count: Whole) -> Whole:
    """The numbers from each start on, `count` of them."""
    before = np.cumsum(count) - count
    return np.arange(int(count.sum())) - np.repeat(before - start, count)
