"""Maps from scores to observed shares, in numpy and as nodes of an ONNX graph.

A map is a line of straight pieces over the log odds of the score, whose value is the log odds of the share.
``sigmoid`` has one piece (Platt's scaling); ``isotonic`` has as many as the rows support: each block of the
isotonic regression is a knot at its mean, so that scores between two knots keep their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from anabranch.stores.models.scoring import Scores
from batch.trainers.graphs import OUTPUT, Graph, add_part

Floats = NDArray[np.float64]
_NEAREST = 1e-6  # to 0 or 1: log odds of up to 13.8
_GAP = 0.05  # log odds between two knots: steeper lines would magnify the rounding of 32 bits
_END = float(logit(1 - _NEAREST))


@dataclass(frozen=True)
class ScoreMap:
    """Knots over log odds, growing: below the first and above the last the map is flat."""

    knots: NDArray[np.float32]
    values: NDArray[np.float32]

    def __call__(self, scores: Floats) -> Floats:
        """The shares of scores (n,)."""
        odds = logit(np.clip(scores, _NEAREST, 1 - _NEAREST))
        return np.asarray(expit(np.interp(odds, self.knots, self.values)))

    def add(self, graph: Graph, given: str, name: str) -> str:
        """Put the map of `given` (n, 1) into the graph; returns the name of the shares (n, 1)."""

        def constant(part: str, values: object) -> str:
            return graph.constant(f"{name}_{part}", np.asarray(values, dtype=np.float32))

        ends = [constant("low", [_NEAREST]), constant("high", [1 - _NEAREST])]
        inside = graph.node(
            "Min", [graph.node("Max", [given, ends[0]], f"{name}_above"), ends[1]], f"{name}_in"
        )
        rest = graph.node("Sub", [constant("one", [1.0]), inside], f"{name}_rest")
        logs = [graph.node("Log", [one], f"{one}_log") for one in (inside, rest)]
        odds = graph.node("Sub", logs, f"{name}_odds")
        widths = np.diff(self.knots)
        # The line as its first value and what each piece adds: its slope times the way into the piece.
        slopes = np.diff(self.values) / np.where(widths > 0, widths, 1)
        way = graph.node("Sub", [odds, constant("knots", self.knots[:-1])], f"{name}_way")
        way = graph.node("Max", [way, constant("zero", [0.0])], f"{name}_way_up")
        way = graph.node("Min", [way, constant("widths", widths)], f"{name}_way_in")
        added = graph.node("MatMul", [way, constant("slopes", slopes.reshape(-1, 1))], f"{name}_added")
        line = graph.node("Add", [added, constant("first", self.values[:1])], f"{name}_line")
        return graph.node("Sigmoid", [line], f"{name}_share")


def fitted_map(how: str, scores: Floats, target: Floats) -> ScoreMap:
    """The map of `how` from scores (n,) to the shares of target 1 (n,), which is 0 or 1."""
    odds = logit(np.clip(scores, _NEAREST, 1 - _NEAREST))
    return _sigmoid(odds, target) if how == "sigmoid" else _isotonic(odds, target)


def _sigmoid(odds: Floats, target: Floats) -> ScoreMap:
    """Platt's: logistic regression on log odds; his targets keep it finite where scores part the classes."""
    from sklearn.linear_model import LogisticRegression

    ones = float(target.sum())
    likely = np.where(target == 1, (ones + 1) / (ones + 2), 1 / (len(target) - ones + 2))
    learner = LogisticRegression(C=1e6, max_iter=1_000)
    twice, labels = np.concatenate([odds, odds]).reshape(-1, 1), np.repeat([1, 0], len(odds))
    learner.fit(twice, labels, sample_weight=np.concatenate([likely, 1 - likely]))
    slope, shift = max(float(learner.coef_[0, 0]), 0.0), float(learner.intercept_[0])
    # From where on the line would leave the shares that are near to 0 and 1, it is flat.
    ends = np.array([-_END, _END])
    knots = np.clip((ends - shift) / slope, *ends) if slope > 0 else ends
    return _map(knots, slope * knots + shift)


def _isotonic(odds: Floats, target: Floats) -> ScoreMap:
    from sklearn.isotonic import IsotonicRegression

    shares = IsotonicRegression().fit_transform(odds, target)
    _, block = np.unique(shares, return_inverse=True)
    rows = np.bincount(block).astype(np.float64)
    knots, ones = np.bincount(block, odds), np.bincount(block, target)
    kept: list[list[float]] = []  # rows, sum of log odds, rows of target 1
    for place in range(len(rows)):
        one = [rows[place], knots[place], ones[place]]
        if kept and one[1] / one[0] - kept[-1][1] / kept[-1][0] < _GAP:
            kept[-1] = [old + new for old, new in zip(kept[-1], one, strict=True)]
        else:
            kept.append(one)
    found = np.array(kept)
    # No share is certain: one row more of each kind, spread over the rows.
    values = (found[:, 2] + found[:, 0] / len(odds)) / (found[:, 0] * (1 + 2 / len(odds)))
    centres = found[:, 1] / found[:, 0]
    if len(centres) == 1:
        centres, values = np.array([-_END, _END]), np.repeat(values, 2)
    return _map(centres, logit(np.maximum.accumulate(values)))


def _map(knots: Floats, values: Floats) -> ScoreMap:
    return ScoreMap(knots.astype(np.float32), np.clip(values, -_END, _END).astype(np.float32))


def fitted_maps(how: str, scores: Scores, target: Floats) -> tuple[ScoreMap, ...]:
    """One map, or of several classes one a class, each against the rest."""
    if scores.ndim == 1:
        return (fitted_map(how, scores, target),)
    return tuple(
        fitted_map(how, scores[:, place], (target == place).astype(np.float64))
        for place in range(scores.shape[1])
    )


def mapped(scores: Scores, maps: Sequence[ScoreMap]) -> Scores:
    """Scores (n,) or (n, classes) as shares; those of several classes sum to 1."""
    if scores.ndim == 1:
        return maps[0](scores)
    shares = np.column_stack([one(scores[:, place]) for place, one in enumerate(maps)])
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def mapped_model(model: bytes, output: str, maps: Sequence[ScoreMap], width: int) -> bytes:
    """An ONNX model of `width` inputs with its scores mapped."""
    graph, classes = Graph(), len(maps) if len(maps) > 1 else 0
    given = add_part(graph, model, output, "plain_", "features", "unmapped", classes)
    if not classes:
        graph.node("Identity", [maps[0].add(graph, given, "map")], OUTPUT)
        return graph.model(width)
    shares = []
    for place, one in enumerate(maps):
        column = graph.constant(f"map{place}_column", np.array([place], dtype=np.int64))
        score = graph.node("Gather", [given, column], f"map{place}_score", axis=1)
        shares.append(one.add(graph, score, f"map{place}"))
    together = graph.node("Concat", shares, "shares", axis=1)
    axes = graph.constant("shares_axes", np.array([1], dtype=np.int64))
    graph.node("Div", [together, graph.node("ReduceSum", [together, axes], "shares_sum")], OUTPUT)
    return graph.model(width, scores=classes)
