"""Explanations: our trees against XGBoost's and LightGBM's own values and shap, sampling against shap's."""

import asyncio
import importlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.answers.features import Answer, Answers
from anabranch.answers.predict import Prediction
from anabranch.answers.requests import Asked
from anabranch.answers.service import AnswerService, Questions
from anabranch.stores.models.explaining.others import BACKGROUND
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.scoring import Matrix
from anabranch.stores.models.versions import Scorer
from batch.trainers.registry import learn
from batch.trainers.rows import TrainingRows
from tests.bench.report import Row, save

FEATURES, ROWS, MANY = 20, 20_000, 500
GOAL_ONE, GOAL_MANY = ">= 0.9", ">= 0.5"
names = [f"f{at}" for at in range(FEATURES)]
events = Source(
    name="events", id="id", time="at",
    schema="id STRING, who STRING, at TIMESTAMP, " + ", ".join(f"{name} DOUBLE" for name in names),
)  # fmt: skip
view = FeatureView(
    name="last", source=events, key="who", features={**{name: Last(name) for name in names}, "n": Count()}
)
project = Project(
    name="bench", views=(view,), label=Label(source=events, key="who", target="f0 > 0"),
    model=Model(features=tuple(names), reasons={"f0": "the first", "f1": "the second"}),
)  # fmt: skip


class One:
    """A store that knows one row of features."""

    def __init__(self, row: NDArray[np.float32]) -> None:
        self.values = dict(zip(names, row.tolist(), strict=True))

    async def answer(self, asked: Project, keys: Sequence[Any], _: object) -> list[Answer]:
        return [Answer(key, self.values, 0, None, 1) for key in keys]


def training_rows(**params: object) -> TrainingRows:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    noise = rng.normal(size=ROWS)
    target = (matrix[:, 0] * matrix[:, 1] + matrix[:, 2:6].sum(axis=1) + noise > 0).astype(float)
    return TrainingRows(
        matrix=matrix, target=target, inputs=model_inputs(project), task="class", params=params
    )


class Caught:
    """What a function of a library last returned while the block runs: the model behind a learnt one."""

    def __init__(self, owner: Any, name: str) -> None:
        self.found: Any = None
        plain = getattr(owner, name)

        def seen(*given: Any, **named: Any) -> Any:
            self.found = plain(*given, **named)
            return self.found

        self._patch = patch.object(owner, name, seen)

    def __enter__(self) -> None:
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def micros(work: Callable[[], object], rounds: int) -> float:
    """The median of rounds, in microseconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


def turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Both in turns, warm, in microseconds."""
    ours(), theirs()
    found = [(micros(ours, 1), micros(theirs, 1)) for _ in range(rounds)]
    return statistics.median([each for each, _ in found]), statistics.median([each for _, each in found])


def compared(
    work: str, peer: str, ours: Callable[[Matrix], Any], theirs: Callable[[Matrix], Any], rounds: int
) -> list[Row]:
    """One row and many, in microseconds a row."""
    matrix = training_rows().matrix
    found = []
    for count, goal in ((1, GOAL_ONE), (MANY, GOAL_MANY)):
        some = matrix[:count]
        left, right = np.asarray(ours(some)), np.asarray(theirs(some))
        taken = turns(partial(ours, some), partial(theirs, some), rounds)
        mine, other = (each / count for each in taken)
        found.append(
            Row(
                work=f"{work}, {count} row{'s' if count > 1 else ''}", peer=peer, ours=mine, theirs=other,
                unit="us/row", ratio=other / mine, goal=goal,
                equal=bool(np.allclose(left, right, atol=1e-5)),
            )
        )  # fmt: skip
    return found


def contributions(scorer: Scorer) -> Callable[[Matrix], NDArray[np.float64]]:
    """Contributions of coded rows by the version's explainer."""
    return lambda matrix: scorer.explainer.explain(matrix).contributions


def own_values(booster: xgboost.Booster, matrix: Matrix) -> Any:
    """Contributions by XGBoost itself."""
    return booster.predict(xgboost.DMatrix(matrix, nthread=1), pred_contribs=True)[:, :-1]


def opened(learnt: Any, folder: Path) -> Scorer:
    folder.mkdir()
    learnt.fitted().write(folder)
    return Scorer("1", folder)


def main() -> None:
    """Measure and save."""
    shap: Any = importlib.import_module("shap")  # of the group bench
    warnings.simplefilter("ignore")
    quick = "--quick" in sys.argv
    rounds, rows = 3 if quick else 15, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for depth, count in ((2, 200), (6, 300)):
            learnt: Any = learn("xgboost", training_rows(max_depth=depth, rounds=count))
            scorer, booster = opened(learnt, folder / f"xgboost{depth}"), learnt.booster
            booster.set_param({"nthread": 1})
            rows += compared(
                f"xgboost, {count} trees of depth {depth}",
                "XGBoost's pred_contribs, one thread",
                contributions(scorer),
                partial(own_values, booster),
                rounds,
            )
            if depth == 6:
                rows += answers(scorer, "xgboost, 300 trees of depth 6", rounds)
        boosters = Caught(lightgbm, "train")
        with boosters:
            learnt = learn("lightgbm", training_rows(rounds=300, num_leaves=31))
        rows += compared(
            "lightgbm, 300 trees of 31 leaves", "LightGBM's pred_contrib, one thread",
            contributions(opened(learnt, folder / "lightgbm")),
            lambda matrix: boosters.found.predict(matrix, pred_contrib=True, num_threads=1)[:, :-1], rounds,
        )  # fmt: skip
        forests = Caught(RandomForestClassifier, "fit")
        with forests:
            learnt = learn("forest", training_rows(trees=100, min_samples_leaf=20))
        trees = shap.TreeExplainer(forests.found)
        rows += compared(
            "forest, 100 trees of up to 1,000 leaves", "shap's TreeExplainer",
            contributions(opened(learnt, folder / "forest")),
            lambda matrix: trees.shap_values(matrix)[:, :, 1], max(1, rounds // 5),
        )  # fmt: skip
        rows += sampled(shap, folder, rounds)
    notes = (
        "One thread each, warm, in turns; medians.",
        f"{FEATURES} features, {ROWS:,} training rows. Values are compared to 1e-5.",
        "shap's permutations are as many as ours and go over the same background; both are compared with "
        "their standard errors.",
        "An answer is measured from question to document with a store in memory: reads and HTTP add to it.",
    )
    save(
        "reasons", "Explanations", rows, ["xgboost-cpu", "lightgbm", "scikit-learn", "shap", "numpy"], notes,
        dry=quick,
    )  # fmt: skip


def answers(scorer: Scorer, what: str, rounds: int) -> list[Row]:
    """What an explanation adds to an answer."""
    service = AnswerService(cast("Answers", One(training_rows().matrix[0])))

    def ask(explain: bool) -> Callable[[], object]:
        question = Questions(project, scorer, [Asked({"who": "ann"}, {}, explain=explain)])

        async def some() -> None:
            for _ in range(20):
                (found,) = await service.predict_async(question, None)
                assert isinstance(found, Prediction)
                assert ("explanation" in found.answer) == explain

        return lambda: asyncio.run(some())

    with_it, without = turns(ask(True), ask(False), rounds)
    return [
        Row(
            work=f"an answer with its explanation ({what})", peer="the answer without", ours=with_it / 20,
            theirs=without / 20, unit="us/answer", ratio=without / with_it, equal=None,
        )
    ]  # fmt: skip


def sampled(shap: Any, folder: Path, rounds: int) -> list[Row]:
    """A model of any kind, explained by as many evaluations as shap's permutations take."""
    few = training_rows(estimator="sklearn.neural_network.MLPClassifier", max_iter=20)
    scorer = opened(learn("sklearn", few), folder / "sampled")
    explainer: Any = scorer.explainer
    background, model = explainer._background, explainer._predict
    theirs = shap.explainers.Permutation(model, background, seed=1)
    row = few.matrix[:1]
    evaluations = 2 * FEATURES * BACKGROUND + 1  # a permutation of shap's goes over the whole background

    def ask() -> Any:
        return theirs(row, max_evals=max(2 * FEATURES + 1, evaluations // BACKGROUND), silent=True).values

    found = explainer.explain(row)
    mine, other = turns(lambda: explainer.explain(row), ask, max(1, rounds // 3))
    near = np.abs(found.contributions - ask()) <= 5 * np.maximum(found.errors, 1e-3)
    return [
        Row(
            work="a neural network, sampled, 1 row", peer="shap's Permutation explainer", ours=mine,
            theirs=other, unit="us/row", ratio=other / mine, goal=GOAL_ONE, equal=bool(near.all()),
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main()
