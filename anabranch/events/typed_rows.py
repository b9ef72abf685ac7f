"""The columns of an event that has no fault (faults.py), as their types pass them on."""

from collections.abc import Mapping
from typing import Any

from anabranch.declare.sources import Source
from anabranch.values.types import DataType


def typed(kind: DataType, given: Any) -> Any:
    """A value that was given for a column, as its type passes it on; None for NULL."""
    return given if kind.nested or isinstance(given, bytes) else kind.read(given)


def typed_row(source: Source, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every column of the source, of values by name in which missing ones are NULL."""
    return {
        column.name: typed(column.type, column.type.given(values.get(column.name)))
        for column in source.columns
    }
