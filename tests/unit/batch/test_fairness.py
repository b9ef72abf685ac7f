"""Rates by slice, their intervals and differences, against formulas, simulation and scipy."""

from dataclasses import asdict
from math import sqrt
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from anabranch import Gate, Model, Slice
from anabranch.errors import DeclarationError
from batch.evaluation.assessment import JudgedRows
from batch.evaluation.fairness import RATES, Fairness, fairness, wilson
from batch.release.promotion import disparity_check


def rows(target: Any, scores: Any, groups: Any = None) -> JudgedRows:
    numbers = np.arange(len(target)) if groups is None else np.asarray(groups)
    return JudgedRows(
        target=np.asarray(target, dtype=np.float64),
        scores=np.asarray(scores, dtype=np.float64),
        groups=numbers,
    )


def judged(town: list[str], target: Any, scores: Any, groups: Any = None) -> Fairness:
    return fairness(
        (Slice(feature="town"),), {"town": np.array(town, dtype=object)}, rows(target, scores, groups)
    )


@pytest.mark.parametrize(("share", "count"), [(0.0, 3), (1.0, 3), (0.25, 8), (0.5, 400)])
def test_the_interval_of_a_share_is_wilsons(share: float, count: int) -> None:
    expected = binomtest(round(share * count), count).proportion_ci(method="wilson")
    assert wilson(share, count, 0.05) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_rates_are_counted_by_part_and_rows_of_a_key_count_once() -> None:
    town = ["Oslo"] * 6 + ["Bergen"] * 4
    target = [1, 1, 1, 0, 0, 0, 1, 1, 0, 0]
    scores = [0.9, 0.5, 0.1, 0.7, 0.2, 0.3, 0.1, 0.2, 0.8, 0.9]
    found = judged(town, target, scores, [0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    oslo, bergen = found.rates[1], found.rates[0]
    assert (oslo.part, bergen.part) == ("Oslo", "Bergen")
    assert [getattr(oslo, name).value for name in RATES] == pytest.approx([3 / 6, 2 / 3, 1 / 3])
    assert [getattr(bergen, name).value for name in RATES] == pytest.approx([2 / 4, 0, 1])
    assert (oslo.true_positive_rate.rows, oslo.true_positive_rate.keys) == (3, 2)
    assert (oslo.true_positive_rate.low, oslo.true_positive_rate.high) == wilson(2 / 3, 2, 0.05)
    assert Fairness.read(asdict(found)) == found


def test_a_difference_has_newcombes_interval_over_all_pairs_together() -> None:
    # 56 of 70 against 48 of 80: Newcombe's example, 0.0524 to 0.3339 (method 10) for one pair.
    target, scores = np.ones(150), np.concatenate([np.arange(70) < 56, np.arange(80) < 48]).astype(float)
    found = judged(["a"] * 70 + ["b"] * 80, target, scores)
    gaps = {one.rate: one for one in found.disparities}
    assert set(gaps) == {"selection_rate", "true_positive_rate"}  # no row of class 0
    one = gaps["true_positive_rate"]
    assert (one.higher, one.lower) == ("a", "b")
    assert one.difference == pytest.approx(0.2)
    assert one.low < 0.0524  # two comparisons at once: wider
    assert one.high > 0.3339
    (low1, high1), (low2, high2) = wilson(0.8, 70, 0.05), wilson(0.6, 80, 0.05)
    assert 0.2 - sqrt((0.8 - low1) ** 2 + (high2 - 0.6) ** 2) == pytest.approx(0.0524, abs=1e-4)
    assert 0.2 + sqrt((high1 - 0.8) ** 2 + (0.6 - low2) ** 2) == pytest.approx(0.3339, abs=1e-4)
    assert "true positive rate where town is a less that where it is b: 0.200 [" in one.said


def test_noise_among_many_small_parts_is_refused_seldom_and_a_planted_difference_always() -> None:
    random, refused, caught = np.random.default_rng(8), 0, 0
    for _ in range(60):
        town = random.choice([f"t{i}" for i in range(12)], 400).tolist()
        target, scores = random.integers(0, 2, 400), random.random(400)
        refused += not disparity_check(judged(town, target, scores), 0.0).passed
        biased = np.where(np.array(town) == "t3", scores * 0.3, scores)
        caught += not disparity_check(judged(town, target, biased), 0.0).passed
    assert refused <= 3
    assert caught == 60


def test_few_rows_and_one_part_decide_nothing() -> None:
    few = disparity_check(judged(["a", "a", "b", "b"], [1, 0, 1, 0], [1, 1, 0, 0]), 0.1)
    assert few.passed
    assert ": 1.000 [-" in few.said
    assert disparity_check(judged(["a", "a"], [1, 0], [1, 0]), 0.1).said.startswith("not measured")
    assert disparity_check(None, 0.1).passed


def test_declarations_that_cannot_be_judged_are_refused() -> None:
    Model(slices=("sex",), gate=Gate(disparity=0.1, hindsight=0.02))
    for wrong in (
        {"gate": Gate(disparity=0.1)},
        {"gate": Gate(disparity=0.1), "slices": ("sex",), "metric": "rmse"},
    ):
        with pytest.raises(DeclarationError, match="gate's disparity compares the parts of slices"):
            Model(**wrong)
    with pytest.raises(DeclarationError, match="gate's disparity is"):
        Gate(disparity=1.5)
    with pytest.raises(DeclarationError, match="gate's hindsight is -1"):
        Gate(hindsight=-1)
