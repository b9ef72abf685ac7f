"""Exact Shapley values of trees, path-dependent: a feature that is not known takes both ways of a split.

Each way counts by the share of training rows that took it (`cover`), as in TreeSHAP. A leaf's path is, for
each column that it asks about, an interval with the share `zero` of rows that lie in it. With each column
known with probability t, a leaf v is reached by

    v * product over its columns of (t * one + (1 - t) * zero),     one: 1 where the row lies in the interval

A Shapley value is the integral over t from 0 to 1 of what a column adds. That is a polynomial of t, of a
degree below the number of columns on the path, so that a quadrature of Gauss and Legendre gives it exactly.
All leaves of all trees are computed at once, without a loop over nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import Arrays, Explanation, Floats
from anabranch.stores.models.scoring import Matrix

_LEAST = 1e-12  # a share of no rows: products stay above 0, so that one may divide by them
_AT_ONCE = 30_000  # parts of paths times rows at once: about what a processor has near


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Nodes by position, 0 the root.

    A row goes left when its feature is at most `threshold`; a leaf has `feature` < 0 and a `value`: a number,
    or one a class, (nodes, classes). With `target` the numbers of all leaves are of that class. `cover` is
    how many training rows, or how much weight of them, reached the node.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    cover: NDArray[np.float64] | None = None
    target: int = 0


def at_most(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold: splits of float32 values by it are exact."""
    near = threshold.astype(np.float32)
    return np.where(
        near.astype(np.float64) > threshold, np.nextafter(near, np.float32(-np.inf)), near
    ).astype(np.float32)


def counted(tree: Tree, columns: Matrix) -> Floats:
    """The cover of each node by rows of a design's columns."""
    cover = np.zeros(len(tree.feature))
    at = np.zeros(len(columns), dtype=np.int64)
    rows = np.arange(len(columns))
    threshold = at_most(tree.threshold)
    while len(rows):
        np.add.at(cover, at, 1.0)
        inner = tree.feature[at] >= 0
        rows, at = rows[inner], at[inner]
        values = columns[rows, tree.feature[at]]
        goes_left = np.where(np.isnan(values), tree.missing_left[at], values <= threshold[at])
        at = np.where(goes_left, tree.left[at], tree.right[at])
    return cover


def tree_arrays(trees: Sequence[Tree], weights: Sequence[float], columns: Matrix) -> Arrays:
    """All trees as arrays of nodes, of which `left` and `right` are positions among all nodes.

    Trees that do not know their cover get it of `columns`, the design's columns of training rows.
    """
    covers = [counted(tree, columns) if tree.cover is None else tree.cover for tree in trees]
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])[:-1]
    return {
        "feature": np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        "threshold": at_most(np.concatenate([tree.threshold for tree in trees])),
        "left": np.concatenate([one.left + start for one, start in zip(trees, starts, strict=True)]).astype(
            np.int32
        ),
        "right": np.concatenate([one.right + start for one, start in zip(trees, starts, strict=True)]).astype(
            np.int32
        ),
        "missing_left": np.concatenate([tree.missing_left for tree in trees]),
        "value": np.concatenate([tree.value * weight for tree, weight in zip(trees, weights, strict=True)]),
        "cover": np.concatenate(covers),
    }


@dataclass(frozen=True, kw_only=True)
class _Paths:
    """The paths of L leaves that ask about m columns each: arrays of shape (m, L), one row a part of a path.

    A part is the interval (`low`, `high`] of a column, of the input `owner`; `missing` rows are in it or not.
    `points` are the quadrature's (t, weight) for polynomials of a degree below m.
    """

    column: NDArray[np.int64]
    owner: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    missing: NDArray[np.bool_]
    zero: Floats
    value: Floats
    points: Sequence[tuple[float, float]]

    def contributions(self, columns: Matrix, inputs: int) -> Floats:
        """What the leaves contribute to rows of columns, shape (n, inputs)."""
        rows = len(columns)
        values = columns[:, self.column].swapaxes(0, 1)  # (m, n, L)
        one = (values > self.low[:, None]) & (values <= self.high[:, None])
        one |= np.isnan(values) & self.missing[:, None]
        known, zero = one.astype(np.float64), self.zero[:, None]
        total, part = np.zeros(known.shape), np.empty(known.shape)
        for point, weight in self.points:
            np.multiply(known, point, out=part)
            part += zero * (1 - point)
            whole = part[0] * weight
            for each in part[1:]:
                whole *= each
            total += np.divide(whole, part, out=part)
        known -= zero
        total *= known
        total *= self.value
        places = self.owner[:, None] + np.arange(rows)[:, None] * inputs
        found = np.bincount(places.ravel(), weights=total.ravel(), minlength=rows * inputs)
        return np.asarray(found.reshape(rows, inputs), dtype=np.float64)


def _paths(nodes: Arrays, positions: NDArray[np.int64]) -> tuple[list[_Paths], float]:
    """The paths by their number of parts, and the sum of trees that are one leaf.

    `positions` are the inputs of the design's columns.
    """
    feature, left, cover = nodes["feature"], nodes["left"], nodes["cover"]
    inner, leaves = np.flatnonzero(feature >= 0), np.flatnonzero(feature < 0)
    parent, is_left = np.full(len(feature), -1), np.zeros(len(feature), dtype=bool)
    parent[left[inner]] = parent[nodes["right"][inner]] = inner
    is_left[left[inner]] = True
    at, leaf = leaves, np.arange(len(leaves))
    single = float(nodes["value"][leaves[parent[leaves] < 0]].sum())
    steps: list[tuple[NDArray[Any], ...]] = []
    while True:  # all leaves climb a step at once
        below = parent[at] >= 0
        at, leaf = at[below], leaf[below]
        if not len(at):
            break
        above, went_left = parent[at], is_left[at]
        bound = nodes["threshold"][above]
        low, high = np.where(went_left, -np.inf, bound), np.where(went_left, bound, np.inf)
        share = cover[at] / np.maximum(cover[above], _LEAST)
        steps.append((leaf, feature[above], low, high, went_left == nodes["missing_left"][above], share))
        at = above
    if not steps:
        return [], single
    parts: list[NDArray[Any]] = [np.concatenate(each) for each in zip(*steps, strict=True)]
    order = np.lexsort((parts[1], parts[0]))
    leaf, column, low, high, missing, zero = (each[order] for each in parts)
    first = np.append(True, (np.diff(leaf) != 0) | (np.diff(column) != 0)).nonzero()[
        0
    ]  # of a leaf and column
    leaf, column = leaf[first], column[first].astype(np.int64)
    low, high = np.maximum.reduceat(low, first), np.minimum.reduceat(high, first)
    missing, zero = np.logical_and.reduceat(missing, first), np.multiply.reduceat(zero, first)
    counts = np.bincount(leaf, minlength=len(leaves))
    of_leaf = counts[leaf]
    found = []
    for count in np.unique(of_leaf).tolist():
        some = of_leaf == count

        def laid(array: NDArray[Any], some: NDArray[np.bool_] = some, count: int = count) -> NDArray[Any]:
            return np.ascontiguousarray(array[some].reshape(-1, count).T)

        points, weights = np.polynomial.legendre.leggauss((count + 1) // 2)
        found.append(
            _Paths(
                column=laid(column),
                owner=positions[laid(column)],
                low=laid(low).astype(np.float32),
                high=laid(high).astype(np.float32),
                missing=laid(missing),
                zero=np.clip(laid(zero), _LEAST, 1.0),
                value=nodes["value"][leaves][counts == count],
                points=tuple(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)),
            )
        )
    return found, single


class TreeExplainer:
    """Explains a weighted sum of trees plus `bias` over a design's columns."""

    method = "trees"

    def __init__(self, nodes: Arrays, design: Design, inputs: int, bias: float, space: str) -> None:
        self.space, self._design, self._inputs = space, design, inputs
        self._paths, single = _paths(nodes, design.positions)
        reached = [float(np.prod(paths.zero, axis=0) @ paths.value) for paths in self._paths]
        self._base = bias + single + sum(reached)

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        columns = self._design.columns(matrix)
        found = np.zeros((len(columns), self._inputs))
        for paths in self._paths:
            step = max(1, _AT_ONCE // paths.column.size)
            for start in range(0, len(columns), step):
                some = slice(start, start + step)
                found[some] += paths.contributions(columns[some], self._inputs)
        return Explanation(method=self.method, space=self.space, base=self._base, contributions=found)
