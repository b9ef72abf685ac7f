"""Elements of values by their types, and formulas that make values of states."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from anabranch.states.blocks import Element, Rows, Values
from anabranch.states.extras import KEPT_LETTERS, LONGEST_IDENTITY
from anabranch.values.datatype import DataType, counted
from anabranch.values.numbers import ExactType, finite


@dataclass(frozen=True)
class Formula:
    """A function over arrays of states, and its constants. One call finishes features of equal formulas."""

    function: Callable[..., Values]
    constants: tuple[Hashable, ...] = ()

    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, states: object) -> Values:
        """The values of the states: NULL for infinities and NaN."""
        found = self.function(states, *self.constants)
        if found.values.dtype.kind != "f":
            return found
        # A sum or a square beyond the range of DOUBLE is no number.
        return Values(found.values, found.valid & np.isfinite(found.values))


@dataclass(frozen=True)
class Coded:
    """A value as double elements (compared in order), and the way back from rows (q, len(elements))."""

    elements: tuple[Element, ...]
    decode: Formula
    type: DataType


def double(argument: str, where: str | None) -> Element:
    """A finite number; NaN and infinities are not numbers and do not count."""
    return Element(sql=finite(argument, where))


MODERATE = "1e70"
"""Numbers of this size and more do not count in moments: their fourth powers are beyond DOUBLE."""


def moderate(argument: str, where: str | None) -> Element:
    """A number that counts in moments."""
    return Element(sql=finite(argument, where, f"{MODERATE}D"))


def wholes(argument: str, kind: ExactType, where: str | None) -> tuple[Element, ...]:
    """An exact number as one whole number, or as two for a DECIMAL of more than 18 digits."""
    return tuple(Element(sql=counted(sql, where), kind="whole") for sql in kind.wholes_sql(argument))


def kept(argument: str, kind: DataType) -> str:
    """SQL of a value as states keep it, which bounds their size."""
    return f"left({argument}, {KEPT_LETTERS})" if kind.text else argument


def binary(argument: str, kind: DataType, where: str | None) -> Element:
    """The bytes of a text (UTF-8) or binary value."""
    return Element(sql=counted(f"CAST({kept(argument, kind)} AS BINARY)", where), kind="binary")


def identity(argument: str, kind: DataType, where: str | None) -> Element:
    """The bytes by which values are told apart."""
    return Element(sql=kind.identity_sql(argument, where), kind="binary")


def digested(argument: str, kind: DataType, where: str | None) -> Element:
    """Bytes by which values are told apart, of limited length: SHA-256 stands for long ones."""
    sql = kind.identity_sql(argument, where)
    if not kind.text:
        return Element(sql=sql, kind="binary")
    long = f"octet_length({sql}) > {LONGEST_IDENTITY}"
    return Element(sql=f"(CASE WHEN {long} THEN unhex(sha2({sql}, 256)) ELSE {sql} END)", kind="binary")


def coded(argument: str, kind: DataType, where: str | None) -> Coded:
    """A value of any type but text as numbers that sort as the values do."""
    elements = tuple(Element(sql=sql) for sql in kind.state_sql(argument, where))
    return Coded(elements, Formula(_decoded, (kind,)), kind.state_type)


def _decoded(rows: Rows, kind: DataType) -> Values:
    values, valid = kind.from_state(rows)
    return Values(np.asarray(values), valid)
