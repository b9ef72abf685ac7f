"""The rows that a trainer learns from, and how the declaration says to learn from them.

A trainer knows nothing of MLflow or of where rows come from. The same rows and seed give the same model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import BALANCED, Member
from anabranch.errors import DeclarationError
from anabranch.stores.models.inputs import ModelInput
from anabranch.stores.models.scoring import Matrix

SEED = 7
SMALL = 5_000
"""Rows; below, deep trees only learn noise, and cross-validation is cheap."""


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Coded rows: `matrix` (n, inputs) float32 with NaN for missing, `target` (n,) 0/1 or numbers.

    Of several `classes` the target is the position of the row's class among them.

    `groups` (n,) are whole numbers: rows of one number stay together when a trainer validates. `folders` are
    searched for the user's own functions.
    """

    matrix: Matrix
    target: NDArray[np.float64]
    inputs: tuple[ModelInput, ...]
    task: str
    params: Mapping[str, object] = field(default_factory=dict)
    metric: str = ""
    categories: tuple[str, ...] = ()
    class_weight: str | Mapping[int, float] | Mapping[str, float] | None = None
    classes: tuple[str | int, ...] = ()
    groups: NDArray[np.int64] | None = None
    members: tuple[Member, ...] = ()
    folders: tuple[Path, ...] = ()
    seed: int = SEED

    @property
    def judged_by(self) -> str:
        """The metric that choices are made by."""
        return self.metric or ("rmse" if self.task == "number" else "roc_auc")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(given.name for given in self.inputs)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """A weight a row; None when all weigh the same."""
        if self.class_weight is None:
            return None
        if self.task == "classes":
            return self._class_weights[self.target.astype(np.int64)]
        ones = self.target == 1
        if self.class_weight == BALANCED:
            share = min(max(float(ones.mean()), 1e-9), 1 - 1e-9)
            return np.where(ones, 0.5 / share, 0.5 / (1 - share))
        by_class: Mapping[Any, float] = self.class_weight if isinstance(self.class_weight, Mapping) else {}
        return np.where(ones, float(by_class.get(1, 1)), float(by_class.get(0, 1)))

    @property
    def _class_weights(self) -> NDArray[np.float64]:
        """A weight a class: declared, or such that every class weighs the same."""
        if self.class_weight == BALANCED:
            counts = np.bincount(self.target.astype(np.int64), minlength=len(self.classes))
            return len(self.target) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
        by_class: Mapping[Any, float] = self.class_weight if isinstance(self.class_weight, Mapping) else {}
        return np.array([float(by_class.get(name, 1)) for name in self.classes])

    @property
    def category_positions(self) -> tuple[int, ...]:
        """Positions of the categorical inputs: texts, declared categories, and the parameter `categories`.

        Raises DeclarationError when the parameter lists anything but features.
        """
        chosen: Any = self.params.get("categories", ())
        if not isinstance(chosen, (list, tuple)) or not set(chosen) <= set(self.names):
            raise DeclarationError(
                f"model: params 'categories' is {chosen!r}: it must list features among "
                f"{', '.join(self.names)}"
            )
        named: Sequence[str] = (*chosen, *self.categories)
        return tuple(i for i, one in enumerate(self.inputs) if one.kind == "text" or one.name in named)

    def whole(self, name: str) -> int:
        """The parameter `name` as a whole number above 0; raises DeclarationError for any other value."""
        value = self.params[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DeclarationError(f"model: params {name!r} is {value!r}: it must be a whole number above 0")
        return value

    def part(self, mask: NDArray[Any]) -> "TrainingRows":
        """The rows selected by `mask`, a boolean mask or an array of positions."""
        groups = None if self.groups is None else self.groups[mask]
        return replace(self, matrix=self.matrix[mask], target=self.target[mask], groups=groups)
