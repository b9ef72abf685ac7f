"""Sketches merged from many parts keep their published error; wavelet matrices equal a plain recount."""

import datasketches
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import Aggregate, ApproxDistinct, ApproxPercentile, FeatureView, MostFrequent
from anabranch.aggregates.base import Folded
from anabranch.states.sketches import distinct_counts
from anabranch.states.wavelet import WaveletMatrix
from tests.support.law import source

PARTS = 41  # a batch part and 40 tiles


def served(aggregate: Aggregate, states: list[bytes]) -> object:
    """The value of an aggregate of one sketch, from the states of its parts."""
    view = FeatureView(name="v", source=source, key="key", features={"f": aggregate})
    bound = view.layout.bounds["f"]
    merged = np.empty(1, dtype=object)
    merged[0] = bound.extras[0].merge(states)
    zero = np.zeros(1, dtype=np.int64)
    return bound.finish(Folded([], [merged], zero, zero)).values[0]


@pytest.mark.parametrize("count", [100, 5_000, 200_000])
def test_distinct_sketch_merged_from_parts_keeps_its_error(count: int) -> None:
    states = []
    for part in np.array_split(np.arange(count), PARTS):
        sketch = datasketches.hll_sketch(12, datasketches.tgt_hll_type.HLL_8)
        for value in part.tolist():
            sketch.update(f"={value}")
        states.append(bytes(sketch.serialize_compact()))
    aggregate = ApproxDistinct("s")
    found = served(aggregate, states)
    assert aggregate.agrees(count, int(str(found)), {})
    assert not aggregate.agrees(count, int(count * 1.3), {})


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_percentile_sketch_merged_from_parts_keeps_its_error(share: float) -> None:
    values = np.random.default_rng(3).permutation(50_000).astype(float)
    states = []
    for part in np.array_split(values, PARTS):
        sketch = datasketches.kll_doubles_sketch(200)
        for value in part.tolist():
            sketch.update(value)
        states.append(bytes(sketch.serialize()))
    found = float(str(served(ApproxPercentile("x", share), states)))
    assert abs(
        (found + 1) / len(values) - share
    ) <= 2 * datasketches.kll_doubles_sketch.get_normalized_rank_error(200, False)


def test_frequency_sketch_merged_from_parts_finds_a_heavy_value_among_many() -> None:
    random = np.random.default_rng(4)
    values = np.where(random.random(20_000) < 0.2, "heavy", random.integers(0, 5_000, 20_000).astype(str))
    states = []
    for part in np.array_split(values, PARTS):
        sketch = datasketches.frequent_strings_sketch(8)
        for value in part.tolist():
            sketch.update(value)
        states.append(bytes(sketch.serialize()))
    assert served(MostFrequent("s"), states) == "heavy"


@settings(max_examples=60, deadline=None)
@given(codes=st.lists(st.integers(0, 9), min_size=1, max_size=60), data=st.data())
def test_wavelet_matrix_equals_a_recount(codes: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(codes) - 1))
    end = data.draw(st.integers(first + 1, len(codes)))
    part, matrix = codes[first:end], WaveletMatrix(np.array(codes, dtype=np.int64))
    low, high = np.array([first], dtype=np.int64), np.array([end], dtype=np.int64)
    rank = data.draw(st.integers(0, len(part) - 1))
    assert matrix.kth(low, high, np.array([rank]))[0] == sorted(part)[rank]
    limit = data.draw(st.integers(0, 20))
    assert matrix.count_below(low, high, np.array([limit]))[0] == sum(code < limit for code in part)
    assert matrix.mode(low, high, 100)[0] == max(sorted(set(part)), key=part.count)
    assert distinct_counts(np.array(codes, dtype=np.int64), low, high)[0] == len(set(part))
