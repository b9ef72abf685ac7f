"""The comparison behind `anabranch evaluate` and `make bench-quality`, on few folds of the heart data."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anabranch.declare.models import Model
from anabranch.progress import Silent
from batch.evaluation.splits import folds
from batch.training.comparison import (
    PLAIN,
    PLAIN_NUMBERS,
    Candidate,
    Quality,
    candidates,
    evaluate_candidates,
    page,
)
from projects.heart_disease import project
from tests.bench.quality import ALONE, RAW, alone, cancer, diabetes, elsewhere, rows, table

FOLDS = 5


@pytest.fixture(scope="module")
def found() -> list[Quality]:
    """Plain logistic regression and the default."""
    model = project.model
    assert model is not None
    ways = [
        one
        for one in candidates(replace(model, params={}, search=None))
        if one.name in (PLAIN, Model().trainer)
    ]
    return evaluate_candidates(rows(), ways, Silent(), count=FOLDS, repeats=1, processes=2)


@pytest.fixture(scope="module")
def beside() -> list[Quality]:
    """The libraries alone."""
    return alone(rows(), count=FOLDS, repeats=1, processes=2)


def plain_by_hand() -> list[float]:
    """The same folds by scikit-learn alone."""
    given, values = rows(), []
    fold = folds(given.target, given.groups, given.task, FOLDS, given.seed)
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        learner = make_pipeline(
            SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)
        )
        learner.fit(given.matrix[train], given.target[train])
        values.append(
            float(roc_auc_score(given.target[test], learner.predict_proba(given.matrix[test])[:, 1]))
        )
    return values


def test_the_default_reaches_its_floor_with_plain_logistic_regression_beside_it(found: list[Quality]) -> None:
    plain, default = found
    assert (plain.name, default.name) == (PLAIN, "auto")
    assert {(one.metric, one.folds) for one in found} == {("roc_auc", FOLDS)}
    assert default.mean >= 0.88
    assert all(one.low < one.mean < one.high and one.seconds > 0 for one in found)
    assert (plain.ahead, plain.ahead_low, plain.ahead_high) == (0, 0, 0)
    assert default.ahead == pytest.approx(default.mean - plain.mean)
    assert default.ahead_low < default.ahead < default.ahead_high


def test_the_plain_candidate_and_its_interval_are_what_scikit_learn_and_the_formula_say(
    found: list[Quality],
) -> None:
    plain, values = found[0], np.array(plain_by_hand())
    assert plain.mean == pytest.approx(values.mean(), abs=2e-3)
    half = student.ppf(0.975, FOLDS - 1) * np.sqrt((1 / FOLDS + 1 / (FOLDS - 1)) * values.var(ddof=1))
    assert (plain.mean - plain.low, plain.high - plain.mean) == pytest.approx((half, half), rel=0.1)


def test_the_libraries_alone_are_measured_on_the_same_folds(
    found: list[Quality], beside: list[Quality]
) -> None:
    by_name = {one.name: one for one in beside}
    assert list(by_name) == list(ALONE)
    assert by_name[RAW].mean == pytest.approx(np.mean(plain_by_hand()), abs=1e-12)
    assert all(0.8 < one.low < one.mean < one.high < 1 and one.folds == FOLDS for one in beside)
    assert by_name["XGBoost, untuned"].mean < min(
        found[1].mean, by_name["logistic regression, one-hot categories"].mean
    )


def test_the_benchmark_says_equal_for_the_same_model_and_finds_a_planted_difference(
    found: list[Quality], beside: list[Quality]
) -> None:
    sound = next(row for row in table(found, beside) if row.peer.startswith(RAW))
    assert sound.equal is True
    weak = Candidate(name=PLAIN, trainer="logistic", params=(("C", 1e-4),), plain=True)
    (other,) = evaluate_candidates(rows(), [weak], Silent(), count=FOLDS, repeats=1)
    planted = next(row for row in table([other, found[1]], beside) if row.peer.startswith(RAW))
    assert planted.equal is False
    assert planted.reached is False


def test_data_that_no_default_was_chosen_on_is_judged_by_the_same_folds() -> None:
    given = diabetes()
    ways = [one for one in candidates(Model(metric="rmse")) if one.name in (PLAIN_NUMBERS, "linear")]
    found = evaluate_candidates(given, ways, Silent(), count=FOLDS, repeats=1)
    (row,) = elsewhere("diabetes", found)
    assert row.unit == "rmse"
    assert row.ratio == pytest.approx(found[0].mean / found[1].mean, abs=1e-4)
    assert row.ratio is not None
    assert 0.95 < row.ratio < 1.1
    assert set(np.unique(cancer().target)) == {0.0, 1.0}


def test_the_page_has_a_row_a_candidate(found: list[Quality]) -> None:
    lines = page("heart_disease", found, 1, FOLDS, 303).splitlines()
    assert "1 x 5 folds by key over 303 labels" in lines[2]
    assert [line.split(" | ")[0] for line in lines[-2:]] == [f"| {PLAIN}", "| auto"]
    assert f"{found[1].mean:.4f} | [{found[1].low:.4f}, {found[1].high:.4f}]" in lines[-1]


def test_every_trainer_of_the_task_is_a_candidate_and_the_declared_one_too() -> None:
    model = project.model
    assert model is not None
    assert [one.name for one in candidates(replace(model, params={}, search=None))] == [
        PLAIN,
        "logistic",
        "forest",
        "xgboost",
        "auto",
    ]
    assert [one.name for one in candidates(replace(model, trainer="forest", params={"trees": 10}))][
        -1
    ] == "declared: forest"
