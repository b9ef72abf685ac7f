"""The cache of batch parts."""

import numpy as np

from anabranch.answers.parts import Parts
from anabranch.folds.merge import BatchPart


def test_parts_stay_within_their_bound_and_the_least_recently_used_go_first() -> None:
    parts = Parts(10_000)
    part = BatchPart(0, 0, np.zeros((10, 10)))
    for number in range(20):
        parts.put(("p", "v", 1, f"k{number}"), part)
        parts.get(("p", "v", 1, "k0"))
    assert 0 < parts.bytes <= 10_000
    assert parts.get(("p", "v", 1, "k0")) is part
    assert parts.get(("p", "v", 1, "k1")) is None
    assert parts.get(("p", "v", 2, "k0")) is None


def test_a_part_larger_than_the_bound_is_not_kept() -> None:
    parts = Parts(10_000)
    parts.put(("p", "v", 1, "big"), BatchPart(0, 0, np.zeros((100, 100))))
    assert (parts.get(("p", "v", 1, "big")), parts.bytes, len(parts)) == (None, 0, 0)
    nothing = Parts(0)
    nothing.put(("p", "v", 1, "k"), BatchPart(0, 0, np.zeros((1, 1))))
    assert len(nothing) == 0
