"""Choices made by validation inside the training rows: `auto`, and the search over parameters.

`auto` chooses the trainer and its strength of regularisation. A sample of many rows decides, and the chosen
trainer learns from all rows; when these are on Spark's workers, its form for Spark does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from anabranch.declare.models import SMALLER_IS_BETTER, Search
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.evaluation.measures import measure
from batch.evaluation.splits import both_usable, folds
from batch.trainers.boosted import XGBOOST
from batch.trainers.distributed import SPARK_TRAINERS
from batch.trainers.forest import FOREST
from batch.trainers.frames import TrainingFrame
from batch.trainers.linear import LINEAR, LOGISTIC
from batch.trainers.rows import SMALL, TrainingRows
from batch.trainers.trainer import Learnt, Trainer

if TYPE_CHECKING:
    import optuna

MOST_WEIGHED = 50_000
"""Rows that `auto` weighs candidates on; the chosen one learns from all."""
_FOLDS, _REPEATS = 5, 2
_LARGE_SHARE = 5  # one part in so many validates when there is plenty


@dataclass(frozen=True, kw_only=True)
class TriedParameters:
    """Parameters that were tried, with the metric by validation part, turned so that larger is better."""

    trainer: Trainer
    params: Mapping[str, object]
    found: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the validation parts."""
        return float(np.mean(self.found))

    def value(self, metric: str) -> float:
        """The mean of the metric itself."""
        return -self.mean if metric in SMALLER_IS_BETTER else self.mean

    def train(self, rows: TrainingRows) -> Learnt:
        """Train on `rows` with these parameters in addition to the declared ones."""
        return self.trainer.train(replace(rows, params={**rows.params, **self.params}))


class Chosen:
    """The model that won a choice, with all that was tried; `refit` trains it on other rows."""

    def __init__(
        self,
        learnt: Learnt,
        parameters: Mapping[str, object],
        trials: Sequence[Mapping[str, object]],
        refit: Callable[[TrainingRows], Learnt],
    ) -> None:
        self.learnt, self.parameters, self.trials, self.refit = learnt, parameters, tuple(trials), refit

    def scores(self, matrix: Matrix) -> Scores:
        return self.learnt.scores(matrix)

    def fitted(self) -> Fitted:
        """The winner's model, with what was chosen among its parameters."""
        return replace(self.learnt.fitted(), parameters=self.parameters)


def tried(learnt: Learnt) -> list[Mapping[str, object]]:
    """What a choice or a search tried, with the metric in validation; empty when nothing was chosen."""
    return list(getattr(learnt, "trials", ()))


def _chosen(
    learnt: Learnt,
    about: Mapping[str, object],
    best: TriedParameters,
    trials: Sequence[TriedParameters],
    metric: str,
) -> Chosen:
    table = [{"trainer": one.trainer.name, **one.params, "value": one.value(metric)} for one in trials]
    return Chosen(learnt, {**about, "validated": round(best.value(metric), 6)}, table, best.train)


def _learn_auto(rows: TrainingRows) -> Chosen:
    few = rows
    if len(rows.target) > MOST_WEIGHED:
        drawn = np.random.default_rng(rows.seed).permutation(len(rows.target))[:MOST_WEIGHED]
        few = rows.part(np.sort(drawn))
    return _learn_best(few, lambda best: best.train(rows))


def _learn_auto_on_spark(given: TrainingFrame) -> Chosen:
    """The choice on the driver's sample, then the chosen trainer's form for Spark over all rows."""
    spark_forms = {one.name: one for one in SPARK_TRAINERS}

    def train_all(best: TriedParameters) -> Learnt:
        rows = replace(given.rows, params=best.params)
        return spark_forms.get(best.trainer.larger, XGBOOST).train_frame(replace(given, rows=rows))

    return _learn_best(given.rows, train_all)


def _learn_best(rows: TrainingRows, train: Callable[[TriedParameters], Learnt]) -> Chosen:
    """Weigh the candidates on `rows` and train the best one by `train`."""
    trials = weighed(rows)
    best = trials[_simplest_near_best(trials)]
    learnt = train(best)
    about = {"chosen": best.trainer.name, **learnt.parameters}
    return _chosen(learnt, about, best, trials, rows.judged_by)


def weighed(rows: TrainingRows) -> list[TriedParameters]:
    """The candidates of `auto`, from the simplest to the most flexible, each validated inside `rows`."""
    few = len(rows.target) < SMALL
    if rows.task != "number":
        linear = [(LOGISTIC, {"C": strength}) for strength in (0.03, 0.1, 0.3, 1.0)]
    else:
        linear = [(LINEAR, {"alpha": strength}) for strength in (100.0, 10.0, 1.0, 0.1)]
    depths = (1, 2) if few else (4, 6)
    candidates: list[tuple[Trainer, Mapping[str, object]]] = [
        *linear,
        *[(XGBOOST, {"max_depth": depth}) for depth in depths],
        (FOREST, {"trees": 100} if few else {}),
    ]
    return _validated(candidates, rows)


def _simplest_near_best(trials: Sequence[TriedParameters]) -> int:
    """The position of the best strength of the simplest trainer within a standard error of the best of all.

    The error is that of the paired differences by fold: folds differ much more among themselves than
    candidates do.
    """
    best = max(range(len(trials)), key=lambda i: trials[i].mean)
    for one in trials:
        gap = np.array(trials[best].found) - np.array(one.found)
        error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
        if gap.mean() <= error:
            alike = [i for i, other in enumerate(trials) if other.trainer.name == one.trainer.name]
            return max(alike, key=lambda i: trials[i].mean)
    return best


def search(trainer: Trainer, wanted: Search, rows: TrainingRows) -> Chosen:
    """The best of the trials on the same folds; Optuna (TPE) proposes them.

    The first trial has the declared parameters alone.
    """
    import optuna

    space = wanted.space or trainer.space
    if not space:
        raise AnabranchError(
            f"model: trainer {trainer.name!r} has no parameters to search by itself: "
            f"give Search(space={{...}})"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=rows.seed))
    trials = _validated([(trainer, {})], rows)
    for _ in range(1, wanted.trials):
        trial = study.ask()
        params = {name: _suggested(trial, name, choices) for name, choices in space.items()}
        trials += _validated([(trainer, params)], rows)
        study.tell(trial, trials[-1].mean)
    best = max(trials, key=lambda one: one.mean)
    learnt = best.train(rows)
    return _chosen(learnt, {**learnt.parameters, "trials": wanted.trials}, best, trials, rows.judged_by)


def _suggested(trial: "optuna.Trial", name: str, choices: object) -> object:
    if isinstance(choices, list):
        # By position: a choice may be of any type that a declaration can have.
        return choices[trial.suggest_categorical(name, range(len(choices)))]
    low, high, *log = choices if isinstance(choices, tuple) else ()
    suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
    return suggest(name, low, high, log=bool(log))


def _validated(
    candidates: Sequence[tuple[Trainer, Mapping[str, object]]], rows: TrainingRows
) -> list[TriedParameters]:
    """Every candidate on the same parts of `rows`: repeated folds for few rows, one split for many."""
    found: list[list[float]] = [[] for _ in candidates]
    sign = -1.0 if rows.judged_by in SMALLER_IS_BETTER else 1.0
    # Many small fits: threads of linear algebra would cost more in waiting than they give.
    with threadpool_limits(1 if len(rows.target) < SMALL else None):
        for mask in _parts(rows):
            learning, judging = rows.part(~mask), rows.part(mask)
            for values, (trainer, params) in zip(found, candidates, strict=True):
                learnt = TriedParameters(trainer=trainer, params=params, found=()).train(learning)
                scores = learnt.scores(judging.matrix)
                values.append(sign * measure(rows.judged_by, judging.target, scores))
    return [
        TriedParameters(trainer=trainer, params=params, found=tuple(values))
        for (trainer, params), values in zip(candidates, found, strict=True)
    ]


def _parts(rows: TrainingRows) -> list[NDArray[np.bool_]]:
    if len(rows.target) >= SMALL:
        return [folds(rows.target, rows.groups, rows.task, _LARGE_SHARE, rows.seed) == 0]
    parts = []
    for repeat in range(_REPEATS):
        fold = folds(rows.target, rows.groups, rows.task, most_folds(rows), rows.seed + repeat)
        parts += [fold == number for number in np.unique(fold)]
    return [part for part in parts if both_usable(rows.target[part], rows.target[~part], rows.task)]


def most_folds(rows: TrainingRows) -> int:
    """Return as many folds as the rarer class has keys for, at most _FOLDS; raises AnabranchError below 2."""
    for count in range(_FOLDS, 2, -1):
        try:
            folds(rows.target, rows.groups, rows.task, count, rows.seed)
        except AnabranchError:
            continue
        return count
    folds(rows.target, rows.groups, rows.task, 2, rows.seed)
    return 2


AUTO = Trainer(
    name="auto",
    tasks=("class", "classes", "number"),
    learn=_learn_auto,
    learn_frame=_learn_auto_on_spark,
)
