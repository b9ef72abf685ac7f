"""`auto`: the trainer and its strength of regularisation chosen by validation inside the training rows; and the search over parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from batch.trainers.boosted import XGBOOST
from batch.trainers.forest import FOREST
from batch.trainers.linear import LINEAR, LOGISTIC
from batch.trainers.rows import SMALL, Learnt, Trainer, TrainingRows, check_params
from batch.trainers.validation import Judged, judge
from features.errors import AnabranchError
from features.modelling import SMALLER_IS_BETTER, Search
from stores.model_inputs import Fitted
from stores.model_scoring import Matrix, Scores


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Parameters that were tried, with the metric's mean on validation rows."""

    trainer: str
    params: Mapping[str, object]
    value: float


class Chosen:
    """What won, and what it won against."""

    def __init__(self, learnt: Learnt, parameters: Mapping[str, object], trials: Sequence[Trial]) -> None:
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
    trees: list[tuple[str, Trainer, Mapping[str, object]]] = [("xgboost", XGBOOST, params) for params in boosted]
    return [*plain, *trees, ("forest", FOREST, {"trees": 100} if few else {})]


def _learn_auto(rows: TrainingRows) -> Chosen:
    check_params("auto", rows.params, set())
    candidates = _candidates(rows)
    ways = [(str(i), partial(_learn, trainer, params)) for i, (_, trainer, params) in enumerate(candidates)]
    judged = judge(ways, rows)
    best = _simplest_near_best(judged, [name for name, _, _ in candidates])
    name, trainer, params = candidates[best]
    learnt = _learn(trainer, params, rows)
    trials = [Trial(trainer=said, params=given, value=_turned(rows, one.mean)) for (said, _, given), one in zip(candidates, judged, strict=True)]
    return Chosen(learnt, {"chosen": name, **learnt.parameters, "validated": round(trials[best].value, 6)}, trials)


def _simplest_near_best(judged: Sequence[Judged], names: Sequence[str]) -> int:
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
    """The best of the trials on the same folds; the first trial is what the declaration says without a search."""
    space = wanted.space or learner.space
    if not space:
        raise AnabranchError(f"model: trainer {trainer!r} has no parameters to search by itself: give Search(space={{...}})")
    random = np.random.default_rng(rows.seed)
    tried: list[Mapping[str, object]] = [{}]
    tried += [{name: _draw(random, choices) for name, choices in space.items()} for _ in range(wanted.trials - 1)]
    ways: list[tuple[str, Callable[[TrainingRows], Learnt]]] = [(str(i), partial(_learn, learner, params)) for i, params in enumerate(tried)]
    judged = judge(ways, rows)
    best = max(range(len(judged)), key=lambda i: judged[i].mean)
    learnt = _learn(learner, tried[best], rows)
    trials = [Trial(trainer=trainer, params=params, value=_turned(rows, one.mean)) for params, one in zip(tried, judged, strict=True)]
    return Chosen(learnt, {**learnt.parameters, "trials": wanted.trials, "validated": round(trials[best].value, 6)}, trials)


def _learn(trainer: Trainer, params: Mapping[str, object], rows: TrainingRows) -> Learnt:
    return trainer.learn(replace(rows, params={**rows.params, **params}))


def _draw(random: np.random.Generator, choices: object) -> object:
    if isinstance(choices, list):
        return choices[int(random.integers(len(choices)))]
    low, high, *log = choices if isinstance(choices, tuple) else ()
    entire = isinstance(low, int) and isinstance(high, int)
    value = float(np.exp(random.uniform(np.log(low), np.log(high)))) if log else float(random.uniform(low, high + 1 if entire else high))
    return min(int(value), high) if entire else round(value, 6)


def _turned(rows: TrainingRows, value: float) -> float:
    return -value if rows.judged_by in SMALLER_IS_BETTER else value


AUTO = Trainer(tasks=("class", "number"), learn=_learn_auto)
