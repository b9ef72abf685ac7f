"""The base class of types.

A type defines how its values are read from text and JSON, written as JSON, stored in Cassandra and Arrow,
coded in states and fed to models. To add a type, write one class and call `types.register_type`.

Layers exchange values as plain Python: a TIMESTAMP as microseconds since 1970 UTC, a DATE as days since
1970, a DECIMAL without a fraction as int. `to_json` alone writes ISO 8601, and `value` alone reads it.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.values.texts import AROUND, cell_text, json_text

JsonSchema = dict[str, Any]
Decoded = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values (q,) and which of them are not NULL."""


class DataType(ABC):
    """A type by its name in a schema; two of one text are equal."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    """Further names in a schema."""

    integral: ClassVar[bool] = False
    """Whole numbers of up to 64 bits."""
    floating: ClassVar[bool] = False
    decimal: ClassVar[bool] = False
    text: ClassVar[bool] = False
    """Values of no fixed length, kept in states as bytes."""
    time: ClassVar[bool] = False
    """Points in time: can be the event time of a source."""
    nested: ClassVar[bool] = False
    """Values that have parts (nested.py)."""
    in_keys: ClassVar[bool] = True
    categorical: ClassVar[bool] = True
    """Values that are told apart by their text, as MostFrequent does."""

    cql: ClassVar[str]
    """The type in CQL."""
    model_kind: ClassVar[str] = "number"
    """How models take it: ``number``, ``boolean``, ``date``, ``timestamp``, ``text``; they refuse others."""
    hint: ClassVar[str] = ""
    """How a value is written, for complaints."""
    example: ClassVar[Any]
    """A value as JSON."""

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def declared(cls, arguments: tuple[int, ...]) -> Self | None:
        """The type of a schema's text, with the numbers in its parentheses; None when they do not fit."""
        return None if arguments else cls()

    @property
    def numeric(self) -> bool:
        """Whether values can be added."""
        return self.integral or self.floating or self.decimal

    @property
    def trainable(self) -> bool:
        """Whether a trainer takes its values."""
        return self.model_kind not in ("binary", "list")

    @property
    def foldable(self) -> bool:
        """Whether states can hold its values."""
        return True

    @property
    def spark(self) -> str:
        """The Spark SQL type that holds it."""
        return str(self)

    @property
    @abstractmethod
    def arrow(self) -> pa.DataType:
        """The type in Arrow."""

    @property
    def stored(self) -> str:
        """The type as Spark names it in a schema."""
        return self.spark.lower()

    # Cells: what a decoder gives for a value, which `cell_sql` reads.

    @property
    def cell_spark(self) -> str:
        """The Spark SQL type of a cell: a text, or a nested value of texts."""
        return "BINARY" if self.binary else "STRING"

    @property
    def cell_arrow(self) -> pa.DataType:
        """The type of a cell in Arrow."""
        return pa.binary() if self.binary else pa.string()

    @cached_property
    def binary(self) -> bool:
        """Whether values are bytes."""
        return bool(self.arrow == pa.binary())

    def given(self, value: object) -> object:
        """A value of an event as the lake would hold it; None where it is unknown."""
        if self.floating and isinstance(value, Decimal) and math.isfinite(float(value)):
            return float(value)
        return None if isinstance(value, str) and not self.text and not value.strip(AROUND) else value

    def cell(self, value: Any) -> Any:
        """The cell of a value that is not None and has no `fault`."""
        if not self.binary:
            return cell_text(value)
        return value if isinstance(value, bytes) else cell_text(value).encode()

    # Text. Files, topics and streams read a cell by `cell_sql`, requests by `reads`: both accept the same
    # texts, which tests/spark/events/test_one_verdict.py draws.

    def cell_sql(self, text: str) -> str:
        """Spark SQL that reads the SQL expression `text`; never raises, NULL when the text is no value."""
        return f"try_cast({text} AS {self.spark})"

    # JSON

    json_types: ClassVar[tuple[type, ...]] = (str,)
    """Python types of the JSON values that a request may send; an event may also send text."""

    @abstractmethod
    def reads(self, value: object) -> bool:
        """Whether a JSON value, no list or object, is of this type or is text that reads as it."""

    def fault(self, value: object, *, strict: bool = False) -> str | None:
        """Why a JSON value other than null is not of this type; None when it is.

        `strict` refuses numbers that are sent as text.
        """
        if strict and type(value) not in self.json_types:
            return f"{show(value)} is not {self.expected}"
        if isinstance(value, dict | list) or not self.reads(value):
            hint = f": write {self.hint}" if self.hint and not isinstance(value, dict | list) else ""
            return f"{show(value)} is not {'an' if self.name[0] in 'AEIOU' else 'a'} {self}{hint}"
        return None

    @property
    def expected(self) -> str:
        """What a request has to send, for complaints."""
        return f"a text with a {self}"

    def key_text(self, value: object) -> str | None:
        """The text that stands for a JSON value in a key, that of Spark's CAST; None when it is no value."""
        return None if self.fault(value) is not None else json_text(value)

    def value(self, raw: Any) -> Any:
        """A value as this library passes it on, from JSON, Spark, a driver or numpy; None for None."""
        return raw.item() if isinstance(raw, np.generic) else raw

    def read(self, given: Any) -> Any:
        """The value of an event's column, as `value` gives it, from JSON that has no `fault`."""
        return None if given is None else self.value(given)

    def to_json(self, value: Any) -> Any:
        """A value as JSON shows it."""
        return self.value(value)

    @property
    @abstractmethod
    def json_schema(self) -> JsonSchema:
        """JSON Schema of a value that is not null."""

    @property
    def event_schema(self) -> JsonSchema:
        """JSON Schema of a value of an event, which may come as text."""
        return {"type": ["string", "number"], "description": f"A {self}"}

    # Cassandra, models

    def to_cql(self, value: Any) -> Any:
        """A value as Cassandra's driver takes it."""
        return value

    def to_model(self, value: Any) -> Any:
        """A value as models take it: texts as they are, all else as a number."""
        return None if value is None else float(self.value(value))

    # States

    @property
    def state_type(self) -> "DataType":
        """The type of values that come out of a state."""
        return self

    def state_sql(self, argument: str, where: str | None) -> tuple[str, ...]:
        """SQL of DOUBLE columns that sort as the values do, NULL where `where` does not hold."""
        return (counted(f"CAST({self.number_sql(f'({argument})')} AS DOUBLE)", where),)

    def number_sql(self, argument: str) -> str:
        """SQL of a number of at most 53 bits for a value."""
        return argument

    state_array: ClassVar[type[np.generic]] = np.int64

    def from_state(self, rows: NDArray[np.float64]) -> Decoded:
        """Values of columns (q, k) that `state_sql` describes."""
        valid = np.isfinite(rows[:, 0])
        return np.where(valid, rows[:, 0], 0).astype(self.state_array), valid

    def identity_sql(self, argument: str, where: str | None) -> str:
        """SQL of the bytes by which values are told apart: those of their text; NULL where `where` fails."""
        return counted(f"CAST((CAST(({argument}) AS STRING)) AS BINARY)", where)

    def from_bytes(self, value: bytes) -> Any:
        """A value of a `text` type from its bytes in a state."""
        return value


@dataclass(frozen=True)
class Column:
    """One column of a schema."""

    name: str
    type: DataType


def counted(sql: str, where: str | None) -> str:
    """`sql` where the filter holds, else NULL."""
    return f"({sql})" if where is None else f"(CASE WHEN ({where}) THEN ({sql}) END)"


def halves_sql(number: str) -> tuple[str, str]:
    """The upper and lower 32 bits of a BIGINT as DOUBLE, which sort as it does: one DOUBLE has 53 bits."""
    return f"CAST(shiftright({number}, 32) AS DOUBLE)", f"CAST({number} & 4294967295L AS DOUBLE)"


def from_halves(rows: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole numbers (q, k) of pairs of columns (q, 2k), and which rows (q,) have them."""
    valid = np.isfinite(rows[:, 0])
    safe = np.where(valid[:, None], rows, 0).astype(np.int64)
    return (safe[:, ::2] << 32) + safe[:, 1::2], valid


def show(value: object) -> str:
    """A short text of a JSON value, for messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
