"""States of ranges of a sorted array: any block, many ranges at once, in log2(n) vectorised steps.

A segment tree of states answers a range by at most 2 log2(n) merges with the block's own `combine`, so the
code that merges tiles also folds training sets. Blocks of whole numbers use prefix sums: a difference of
integers is exact, one of floats would cancel. One preparation serves all windows.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anabranch.states.blocks import Block, Lifted, Rows
from anabranch.states.sums import ExactTotal, Tally

Positions = NDArray[np.int64]
OverRanges = Callable[[Positions, Positions], Rows]


def prepare(block: Block, lifted: Lifted) -> OverRanges:
    """A function from ranges [first, end) of positions to their states (q, width)."""
    if isinstance(block, Tally):
        return _differences(lifted[block.element].valid[:, None])
    if isinstance(block, ExactTotal):
        return _differences(block.lift(lifted).astype(np.int64))
    return _tree(block, block.lift(lifted))


def _differences(columns: NDArray[np.generic]) -> OverRanges:
    prefix = np.zeros((len(columns) + 1, columns.shape[1]), dtype=np.int64)
    np.cumsum(columns, axis=0, dtype=np.int64, out=prefix[1:])
    return lambda first, end: (prefix[np.maximum(end, first)] - prefix[first]).astype(np.float64)


def _tree(block: Block, level: Rows) -> OverRanges:
    levels = [level]
    while len(level) > 1:
        if len(level) % 2:
            level = np.concatenate([level, block.blank(1)])
        level = block.combine(level[::2], level[1::2])
        levels.append(level)

    def over(first: Positions, end: Positions) -> Rows:
        left, right = block.blank(len(first)), block.blank(len(first))
        lower, upper = first.astype(np.int64), np.maximum(first, end).astype(np.int64)
        open_ = np.flatnonzero(lower < upper)
        lower, upper = lower[open_], upper[open_]
        for states in levels:
            odd = lower & 1 == 1
            at = open_[odd]
            left[at] = block.combine(left[at], states[lower[odd]])
            odd = upper & 1 == 1
            at = open_[odd]
            right[at] = block.combine(states[upper[odd] - 1], right[at])
            lower, upper = (lower + 1) >> 1, upper >> 1
            going = lower < upper
            open_, lower, upper = open_[going], lower[going], upper[going]
            if not len(open_):
                break
        return block.combine(left, right)

    return over
