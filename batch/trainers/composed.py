"""Compositions: `ensemble` (the mean, or the vote, of its members) and `cascade` (a cheap member first, a second for the unsure).

A composition is one ONNX graph, so it scores wherever ONNX Runtime does; each member must have an ONNX form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.graphs import OUTPUT, Graph, add_part, apart, run
from batch.trainers.rows import Learnt, Trainer, TrainingRows, check_params, pins

_PARITY = 1e-5
Combined = Callable[[Sequence[Fitted], TrainingRows], bytes]


class LearntComposition:
    """Members that were trained on the same rows, and the graph that they make."""

    def __init__(
        self,
        members: Sequence[Learnt],
        combined: Combined,
        rows: TrainingRows,
        parameters: Mapping[str, object],
    ) -> None:
        self.members, self.combined, self.rows, self.parameters = members, combined, rows, parameters

    @cached_property
    def onnx(self) -> bytes:
        """The graph; raises AnabranchError for a member without an ONNX form."""
        parts = [member.fitted() for member in self.members]
        for declared, part in zip(self.rows.members, parts, strict=True):
            if part.onnx is None:
                raise AnabranchError(
                    f"member {declared.trainer!r} has no ONNX form, and a composition is one ONNX graph: use another trainer or other params for it"
                )
        return self.combined(parts, self.rows)

    def scores(self, matrix: Matrix) -> Scores:
        """Of the graph."""
        return run(self.onnx, OUTPUT, matrix)

    def fitted(self) -> Fitted:
        """The graph, which must be as sure of one row as of many."""
        few = self.rows.matrix[:32]
        alone = np.array([self.scores(few[i : i + 1])[0] for i in range(len(few))])
        if not apart(alone, self.scores(few)) <= _PARITY:
            raise AnabranchError(
                "the composition scores a row alone differently than among others: no version was made; use other members"
            )
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=self.onnx,
            output=OUTPUT,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def compositions(learn: Callable[[str, TrainingRows], Learnt]) -> dict[str, Trainer]:
    """The trainers of compositions, whose members are trained by `learn`."""
    return {
        "ensemble": Trainer(tasks=("class", "number"), learn=partial(_learn_ensemble, learn)),
        "cascade": Trainer(tasks=("class",), learn=partial(_learn_cascade, learn)),
    }


def _learn_ensemble(learn: Callable[[str, TrainingRows], Learnt], rows: TrainingRows) -> LearntComposition:
    check_params("ensemble", rows.params, {"combine"})
    combine = rows.params.get("combine", "mean")
    if combine not in ("mean", "vote") or (combine == "vote" and rows.task == "number"):
        raise DeclarationError(f"model: params 'combine' is {combine!r}: use 'mean', or for classes 'vote'")
    return LearntComposition(
        _trained(learn, rows, 2),
        _vote if combine == "vote" else _mean,
        rows,
        {"combine": combine, **_names(rows)},
    )


def _learn_cascade(learn: Callable[[str, TrainingRows], Learnt], rows: TrainingRows) -> LearntComposition:
    check_params("cascade", rows.params, {"unsure"})
    unsure: Any = rows.params.get("unsure", (0.3, 0.7))
    sound = (
        isinstance(unsure, (tuple, list))
        and len(unsure) == 2
        and all(isinstance(bound, (int, float)) for bound in unsure)
    )
    if not sound or not 0 <= unsure[0] < unsure[1] <= 1:
        raise DeclarationError(
            f"model: params 'unsure' is {unsure!r}: give the two scores between which the second member decides, such as (0.3, 0.7)"
        )
    if len(rows.members) != 2:
        raise DeclarationError(
            f"model: a cascade has two members, the cheap one first, not {len(rows.members)}"
        )
    return LearntComposition(
        _trained(learn, rows, 2),
        partial(_cascade, float(unsure[0]), float(unsure[1])),
        rows,
        {"unsure": unsure, **_names(rows)},
    )


def _trained(learn: Callable[[str, TrainingRows], Learnt], rows: TrainingRows, least: int) -> list[Learnt]:
    if len(rows.members) < least:
        raise DeclarationError(f"model: a composition has {least} or more members, not {len(rows.members)}")
    return [learn(member.trainer, replace(rows, params=member.params, members=())) for member in rows.members]


def _names(rows: TrainingRows) -> dict[str, object]:
    return {"members": [{"trainer": member.trainer, **member.params} for member in rows.members]}


def _parts(graph: Graph, parts: Sequence[Fitted]) -> list[str]:
    return [
        add_part(graph, part.onnx or b"", part.output, f"m{i}_", "features", f"score{i}")
        for i, part in enumerate(parts)
    ]


def _mean(parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    graph = Graph()
    graph.node("Mean", _parts(graph, parts), OUTPUT)
    return graph.model(len(rows.inputs))


def _vote(parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    """The share of members that say class 1."""
    graph = Graph()
    votes = []
    for i, (name, part) in enumerate(zip(_parts(graph, parts), parts, strict=True)):
        bound = graph.constant(f"bound{i}", np.array([part.threshold], dtype=np.float32))
        votes.append(
            graph.node(
                "Cast",
                [graph.node("GreaterOrEqual", [name, bound], f"said{i}")],
                f"vote{i}",
                to=TensorProto.FLOAT,
            )
        )
    graph.node("Mean", votes, OUTPUT)
    return graph.model(len(rows.inputs))


def _cascade(low: float, high: float, parts: Sequence[Fitted], rows: TrainingRows) -> bytes:
    """The first's score unless it is in [low, high); the second runs only when some row needs it."""
    graph = Graph()
    first = add_part(graph, parts[0].onnx or b"", parts[0].output, "m0_", "features", "score0")
    above = graph.node(
        "GreaterOrEqual", [first, graph.constant("low", np.array([low], dtype=np.float32))], "above"
    )
    below = graph.node("Less", [first, graph.constant("high", np.array([high], dtype=np.float32))], "below")
    unsure = graph.node("And", [above, below], "unsure")
    counted = graph.node(
        "ReduceMax",
        [graph.node("Cast", [unsure], "unsure_number", to=TensorProto.FLOAT)],
        "most_unsure",
        keepdims=0,
    )
    some = graph.node("Greater", [counted, graph.constant("half", np.array(0.5, dtype=np.float32))], "some")
    graph.node("If", [some], OUTPUT, then_branch=_second(parts[1]), else_branch=_kept())
    return graph.model(len(rows.inputs))


def _second(part: Fitted) -> onnx.GraphProto:
    inner = Graph()
    second = add_part(inner, part.onnx or b"", part.output, "m1_", "features", "score1")
    inner.node("Where", ["unsure", second, "score0"], "then_score")
    told = helper.make_tensor_value_info("then_score", TensorProto.FLOAT, [None, 1])
    return helper.make_graph(inner.nodes, "second", [], [told], inner.constants)


def _kept() -> onnx.GraphProto:
    inner = Graph()
    inner.node("Identity", ["score0"], "else_score")
    return helper.make_graph(
        inner.nodes, "kept", [], [helper.make_tensor_value_info("else_score", TensorProto.FLOAT, [None, 1])]
    )
