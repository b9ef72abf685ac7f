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
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import Arrays, Explanation, Floats
from anabranch.stores.models.scoring import Matrix

_LEAST = 1e-12  # a share of no rows: products stay above 0, so that one may divide by them
_AT_ONCE = 300_000  # parts of paths times rows in memory at once


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Nodes by position, 0 the root.

    A row goes left when its feature is at most `threshold`; a leaf has `feature` < 0 and a `value`. `cover`
    is how many training rows, or how much weight of them, reached the node.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    cover: NDArray[np.float64] | None = None


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
    """The parts of all leaves' paths, those of a leaf together; leaf i begins at `starts[i]`.

    A part is an interval (`low`, `high`] of a `column`; `missing` rows are in it or not.
    """

    column: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    missing: NDArray[np.bool_]
    zero: Floats
    starts: NDArray[np.int64]
    value: Floats
    single: float
    """The sum of the leaves that are whole trees."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many parts each leaf has."""
        return np.diff(np.append(self.starts, len(self.column)))

    @cached_property
    def leaf(self) -> NDArray[np.int64]:
        """The leaf of each part."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)


def _paths(nodes: Arrays) -> _Paths:
    feature, left, cover = nodes["feature"], nodes["left"], nodes["cover"]
    inner, leaves = np.flatnonzero(feature >= 0), np.flatnonzero(feature < 0)
    parent, is_left = np.full(len(feature), -1), np.zeros(len(feature), dtype=bool)
    parent[left[inner]] = parent[nodes["right"][inner]] = inner
    is_left[left[inner]] = True
    at, leaf = leaves, np.arange(len(leaves))
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
    single = float(nodes["value"][leaves[parent[leaves] < 0]].sum())
    if not steps:
        none = np.zeros(0)
        return _Paths(
            column=none.astype(np.int64), low=none.astype(np.float32), high=none.astype(np.float32),
            missing=none.astype(bool), zero=none, starts=none.astype(np.int64), value=none, single=single,
        )  # fmt: skip
    leaf, column, low, high, missing, zero = map(np.concatenate, zip(*steps, strict=True))
    order = np.lexsort((column, leaf))
    leaf, column, low, high, missing, zero = (
        each[order] for each in (leaf, column, low, high, missing, zero)
    )
    first = np.append(True, (np.diff(leaf) != 0) | (np.diff(column) != 0)).nonzero()[0]
    leaf, column = leaf[first], column[first]
    return _Paths(
        column=column.astype(np.int64),
        low=np.maximum.reduceat(low, first).astype(np.float32),
        high=np.minimum.reduceat(high, first).astype(np.float32),
        missing=np.logical_and.reduceat(missing, first),
        zero=np.clip(np.multiply.reduceat(zero, first), _LEAST, 1.0),
        starts=np.append(True, np.diff(leaf) != 0).nonzero()[0],
        value=nodes["value"][leaves][np.unique(leaf)],
        single=single,
    )


class TreeExplainer:
    """Explains a weighted sum of trees plus `bias` over a design's columns."""

    method = "trees"

    def __init__(self, nodes: Arrays, design: Design, inputs: int, bias: float, space: str) -> None:
        self.space, self._design, self._inputs = space, design, inputs
        self._paths = paths = _paths(nodes)
        self._owner = design.positions[paths.column]  # the input of each part
        longest = int(paths.lengths.max(initial=1))
        points, weights = np.polynomial.legendre.leggauss((longest + 1) // 2)
        self._points = tuple(zip((points + 1) / 2, weights / 2, strict=True))
        reached = np.multiply.reduceat(paths.zero, paths.starts) if len(paths.starts) else np.zeros(0)
        self._base = bias + paths.single + float(reached @ paths.value)

    def explain(self, matrix: Matrix, output: int = 0) -> Explanation:
        columns = self._design.columns(matrix)
        step = max(1, _AT_ONCE // max(1, len(self._owner)))
        parts = [self._some(columns[start : start + step]) for start in range(0, len(columns), step)]
        found = np.concatenate(parts) if parts else np.zeros((0, self._inputs))
        return Explanation(
            method=self.method,
            space=self.space,
            base=self._base,
            contributions=found,
            margins=self._base + found.sum(axis=1),
        )

    def _some(self, columns: Matrix) -> Floats:
        paths = self._paths
        if not len(paths.starts):
            return np.zeros((len(columns), self._inputs))
        values = columns[:, paths.column]
        one = ((values > paths.low) & (values <= paths.high)) | (np.isnan(values) & paths.missing)
        total = np.zeros(one.shape)
        for point, weight in self._points:
            part = paths.zero * (1 - point) + point * one
            whole = np.multiply.reduceat(part, paths.starts, axis=1)
            total += (weight * whole)[:, paths.leaf] / part
        total *= (one - paths.zero) * paths.value[paths.leaf]
        return np.stack([np.bincount(self._owner, weights=row, minlength=self._inputs) for row in total])
