"""Extremes, and the first and last values by event time."""

from dataclasses import dataclass
from typing import ClassVar, Unpack

import numpy as np

from anabranch.aggregates.base import ANYTHING, ORDERED, Aggregate, Bound, Folded, bounded, decoded
from anabranch.aggregates.categories import Counted
from anabranch.states.blocks import TIME_ELEMENT, Block, Values
from anabranch.states.extras import LeadingTexts
from anabranch.states.formulas import Formula, binary, coded
from anabranch.states.leading import Leading, LeadingFew, Least
from anabranch.values.types import ArrayType, DataType


@dataclass(frozen=True, init=False)
class Min(Aggregate):
    """Smallest value. No events: null."""

    takes = ORDERED
    sign: ClassVar[int] = 1

    def over(self, kind: DataType) -> Bound:
        code = coded(self.text, kind, self.where)
        if len(code.elements) == 1:
            block: Block = Least(code.elements[0], self.sign)
            return Bound(code.type, Formula(decoded, (code.decode, self.sign)), (block,))
        block = Leading(code.elements, -self.sign)
        return Bound(code.type, Formula(decoded, (code.decode, -self.sign)), (block,))


@dataclass(frozen=True, init=False)
class Max(Min):
    """Largest value. No events: null."""

    sign = -1


@dataclass(frozen=True, init=False)
class Last(Aggregate):
    """The value of the latest event that has one; at equal event times the largest. No events: null."""

    takes = ANYTHING
    sign: ClassVar[int] = 1

    def over(self, kind: DataType) -> Bound:
        if kind.text:
            extra = LeadingTexts(binary(self.text, kind, self.where), 1, self.sign)
            return Bound(kind, Formula(_texts, (kind,)), extras=(extra,))
        code = coded(self.text, kind, self.where)
        block = Leading((TIME_ELEMENT, *code.elements), self.sign)
        return Bound(code.type, Formula(decoded, (code.decode, self.sign, 1)), (block,))


@dataclass(frozen=True, init=False)
class First(Last):
    """The value of the earliest event that has one; at equal event times the smallest. No events: null."""

    sign = -1


@dataclass(frozen=True, init=False)
class LastK(Aggregate):
    """The values of the `k` latest events, latest first, of ties the larger. No events: empty list."""

    k: int = 1
    takes = ANYTHING
    sign: ClassVar[int] = 1
    timed: ClassVar[bool] = True
    most: ClassVar[int] = 32

    def __init__(self, argument: str, k: int, **scope: Unpack[Counted]) -> None:
        super().__init__(argument, **scope)
        object.__setattr__(self, "k", bounded(type(self).__name__, "k", k, self.most))

    def over(self, kind: DataType) -> Bound:
        if kind.text:
            extra = LeadingTexts(binary(self.text, kind, self.where), self.k, self.sign)
            return Bound(ArrayType(kind), Formula(_text_lists, (kind,)), extras=(extra,))
        code = coded(self.text, kind, self.where)
        block = LeadingFew((*((TIME_ELEMENT,) if self.timed else ()), *code.elements), self.k, self.sign)
        return Bound(
            ArrayType(code.type),
            Formula(_lists, (code.decode, block.sign, len(block.parts), block.count, self.timed)),
            (block,),
        )


@dataclass(frozen=True, init=False)
class FirstK(LastK):
    """The values of the `k` earliest events, earliest first, of ties the smaller. No events: empty list."""

    sign = -1


@dataclass(frozen=True, init=False)
class TopK(LastK):
    """The `k` largest values, largest first, each as often as it occurs. No events: an empty list."""

    takes = ORDERED
    timed = False


@dataclass(frozen=True, init=False)
class BottomK(TopK):
    """The `k` smallest values, smallest first, each as often as it occurs. No events: an empty list."""

    sign = -1


def _lists(found: Folded, decode: Formula, sign: int, parts: int, count: int, timed: bool) -> Values:
    rows = found.rows[0]
    values = decode(sign * rows.reshape(-1, parts)[:, 1 if timed else 0 :])
    numbers, valid = values.values.reshape(-1, count).tolist(), values.valid.reshape(-1, count).tolist()
    out = np.empty(len(rows), dtype=object)
    out[:] = [
        [value for value, good in zip(line, there, strict=True) if good]
        for line, there in zip(numbers, valid, strict=True)
    ]
    return Values(out, np.ones(len(rows), dtype=bool))


def _texts(found: Folded, kind: DataType) -> Values:
    states = found.extras[0]
    out = np.empty(len(states), dtype=object)
    out[:] = [None if state is None else kind.from_bytes(LeadingTexts.values(state)[0]) for state in states]
    return Values(out, np.array([state is not None for state in states], dtype=bool))


def _text_lists(found: Folded, kind: DataType) -> Values:
    states = found.extras[0]
    out = np.empty(len(states), dtype=object)
    out[:] = [
        [] if state is None else [kind.from_bytes(value) for value in LeadingTexts.values(state)]
        for state in states
    ]
    return Values(out, np.ones(len(states), dtype=bool))
