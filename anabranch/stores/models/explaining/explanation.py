"""What an explanation is, and in which space it adds up to the score.

    base + the sum of a row's contributions = its margin

The margin is the score itself in the spaces ``probability`` and ``number``; in ``log-odds`` the score is
1 / (1 + exp(-margin)). Of several classes the score is the probability of the explained class.

An exact explanation of a calibrated model explains the score `before_calibration`, to which it adds up
exactly. The map of a calibration keeps the order of scores: what raises the one does not lower the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.scoring import Matrix, Scores

LOG_ODDS, PROBABILITY, NUMBER = "log-odds", "probability", "number"
Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
MOST_REASONS = 4
"""Reasons of a score: more than four are not likely to help whom they are told."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Contributions of the inputs to the scores of n rows.

    `contributions` have shape (n, inputs). `errors`, of a sampled explanation alone, are the standard errors
    of the contributions.
    """

    method: str
    space: str
    base: float
    contributions: Floats
    errors: Floats | None = None
    before_calibration: bool = False

    @cached_property
    def margins(self) -> Floats:
        """What base and contributions add up to, shape (n,)."""
        return np.asarray(self.base + self.contributions.sum(axis=1))


class Explainer(Protocol):
    """Explains the scores of coded rows."""

    method: str
    space: str

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        """Contributions for each row of `matrix`, shape (n, inputs).

        `output` is the position of the explained class in a model of several classes.
        """
        ...


def to_scores(space: str, margins: Floats) -> Scores:
    """The scores that margins stand for."""
    return 0.5 * (1 + np.tanh(margins / 2)) if space == LOG_ODDS else margins


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a score is as high as it is: the declared text, the features behind it, what they raise it by."""

    text: str
    features: tuple[str, ...]
    contribution: float


def top_reasons(texts: Mapping[str, str], contributions: Mapping[str, float]) -> list[Reason]:
    """Declared reasons whose features raised a score, the strongest first, `MOST_REASONS` at most.

    Features with one text are one reason, of the sum of their contributions.
    """
    by_text: dict[str, list[str]] = {}
    for name, text in texts.items():
        if name in contributions:
            by_text.setdefault(text, []).append(name)
    found = [
        Reason(text=text, features=_strongest(names, contributions), contribution=total)
        for text, names in by_text.items()
        if (total := sum(contributions[name] for name in names)) > 0
    ]
    return sorted(found, key=lambda one: -one.contribution)[:MOST_REASONS]


def _strongest(names: Sequence[str], contributions: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: -contributions[name]))
