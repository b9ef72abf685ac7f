"""The split by key and the metrics, on small arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from batch.evaluation import evaluate, held_out
from features.errors import AnabranchError


def keys(count: int, each: int = 1) -> NDArray[np.object_]:
    return np.array([f"p{i:03d}" for i in range(count) for _ in range(each)], dtype=object)


def classes(count: int) -> NDArray[np.float64]:
    return np.resize(np.array([0.0, 1.0]), count)


def test_about_a_quarter_of_the_keys_is_held_out_and_stays_so_when_data_grows() -> None:
    target = classes(2000)
    mask = held_out(keys(2000), target, "class")
    assert 0.2 < mask.mean() < 0.3
    np.testing.assert_array_equal(held_out(keys(1000), target[:1000], "class"), mask[:1000])


def test_no_key_stands_on_both_sides() -> None:
    many = keys(40, each=5)
    mask = held_out(many, classes(200), "class")
    assert not set(many[mask]) & set(many[~mask])


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60))
def test_every_split_is_usable_or_refused(rows: list[tuple[int, bool]]) -> None:
    names = np.array([str(key) for key, _ in rows], dtype=object)
    target = np.array([float(value) for _, value in rows])
    try:
        mask = held_out(names, target, "class")
    except AnabranchError:
        assert min(len(set(names[target == 0])), len(set(names[target == 1]))) < 2 or len(set(names)) < 21
        return
    assert set(target[mask]) == set(target[~mask]) == {0.0, 1.0}
    assert not set(names[mask]) & set(names[~mask])


@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_tiny_data_has_both_classes_on_both_sides(count: int) -> None:
    target = classes(count)
    mask = held_out(keys(count), target, "class")
    assert set(target[mask]) == set(target[~mask]) == {0.0, 1.0}
    numbers = held_out(keys(count), target, "number")
    assert numbers.sum() >= 2
    assert (~numbers).sum() >= 2


def test_one_class_too_few_rows_and_strange_classes_are_explained() -> None:
    with pytest.raises(AnabranchError, match="all 30 labels are of class 1"):
        held_out(keys(30), np.ones(30), "class")
    with pytest.raises(AnabranchError, match="2 keys have class 0 and 1 have class 1"):
        held_out(keys(3), np.array([0.0, 1.0, 0.0]), "class")
    with pytest.raises(AnabranchError, match="3 labels of 3 keys"):
        held_out(keys(3), np.array([0.1, 1.0, 0.0]), "number")
    with pytest.raises(AnabranchError, match="target gives 3, not 0 or 1"):
        held_out(keys(4), np.array([0.0, 1.0, 3.0, 0.0]), "class")


def test_the_declared_metric_comes_first() -> None:
    target, scores = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    found = evaluate("log_loss", "class", target, scores, 0.5)
    assert list(found) == ["log_loss", "roc_auc", "average_precision", "accuracy", "f1"]
    assert found["roc_auc"] == 0.75
    assert found["accuracy"] == 0.5
    numbers = evaluate("mae", "number", target, scores, 0.5)
    assert list(numbers) == ["mae", "rmse", "r2"]
    assert numbers["mae"] == pytest.approx(0.35)
