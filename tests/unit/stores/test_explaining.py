"""Contributions of features: exact for trees and linear models, sampled for any other, adding up always."""

import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from anabranch.declare.models import Member, Model
from anabranch.errors import AnabranchError
from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import LOG_ODDS, NUMBER, PROBABILITY, to_scores
from anabranch.stores.models.explaining.kept import kept_background, kept_trees, read_explainer
from anabranch.stores.models.explaining.trees import Tree
from anabranch.stores.models.inputs import Fitted, ModelInput
from anabranch.stores.models.scoring import Matrix, Scores
from anabranch.stores.models.versions import Scorer
from batch.calibration.adjusted import adjusted
from batch.trainers.registry import fit, learn
from batch.trainers.rows import TrainingRows
from projects.heart_disease import ATTRIBUTES

DATA = Path(__file__).parents[3] / "projects" / "data"
Game = Callable[[frozenset[int]], float]


def exams(task: str = "class", **more: Any) -> TrainingRows:
    """Some exams of the example, with their missing values."""
    read = {}
    for name in ("exams", "diagnoses"):
        with (DATA / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            read[name] = list(csv.DictReader(file))
    cells = [[float(row[name] or "nan") for name in ATTRIBUTES] for row in read["exams"]]
    matrix = np.array(cells, dtype=np.float32)[::3]
    target = np.array([float(row["num"]) for row in read["diagnoses"]])[::3]
    if task == "number":
        target = np.nan_to_num(matrix[:, 7].astype(np.float64))
    inputs = tuple(ModelInput(name=name, kind="number") for name in ATTRIBUTES)
    return TrainingRows(matrix=matrix, target=target, inputs=inputs, task=task, **more)


def opened(fitted: Fitted) -> Scorer:
    with TemporaryDirectory() as folder:
        fitted.write(Path(folder))
        return Scorer("1", Path(folder))


def columns_of(rows: TrainingRows) -> dict[str, NDArray[np.float32]]:
    return {name: rows.matrix[:, place] for place, name in enumerate(rows.names)}


def shapley(game: Game, players: int) -> list[float]:
    """Shapley values by their definition: the mean of what a player adds to each coalition of others."""
    found = []
    for player in range(players):
        others = [each for each in range(players) if each != player]
        sets = chain.from_iterable(combinations(others, size) for size in range(players))
        found.append(
            sum(
                (game(frozenset(some) | {player}) - game(frozenset(some)))
                / (players * comb(players - 1, len(some)))
                for some in sets
            )
        )
    return found


def drawn_tree(rng: np.random.Generator, inputs: int, depth: int) -> Tree:
    nodes: list[list[Any]] = []

    def grow(left: int, rows: float) -> int:
        place = len(nodes)
        nodes.append([-1, 0.0, 0, 0, bool(rng.random() < 0.5), float(rng.normal()), rows])
        if left and rng.random() < 0.9:
            share = rng.uniform(0.1, 0.9)
            nodes[place][:2] = [int(rng.integers(inputs)), float(np.float32(rng.normal()))]
            nodes[place][2:4] = [grow(left - 1, rows * share), grow(left - 1, rows * (1 - share))]
        return place

    grow(depth, 100.0)
    names = ("feature", "threshold", "left", "right", "missing_left", "value", "cover")
    columns: dict[str, Any] = dict(zip(names, map(np.array, zip(*nodes, strict=True)), strict=True))
    return Tree(**columns)


def expected(tree: Tree, row: NDArray[np.float32], known: frozenset[int], node: int = 0) -> float:
    """The value of a tree of which only the known inputs are looked at, by recursion."""
    feature, left, right = int(tree.feature[node]), int(tree.left[node]), int(tree.right[node])
    if feature < 0:
        return float(tree.value[node])
    if feature in known:
        value = row[feature]
        goes_left = bool(tree.missing_left[node]) if np.isnan(value) else value <= tree.threshold[node]
        return expected(tree, row, known, left if goes_left else right)
    assert tree.cover is not None
    parts = ((left, float(tree.cover[left])), (right, float(tree.cover[right])))
    return sum(weight * expected(tree, row, known, child) for child, weight in parts) / float(
        tree.cover[node]
    )


@pytest.mark.parametrize("seed", range(6))
def test_trees_are_explained_as_the_definition_says(seed: int) -> None:
    rng, inputs = np.random.default_rng(seed), 5
    trees = [drawn_tree(rng, inputs, depth) for depth in (0, 1, 3, 6)]
    weights = [0.5, 1.0, -2.0, 0.25]
    rows = rng.normal(size=(4, inputs)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    design = Design(plain=tuple(range(inputs)), equal=())
    content = kept_trees(design, trees, weights, rows, 0.7, NUMBER)
    found = read_explainer(content, _nothing).explain(rows)
    for row, contributions, margin in zip(rows, found.contributions, found.margins, strict=True):

        def game(known: frozenset[int], row: NDArray[np.float32] = row) -> float:
            each = zip(trees, weights, strict=True)
            return 0.7 + sum(weight * expected(tree, row, known) for tree, weight in each)

        np.testing.assert_allclose(contributions, shapley(game, inputs), atol=1e-9)
        assert found.base == pytest.approx(game(frozenset()), abs=1e-9)
        assert margin == pytest.approx(game(frozenset(range(inputs))), abs=1e-9)


def _nothing(_: Matrix) -> Scores:
    raise AssertionError("an exact explanation asks no model")


@pytest.mark.parametrize("booster", ["gbtree", "dart"])
@pytest.mark.parametrize("task", ["class", "number"])
def test_xgboost_is_explained_as_it_explains_itself(task: str, booster: str) -> None:
    rows = exams(task, params={"rounds": 40, "booster": booster, "max_depth": 4})
    fitted = fit("xgboost", rows)
    own = xgboost.Booster(model_file=bytearray(fitted.ubj or b""))
    right = own.predict(xgboost.DMatrix(rows.matrix, missing=np.nan), pred_contribs=True)
    found = opened(fitted).explain(columns_of(rows))
    np.testing.assert_allclose(found.contributions, right[:, :-1], atol=2e-6 * np.abs(right).max())
    assert found.base - fitted.shift == pytest.approx(float(right[0, -1]), abs=1e-5)
    assert found.method == "trees"


@pytest.mark.parametrize("task", ["class", "number"])
def test_lightgbm_is_explained_as_it_explains_itself(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, plain = [], lightgbm.train

    def seen(*given: Any) -> Any:
        learnt.append(plain(*given))
        return learnt[-1]

    monkeypatch.setattr(lightgbm, "train", seen)
    rows = exams(task, params={"rounds": 40})
    found = opened(fit("lightgbm", rows)).explain(columns_of(rows))
    right = np.asarray(learnt[0].predict(rows.matrix, pred_contrib=True))
    np.testing.assert_allclose(found.contributions, right[:, :-1], atol=1e-9 * np.abs(right).max())
    assert found.base == pytest.approx(float(right[0, -1]), abs=1e-6)


MEMBERS = (Member(trainer="logistic"), Member(trainer="xgboost", params={"rounds": 20}))
HIST = {"estimator": "sklearn.ensemble.HistGradientBoostingClassifier", "max_iter": 10}


@pytest.mark.parametrize(
    ("trainer", "task", "method", "space", "more"),
    [
        ("xgboost", "class", "trees", "log-odds", {}),
        ("xgboost", "number", "trees", "number", {"params": {"rounds": 40}}),
        ("lightgbm", "class", "trees", "log-odds", {}),
        ("lightgbm", "number", "trees", "number", {}),
        ("forest", "class", "trees", "probability", {"params": {"trees": 20}}),
        ("forest", "number", "trees", "number", {"params": {"trees": 20}}),
        ("logistic", "class", "linear", "log-odds", {}),
        ("linear", "number", "linear", "number", {}),
        ("sklearn", "class", "sampled", "probability", {"params": HIST}),
        ("ensemble", "class", "sampled", "probability", {"members": MEMBERS}),
        ("cascade", "class", "sampled", "probability", {"members": MEMBERS}),
    ],
)
@pytest.mark.parametrize("categories", [(), ("cp", "thal")])
def test_contributions_add_up_to_the_score(
    trainer: str, task: str, method: str, space: str, more: dict[str, Any], categories: tuple[str, ...]
) -> None:
    rows = exams(task, categories=categories, **more)
    scorer, some = opened(fit(trainer, rows)), replace(rows, matrix=rows.matrix[:6])
    found = scorer.explain(columns_of(some))
    assert (found.method, found.space) == (method, space)
    assert found.contributions.shape == (6, len(ATTRIBUTES))
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.margins, atol=1e-9)
    scores = scorer.score(columns_of(some))
    np.testing.assert_allclose(to_scores(space, found.margins), scores, rtol=1e-6, atol=1e-6)
    assert (found.errors is not None) == (method == "sampled")


def test_a_linear_contribution_is_the_weight_times_the_distance_from_the_mean() -> None:
    rows = exams("number")
    whole = replace(rows, matrix=np.nan_to_num(rows.matrix))
    found = opened(fit("linear", whole)).explain(columns_of(whole))
    np.testing.assert_allclose(found.contributions.mean(axis=0), 0.0, atol=1e-4)
    assert found.base == pytest.approx(float(whole.target.mean()), rel=1e-6)


def test_sampled_contributions_are_as_near_as_they_say() -> None:
    """Against all coalitions: of a model with interactions, and of one without, which has no error."""
    rng, inputs = np.random.default_rng(3), 6
    training = rng.normal(size=(200, inputs)).astype(np.float32)

    def mixed(matrix: Matrix) -> Scores:
        x = matrix.astype(np.float64)
        return np.asarray(x[:, 0] * x[:, 1] + np.sin(x[:, 2]) * x[:, 3] + x[:, 4])

    content, rows = kept_background(training, NUMBER), training[:5] * 2
    found = read_explainer(content, mixed).explain(rows)
    background = read_explainer(content, lambda matrix: np.asarray(matrix[:, 0], dtype=np.float64))
    kept: Matrix = background._background  # type: ignore[attr-defined]
    assert found.errors is not None
    far = []
    for row, contributions, errors in zip(rows, found.contributions, found.errors, strict=True):

        def game(known: frozenset[int], row: NDArray[np.float32] = row) -> float:
            asked = kept.copy()
            places = sorted(known)
            asked[:, places] = row[places]
            return float(mixed(asked).mean())

        right = np.array(shapley(game, inputs))
        np.testing.assert_allclose(contributions[5], 0.0, atol=1e-9)  # which the model does not read
        far += list(np.abs(contributions - right)[:4] / np.maximum(errors[:4], 1e-9))
    # Its spread over the background counts as error too, of which contributions have none: they are nearer.
    assert np.quantile(far, 0.9) < 2.5
    again = read_explainer(content, mixed).explain(rows)
    np.testing.assert_array_equal(again.contributions, found.contributions)  # asked again, the same


def test_a_background_has_no_row_of_the_training_set() -> None:
    training = np.arange(4000, dtype=np.float32).reshape(400, 10)
    content = kept_background(training, PROBABILITY)
    explainer = read_explainer(content, lambda matrix: np.zeros(len(matrix)))
    kept: Matrix = explainer._background  # type: ignore[attr-defined]
    assert kept.shape == (64, 10)
    assert {row.tobytes() for row in kept}.isdisjoint(row.tobytes() for row in training)
    assert all(set(kept[:, at]) <= set(training[:, at]) for at in range(10))


def test_several_classes_are_explained_one_by_one() -> None:
    training = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)

    def three(matrix: Matrix) -> Scores:
        raw = np.exp(matrix.astype(np.float64))
        return np.asarray(raw / raw.sum(axis=1, keepdims=True))

    explainer = read_explainer(kept_background(training, PROBABILITY), three)
    each = [explainer.explain(training[:4], output) for output in range(3)]
    for output, found in enumerate(each):
        np.testing.assert_allclose(found.margins, three(training[:4])[:, output], atol=1e-9)
    np.testing.assert_allclose(sum(found.contributions for found in each), 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("trainer", "method", "space"), [("xgboost", "trees", LOG_ODDS), ("forest", "trees", PROBABILITY)]
)
def test_a_calibrated_model_is_explained_exactly_before_its_calibration(
    trainer: str, method: str, space: str
) -> None:
    rows = exams(params={"rounds": 20} if trainer == "xgboost" else {"trees": 10})
    plain = learn(trainer, rows)
    scorer = opened(adjusted(plain, Model(trainer=trainer, calibrate="sigmoid"), rows).fitted())
    found = scorer.explain(columns_of(rows))
    assert (found.method, found.space, found.before_calibration) == (method, space, True)
    assert found.errors is None
    before, after = plain.scores(rows.matrix), scorer.score(columns_of(rows))
    np.testing.assert_allclose(to_scores(space, found.margins), before, atol=1e-5)
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.margins, atol=1e-9)
    assert np.abs(after - before).max() > 0.01  # the calibration does something
    assert (np.diff(after[np.argsort(found.margins)]) > -1e-5).all()  # and keeps the order
    assert not opened(plain.fitted()).explain(columns_of(rows)).before_calibration


@pytest.mark.parametrize("classes", [(), ("healthy", "ill")])
def test_what_is_sampled_is_explained_with_its_calibration(classes: tuple[str, ...]) -> None:
    trainer = "logistic" if classes else "ensemble"
    rows = exams("classes" if classes else "class", classes=classes, members=() if classes else MEMBERS)
    declared = Model(trainer=trainer, members=rows.members, calibrate="sigmoid")
    scorer = opened(adjusted(learn(trainer, rows), declared, rows).fitted())
    few = {name: values[:5] for name, values in columns_of(rows).items()}
    for output in range(max(1, len(classes))):
        found = scorer.explain(few, output)
        assert (found.method, found.space, found.before_calibration) == ("sampled", PROBABILITY, False)
        scores = scorer.score(few)
        right = scores[:, output] if classes else scores
        np.testing.assert_allclose(found.margins, right, atol=1e-5)


def test_a_version_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    rows = exams()
    fit("logistic", rows).write(tmp_path)
    (tmp_path / "explainer.npz").unlink()
    scorer = Scorer("3", tmp_path)
    with pytest.raises(AnabranchError, match=r"version 3 cannot be explained.*train again"):
        scorer.explain(columns_of(rows))


OWN = """
import xgboost


def counts(matrix, target, inputs):
    return xgboost.train({"objective": "count:poisson"}, xgboost.DMatrix(matrix, target), 5)
"""


def test_what_does_not_add_up_is_sampled(tmp_path: Path) -> None:
    """A booster of the user's own: its scores are the exponential of what its trees add up to."""
    (tmp_path / "own_counts.py").write_text(OWN)
    rows = exams("number", folders=(tmp_path,))
    scorer = opened(fit("own_counts:counts", rows))
    found = scorer.explain(columns_of(replace(rows, matrix=rows.matrix[:3])))
    assert found.method == "sampled"
    np.testing.assert_allclose(found.margins, scorer.score(columns_of(rows))[:3], rtol=1e-5)
