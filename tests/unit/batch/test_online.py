"""The online learner: scikit-learn's steps, the same however often it is restored."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.preprocessing import StandardScaler

from anabranch import Count, FeatureView, Label, Last, Model, Online, Project, Source
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.folds.learner import Learner

NAMES = ("a", "b", "c")


def rows(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different sizes, and what they say."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(count, 3)) * [1, 1000, 0.01] + [5, -300, 0]
    return x, (x[:, 0] - 5 + (x[:, 1] + 300) / 1000 + chance.normal(size=count) / 10 > 0).astype(float)


def learnt(task: str, x: np.ndarray, y: np.ndarray, online: Online | None = None) -> Learner:
    found = Learner(online or Online(), task, NAMES)
    for row, target in zip(x, y, strict=True):
        found.learn(row, target)
    return found


@pytest.mark.parametrize("task", ["class", "number"])
def test_each_step_is_that_of_scikit_learn_over_features_standardised_as_they_come(task: str) -> None:
    x, y = rows(200)
    # Of numbers only the size of the target is learnt as well: with one that is standardised already both see
    # the same.
    if task == "number":
        y = np.tile([-1.0, 1.0], 100)
    scaler = StandardScaler()
    options = {"alpha": 0.01, "eta0": 0.05, "learning_rate": "invscaling", "power_t": 0.25, "shuffle": False}
    peer = (
        SGDClassifier(loss="log_loss", **options)
        if task == "class"
        else SGDRegressor(loss="squared_error", **options)
    )
    mine = Learner(Online(rate=0.05, penalty=0.01), task, NAMES)
    if task == "number":
        mine.target = np.array([1e12, 0.0, 1e12])
    for row, target in zip(x, y, strict=True):
        mine.learn(row, target)
        standard = np.clip(scaler.partial_fit(row[None]).transform(row[None]), -10, 10)
        peer.partial_fit(standard, [target], **({"classes": [0, 1]} if task == "class" else {}))
        np.testing.assert_allclose(mine.weights, peer.coef_.ravel(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(mine.bias, peer.intercept_[0], rtol=1e-6, atol=1e-9)
    standard = np.clip(scaler.transform(x), -10, 10)
    expected = peer.predict_proba(standard)[:, 1] if task == "class" else peer.predict(standard)
    np.testing.assert_allclose(mine.score(x), expected, rtol=1e-5, atol=1e-8)


@given(st.integers(0, 60), st.sampled_from(["class", "number"]), st.integers(0, 1000))
def test_put_down_at_any_moment_and_taken_up_again_it_is_the_same(cut: int, task: str, seed: int) -> None:
    x, y = rows(60, seed)
    x[seed % 60, seed % 3] = np.nan
    half = learnt(task, x[:cut], y[:cut])
    again = Learner.read(Online(), json.loads(json.dumps(half.described())))
    for row, target in zip(x[cut:], y[cut:], strict=True):
        again.learn(row, target)
    whole = learnt(task, x, y)
    assert again.described() == whole.described()
    assert again.seen == 60
    np.testing.assert_array_equal(again.score(x), whole.score(x))


def test_the_order_matters_and_the_same_order_gives_the_same() -> None:
    x, y = rows(50)
    assert learnt("class", x, y).described() == learnt("class", x, y).described()
    assert learnt("class", x, y).described() != learnt("class", x[::-1], y[::-1]).described()


@pytest.mark.parametrize("task", ["class", "number"])
def test_it_learns_what_features_say_whatever_their_sizes(task: str) -> None:
    x, y = rows(600)
    y = y if task == "class" else 1e6 + 2e4 * (x[:, 0] - 5)
    found = learnt(task, x[:500], y[:500])
    score = found.score(x[500:])
    if task == "class":
        assert ((score >= 0.5) == (y[500:] > 0)).mean() > 0.9
    else:
        assert np.abs(score - y[500:]).mean() < np.abs(y[500:] - y[:500].mean()).mean() / 3


def test_what_is_missing_or_wild_neither_stops_nor_ruins_it() -> None:
    x, y = rows(300)
    found = learnt("class", x, y)
    before = found.score(x)
    found.learn(np.array([np.nan, np.nan, np.nan]), 1.0)
    found.learn(np.array([1e30, -np.inf, 0.0]), 0.0)
    assert np.isfinite(found.score(x)).all()
    assert np.isfinite(found.score(np.full((1, 3), np.nan))).all()
    assert ((found.score(x) >= 0.5) == (before >= 0.5)).mean() > 0.6
    with pytest.raises(AnabranchError, match="target nan cannot be learnt from"):
        found.learn(x[0], float("nan"))


def declared(topic: str | None = "visits", features: tuple[str, ...] = (), **online: object) -> Project:
    visits = Source(
        name="visits",
        topic=topic,
        id="id",
        time="at",
        schema="id STRING, who STRING, at TIMESTAMP, town STRING, bought INT",
    )
    seen = FeatureView(
        name="seen", source=visits, key="who", features={"town": Last("town"), "visits": Count()}
    )
    model = Model(features=features, online=Online(**online))  # type: ignore[arg-type]
    return Project(
        name="shop", views=(seen,), label=Label(source=visits, key="who", target="bought > 0"), model=model
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learner": "forest"}, "online learner 'forest' is unknown: use sgd"),
        ({"rate": 0}, "rate must be above 0"),
        ({"penalty": 1}, "penalty from 0 to below 1"),
        ({"passes": 0}, "passes 1 or more"),
        ({"topic": None}, "source 'visits' has none: give it one"),
        ({"features": ("town",)}, "needs a feature that is a number"),
    ],
)
def test_a_declaration_that_cannot_be_learnt_online_says_why(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        declared(**wrong)  # type: ignore[arg-type]


def test_online_learning_changes_nothing_of_what_the_model_is() -> None:
    assert declared().fingerprint == declared(rate=0.5).fingerprint
