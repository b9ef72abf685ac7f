"""The designs of trainers (stores/models/design.py): for trees, and for linear models.

A missing category has a column of its own when training rows had one. Linear models cannot take NaN: a
missing number becomes the median, and a column of its own marks it as missing. The columns are computed in
numpy to learn from, described in features.json for XGBoost, and written into ONNX graphs.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from anabranch.stores.models.design import Design
from anabranch.stores.models.scoring import Matrix
from batch.trainers.rows import TrainingRows

MOST_VALUES = 64
"""Values of one input that get a column: its most frequent."""
_OFTEN_MISSING = 0.02


def tree_design(rows: TrainingRows) -> Design:
    """The design for trees: missing numbers stay NaN, and nothing is scaled."""
    categories = rows.category_positions
    plain = tuple(i for i in range(len(rows.inputs)) if i not in categories)
    return Design(plain=plain, equal=_values(rows.matrix, categories))


def linear_design(rows: TrainingRows) -> Design:
    """The design for linear models: numbers are filled with the median and scaled to deviation 1."""
    categories = rows.category_positions
    plain = tuple(i for i in range(len(rows.inputs)) if i not in categories)
    numbers = rows.matrix[:, plain].astype(np.float64)
    known = np.isfinite(numbers)
    # A column without any value is 0 everywhere, so it is learnt around.
    fill = np.array(
        [
            np.median(column[there]) if there.any() else 0.0
            for column, there in zip(numbers.T, known.T, strict=True)
        ]
    ).astype(np.float32)
    full = np.where(known, numbers, fill)
    deviation = full.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
    share = 1 - known.mean(axis=0)
    marked = tuple(
        (i, float("nan")) for i, gone in zip(plain, share, strict=True) if _OFTEN_MISSING <= gone < 1
    )
    return Design(
        plain=plain,
        equal=(*_values(rows.matrix, categories), *marked),
        fill=fill,
        shift=full.mean(axis=0).astype(np.float32),
        scale=scale,
    )


def _values(matrix: Matrix, categories: Sequence[int]) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []
    for position in categories:
        column = matrix[:, position]
        counted = Counter(column[~np.isnan(column)].tolist())
        # Ties by value, so that the order of rows does not matter.
        most = sorted(counted, key=lambda value: (-counted[value], value))[:MOST_VALUES]
        found += [(position, value) for value in sorted(most)]
        if np.isnan(column).any():
            found.append((position, float("nan")))
    return tuple(found)
