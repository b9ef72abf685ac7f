"""Trainers by name: rows in, a fitted model as bytes out, with a check that its ONNX form says the same.

Each trainer is a value of its own module; nothing else asks for a trainer's name. A name with a colon is the user's own function.
"""

from dataclasses import replace

from anabranch.declare.models import Model, Search
from anabranch.errors import DeclarationError
from anabranch.stores.models.inputs import Fitted
from batch.trainers.boosted import XGBOOST
from batch.trainers.choice import AUTO, Chosen, search
from batch.trainers.composed import compositions
from batch.trainers.distributed import SPARK_TRAINERS, TrainingFrame, learn_xgboost_on_spark
from batch.trainers.forest import FOREST
from batch.trainers.graphs import PARITY
from batch.trainers.light import LIGHTGBM
from batch.trainers.linear import LINEAR, LOGISTIC
from batch.trainers.own import own_trainer
from batch.trainers.rows import SEED, Learnt, Trainer, TrainingRows
from batch.trainers.scikit import SKLEARN

__all__ = [
    "PARITY",
    "SEED",
    "TRAINERS",
    "Learnt",
    "Trainer",
    "TrainingFrame",
    "TrainingRows",
    "check_model",
    "check_trainer",
    "fit",
    "learn",
    "trainer",
    "tried",
]


def learn(name: str, rows: TrainingRows, wanted: Search | None = None) -> Learnt:
    """Train in memory with trainer `name`, searching its parameters when `wanted`; raises DeclarationError for an unknown trainer or parameter."""
    check_trainer(name, rows.task)
    return trainer(name).learn(rows) if wanted is None else search(name, trainer(name), wanted, rows)


def tried(learnt: Learnt) -> list[dict[str, object]]:
    """What a choice or a search tried, with the metric's mean in validation; empty for a trainer that chose nothing."""
    trials = learnt.trials if isinstance(learnt, Chosen) else ()
    return [{"trainer": trial.trainer, **trial.params, "value": trial.value} for trial in trials]


def fit(name: str, rows: TrainingRows) -> Fitted:
    """Train with trainer `name`: the model as bytes."""
    return learn(name, rows).fitted()


def trainer(name: str) -> Trainer:
    """The trainer `name`."""
    return own_trainer(name) if ":" in name else TRAINERS[name]


def check_trainer(name: str, task: str | None = None) -> None:
    """Raises DeclarationError, listing the trainers, unless `name` is one (and learns `task`, when given)."""
    if ":" not in name and name not in TRAINERS:
        raise DeclarationError(
            f"model: trainer {name!r} is unknown: use {', '.join(TRAINERS)}, or your own 'module:function'"
        )
    if task is not None and task not in trainer(name).tasks:
        fitting = ", ".join(other for other, found in TRAINERS.items() if task in found.tasks)
        raise DeclarationError(
            f"model: trainer {name!r} cannot learn a {task}, which the metric asks for: use {fitting} or another metric"
        )


def check_model(model: Model) -> None:
    """Raises DeclarationError unless the model's trainer, and its members', are there and do what the declaration asks for."""
    for name in (model.trainer, *[member.trainer for member in model.declared_members]):
        check_trainer(name, model.task)
        if ":" in name and model.class_weight is not None:
            raise DeclarationError(
                f"model: class_weight is declared, but {name!r} is your own function and weighs rows itself: leave it out"
            )
    found = trainer(model.trainer)
    if model.search is not None and found.spread == "always":
        raise DeclarationError(
            f"model: a search makes many small trainings, which {model.trainer!r} on Spark's workers is not for: use a trainer of the driver"
        )
    if model.search is not None and not (model.search.space or found.space):
        raise DeclarationError(
            f"model: trainer {model.trainer!r} has no parameters to search by itself: give Search(space={{...}})"
        )


TRAINERS: dict[str, Trainer] = {
    "auto": AUTO,
    "xgboost": replace(XGBOOST, learn_frame=learn_xgboost_on_spark),
    "logistic": LOGISTIC,
    "linear": LINEAR,
    "forest": FOREST,
    "lightgbm": LIGHTGBM,
    "sklearn": SKLEARN,
}
TRAINERS |= SPARK_TRAINERS | compositions(learn)
