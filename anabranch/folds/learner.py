"""Online learning: a linear model that learns from one example after another. Its state is plain numbers.

Stochastic gradient descent as in `partial_fit` of scikit-learn's SGDClassifier(loss="log_loss") and
SGDRegressor, with learning_rate="invscaling", power_t=0.25, eta0=`rate`, alpha=`penalty`; a test compares
the weights. Features are standardised as they arrive (Welford): mean and spread are part of the state. A
missing value counts as the mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.models import Online
from anabranch.errors import AnabranchError

Numbers = NDArray[np.float64]
_FAR = 10.0  # spreads: values further out are clipped, or one outlier would undo what was learnt
_SURE = 30  # values of a feature, after which outliers are clipped in its mean and spread too
_STEEP = 30.0
_POWER = 0.25
_ARRAYS = ("count", "mean", "squares", "weights")


class Learner:
    """Learns a class (0 or 1) or a number from features `names`; `seen` counts its examples."""

    def __init__(self, online: Online, task: str, names: Sequence[str]) -> None:
        self._online, self.task, self.names = online, task, tuple(names)
        self.seen = 0
        self.count, self.mean, self.squares, self.weights = (np.zeros(len(self.names)) for _ in _ARRAYS)
        self.bias = 0.0
        self.target = np.zeros(3)
        """Count, mean and sum of squared deviations of a number's targets."""

    def score(self, rows: Numbers) -> Numbers:
        """Probabilities of class 1, or numbers, (n,) of rows (n, features); NaN is a missing value."""
        margins = self._standard(np.asarray(rows, dtype=np.float64)) @ self.weights + self.bias
        if self.task == "class":
            return _probability(margins)
        found: Numbers = margins * _spread(self.target[0], self.target[2]) + self.target[1]
        return found

    def learn(self, row: Numbers, target: float) -> None:
        """Learn from one row (features,); raises AnabranchError for a target that is not finite."""
        if not np.isfinite(target):
            raise AnabranchError(f"target {target} cannot be learnt from: give a finite number")
        row = np.asarray(row, dtype=np.float64)
        self._meet(row)
        standard = self._standard(row)
        margin = float(standard @ self.weights + self.bias)
        if self.task == "class":
            slope = float(_probability(np.array([margin]))[0]) - float(target > 0)
        else:
            self._meet_target(target)
            slope = margin - (target - self.target[1]) / float(_spread(self.target[0], self.target[2]))
        self.seen += 1
        step = self._online.rate / self.seen**_POWER
        self.weights *= max(0.0, 1 - step * self._online.penalty)
        self.weights -= step * slope * standard
        self.bias -= step * slope

    def described(self) -> dict[str, Any]:
        """The whole state as a JSON document."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {
            "task": self.task,
            "names": list(self.names),
            "seen": self.seen,
            "bias": self.bias,
            "target": self.target.tolist(),
            **arrays,
        }

    @classmethod
    def read(cls, online: Online, state: Mapping[str, Any]) -> Self:
        """The learner of a state that `described` returned."""
        found = cls(online, str(state["task"]), state["names"])
        found.seen, found.bias, found.target = (
            int(state["seen"]),
            float(state["bias"]),
            np.array(state["target"], dtype=np.float64),
        )
        for name in _ARRAYS:
            setattr(found, name, np.array(state[name], dtype=np.float64))
        return found

    def _meet(self, row: Numbers) -> None:
        there = np.isfinite(row)
        reach = np.where(
            (self.count >= _SURE) & (self.squares > 0), _FAR * _spread(self.count, self.squares), np.inf
        )
        self.count += there
        away = np.clip(np.where(there, row, self.mean) - self.mean, -reach, reach)
        step = away / np.maximum(self.count, 1)
        self.mean += step
        self.squares += away * (away - step)

    def _meet_target(self, value: float) -> None:
        count, mean, squares = self.target.tolist()
        away = value - mean
        mean += away / (count + 1)
        self.target = np.array([count + 1, mean, squares + away * (value - mean)])

    def _standard(self, rows: Numbers) -> Numbers:
        there = np.where(np.isfinite(rows), rows, self.mean)
        return np.clip((there - self.mean) / _spread(self.count, self.squares), -_FAR, _FAR)


def _spread(count: Any, squares: Any) -> Numbers:
    """The standard deviation, 1 where nothing has varied yet."""
    found = np.sqrt(np.asarray(squares, dtype=np.float64) / np.maximum(count, 1))
    return np.where(found > 0, found, 1.0)


def _probability(margins: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(margins, -_STEEP, _STEEP))), dtype=np.float64)
