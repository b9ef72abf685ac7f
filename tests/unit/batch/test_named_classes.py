"""Several classes: metrics against scikit-learn, splits, targets, trainers and ONNX forms, profile, drift."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.datasets import load_wine

from anabranch.declare.models import Member, Search
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import ModelInput
from anabranch.stores.models.scoring import apart
from batch.evaluation.measures import evaluate, measure
from batch.evaluation.named_classes import check_named_classes, class_codes, in_classes
from batch.evaluation.splits import both_usable, folds, held_out
from batch.trainers.registry import learn
from batch.trainers.rows import TrainingRows
from batch.training.pictures import confusion, pictures
from batch.training.profile import profile, read_profile
from batch.watching.drift import label_drift

Floats = NDArray[np.float64]
NAMES = ("barbera", "barolo", "grignolino")


def rows(*, two: bool = False) -> TrainingRows:
    """Wines of three growers, or of two, with some measurements missing."""
    matrix, target = load_wine(return_X_y=True)
    matrix = matrix[:, :6].astype(np.float32)
    matrix[::17, 2] = np.nan
    there = target < (2 if two else 3)
    return TrainingRows(
        matrix=matrix[there],
        target=target[there].astype(np.float64),
        inputs=tuple(ModelInput(name=f"f{i}", kind="number") for i in range(matrix.shape[1])),
        task="classes",
        classes=NAMES[:2] if two else NAMES,
        metric="log_loss",
        groups=np.arange(int(there.sum())),
    )


def some_scores(count: int, classes: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(2)
    target = random.integers(classes, size=count).astype(np.float64)
    scores = random.dirichlet(np.ones(classes), size=count)
    scores[np.arange(count), target.astype(int)] += 0.3
    return target, scores / scores.sum(axis=1, keepdims=True)


def test_metrics_of_classes_equal_those_of_scikit_learn() -> None:
    target, scores = some_scores(300, 6)
    label = scores.argmax(axis=1)
    wanted = {
        "log_loss": metrics.log_loss(target, scores),
        "roc_auc": metrics.roc_auc_score(target, scores, multi_class="ovr"),
        "accuracy": metrics.accuracy_score(target, label),
        "macro_f1": metrics.f1_score(target, label, average="macro"),
        "top_2_accuracy": metrics.top_k_accuracy_score(target, scores, k=2),
        "top_3_accuracy": metrics.top_k_accuracy_score(target, scores, k=3),
        "top_5_accuracy": metrics.top_k_accuracy_score(target, scores, k=5),
    }
    assert evaluate("log_loss", "classes", target, scores, 0.5) == pytest.approx(wanted)


def test_of_three_classes_the_top_three_are_no_metric() -> None:
    assert "top_3_accuracy" not in evaluate("macro_f1", "classes", *some_scores(50, 3), 0.5)


def test_a_class_that_the_model_does_not_know_counts_as_wrong() -> None:
    target, scores = np.array([0.0, 1.0, -1.0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert measure("accuracy", target, scores) == pytest.approx(2 / 3)
    assert measure("top_2_accuracy", target, scores) == pytest.approx(2 / 3)
    assert measure("log_loss", target, scores) > 5
    assert measure("macro_f1", target, scores) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_targets_are_positions_and_scores_are_put_among_other_classes() -> None:
    assert class_codes(["b", "a", "z", None], ("a", "b")).tolist() == [1.0, 0.0, -1.0, -1.0]
    assert class_codes(["3", "10"], (3, 10)).tolist() == [0.0, 1.0]
    assert in_classes(np.array([[0.3, 0.7]]), ("b", "a"), ("a", "b", "c")).tolist() == [[0.7, 0.3, 0.0]]


@pytest.mark.parametrize(
    ("found", "declared", "said"),
    [
        ([f"c{i}" for i in range(101)], [], "gives 101 classes .* at most 100: join rare ones"),
        (["a"], [], "all 9 labels are of class 'a'"),
        (["a", "b"], ["a"], "gives 'b', which is none of the declared classes a: add it"),
    ],
)
def test_classes_that_no_model_can_have_are_refused(found: list[str], declared: list[str], said: str) -> None:
    with pytest.raises(AnabranchError, match=said):
        check_named_classes(found, 9, declared)
    check_named_classes([f"c{i:03}" for i in range(100)], 100, ())


def test_folds_and_sides_have_the_rare_class_where_it_has_keys() -> None:
    target = np.array([0.0] * 40 + [1.0] * 30 + [2.0] * 6 + [3.0])
    keys = np.array([f"k{i}" for i in range(len(target))], dtype=object)
    fold = folds(target, None, "classes", 3, 1)
    assert all(sorted(np.bincount(fold[target == one], minlength=3)) == [2, 2, 2] for one in (2.0,))
    tests = held_out(keys, target, "classes")
    assert both_usable(target[tests], target[~tests], "classes")


TRAINERS = [
    ("logistic", {}),
    ("forest", {"trees": 10}),
    ("xgboost", {"rounds": 12}),
    ("lightgbm", {"rounds": 12}),
    ("sklearn", {"estimator": "sklearn.linear_model.LogisticRegression", "max_iter": 500}),
]


@pytest.mark.parametrize(
    ("name", "params", "two"),
    [(*one, two) for one in TRAINERS for two in (False, True)[: 1 if one[0] == "sklearn" else 2]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trainer_learns_classes_and_its_onnx_form_says_the_same(
    name: str,
    params: dict[str, object],
    two: bool,
) -> None:
    given = replace(rows(two=two), params=params, class_weight="balanced")
    fitted = learn(name, given).fitted()
    many, few = fitted.both_scores(given.matrix)
    assert many.shape == (len(given.target), len(given.classes))
    assert many.sum(axis=1) == pytest.approx(np.ones(len(many)), abs=1e-5)
    assert few is not None
    assert apart(few, many) < 1e-5
    assert measure("accuracy", given.target, many) > 0.8
    assert fitted.described["classes"] == list(given.classes)


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_an_ensemble_of_classes_is_the_mean_or_the_vote_of_its_members(combine: str) -> None:
    members = (Member(trainer="logistic"), Member(trainer="forest", params={"trees": 5}))
    given = replace(rows(), params={"combine": combine}, members=members)
    found = learn("ensemble", given).fitted().scores(given.matrix)
    parts = [
        learn(one.trainer, replace(rows(), params=one.params)).fitted().scores(given.matrix)
        for one in members
    ]
    if combine == "vote":
        parts = [np.eye(3)[one.argmax(axis=1)] for one in parts]
    assert found == pytest.approx(np.mean(parts, axis=0), abs=1e-5)


def test_a_weight_of_a_class_makes_it_more_likely() -> None:
    plain = learn("logistic", rows()).scores(rows().matrix)[:, 1].mean()
    heavy = replace(rows(), class_weight={"barolo": 20.0})
    assert learn("logistic", heavy).scores(rows().matrix)[:, 1].mean() > plain + 0.05


def test_a_search_and_rows_that_lack_a_class_work() -> None:
    given = rows()
    found = learn("logistic", given, Search(trials=2))
    assert found.scores(given.matrix).shape == (len(given.target), 3)
    some = given.part(given.target != 1)
    scores = learn("logistic", some).scores(given.matrix)
    assert (scores.shape[1], scores[:, 1].max()) == (3, 0.0)
    with pytest.raises(AnabranchError, match="lack a class"):
        learn("logistic", some).fitted()


def test_the_confusion_matrix_counts_true_classes_down_and_labels_across() -> None:
    target, label = np.array([0.0, 0.0, 1.0, -1.0]), np.array([0, 1, 1, 0])
    assert confusion(target, label, 2).tolist() == [[1, 1], [0, 1], [1, 0]]
    drawn = pictures("classes", *some_scores(60, 3), NAMES)
    assert {name: content[:4] for name, content in drawn.items()} == {
        "confusion.png": b"\x89PNG", "calibration.png": b"\x89PNG",
    }  # fmt: skip


def test_labels_drift_by_class() -> None:
    given, (_, scores) = rows(), some_scores(178, 3)
    kept = read_profile(profile(given.inputs, (), given.matrix, scores, NAMES).text())
    assert kept.labels is not None
    assert sum(kept.labels.counts) == 178
    same = label_drift(kept.labels, scores.argmax(axis=1).astype(np.float64))
    moved = label_drift(kept.labels, np.zeros(100))
    assert (same.psi, moved.psi > 1, moved.most_moved.endswith("to 100%")) == (0.0, True, True)
