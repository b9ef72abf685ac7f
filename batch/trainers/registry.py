"""Trainers by name.

To add one, write a module with a `Trainer` and `register` it below; nothing else names it.

A name with a colon, ``module:function``, is the user's own function and needs no registration.
"""

from anabranch.declare.models import Model, Search
from anabranch.errors import DeclarationError
from anabranch.stores.models.inputs import Fitted
from anabranch.values.names import listed
from batch.trainers.boosted import XGBOOST
from batch.trainers.choice import AUTO, search
from batch.trainers.composed import compositions
from batch.trainers.distributed import SPARK_TRAINERS
from batch.trainers.forest import FOREST
from batch.trainers.light import LIGHTGBM
from batch.trainers.linear import LINEAR, LOGISTIC
from batch.trainers.own import own_trainer
from batch.trainers.rows import TrainingRows
from batch.trainers.scikit import SKLEARN
from batch.trainers.trainer import Learnt, Trainer

TRAINERS: dict[str, Trainer] = {}
"""The registered trainers, by name."""


def register(trainer: Trainer) -> None:
    """Make `trainer` available to declarations by its name.

    Raises DeclarationError for a name that is taken.
    """
    if trainer.name in TRAINERS or ":" in trainer.name:
        raise DeclarationError(
            f"trainer {trainer.name!r} cannot be registered: choose a name that is not taken and has no colon"
        )
    TRAINERS[trainer.name] = trainer


def trainer(name: str) -> Trainer:
    """The trainer `name`, which `check_trainer` accepts."""
    return own_trainer(name) if ":" in name else TRAINERS[name]


def learn(name: str, rows: TrainingRows, wanted: Search | None = None) -> Learnt:
    """Train in memory with trainer `name`, searching its parameters when `wanted`.

    Raises DeclarationError for an unknown trainer or parameter.
    """
    check_trainer(name, rows.task)
    return trainer(name).train(rows) if wanted is None else search(trainer(name), wanted, rows)


def fit(name: str, rows: TrainingRows) -> Fitted:
    """Train with trainer `name`; returns the model as bytes."""
    return learn(name, rows).fitted()


def check_trainer(name: str, task: str | None = None) -> None:
    """Raises DeclarationError, listing the trainers, unless `name` is one (and learns `task`, when given)."""
    if ":" not in name and name not in TRAINERS:
        known = listed(name, TRAINERS, "use your own 'module:function', or one of")
        raise DeclarationError(f"model: trainer {name!r} is unknown: {known}")
    if task is not None and task not in trainer(name).tasks:
        fitting = ", ".join(other for other, found in TRAINERS.items() if task in found.tasks)
        raise DeclarationError(
            f"model: trainer {name!r} cannot learn {_learnt(task)}, which the metric asks for: "
            f"use {fitting} or another metric"
        )


def _learnt(task: str) -> str:
    return "several classes" if task == "classes" else f"a {task}"


def check_model(model: Model, task: str | None = None) -> None:
    """Raises DeclarationError unless the trainers of the model and its members can do what is declared.

    `task` is the project's; by default that of the metric alone.
    """
    task = task or model.task
    for name in (model.trainer, *[member.trainer for member in model.declared_members]):
        check_trainer(name, task)
        if ":" in name and model.class_weight is not None:
            raise DeclarationError(
                f"model: class_weight is declared, but {name!r} is your own function and weighs rows itself: "
                "leave it out"
            )
    found = trainer(model.trainer)
    aside = [
        what
        for what, there in (
            ("several classes", task == "classes"),
            ("calibrate", model.calibrate),
            ("interval", model.interval),
        )
        if there
    ]
    if aside and (model.params.get("distributed") or found.spread == "always"):
        raise DeclarationError(
            f"model: with {aside[0]} a model is learnt in one process, not on Spark's workers: "
            "leave out the parameter 'distributed', or use a trainer of the driver"
        )
    if model.calibrate is not None and task == "number":
        raise DeclarationError("model: calibrate is for scores of classes: leave it out, or use interval=0.9")
    if model.search is not None and found.spread == "always":
        raise DeclarationError(
            f"model: a search makes many small trainings, which {model.trainer!r} on Spark's workers is not "
            "for: "
            "use a trainer of the driver"
        )
    if model.search is not None and not (model.search.space or found.space):
        raise DeclarationError(
            f"model: trainer {model.trainer!r} has no parameters to search by itself: "
            f"give Search(space={{...}})"
        )


for built_in in (
    AUTO,
    XGBOOST,
    LOGISTIC,
    LINEAR,
    FOREST,
    LIGHTGBM,
    SKLEARN,
    *SPARK_TRAINERS,
    *compositions(learn),
):
    register(built_in)
