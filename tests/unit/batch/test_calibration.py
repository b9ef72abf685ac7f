"""Calibrated scores and intervals of numbers: from rows that were not learnt, alike in numpy and in ONNX."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.declare.models import Member, Model, Search
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import Fitted, ModelInput
from anabranch.stores.models.scoring import Interval, apart
from anabranch.stores.models.versions import Scorer
from batch.calibration.adjusted import CalibratedModel, IntervalModel, adjusted, conformal
from batch.calibration.maps import fitted_map, fitted_maps, mapped
from batch.calibration.out_of_fold import out_of_fold, refit_of
from batch.trainers.choice import tried
from batch.trainers.registry import check_model, learn, trainer
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import Learnt
from batch.training.pictures import calibration_error, pictures

Floats = NDArray[np.float64]


def rows(task: str, count: int = 400, seed: int = 4) -> TrainingRows:
    """Rows whose true shares are known by construction; a model that overfits is far from them."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, 4)).astype(np.float32)
    line = matrix[:, 0] + 0.5 * matrix[:, 1]
    if task == "number":
        target: Floats = line + random.exponential(0.5, size=count)
    elif task == "class":
        target = (random.random(count) < 1 / (1 + np.exp(-line))).astype(np.float64)
    else:
        odds = np.exp(np.column_stack([line, -line, np.zeros(count)]))
        shares = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
        target = (random.random(count)[:, None] > shares).sum(axis=1).astype(np.float64)
    return TrainingRows(
        matrix=matrix,
        target=target,
        inputs=tuple(ModelInput(name=f"f{i}", kind="number") for i in range(4)),
        task=task,
        classes=("a", "b", "c") if task == "classes" else (),
        groups=np.arange(count),
        params={"rounds": 60, "max_depth": 5, "eta": 0.3, "reg_lambda": 0.1},
    )


def test_a_model_scores_out_of_fold_rows_that_it_did_not_see() -> None:
    given, seen = rows("class"), []

    def refit(part: TrainingRows) -> Learnt:
        seen.append(set(map(tuple, part.matrix.tolist())))
        return trainer("xgboost").train(part)

    target, scores = out_of_fold(given, refit)
    assert (len(target), len(scores), len(seen)) == (400, 400, 5)
    assert all(len(part) == 320 for part in seen)
    assert target.mean() == pytest.approx(given.target.mean())


@pytest.mark.parametrize("task", ["class", "classes"])
@pytest.mark.parametrize("how", ["sigmoid", "isotonic"])
def test_calibration_brings_scores_near_to_observed_shares_and_is_in_the_onnx_graph(
    how: str, task: str
) -> None:
    given, later = rows(task), rows(task, 3_000, seed=5)
    plain = learn("xgboost", given)
    found = adjusted(plain, Model(trainer="xgboost", calibrate=how), given)
    assert isinstance(found, CalibratedModel)
    before, after = plain.scores(later.matrix), found.scores(later.matrix)
    error = calibration_error(later.target, after)
    assert error < 0.05
    assert error < 0.7 * calibration_error(later.target, before)
    fitted = found.fitted()
    assert (fitted.native, fitted.parameters["calibrated"], fitted.ubj) == ("onnx", how, None)
    stored = fitted.scores(later.matrix)
    assert apart(stored, after) < 1e-4
    if task == "classes":
        assert stored.sum(axis=1) == pytest.approx(np.ones(len(stored)), abs=1e-5)
    alone = fitted.scores(later.matrix[:1])
    assert apart(alone, stored[:1]) < 1e-6
    drawn = pictures(task, later.target, after, given.classes, before)
    assert drawn["calibration.png"][:4] == b"\x89PNG"


def test_a_map_keeps_the_order_of_scores_and_meets_shares_that_are_known() -> None:
    random = np.random.default_rng(1)
    scores = random.random(4_000)
    target = (random.random(4_000) < scores**2).astype(np.float64)
    for how in ("sigmoid", "isotonic"):
        found = fitted_map(how, scores, target)
        shares = found(np.linspace(0.01, 0.99, 99))
        assert (np.diff(shares) >= 0).all()
        assert np.abs(shares - np.linspace(0.01, 0.99, 99) ** 2).max() < 0.12
    certain = fitted_map("isotonic", np.repeat([0.1, 0.9], 20), np.repeat([0.0, 1.0], 20))
    assert 0 < certain(np.array([0.0]))[0] < 0.05
    assert 0.95 < certain(np.array([1.0]))[0] < 1
    flat = fitted_map("isotonic", np.full(20, 0.4), np.repeat([0.0, 1.0], 10))
    assert flat(np.array([0.0, 1.0])) == pytest.approx([0.5, 0.5])


def test_shares_of_classes_sum_to_one() -> None:
    scores = np.random.default_rng(2).dirichlet(np.ones(4), size=200)
    target = np.arange(200) % 4
    shares = mapped(scores, fitted_maps("isotonic", scores, target.astype(np.float64)))
    assert shares.sum(axis=1) == pytest.approx(np.ones(200))


def test_what_a_search_chose_is_trained_again_without_searching() -> None:
    given = replace(rows("class", 150), params={})
    learnt = learn("logistic", given, Search(trials=2))
    found = adjusted(learnt, Model(calibrate="sigmoid"), given)
    assert isinstance(found, CalibratedModel)
    assert (found.parameters["trials"], len(found.trials)) == (2, 2)
    refitted = refit_of(learnt, "logistic")(given)
    assert (refitted.parameters["C"], len(tried(refitted))) == (learnt.parameters["C"], 0)


def test_a_cascade_is_calibrated_with_the_branches_of_its_graph() -> None:
    members = (Member(trainer="logistic"), Member(trainer="forest", params={"trees": 5}))
    given = replace(rows("class", 150), params={"unsure": (0.3, 0.7)}, members=members)
    found = adjusted(
        learn("cascade", given), Model(trainer="cascade", members=members, calibrate="sigmoid"), given
    )
    assert apart(found.fitted().scores(given.matrix), found.scores(given.matrix)) < 1e-4


def test_an_interval_holds_the_declared_share_of_later_rows() -> None:
    given = replace(rows("number", 600), params={})
    found = adjusted(learn("linear", given), Model(metric="rmse", trainer="linear", interval=0.9), given)
    assert isinstance(found, IntervalModel)
    interval = found.fitted().interval
    assert interval == found.interval
    later = rows("number", 5_000, seed=6)
    misses = later.target - found.scores(later.matrix)
    assert np.mean((misses >= interval.low) & (misses <= interval.high)) == pytest.approx(0.9, abs=0.02)
    assert interval.high > -interval.low  # exponential noise is long on one side


def test_conformal_bounds_are_those_of_the_ranks_and_need_enough_rows() -> None:
    misses = np.random.default_rng(0).permutation(19).astype(np.float64)
    assert conformal(misses, 0.9) == Interval(level=0.9, low=0.0, high=18.0)
    assert conformal(misses, 0.5) == Interval(level=0.5, low=4.0, high=14.0)
    with pytest.raises(
        AnabranchError, match=r"an interval of 0\.99 needs 199 training rows, and there are 19"
    ):
        conformal(misses, 0.99)


def test_a_version_keeps_its_interval(tmp_path: Path) -> None:
    given = replace(rows("number", 60), params={})
    fitted = replace(learn("linear", given).fitted(), interval=Interval(level=0.8, low=-1.0, high=2.0))
    fitted.write(tmp_path)
    assert json.loads((tmp_path / "features.json").read_text())["interval"]["level"] == 0.8
    assert Fitted.read(tmp_path, fitted.parameters, fitted.pip_requirements).interval == fitted.interval
    scorer = Scorer("1", tmp_path)
    columns = {name: [1.0, 2.0] for name in given.names}
    for row in scorer.outcomes(scorer.score(columns)):
        assert row.interval == (row.score - 1, row.score + 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"calibrate": "platt"}, "calibrate is 'platt': use 'sigmoid' or 'isotonic'"),
        ({"calibrate": "sigmoid", "metric": "rmse"}, "calibrate is for scores of classes"),
        ({"interval": 0.9}, "interval is 0.9 with the metric 'roc_auc'"),
        ({"interval": 1.0, "metric": "rmse"}, "interval is 1.0 with the metric 'rmse': give a share above 0"),
    ],
)
def test_contradictory_adjustments_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        Model(**given)


def test_adjustments_on_sparks_workers_and_models_without_an_onnx_form_are_refused() -> None:
    with pytest.raises(DeclarationError, match="with calibrate a model is learnt in one process"):
        check_model(Model(trainer="spark-forest", calibrate="sigmoid"))
    with pytest.raises(DeclarationError, match="with interval a model is learnt in one process"):
        check_model(Model(metric="rmse", interval=0.9, params={"distributed": True}))
    given = replace(rows("class", 100), params={"rounds": 5, "booster": "dart"})
    learnt = learn("xgboost", given)
    if learnt.fitted().onnx is None:
        with pytest.raises(AnabranchError, match="the model has no ONNX form, of which its calibration"):
            adjusted(learnt, Model(trainer="xgboost", calibrate="sigmoid"), given).fitted()
