"""`auto`: the trainer and its strength of regularisation chosen by validation inside the training rows; and the search over parameters.

Of many rows a sample decides: where they stay on Spark's workers it is the driver's sample, and what was chosen learns from all of them there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from anabranch.declare.models import SMALLER_IS_BETTER, Search
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.boosted import XGBOOST
from batch.trainers.cross_validation import FoldScores, judge
from batch.trainers.distributed import SPARK_TRAINERS, TrainingFrame, learn_xgboost_on_spark
from batch.trainers.forest import FOREST
from batch.trainers.linear import LINEAR, LOGISTIC
from batch.trainers.rows import SMALL, Learnt, Trainer, TrainingRows, check_params

if TYPE_CHECKING:
    import optuna


MOST_WEIGHED = 50_000
"""Rows that `auto` weighs candidates on; the chosen one learns from all."""


@dataclass(frozen=True, kw_only=True)
class TriedParameters:
    """Parameters that were tried, with the metric's mean on validation rows."""

    trainer: str
    params: Mapping[str, object]
    value: float


class Chosen:
    """What won, and what it won against."""

    def __init__(
        self, learnt: Learnt, parameters: Mapping[str, object], trials: Sequence[TriedParameters]
    ) -> None:
        self.learnt, self.parameters, self.trials = learnt, parameters, tuple(trials)

    def scores(self, matrix: Matrix) -> Scores:
        """Of the winner."""
        return self.learnt.scores(matrix)

    def fitted(self) -> Fitted:
        """The winner's, with what was tried among its parameters."""
        return replace(self.learnt.fitted(), parameters=self.parameters)


def _candidates(rows: TrainingRows) -> list[tuple[str, Trainer, Mapping[str, object]]]:
    """From the simplest to the most flexible."""
    if rows.task == "class":
        plain = [("logistic", LOGISTIC, {"C": strength}) for strength in (0.03, 0.1, 0.3, 1.0)]
    else:
        plain = [("linear", LINEAR, {"alpha": strength}) for strength in (100.0, 10.0, 1.0, 0.1)]
    few = len(rows.target) < SMALL
    boosted = [{"max_depth": 1}, {"max_depth": 2}] if few else [{"max_depth": 4}, {"max_depth": 6}]
    trees: list[tuple[str, Trainer, Mapping[str, object]]] = [
        ("xgboost", XGBOOST, params) for params in boosted
    ]
    return [*plain, *trees, ("forest", FOREST, {"trees": 100} if few else {})]


def _learn_auto(rows: TrainingRows) -> Chosen:
    few = rows
    if len(rows.target) > MOST_WEIGHED:
        few = rows.part(
            np.sort(np.random.default_rng(rows.seed).permutation(len(rows.target))[:MOST_WEIGHED])
        )
    chosen = _choose(few)
    return chosen.learnt_by(_learn(chosen.trainer, chosen.params, rows))


def learn_auto_on_spark(given: TrainingFrame) -> Chosen:
    """The choice on the driver's sample, then the chosen trainer's form of Spark over all rows."""
    chosen = _choose(given.rows)
    rows = replace(given.rows, params=chosen.params)
    larger = SPARK_TRAINERS.get(chosen.trainer.larger)
    learn = learn_xgboost_on_spark if larger is None or larger.learn_frame is None else larger.learn_frame
    return chosen.learnt_by(learn(replace(given, rows=rows)))


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What `auto` chose among what it weighed."""

    name: str
    trainer: Trainer
    params: Mapping[str, object]
    validated: float
    trials: Sequence[TriedParameters]

    def learnt_by(self, learnt: Learnt) -> Chosen:
        return Chosen(
            learnt,
            {"chosen": self.name, **learnt.parameters, "validated": round(self.validated, 6)},
            self.trials,
        )


def _choose(rows: TrainingRows) -> _Choice:
    check_params("auto", rows.params, set())
    candidates = _candidates(rows)
    ways = [(str(i), partial(_learn, trainer, params)) for i, (_, trainer, params) in enumerate(candidates)]
    judged = judge(ways, rows)
    best = _simplest_near_best(judged, [name for name, _, _ in candidates])
    trials = [
        TriedParameters(trainer=said, params=given, value=_turned(rows, one.mean))
        for (said, _, given), one in zip(candidates, judged, strict=True)
    ]
    name, trainer, params = candidates[best]
    return _Choice(name=name, trainer=trainer, params=params, validated=trials[best].value, trials=trials)


def _simplest_near_best(judged: Sequence[FoldScores], names: Sequence[str]) -> int:
    """The best of its trainer's strengths, of the simplest trainer that is within a standard error of the best of all.

    The error is that of the paired differences by fold: folds differ much more among themselves than candidates do.
    """
    best = max(range(len(judged)), key=lambda i: judged[i].mean)
    for i, one in enumerate(judged):
        gap = np.array(judged[best].found) - np.array(one.found)
        error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
        if gap.mean() <= error:
            return max((j for j in range(len(judged)) if names[j] == names[i]), key=lambda j: judged[j].mean)
    return best


def search(trainer: str, learner: Trainer, wanted: Search, rows: TrainingRows) -> Chosen:
    """The best of the trials on the same folds; the first trial is what the declaration says without a search, the others are Optuna's (TPE)."""
    import optuna

    space = wanted.space or learner.space
    if not space:
        raise AnabranchError(
            f"model: trainer {trainer!r} has no parameters to search by itself: give Search(space={{...}})"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=rows.seed))
    tried: list[Mapping[str, object]] = [{}]
    judged = judge([("0", partial(_learn, learner, {}))], rows)
    for number in range(1, wanted.trials):
        trial = study.ask()
        tried.append({name: _suggested(trial, name, choices) for name, choices in space.items()})
        judged += judge([(str(number), partial(_learn, learner, tried[-1]))], rows)
        study.tell(trial, judged[-1].mean)
    best = max(range(len(judged)), key=lambda i: judged[i].mean)
    learnt = _learn(learner, tried[best], rows)
    trials = [
        TriedParameters(trainer=trainer, params=params, value=_turned(rows, one.mean))
        for params, one in zip(tried, judged, strict=True)
    ]
    return Chosen(
        learnt,
        {**learnt.parameters, "trials": wanted.trials, "validated": round(trials[best].value, 6)},
        trials,
    )


def _learn(trainer: Trainer, params: Mapping[str, object], rows: TrainingRows) -> Learnt:
    return trainer.learn(replace(rows, params={**rows.params, **params}))


def _suggested(trial: "optuna.Trial", name: str, choices: object) -> object:
    if isinstance(choices, list):
        # By place: a choice may be anything that a declaration can say.
        return choices[trial.suggest_categorical(name, range(len(choices)))]
    low, high, *log = choices if isinstance(choices, tuple) else ()
    suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
    return suggest(name, low, high, log=bool(log))


def _turned(rows: TrainingRows, value: float) -> float:
    return -value if rows.judged_by in SMALLER_IS_BETTER else value


AUTO = Trainer(tasks=("class", "number"), learn=_learn_auto, learn_frame=learn_auto_on_spark)
