"""A wavelet matrix: order statistics of many ranges of an array at once, in log2(largest code) steps.

Source: Claude, Navarro, Ordonez, "The wavelet matrix" (2015). It is built over whole codes. A query takes a
few vectorised look-ups per bit, so training sets get quantiles, distinct counts and modes without sketches
or a loop over keys.
"""

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]


class WaveletMatrix:
    """Over `codes` (n,), whole numbers from 0."""

    def __init__(self, codes: Whole) -> None:
        self.bits = max(int(codes.max(initial=0)).bit_length(), 1)
        self.zeros: list[NDArray[np.int64]] = []  # by level: how many zero bits stand before each position
        for level in reversed(range(self.bits)):
            bit = (codes >> level) & 1
            before = np.zeros(len(codes) + 1, dtype=np.int64)
            np.cumsum(1 - bit, out=before[1:])
            self.zeros.append(before)
            codes = np.concatenate([codes[bit == 0], codes[bit == 1]])

    def kth(self, first: Whole, end: Whole, rank: Whole) -> Whole:
        """The code of rank `rank` (from 0) among positions [first, end), which must hold more than `rank`."""
        low, high, rank, code = first.copy(), end.copy(), rank.copy(), np.zeros(len(first), dtype=np.int64)
        for before in self.zeros:
            zero_low, zero_high = before[low], before[high]
            count = zero_high - zero_low
            one = rank >= count
            rank = np.where(one, rank - count, rank)
            low = np.where(one, before[-1] + low - zero_low, zero_low)
            high = np.where(one, before[-1] + high - zero_high, zero_high)
            code = code << 1 | one
        return code

    def count_below(self, first: Whole, end: Whole, limit: Whole) -> Whole:
        """How many positions in [first, end) hold a code below `limit`."""
        low, high, count = first.copy(), end.copy(), np.zeros(len(first), dtype=np.int64)
        for level, before in zip(reversed(range(self.bits)), self.zeros, strict=True):
            zero_low, zero_high = before[low], before[high]
            one = (limit >> level) & 1 == 1
            count += np.where(one, zero_high - zero_low, 0)
            low = np.where(one, before[-1] + low - zero_low, zero_low)
            high = np.where(one, before[-1] + high - zero_high, zero_high)
        return np.where(limit >> self.bits > 0, end - first, count)

    def mode(self, first: Whole, end: Whole, share: int) -> Whole:
        """The most frequent code of each non-empty range, the smallest of equals.

        Codes that make up less than 1 / `share` of their range are not searched beyond the first guess,
        which limits the work to `share` candidates per range and bit. Ranges of fewer distinct codes are
        answered exactly.
        """
        code, most = self._guess(first, end)
        least = np.maximum(np.maximum(most, 2), (end - first) // share)
        owner = np.flatnonzero(end - first > 1)
        low, high, prefix = first[owner], end[owner], np.zeros(len(owner), dtype=np.int64)
        for before in self.zeros:
            zero_low, zero_high = before[low], before[high]
            low = np.concatenate([zero_low, before[-1] + low - zero_low])
            high = np.concatenate([zero_high, before[-1] + high - zero_high])
            prefix = np.concatenate([prefix << 1, prefix << 1 | 1])
            owner = np.concatenate([owner, owner])
            kept = high - low >= least[owner]
            low, high, prefix, owner = low[kept], high[kept], prefix[kept], owner[kept]
        ordered = np.lexsort([-prefix, high - low])  # the best of each owner is written last
        better = high - low >= most[owner]
        ordered = ordered[better[ordered]]
        code[owner[ordered]] = prefix[ordered]
        alone = most <= 1
        alone[owner[ordered]] = False
        code[alone] = self.kth(first[alone], end[alone], np.zeros(int(alone.sum()), dtype=np.int64))
        return code

    def _guess(self, first: Whole, end: Whole) -> tuple[Whole, Whole]:
        """A frequent code of each range, always following the fuller half, and how often it occurs."""
        low, high, code = first.copy(), end.copy(), np.zeros(len(first), dtype=np.int64)
        for before in self.zeros:
            zero_low, zero_high = before[low], before[high]
            one = 2 * (zero_high - zero_low) < high - low
            low = np.where(one, before[-1] + low - zero_low, zero_low)
            high = np.where(one, before[-1] + high - zero_high, zero_high)
            code = code << 1 | one
        return code, high - low
