"""Explanations of linear models, exact, and of any other model, by sampling.

A linear model's contribution is its weight times the distance from the column's mean in training. Of any
other model Shapley values are sampled: a walk goes from a row of a background to the explained row and takes
over one input after the other, in an order drawn at random; what the score moves by is the input's. Each
order is walked forwards and backwards (antithetic), once from each row of the background, so contributions
add up to the score less the background's mean without any error; the error of each is known from its spread.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import Explainer, Explanation, Floats
from anabranch.stores.models.scoring import Matrix, Scores

BACKGROUND = 64
"""Rows of a background, and pairs of walks for a row."""
_AT_ONCE = 2_000_000  # values that a model is asked about at once
_SEED = 7


class LinearExplainer:
    """Explains `columns @ weights + bias`, where columns have `means` in training."""

    method = "linear"

    def __init__(
        self, design: Design, weights: Floats, means: Floats, bias: float, inputs: int, space: str
    ) -> None:
        self.space, self._design, self._weights, self._means = space, design, weights, means
        self._base = bias + float(means @ weights)
        self._spread = np.zeros((len(weights), inputs))
        self._spread[np.arange(len(weights)), design.positions] = 1.0

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        columns = self._design.columns(matrix).astype(np.float64)
        found = ((columns - self._means) * self._weights) @ self._spread
        return Explanation(method=self.method, space=self.space, base=self._base, contributions=found)


class ExplainerBeforeCalibration:
    """Explains the scores of a calibrated model as they are before its calibration."""

    def __init__(self, exact: Explainer) -> None:
        self.method, self.space, self._exact = exact.method, exact.space, exact

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        return replace(self._exact.explain(matrix, output), before_calibration=True)


class SampledExplainer:
    """Explains the scores of `predict`, (n,) or (n, classes), against rows of a background."""

    method = "sampled"

    def __init__(self, background: Matrix, predict: Callable[[Matrix], Scores], space: str) -> None:
        self.space, self._background, self._predict = space, background, predict
        count, inputs = background.shape
        drawn = np.random.default_rng(_SEED)
        orders = np.stack([drawn.permutation(inputs) for _ in range(count)])
        # Step s of a walk has taken over the inputs whose rank is below s.
        forwards = np.argsort(orders, axis=1)
        self._ranks = np.stack([forwards, inputs - 1 - forwards], axis=1)  # (rows, 2, inputs)

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        found = [self._row(row, output) for row in matrix]
        base = float(self._scores(self._background, output).mean())
        shape = (len(matrix), self._background.shape[1])
        contributions = np.array([each for each, _ in found]).reshape(shape)
        return Explanation(
            method=self.method,
            space=self.space,
            base=base,
            contributions=contributions,
            errors=np.array([error for _, error in found]).reshape(shape),
        )

    def _row(self, row: NDArray[np.float32], output: int) -> tuple[Floats, Floats]:
        """The contributions of one row, and their standard errors."""
        count, inputs = self._background.shape
        together = max(1, _AT_ONCE // (2 * (inputs + 1) * max(1, inputs)))
        parts = [
            self._walks(row, slice(start, start + together), output) for start in range(0, count, together)
        ]
        pairs = np.concatenate(parts)
        error = pairs.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(inputs)
        return pairs.mean(axis=0), error

    def _walks(self, row: NDArray[np.float32], some: slice, output: int) -> Floats:
        """The mean of both walks from each row of the background, shape (rows, inputs)."""
        start, ranks = self._background[some], self._ranks[some]
        inputs = start.shape[1]
        steps = np.arange(inputs + 1)[:, None]
        taken = ranks[:, :, None, :] < steps  # (rows, 2, steps, inputs)
        asked = np.where(taken, row, start[:, None, None, :])
        scores = self._scores(asked.reshape(-1, inputs), output).reshape(taken.shape[:3])
        moves = np.diff(scores, axis=2)
        return np.asarray(np.take_along_axis(moves, ranks, axis=2).mean(axis=1))

    def _scores(self, matrix: Matrix, output: int) -> Scores:
        found = self._predict(np.ascontiguousarray(matrix, dtype=np.float32))
        return found if found.ndim == 1 else found[:, output]


def background(matrix: Matrix) -> Matrix:
    """Rows to compare with, of training rows: the values of each input are drawn by themselves.

    No row of the training set is copied into a version.
    """
    drawn = np.random.default_rng(_SEED)
    count = min(BACKGROUND, len(matrix))
    return np.column_stack(
        [column[drawn.choice(len(column), count, replace=False)] for column in matrix.T]
    ).astype(np.float32)
