"""Distinct values, percentiles and frequent values: exact and bounded, or sketches with a stated error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import datasketches
import numpy as np

from anabranch.aggregates.base import ANYTHING, Aggregate, Bound, Folded, bounded
from anabranch.aggregates.categories import Counted
from anabranch.errors import DeclarationError
from anabranch.states.blocks import Element, Lifted, Values
from anabranch.states.extras import LONGEST_IDENTITY, frames
from anabranch.states.formulas import Formula, digested, double, identity, kept
from anabranch.states.sketches import (
    DistinctSketch,
    FrequencySketch,
    QuantileSketch,
    ValueSet,
    coded_values,
    distinct_counts,
)
from anabranch.states.wavelet import WaveletMatrix, Whole
from anabranch.values.types import BIGINT, DOUBLE, STRING, DataType

_LONGEST_NUMBER = 40  # bytes of a number, a date or a time as text


@dataclass(frozen=True, init=False)
class Distinct(Aggregate):
    """Number of different values, exact up to `most` (1,000 by default), at most `most`. No events: 0."""

    most: int = 1000
    takes = ANYTHING

    def __init__(self, argument: str, *, most: int = 1000, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "most", bounded("Distinct", "most", most, 10_000))

    def over(self, kind: DataType) -> Bound:
        longest = LONGEST_IDENTITY if kind.text else _LONGEST_NUMBER
        extra = ValueSet(digested(self.text, kind, self.where), self.most, longest)

        def finish(found: Folded) -> Values:
            return _counts([0 if state is None else len(frames(state)) for state in found.extras[0]])

        def exactly(lifted: Lifted, first: Whole, end: Whole) -> Values:
            counted, low, high = extra.within(lifted, first, end)
            return _counts(np.minimum(distinct_counts(coded_values(counted)[0], low, high), self.most))

        return Bound(
            BIGINT,
            Formula(finish),
            extras=(extra,),
            exactly=exactly,
            exactness=f"exact up to {self.most:,} values, then {self.most:,}",
        )


@dataclass(frozen=True, init=False)
class ApproxDistinct(Aggregate):
    """Number of different values by HyperLogLog. No events: 0.

    The relative standard error is 1.04 / sqrt(2 ** log_size), 1.6% by default.
    """

    log_size: int = 12
    takes = ANYTHING

    def __init__(self, argument: str, *, log_size: int = 12, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        if bounded("ApproxDistinct", "log_size", log_size, 21) < 4:
            raise DeclarationError(
                f"ApproxDistinct: log_size={log_size!r} must be a whole number from 4 to 21"
            )
        object.__setattr__(self, "log_size", log_size)

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        if not isinstance(exact, int) or not isinstance(served, int):
            return exact == served
        return abs(exact - served) <= 4 * 1.04 / math.sqrt(2**self.log_size) * exact + 0.5

    def over(self, kind: DataType) -> Bound:
        # HyperLogLog passes over empty values, so every value gets a byte in front.
        marked = Element(sql=f"concat(X'3D', {identity(self.text, kind, self.where).sql})", kind="binary")
        extra = DistinctSketch(marked, self.log_size)

        def finish(found: Folded) -> Values:
            sketches = [
                None if state is None else datasketches.hll_sketch.deserialize(state)
                for state in found.extras[0]
            ]
            return _counts([0 if sketch is None else round(sketch.get_estimate()) for sketch in sketches])

        def exactly(lifted: Lifted, first: Whole, end: Whole) -> Values:
            counted, low, high = extra.within(lifted, first, end)
            return _counts(distinct_counts(coded_values(counted)[0], low, high))

        return Bound(
            BIGINT,
            Formula(finish),
            extras=(extra,),
            exactly=exactly,
            exactness=f"standard error {1.04 / math.sqrt(2**self.log_size):.1%}",
        )


@dataclass(frozen=True, init=False)
class ApproxPercentile(Aggregate):
    """The smallest value whose rank is at least the share `percentage` (0 to 1), by KLL. No events: null.

    Exact up to `size` values. Beyond, its true rank is within 1.33% of `percentage` in 99 of 100 cases for
    the default size of 200.
    """

    percentage: float = 0.5
    size: int = 200

    def __init__(
        self, argument: str, percentage: float, *, size: int = 200, **scope: Unpack[Counted]
    ) -> None:
        super().__init__(argument, **scope)
        if not 0 <= percentage <= 1:
            raise DeclarationError(
                f"ApproxPercentile: percentage={percentage!r} must be a number from 0 to 1, such as 0.95"
            )
        if bounded("ApproxPercentile", "size", size, 65_535) < 8:
            raise DeclarationError(f"ApproxPercentile: size={size!r} must be a whole number from 8 to 65535")
        object.__setattr__(self, "percentage", float(percentage))
        object.__setattr__(self, "size", size)

    def over(self, kind: DataType) -> Bound:
        extra = QuantileSketch(double(self.text, self.where), self.size)

        def finish(found: Folded) -> Values:
            valid = np.array([state is not None for state in found.extras[0]], dtype=bool)
            values = [0.0 if state is None else self._quantile(state) for state in found.extras[0]]
            return Values(np.array(values, dtype=np.float64), valid)

        def exactly(lifted: Lifted, first: Whole, end: Whole) -> Values:
            counted, low, high = extra.within(lifted, first, end)
            valid = high > low
            distinct, codes = np.unique(counted.values.astype(np.float64), return_inverse=True)
            rank = np.maximum(np.ceil(self.percentage * (high - low) - 1e-9).astype(np.int64) - 1, 0)[valid]
            out = np.zeros(len(low))
            if valid.any():
                out[valid] = distinct[
                    WaveletMatrix(codes.astype(np.int64)).kth(low[valid], high[valid], rank)
                ]
            return Values(out, valid)

        return Bound(
            DOUBLE,
            Formula(finish),
            extras=(extra,),
            exactly=exactly,
            exactness=f"rank within {self._rank_error():.2%}; exact up to {self.size:,} values",
        )

    def witnesses(self) -> Mapping[str, Aggregate]:
        error = 2 * self._rank_error()
        low, high = max(self.percentage - error, 0.0), min(self.percentage + error, 1.0)
        return {
            "low": ApproxPercentile(self.text, low, where=self.where),
            "high": ApproxPercentile(self.text, high, where=self.where),
        }

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        low, high = witnessed["low"], witnessed["high"]
        return exact == served or (
            isinstance(served, float)
            and isinstance(low, float)
            and isinstance(high, float)
            and low <= served <= high
        )

    def _rank_error(self) -> float:
        return float(datasketches.kll_doubles_sketch.get_normalized_rank_error(self.size, False))

    def _quantile(self, state: bytes) -> float:
        return float(datasketches.kll_doubles_sketch.deserialize(state).get_quantile(self.percentage, True))


@dataclass(frozen=True, init=False)
class MostFrequent(Aggregate):
    """The most frequent value (among equals the smallest text), tracking `tracked` values in bounded memory.

    Exact while there are no more than `tracked` different values; beyond that its count may fall short of
    the largest count by up to 3.5 / 1.33 / `tracked` of all events (2.6% by default). No events: null.
    """

    tracked: int = 100
    takes = "STRING, whole numbers, BOOLEAN and DATE"

    def __init__(self, argument: str, *, tracked: int = 100, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "tracked", bounded("MostFrequent", "tracked", tracked, 10_000))

    def witnesses(self) -> Mapping[str, Aggregate]:
        return {"distinct": Distinct(self.text, most=min(self.tracked + 1, 10_000), where=self.where)}

    def agrees(self, exact: object, served: object, witnessed: Mapping[str, object]) -> bool:
        # Beyond `tracked` values several may be the most frequent within the stated error.
        distinct = witnessed["distinct"]
        return exact == served or (
            served is not None and isinstance(distinct, int) and distinct > self.tracked
        )

    def _accepts(self, kind: DataType) -> bool:
        return kind.categorical

    def over(self, kind: DataType) -> Bound:
        extra = FrequencySketch(identity(kept(self.text, kind), kind, self.where), self.tracked)

        def decoded(texts: list[str | None]) -> Values:
            valid = np.array([text is not None for text in texts], dtype=bool)
            if kind.integral:
                return Values(
                    np.array([int(text) if text is not None else 0 for text in texts], dtype=np.int64), valid
                )
            out = np.empty(len(texts), dtype=object)
            out[:] = texts
            return Values(out, valid)

        def finish(found: Folded) -> Values:
            return decoded([None if state is None else _most_frequent(state) for state in found.extras[0]])

        def exactly(lifted: Lifted, first: Whole, end: Whole) -> Values:
            counted, low, high = extra.within(lifted, first, end)
            codes, distinct = coded_values(counted)
            valid = high > low
            texts: list[str | None] = [None] * len(low)
            if valid.any():
                modes = WaveletMatrix(codes).mode(low[valid], high[valid], self.tracked)
                for place, code in zip(np.flatnonzero(valid).tolist(), modes.tolist(), strict=True):
                    texts[place] = distinct[code].decode()
            return decoded(texts)

        error = 3.5 / 1.33 / self.tracked
        return Bound(
            BIGINT if kind.integral else STRING,
            Formula(finish),
            extras=(extra,),
            exactly=exactly,
            exactness=f"exact up to {self.tracked:,} values, then within {error:.1%} of all events",
        )


def _most_frequent(state: bytes) -> str:
    sketch = datasketches.frequent_strings_sketch.deserialize(state)
    found: list[tuple[str, int, int, int]] = sketch.get_frequent_items(
        datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES
    )
    most = max(count for _, count, _, _ in found)
    return min((text for text, count, _, _ in found if count == most), key=str.encode)


def _counts(numbers: Any) -> Values:
    counts = np.asarray(numbers, dtype=np.int64)
    return Values(counts, np.ones(len(counts), dtype=bool))
