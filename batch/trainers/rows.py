"""What a trainer is given and what it hands back; the few checks that every trainer makes.

A trainer knows nothing of MLflow or of where rows come from. The same rows and seed give the same model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import BALANCED, Member
from anabranch.errors import DeclarationError
from anabranch.stores.models.inputs import Fitted, ModelInput
from anabranch.stores.models.scoring import Matrix, Scores

SEED = 7
MANY = 2_000_000
"""Rows; above, a trainer that can learns on Spark's workers."""
SMALL = 5_000
"""Rows; below, deep trees only learn noise, and cross-validation is cheap."""


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Coded rows: `matrix` (n, inputs) float32 with NaN for missing, `target` (n,) 0/1 or numbers.

    `groups` (n,) are whole numbers: rows of one number stay together when a trainer validates. `folders` are searched for the user's
    own functions.
    """

    matrix: Matrix
    target: NDArray[np.float64]
    inputs: tuple[ModelInput, ...]
    task: str
    params: Mapping[str, object] = field(default_factory=dict)
    metric: str = ""
    categories: tuple[str, ...] = ()
    class_weight: str | Mapping[int, float] | None = None
    groups: NDArray[np.int64] | None = None
    members: tuple[Member, ...] = ()
    folders: tuple[Path, ...] = ()
    seed: int = SEED

    @property
    def judged_by(self) -> str:
        """The metric that choices are made by."""
        return self.metric or ("roc_auc" if self.task == "class" else "rmse")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(given.name for given in self.inputs)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """A weight a row; None when all weigh the same."""
        if self.class_weight is None:
            return None
        ones = self.target == 1
        if self.class_weight == BALANCED:
            share = min(max(float(ones.mean()), 1e-9), 1 - 1e-9)
            return np.where(ones, 0.5 / share, 0.5 / (1 - share))
        by_class = self.class_weight if isinstance(self.class_weight, Mapping) else {}
        return np.where(ones, float(by_class.get(1, 1)), float(by_class.get(0, 1)))

    def part(self, mask: NDArray[Any]) -> "TrainingRows":
        """The rows of `mask` (or of positions)."""
        groups = None if self.groups is None else self.groups[mask]
        return replace(self, matrix=self.matrix[mask], target=self.target[mask], groups=groups)


class Learnt(Protocol):
    """A trained model in memory; `parameters` are what was really used."""

    parameters: Mapping[str, object]

    def scores(self, matrix: Matrix) -> Scores:
        """What the model itself says: probabilities of class 1, or numbers."""
        ...

    def fitted(self) -> Fitted:
        """The model as bytes, its ONNX form checked against `scores` on the training rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A way to learn. `space` is what a search tries when the declaration says no more.

    `learn_frame` learns from a TrainingFrame on Spark's workers; `spread` says when: ``always``, or for ``many`` rows. `larger` is the
    trainer to use instead when the rows do not fit this process's memory.
    """

    tasks: tuple[str, ...]
    learn: Callable[[TrainingRows], Learnt]
    space: Mapping[str, object] = field(default_factory=dict)
    learn_frame: Callable[[Any], Learnt] | None = None
    spread: str = "many"
    larger: str = "xgboost"

    def spreads(self, count: int, params: Mapping[str, object], *, large: bool = False) -> bool:
        """Is this training Spark's? The parameter `distributed` says so, else the number of rows, or that they are too `large` for the driver."""
        if self.learn_frame is None:
            return False
        return self.spread == "always" or bool(params.get("distributed", large or count > MANY))


def check_params(trainer: str, given: Mapping[str, object], known: set[str]) -> None:
    """Raises DeclarationError for a parameter that the trainer does not have."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise DeclarationError(
            f"model: trainer {trainer!r} has no parameter {unknown[0]!r}: it takes {', '.join(sorted(known))}"
        )


def whole(params: Mapping[str, object], name: str) -> int:
    """The parameter as a whole number above 0."""
    value = params[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DeclarationError(f"model: params {name!r} is {value!r}: it must be a whole number above 0")
    return value


def pins(*packages: str) -> tuple[str, ...]:
    """Requirements of a version's files: these packages and those every version needs, as they are here."""
    return tuple(
        f"{package}=={version(package)}"
        for package in (*packages, "mlflow", "numpy", "pandas", "onnxruntime")
    )


def chosen_categories(rows: TrainingRows, params: Mapping[str, object]) -> tuple[int, ...]:
    """Positions of the inputs that are categories: texts, the declared ones, and those of the parameter `categories`."""
    chosen: Any = params.get("categories", ())
    if isinstance(chosen, str) or not isinstance(chosen, (list, tuple)) or not set(chosen) <= set(rows.names):
        raise DeclarationError(
            f"model: params 'categories' is {chosen!r}: it must list features among {', '.join(rows.names)}"
        )
    named: Sequence[str] = (*chosen, *rows.categories)
    return tuple(i for i, given in enumerate(rows.inputs) if given.kind == "text" or given.name in named)
