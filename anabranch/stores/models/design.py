"""The columns a trainer learns from, made of the inputs: as they are, scaled, or one column a value.

    inputs (n, k) float32, NaN = missing  ->  [ plain numbers | 1 where an input equals a value, else 0 ]

Trainers make designs (batch/trainers/design.py); what explains a score reads them again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.scoring import Matrix, expanded


@dataclass(frozen=True, kw_only=True)
class Design:
    """`plain` are positions of numeric inputs; `equal` pairs a position with a value (NaN: missing)."""

    plain: tuple[int, ...]
    equal: tuple[tuple[int, float], ...]
    fill: NDArray[np.float32] | None = None
    shift: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.plain) + len(self.equal)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The input that each column is made of, by position."""
        return np.array([*self.plain, *(position for position, _ in self.equal)], dtype=np.int64)

    @property
    def described(self) -> dict[str, Any] | None:
        """The entry `columns` of features.json; None when the inputs are the columns."""
        if not self.equal and self.fill is None:
            return None
        return {
            "plain": list(self.plain),
            "equal": [[position, None if np.isnan(value) else value] for position, value in self.equal],
        }

    def columns(self, matrix: Matrix) -> Matrix:
        """The design's columns of coded rows, of shape (n, width)."""
        if self.described is None:
            return matrix
        found = expanded(matrix, self.described)
        if self.fill is None or self.shift is None or self.scale is None:
            return found
        numbers = found[:, : len(self.plain)]
        found[:, : len(self.plain)] = (
            np.where(np.isnan(numbers), self.fill, numbers) - self.shift
        ) / self.scale
        return found
