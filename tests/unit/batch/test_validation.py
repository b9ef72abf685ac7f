"""What validation calls another distribution."""

import numpy as np
import pytest

from anabranch.declare.views import FeatureColumn
from anabranch.declare.windows import make_window
from anabranch.values.types import DOUBLE
from batch.building.validation import _compared, _distance
from batch.settings import BuildSettings

COLUMN = FeatureColumn("total_1d", "total", make_window("1d", None, "here"), DOUBLE)
LIMITS = BuildSettings()


def normal(seed: int, count: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, count)


def test_samples_of_one_distribution_lie_near_each_other() -> None:
    assert _distance(normal(1), normal(2)) < 0.1
    assert _distance(np.full(100, 3.0), np.full(100, 3.0)) == 0


@pytest.mark.parametrize(
    ("factor", "distance"), [(2.0, 0.5), (1000.0, 0.999), (0.0, 1.0), (-1.0, 1.0), (4 / 3, 0.25)]
)
def test_a_constant_that_is_multiplied_moves_by_a_share_of_its_size(factor: float, distance: float) -> None:
    assert _distance(np.full(100, 3.0), factor * np.full(100, 3.0)) == pytest.approx(distance, abs=1e-3)


def test_a_finding_names_the_feature_the_figures_and_the_limit() -> None:
    then = [1.0, 2.0] * 500
    assert _compared(COLUMN, then, then, LIMITS) == []
    assert _compared(COLUMN, [value * 1000 for value in then], then, LIMITS) == [
        "feature total_1d is distributed otherwise: median 1500 where it was 1.5, distance 1.00 (limit 0.50)"
    ]
    assert _compared(COLUMN, [None] * 500 + [1.0] * 500, then, LIMITS) == [
        "feature total_1d is null for 50% of keys where it was for 0% (limit 30% of difference)"
    ]


def test_few_keys_say_nothing() -> None:
    assert _compared(COLUMN, [1.0, None, 1000.0], [1.0, 2.0, 3.0], LIMITS) == []


def test_texts_and_times_are_not_compared_and_lists_are_by_their_length() -> None:
    assert _compared(COLUMN, ["a"] * 500, ["b"] * 500, LIMITS) == []
    assert _compared(COLUMN, [[1.0]] * 500, [[2.0]] * 500, LIMITS) == []
    assert "distributed otherwise" in _compared(COLUMN, [[]] * 500, [[1.0, 2.0]] * 500, LIMITS)[0]
