"""Extras that are sets and sketches. Sketches are Apache DataSketches bytes, made by Spark and merged here.

Training sets do not build a sketch a row: they compute over sorted events the very number that the sketch
estimates (wavelet.py), which lies within the sketch's published error of what serving gives.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasketches
import numpy as np
import pyarrow as pa

from anabranch.states.blocks import Element, Lifted, Values
from anabranch.states.extras import LONGEST_IDENTITY, LONGEST_VALUE, Bytes, Extra, framed, frames
from anabranch.states.wavelet import WaveletMatrix, Whole


class Summary(Extra):
    """An extra of one element, whose values in training sets come from sorted events (`exactly`)."""

    element: Element

    @abstractmethod
    def of_value(self, value: Any) -> bytes:
        """The state of one event with this value."""

    def state_of(self, values: Mapping[Element, Any]) -> bytes | None:
        value = values[self.element]
        return None if value is None else self.of_value(value)

    def over(self, lifted: Lifted, first: Whole, end: Whole) -> Bytes:
        return np.full(len(first), None, dtype=object)

    def within(self, lifted: Lifted, first: Whole, end: Whole) -> tuple[Values, Whole, Whole]:
        """The counted events alone, and the ranges among them."""
        element = lifted[self.element]
        place = np.zeros(len(element.valid) + 1, dtype=np.int64)
        np.cumsum(element.valid, out=place[1:])
        counted = Values(element.values[element.valid], np.ones(int(place[-1]), dtype=bool))
        return counted, place[first], place[np.maximum(end, first)]


@dataclass(frozen=True)
class ValueSet(Summary):
    """The smallest `most` distinct values in the order of their bytes, as frames (see extras.frames)."""

    element: Element
    most: int
    longest: int = LONGEST_IDENTITY
    """Bytes of the longest value."""

    @property
    def largest(self) -> int:
        return self.most * (4 + self.longest)

    def sql(self) -> str:
        few = f"slice(sort_array(collect_set({self.element.sql})), 1, {self.most})"
        framed = "concat(done, unhex(lpad(hex(octet_length(one)), 8, '0')), one)"
        return (
            f"CASE WHEN count({self.element.sql}) > 0 THEN aggregate({few}, X'', (done, one) -> {framed}) END"
        )

    def merge(self, states: Sequence[bytes]) -> bytes:
        values = sorted({one for state in states for one in frames(state)})[: self.most]
        return b"".join(map(framed, values))

    def of_value(self, value: Any) -> bytes:
        return framed(value)


@dataclass(frozen=True)
class DistinctSketch(Summary):
    """HyperLogLog (DataSketches HLL_8) of 2 ** `log_size` registers."""

    element: Element
    log_size: int

    @property
    def largest(self) -> int:
        return 1 << self.log_size

    def sql(self) -> str:
        sketch = f"hll_sketch_agg({self.element.sql}, {self.log_size})"
        return f"CASE WHEN count({self.element.sql}) > 0 THEN {sketch} END"

    def merge(self, states: Sequence[bytes]) -> bytes:
        union = datasketches.hll_union(self.log_size)
        for state in states:
            union.update(datasketches.hll_sketch.deserialize(state))
        return bytes(union.get_result(datasketches.tgt_hll_type.HLL_8).serialize_compact())

    def of_value(self, value: Any) -> bytes:
        sketch = datasketches.hll_sketch(self.log_size, datasketches.tgt_hll_type.HLL_8)
        sketch.update(value.decode())
        return bytes(sketch.serialize_compact())


@dataclass(frozen=True)
class QuantileSketch(Summary):
    """KLL of doubles with parameter `size`."""

    element: Element
    size: int

    def sql(self) -> str:
        sketch = f"kll_sketch_agg_double({self.element.sql}, {self.size})"
        return f"CASE WHEN count({self.element.sql}) > 0 THEN {sketch} END"

    def merge(self, states: Sequence[bytes]) -> bytes:
        merged = datasketches.kll_doubles_sketch(self.size)
        for state in states:
            merged.merge(datasketches.kll_doubles_sketch.deserialize(state))
        return bytes(merged.serialize())

    def of_value(self, value: Any) -> bytes:
        sketch = datasketches.kll_doubles_sketch(self.size)
        sketch.update(float(value))
        return bytes(sketch.serialize())


@dataclass(frozen=True)
class FrequencySketch(Summary):
    """Frequent items (DataSketches, Misra-Gries) of text, tracking up to `tracked` of them."""

    element: Element
    tracked: int

    @property
    def largest(self) -> int:
        return self.tracked * LONGEST_VALUE

    def sql(self) -> str:
        text = f"CAST({self.element.sql} AS STRING)"
        sketch = f"approx_top_k_accumulate({text}, {self.tracked}).sketch"
        return f"CASE WHEN count({self.element.sql}) > 0 THEN {sketch} END"

    def merge(self, states: Sequence[bytes]) -> bytes:
        sketches = [datasketches.frequent_strings_sketch.deserialize(state) for state in states]
        merged = sketches[0]
        for sketch in sketches[1:]:
            merged.merge(sketch)
        return bytes(merged.serialize())

    def of_value(self, value: Any) -> bytes:
        # Source: org.apache.spark.sql.catalyst.expressions.aggregate.ApproxTopKAggregateUtils, calMaxMapSize.
        size = max(math.ceil(math.log2(math.ceil(self.tracked / 0.75))), 3)
        sketch = datasketches.frequent_strings_sketch(size)
        sketch.update(value.decode())
        return bytes(sketch.serialize())


def coded_values(counted: Values) -> tuple[Whole, list[bytes]]:
    """Each value's rank among the distinct ones, and those in order."""
    if len(counted.values) == 0:
        return np.zeros(0, dtype=np.int64), []
    encoded = pa.array(counted.values.tolist(), pa.binary()).dictionary_encode()
    distinct: list[bytes] = encoded.dictionary.to_pylist()
    order = sorted(range(len(distinct)), key=distinct.__getitem__)
    rank = np.empty(len(distinct), dtype=np.int64)
    rank[order] = np.arange(len(distinct))
    return rank[encoded.indices.to_numpy()], [distinct[i] for i in order]


def distinct_counts(codes: Whole, first: Whole, end: Whole) -> Whole:
    """Number of different codes in each range: positions whose code does not occur earlier in the range."""
    order = np.argsort(codes, kind="stable")
    previous = np.zeros(len(codes), dtype=np.int64)  # 1 + the last position of the same code, 0 for none
    same = codes[order][1:] == codes[order][:-1]
    previous[order[1:][same]] = order[:-1][same] + 1
    return WaveletMatrix(previous).count_below(first, end, first + 1)
