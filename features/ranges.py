"""States over ranges of a sorted array: any block, many ranges at once, in log2(n) vectorised steps.

A segment tree of states answers every range from at most 2 log2(n) merges, and uses nothing but the block's own
`combine`: so a training set is folded by the very code that merges tiles. Blocks of exact whole numbers use prefix
sums instead (a difference of integers is exact; one of floats would cancel).
"""

import numpy as np
from numpy.typing import NDArray

from features.blocks import Block, ExactTotal, Lifted, Rows, Tally

Positions = NDArray[np.int64]


def over_ranges(block: Block, lifted: Lifted, first: Positions, end: Positions) -> Rows:
    """States of the events at positions [first, end), shape (q, width); empty ranges give the empty state."""
    if isinstance(block, Tally):
        return _differences(lifted[block.element].valid, first, end).astype(np.float64)[:, None]
    if isinstance(block, ExactTotal):
        limbs = block.lift(lifted).astype(np.int64)
        return np.stack([_differences(limbs[:, i], first, end) for i in range(3)], axis=1).astype(np.float64)
    return _tree(block, block.lift(lifted), first, end)


def _differences(values: NDArray[np.generic], first: Positions, end: Positions) -> Positions:
    prefix = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, dtype=np.int64, out=prefix[1:])
    found: Positions = prefix[np.maximum(end, first)] - prefix[first]
    return found


def _tree(block: Block, level: Rows, first: Positions, end: Positions) -> Rows:
    left, right = block.blank(len(first)), block.blank(len(first))
    lower, upper = first.astype(np.int64), np.maximum(first, end).astype(np.int64)
    open_ = np.flatnonzero(lower < upper)
    while len(open_):
        odd = open_[lower[open_] & 1 == 1]
        left[odd] = block.combine(left[odd], level[lower[odd]])
        odd = open_[upper[open_] & 1 == 1]
        right[odd] = block.combine(level[upper[odd] - 1], right[odd])
        lower, upper = (lower + 1) >> 1, upper >> 1
        open_ = open_[lower[open_] < upper[open_]]
        if len(open_):
            if len(level) % 2:
                level = np.concatenate([level, block.blank(1)])
            level = block.combine(level[::2], level[1::2])
    return block.combine(left, right)
