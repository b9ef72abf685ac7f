"""A trainer that Anabranch does not know: a tree with one split of the first input."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from anabranch.stores.models.explaining.trees import Tree
from batch.trainers.design import tree_design
from batch.trainers.graphs import tree_model
from batch.trainers.registry import TRAINERS, register
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import LearntGraph, Trainer


def learn_stump(rows: TrainingRows, error: float = 0.0) -> LearntGraph:
    """One split of the first input; the library's scores differ from the graph's by `error`."""
    design, bound = tree_design(rows), rows.params["bound"]
    assert isinstance(bound, float)
    above = design.columns(rows.matrix)[:, 0] > bound
    low, high = float(rows.target[~above].mean()), float(rows.target[above].mean())
    tree = Tree(
        feature=np.array([0, -1, -1]),
        threshold=np.array([bound, 0.0, 0.0]),
        left=np.array([1, 0, 0]),
        right=np.array([2, 0, 0]),
        missing_left=np.array([True, True, True]),
        value=np.array([0.0, low, high]),
    )
    return LearntGraph(
        rows,
        lambda: tree_model(design, [tree], [1.0], len(rows.inputs)),
        lambda matrix: np.where(design.columns(matrix)[:, 0] > bound, high, low) + error,
    )


def stump(name: str, error: float = 0.0) -> Trainer:
    return Trainer(
        name=name,
        tasks=("class",),
        learn=lambda rows: learn_stump(rows, error),
        defaults=lambda _task, _count: {"bound": 9.5},
    )


@contextmanager
def registered(*trainers: Trainer) -> Iterator[None]:
    """The trainers are registered while the block runs."""
    for one in trainers:
        register(one)
    try:
        yield
    finally:
        for one in trainers:
            del TRAINERS[one.name]
