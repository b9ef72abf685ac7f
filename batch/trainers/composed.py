"""Compositions: `ensemble`, the mean or vote of its members, and `cascade`, a second member for the unsure.

A composition is one ONNX graph, so it scores wherever ONNX Runtime does; each member must have an ONNX form.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import apart
from batch.trainers.graphs import OUTPUT, Graph, add_part
from batch.trainers.rows import TrainingRows
from batch.trainers.trainer import Learnt, LearntGraph, Trainer

_PARITY = 1e-5
_Learn = Callable[[str, TrainingRows], Learnt]
_Combine = Callable[[Sequence[Fitted], TrainingRows], bytes]


class LearntComposition(LearntGraph):
    """Members that were trained on the same rows, and the graph that `combine` makes of them."""

    def __init__(self, members: Sequence[Learnt], combine: _Combine, rows: TrainingRows) -> None:
        declared = [{"trainer": member.trainer, **member.params} for member in rows.members]
        super().__init__(rows, self._combined, parameters={**rows.params, "members": declared})
        self._members, self._combine = members, combine

    def _combined(self) -> bytes:
        parts = [member.fitted() for member in self._members]
        for declared, part in zip(self.rows.members, parts, strict=True):
            if part.onnx is None:
                raise AnabranchError(
                    f"member {declared.trainer!r} has no ONNX form, and a composition is one ONNX graph: "
                    "use another trainer or other params for it"
                )
        return self._combine(parts, self.rows)

    def fitted(self) -> Fitted:
        """The graph; raises AnabranchError when it scores a row alone differently than among others."""
        few = self.rows.matrix[:32]
        alone = np.array([self.scores(few[i : i + 1])[0] for i in range(len(few))])
        if not apart(alone, self.scores(few)) <= _PARITY:
            raise AnabranchError(
                "the composition scores a row alone differently than among others: "
                "no version was made; use other members"
            )
        return super().fitted()


def compositions(learn: _Learn) -> tuple[Trainer, Trainer]:
    """The trainers of compositions, whose members are trained by `learn`."""
    return (
        Trainer(
            name="ensemble",
            tasks=("class", "classes", "number"),
            learn=partial(_learn_ensemble, learn),
            defaults=lambda _task, _count: {"combine": "mean"},
        ),
        Trainer(
            name="cascade",
            tasks=("class",),
            learn=partial(_learn_cascade, learn),
            defaults=lambda _task, _count: {"unsure": (0.3, 0.7)},
        ),
    )


def _learn_ensemble(learn: _Learn, rows: TrainingRows) -> LearntComposition:
    combine = rows.params["combine"]
    if combine not in ("mean", "vote") or (combine == "vote" and rows.task == "number"):
        raise DeclarationError(f"model: params 'combine' is {combine!r}: use 'mean', or for classes 'vote'")
    return LearntComposition(_trained(learn, rows), _vote if combine == "vote" else _mean, rows)


def _learn_cascade(learn: _Learn, rows: TrainingRows) -> LearntComposition:
    unsure: Any = rows.params["unsure"]
    pair = isinstance(unsure, (tuple, list)) and len(unsure) == 2
    if not (pair and all(isinstance(bound, (int, float)) for bound in unsure)) or not (
        0 <= unsure[0] < unsure[1] <= 1
    ):
        raise DeclarationError(
            f"model: params 'unsure' is {unsure!r}: give the two scores between which the second member "
            "decides, "
            "such as (0.3, 0.7)"
        )
    if len(rows.members) != 2:
        raise DeclarationError(
            f"model: a cascade has two members, the cheap one first, not {len(rows.members)}"
        )
    return LearntComposition(
        _trained(learn, rows), partial(_cascade, float(unsure[0]), float(unsure[1])), rows
    )


def _trained(learn: _Learn, rows: TrainingRows) -> list[Learnt]:
    if len(rows.members) < 2:
        raise DeclarationError(f"model: a composition has 2 or more members, not {len(rows.members)}")
    return [learn(member.trainer, replace(rows, params=member.params, members=())) for member in rows.members]


def _parts(graph: Graph, parts: Sequence[Fitted]) -> list[str]:
    return [
        add_part(graph, part.onnx or b"", part.output, f"m{i}_", "features", f"score{i}", len(part.classes))
        for i, part in enumerate(parts)
    ]


def _mean(parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    graph = Graph()
    graph.node("Mean", _parts(graph, parts), OUTPUT)
    return graph.model(len(rows.inputs), scores=len(rows.classes) or 1)


def _vote(parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    """The share of members whose score is at least their threshold, or whose most probable class it is."""
    graph = Graph()
    votes = []
    classes = len(rows.classes)
    for i, (name, part) in enumerate(zip(_parts(graph, parts), parts, strict=True)):
        if classes:
            best = graph.node("ArgMax", [name], f"best{i}", axis=1, keepdims=0)
            depth = graph.constant(f"depth{i}", np.array(classes, dtype=np.int64))
            bits = graph.constant(f"bits{i}", np.array([0, 1], dtype=np.float32))
            votes.append(graph.node("OneHot", [best, depth, bits], f"vote{i}", axis=-1))
            continue
        bound = graph.constant(f"bound{i}", np.array([part.threshold], dtype=np.float32))
        above = graph.node("GreaterOrEqual", [name, bound], f"said{i}")
        votes.append(graph.node("Cast", [above], f"vote{i}", to=TensorProto.FLOAT))
    graph.node("Mean", votes, OUTPUT)
    return graph.model(len(rows.inputs), scores=classes or 1)


def _cascade(low: float, high: float, parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    """The first member's score unless it is in [low, high); the second runs only when some row needs it."""
    graph = Graph()
    first = add_part(graph, parts[0].onnx or b"", parts[0].output, "m0_", "features", "score0")
    above = graph.node(
        "GreaterOrEqual", [first, graph.constant("low", np.array([low], dtype=np.float32))], "above"
    )
    below = graph.node("Less", [first, graph.constant("high", np.array([high], dtype=np.float32))], "below")
    unsure = graph.node("And", [above, below], "unsure")
    number = graph.node("Cast", [unsure], "unsure_number", to=TensorProto.FLOAT)
    counted = graph.node("ReduceMax", [number], "most_unsure", keepdims=0)
    some = graph.node("Greater", [counted, graph.constant("half", np.array(0.5, dtype=np.float32))], "some")
    graph.node("If", [some], OUTPUT, then_branch=_second(parts[1]), else_branch=_kept())
    return graph.model(len(rows.inputs))


def _second(part: Fitted) -> onnx.GraphProto:
    inner = Graph()
    second = add_part(inner, part.onnx or b"", part.output, "m1_", "features", "score1")
    inner.node("Where", ["unsure", second, "score0"], "then_score")
    score = helper.make_tensor_value_info("then_score", TensorProto.FLOAT, [None, 1])
    return helper.make_graph(inner.nodes, "second", [], [score], inner.constants)


def _kept() -> onnx.GraphProto:
    inner = Graph()
    inner.node("Identity", ["score0"], "else_score")
    score = helper.make_tensor_value_info("else_score", TensorProto.FLOAT, [None, 1])
    return helper.make_graph(inner.nodes, "kept", [], [score])
