"""Grains: the states that batches keep in the lake. A grain is the state of a key over a span of event time.

Builds add grains and never change them. A batch with cut C keeps an event of time x only as finely as a
later cut can need it (`steps`):

    event time ->        tail(7d)               tail(1h)                                  C
    x is dropped, or     |  hops of the 7d       |  hops that both windows are made of     |  early: x itself
    one grain for all    |  window               |  (their greatest common divisor)        |
    of it (a lifetime)

Tails, heads and the beginnings of collapsed states lie on hops and only move forward, so at every later cut a
grain lies wholly inside or wholly outside of a window. `fold` makes batch parts (merge.py) from the grains
of any number of builds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.layout import States
from anabranch.declare.views import FeatureView
from anabranch.folds.merge import LABELS, LOST
from anabranch.states.blocks import Rows

LIFELONG = -(2**62)
"""Start of the grain of all events that are older than every bounded window."""

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Grains:
    """Grains sorted by (key, start): key numbers from 0, microseconds, states (n, width), and extras."""

    key: Whole
    start: Whole
    rows: Rows
    extras: Sequence[States] = ()


def steps(view: FeatureView, cut: int) -> list[tuple[int, int]]:
    """Pairs (since, span), latest first: events at or after `since` are in grains of `span` microseconds."""
    finite = sorted((span.tail(cut), span.hop) for span in view.spans if span.tail(cut) is not None)
    pairs, hop = [], 0
    for tail, step in finite:
        hop = gcd(hop, step)
        pairs.append((int(tail or 0), hop))
    return pairs[::-1]


def is_lifelong(view: FeatureView) -> bool:
    """Whether a window has no beginning."""
    return any(not span.bounded for span in view.spans)


def start_sql(view: FeatureView, cut: int, time: str) -> str:
    """SQL of the start of the grain of an event, or a finer grain, at `time`; NULL if no window needs it."""
    cases = [f"WHEN {time} >= {cut} THEN {time}"]
    cases += [
        f"WHEN {time} >= {since} THEN {time} - pmod({time}, {step}L)" for since, step in steps(view, cut)
    ]
    return (
        f"CASE {' '.join(cases)} ELSE {f'{LIFELONG}L' if is_lifelong(view) else 'CAST(NULL AS BIGINT)'} END"
    )


def merged(view: FeatureView, grains: Grains) -> Grains:
    """Merge grains of equal (key, start)."""
    first = _beginnings(grains.key, grains.start)
    extras = view.layout.reduce_extras_groups(grains.extras, first)
    return Grains(
        grains.key[first], grains.start[first], view.layout.reduce_groups(grains.rows, first), extras
    )


def fold(view: FeatureView, grains: Grains, cut: int, slack: int) -> Grains:
    """The batch parts of all keys (merge.py): rows [segment, start, state...] by key; `start` is unused."""
    pieces = [
        *_collapsed(view, grains, cut, slack),
        *_hops(view, grains, cut, slack),
        _piece(view, grains, grains.start >= cut, 0, grains.start),
    ]
    key = np.concatenate([piece.key for piece in pieces])
    order = np.argsort(key, kind="stable")
    extras = [state for piece in pieces for state in piece.extras]
    rows = np.concatenate([piece.rows for piece in pieces])[order]
    return Grains(
        key[order],
        np.zeros(len(key), dtype=np.int64),
        rows,
        [extras[i] for i in order.tolist()] if extras else (),
    )


def largest_key(view: FeatureView, slack: int) -> int:
    """About the bytes of the largest batch part that a key can have."""
    hops = {
        (span.hop, start)
        for span in view.spans
        for since, until in span.hops(0, slack)
        for start in range(since, until, span.hop)
    }
    state = 8 * (LABELS + view.layout.width) + sum(extra.largest for extra in view.layout.extras)
    return (len(view.spans) + len(hops)) * state


def fitting(parts: Grains, largest: int) -> Grains:
    """Batch parts as `fold` makes them, without what is more than a store takes, `largest` bytes a key.

    Such a key loses its extras, and its rows too where they alone are more; its first row, of segment LOST,
    tells.
    """
    if not len(parts.key):
        return parts
    keys, first = np.unique(parts.key, return_index=True)
    row = parts.rows.itemsize * parts.rows.shape[1]
    bytes_ = np.full(len(parts.key), row, dtype=np.int64)
    if parts.extras:
        bytes_ += [sum(len(one) for one in state if one is not None) for state in parts.extras]
    sizes = np.add.reduceat(bytes_, first)
    large = keys[sizes > largest]
    if not len(large):
        return parts
    stays = ~np.isin(parts.key, keys[np.diff(first, append=len(parts.key)) * row > largest])
    told = np.zeros((len(large), parts.rows.shape[1]))
    told[:, 0], told[:, 1] = LOST, sizes[sizes > largest]
    key = np.concatenate([large, parts.key[stays]])
    order = np.argsort(key, kind="stable")
    lost, nothing = set(large.tolist()), [None] * len(parts.extras[0]) if parts.extras else []
    extras = [
        nothing if number in lost else state
        for number, state, kept in zip(parts.key.tolist(), parts.extras, stays.tolist(), strict=False)
        if kept
    ]
    both = [*([nothing] * len(large)), *extras] if parts.extras else []
    return Grains(
        key[order],
        np.zeros(len(key), dtype=np.int64),
        np.concatenate([told, parts.rows[stays]])[order],
        [both[place] for place in order.tolist()] if both else (),
    )


def _collapsed(view: FeatureView, grains: Grains, cut: int, slack: int) -> list[Grains]:
    none = np.zeros(len(grains.key), dtype=np.int64)
    out = []
    for position, span in enumerate(view.spans):
        inside = grains.start < cut
        since = span.collapsed_from(cut, slack)
        if since is not None:
            inside &= (grains.start >= since) & (grains.start < span.collapsed_to(cut))
        out.append(_piece(view, grains, inside, -1 - position, none))
    return out


def _hops(view: FeatureView, grains: Grains, cut: int, slack: int) -> list[Grains]:
    stretches: dict[int, NDArray[np.bool_]] = {}
    for span in view.spans:
        for since, until in span.hops(cut, slack):
            inside = (grains.start >= since) & (grains.start < until)
            stretches[span.hop] = stretches.get(span.hop, False) | inside
    return [_piece(view, grains, inside, hop, grains.start // hop * hop) for hop, inside in stretches.items()]


def _piece(
    view: FeatureView, grains: Grains, inside: NDArray[np.bool_], segment: int, start: Whole
) -> Grains:
    """One row of the segment for each (key, start) of the grains inside."""
    chosen = np.flatnonzero(inside)
    key, start = grains.key[chosen], start[chosen]
    first = _beginnings(key, start)
    rows = np.empty((len(first), LABELS + view.layout.width))
    rows[:, 0], rows[:, 1] = segment, start[first]
    rows[:, LABELS:] = view.layout.reduce_groups(grains.rows[chosen], first)
    extras = [grains.extras[i] for i in chosen.tolist()] if view.layout.extras else ()
    return Grains(key[first], start[first], rows, view.layout.reduce_extras_groups(extras, first))


def _beginnings(key: Whole, start: Whole) -> Whole:
    """The first position of each (key, start)."""
    changed = np.ones(len(key), dtype=bool)
    changed[1:] = (key[1:] != key[:-1]) | (start[1:] != start[:-1])
    return np.flatnonzero(changed)
