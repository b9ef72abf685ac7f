"""The splits by key and by time, the metrics and what is told of a model, on small arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from anabranch.declare.models import Slice
from anabranch.errors import AnabranchError
from batch.evaluation.assessment import (
    JudgedRows,
    importance,
    intervals,
    measured,
    resamples,
    slice_parts,
    slice_results,
)
from batch.evaluation.measures import evaluate, measure
from batch.evaluation.splits import folds, held_out, split
from batch.training.pictures import calibration_points, pictures


def keys(count: int, each: int = 1) -> NDArray[np.object_]:
    return np.array([f"p{i:03d}" for i in range(count) for _ in range(each)], dtype=object)


def classes(count: int) -> NDArray[np.float64]:
    return np.resize(np.array([0.0, 1.0]), count)


def judged(target: NDArray[np.float64], scores: NDArray[np.float64]) -> JudgedRows:
    """Rows of a key each."""
    return JudgedRows(target=target, scores=scores, groups=np.arange(len(target)))


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


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60), st.integers(2, 5))
def test_every_fold_has_both_classes_unless_one_is_of_fewer_keys_than_folds(
    rows: list[tuple[int, bool]], count: int
) -> None:
    groups = np.array([group for group, _ in rows])
    target = np.array([float(value) for _, value in rows])
    if min(len(set(groups[target == value])) for value in (0.0, 1.0)) < count:
        with pytest.raises(AnabranchError, match="keys of the rarer class for"):
            folds(target, groups, "class", count, 1)
        return
    fold = folds(target, groups, "class", count, 1)
    assert len(set(zip(groups.tolist(), fold.tolist(), strict=True))) == len(set(groups))
    for number in range(count):
        assert set(target[fold == number]) == {0.0, 1.0}


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


def test_metrics_are_scikit_learns_to_rounding() -> None:
    random = np.random.default_rng(1)
    for count in (12, 400):
        target, scores = classes(count), np.round(random.random(count), 1)  # many ties
        said = (scores >= 0.5).astype(float)
        expected = {
            "roc_auc": sklearn_metrics.roc_auc_score(target, scores),
            "average_precision": sklearn_metrics.average_precision_score(target, scores),
            "log_loss": sklearn_metrics.log_loss(target, np.clip(scores, 1e-7, 1 - 1e-7)),
            "accuracy": sklearn_metrics.accuracy_score(target, said),
            "f1": sklearn_metrics.f1_score(target, said),
            "rmse": sklearn_metrics.root_mean_squared_error(target, scores),
            "mae": sklearn_metrics.mean_absolute_error(target, scores),
            "r2": sklearn_metrics.r2_score(target, scores),
        }
        for name, value in expected.items():
            assert measure(name, target, scores) == pytest.approx(value, abs=1e-12), name


def test_the_later_labels_test_and_no_key_is_on_both_sides() -> None:
    found = split("time", keys(40), np.arange(40), classes(40), "class")
    assert found.kind == "time"
    assert found.train.sum() == 30
    np.testing.assert_array_equal(np.flatnonzero(found.test), np.arange(30, 40))
    again = keys(50, each=4)
    times = np.tile(np.arange(4), 50)
    both = split("time", again, times, np.repeat(classes(50), 4), "class")
    assert both.kind == "time"
    assert not set(again[both.train]) & set(again[both.test])
    assert times[both.train].max() < times[both.test].min()
    left = 200 - both.train.sum() - both.test.sum()
    assert both.left_out == left > 0
    assert f"{left} of 200 labels ({left / 200:.0%}) of keys on both sides are left out" in both.how


def test_labels_that_time_cannot_split_are_split_by_key_and_the_split_says_so() -> None:
    one = split("time", keys(40), np.zeros(40, dtype=np.int64), classes(40), "class")
    assert (one.kind, one.how) == (
        "key",
        "by key: a quarter of the keys is held out (all labels have one time)",
    )
    sorted_by_class = split("time", keys(40), np.arange(40), np.repeat([0.0, 1.0], [31, 9]), "class")
    assert (sorted_by_class.kind, sorted_by_class.train.sum() + sorted_by_class.test.sum()) == ("key", 40)
    assert "of one class" in sorted_by_class.how
    assert (
        split("key", keys(40), np.arange(40), classes(40), "class").how
        == "by key: a quarter of the keys is held out"
    )
    with pytest.raises(AnabranchError, match="all 9 labels are of class 0"):
        split("time", keys(9), np.arange(9), np.zeros(9), "class")


def test_resamples_draw_whole_keys_and_the_same_ones_for_the_same_seed() -> None:
    groups = np.array([5, 5, 5, 2, 2, 9])
    for drawn in resamples(groups, 20, 3):
        counts = np.bincount(drawn, minlength=6)
        assert counts[0] == counts[1] == counts[2]
        assert counts[3] == counts[4]
        assert counts[0] + counts[3] + counts[5] == 3
    np.testing.assert_array_equal(next(resamples(groups, 1, 3)), next(resamples(groups, 1, 3)))


def test_intervals_hold_the_value_and_shrink_with_more_rows() -> None:
    random = np.random.default_rng(2)
    wide = []
    for count in (100, 3000):
        target = classes(count)
        scores = np.clip(0.5 + 0.2 * (target - 0.5) + random.normal(0, 0.2, count), 0, 1)
        found = measured("roc_auc", "class", judged(target, scores), 7)
        assert found["roc_auc_low"] < found["roc_auc"] < found["roc_auc_high"]
        wide.append(found["roc_auc_high"] - found["roc_auc_low"])
    assert wide[1] < wide[0] / 3
    assert intervals(["roc_auc"], judged(np.ones(3), np.ones(3)), 7) == {}


def test_slices_are_values_or_bands_and_one_class_alone_says_so() -> None:
    ages = np.array([39.0, 40, 54, 55, 80, np.nan])
    parts = {name: mask.tolist() for name, mask in slice_parts(Slice(feature="age", bands=(40, 55)), ages)}
    assert parts == {
        "below 40": [True, False, False, False, False, False],
        "40 to below 55": [False, True, True, False, False, False],
        "55 and more": [False, False, False, True, True, False],
        "missing": [False, False, False, False, False, True],
    }
    town = np.array(["Oslo", None, "Bergen", "Oslo"], dtype=object)
    assert [name for name, _ in slice_parts(Slice(feature="town"), town)] == ["Bergen", "Oslo", "missing"]
    many = [f"t{number:02d}" for number in range(30)]
    assert [name for name, _ in slice_parts(Slice(feature="town"), np.array(many, dtype=object))][
        -1
    ] == "other values"
    target, scores = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.9, 0.8, 0.9])
    sexes = np.array([0.0, 0, 1, 1])
    sex, rows = [Slice(feature="sex")], judged(target, scores)
    found = slice_results(sex, {"sex": sexes}, "roc_auc", rows, 7)
    assert [(one.part, one.rows, one.value) for one in found] == [("0", 2, 1.0), ("1", 2, 1.0)]
    (alone, _) = slice_results(sex, {"sex": np.array([0.0, 1, 0, 1])}, "roc_auc", rows, 7)
    assert (alone.value, alone.low) == (None, None)


def test_the_feature_that_decides_the_target_is_the_important_one() -> None:
    random = np.random.default_rng(4)
    matrix = random.random((300, 3)).astype(np.float32)
    target = (matrix[:, 1] > 0.5).astype(float)
    found = importance(
        lambda rows: rows[:, 1].astype(np.float64),
        matrix,
        judged(target, np.zeros(300)),
        ["a", "b", "c"],
        "roc_auc",
        7,
    )
    assert next(iter(found)) == "b"
    assert found["b"] > 0.3
    assert found["a"] == found["c"] == 0


def test_curves_are_pictures_and_bins_of_calibration_cover_every_row() -> None:
    random = np.random.default_rng(5)
    scores = random.random(200)
    target = (random.random(200) < scores).astype(float)
    for task, names in (
        ("class", {"roc.png", "calibration.png"}),
        ("number", {"predictions.png", "errors.png"}),
    ):
        made = pictures(task, target, scores)
        assert set(made) == names
        assert all(content.startswith(b"\x89PNG") for content in made.values())
    for odd in (np.where(np.arange(200) == 5, 1e37, target), np.full(200, 1e30), scores + 1e30):
        assert set(pictures("number", odd, scores)) == {"predictions.png", "errors.png"}
    points = calibration_points(target, scores)
    assert sum(rows for _, _, rows in points) == 200
    assert all(abs(said - found) < 0.35 for said, found, _ in points)
