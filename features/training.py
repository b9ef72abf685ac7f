"""Point-in-time features in numpy: for many keys at once, the state of each window strictly before each query's time.

Input is one sorted run of whole keys, events and queries mixed. There is no loop over keys: a key becomes a whole number,
positions of window edges come from binary searches over (key, time), and blocks fold ranges of positions (ranges.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.blocks import Element, Values
from features.declaration import FeatureView
from features.ranges import prepare
from features.windows import Window

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Events sorted by (key, time), and queries: `key` numbers the keys of both, times are microseconds."""

    key: Whole
    time: Whole
    lifted: Mapping[Element, Values]
    query_key: Whole
    query_time: Whole


def features_before(view: FeatureView, run: Run) -> dict[str, Values]:
    """Values of every feature column of `view`, one an query, from events strictly before the query's time."""
    layout, out = view.layout, {}
    end = _positions(run, run.query_time)
    folders = {block: prepare(block, run.lifted) for block in layout.blocks}
    for span in view.spans:
        since = np.zeros(len(end), dtype=np.int64) if span.width is None else (run.query_time - span.width) // span.hop * span.hop
        first = _first(run, span, since)
        rows = np.empty((len(end), layout.width))
        for block, over in folders.items():
            rows[:, layout.slices[block]] = over(first, end)
        extras = np.empty((len(end), len(layout.extras)), dtype=object)
        for position, extra in enumerate(layout.extras):
            extras[:, position] = extra.over(run.lifted, first, end)
        states = list(extras)
        for name in view.features:
            column = next(c.name for c in view.columns if c.feature == name and c.window == span)
            exactly = layout.bounds[name].exactly
            direct = None if exactly is None else exactly(run.lifted, first, end)
            out[column] = layout.finish(name, rows, states, run.query_time, since) if direct is None else direct
    return {column.name: out[column.name] for column in view.columns}


def _first(run: Run, span: Window, since: Whole) -> Whole:
    if span.width is None:
        found: Whole = np.searchsorted(run.key, run.query_key, side="left").astype(np.int64)
        return found
    return _positions(run, since)


def _positions(run: Run, times: Whole) -> Whole:
    """For each query's key, the position of its first event at or after `times`."""
    low = np.searchsorted(run.key, run.query_key, side="left").astype(np.int64)
    high = np.searchsorted(run.key, run.query_key, side="right").astype(np.int64)
    # A binary search within [low, high) of all queries at once: as many steps as the largest key needs.
    steps = int(np.max(high - low, initial=0)).bit_length()
    last = max(len(run.time) - 1, 0)
    for _ in range(steps):
        open_ = low < high
        middle = (low + high) >> 1
        before = open_ & (run.time[np.minimum(middle, last)] < times) if len(run.time) else open_
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low
