"""Running the examples of a declaration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from anabranch.declare.examples import Example
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.testing.folding import fold
from anabranch.testing.oracle import close
from anabranch.values.datatype import DataType
from anabranch.values.nested import MapType
from anabranch.values.types import ArrayType


@dataclass(frozen=True)
class Difference:
    """A feature whose value is not the expected one."""

    feature: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.feature}: expected {self.expected!r}, the events give {self.found!r}"


def check_example(project: Project, example: Example) -> list[Difference]:
    """The features whose values are not those of `example.gives`; none when the example holds.

    Floats are equal to 1e-9. Raises MisuseError, as `fold` does, for an example that does not fit.
    """
    found = fold(project, example.events, example.key, example.at, example.request)
    return differences(project, example.gives, found)


def differences(project: Project, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    """The features of `expected` that `found` has other values for."""
    types = project.column_of
    return [
        Difference(name, value, found[name])
        for name, value in expected.items()
        if not _same(types[name].type, value, found[name])
    ]


def _same(kind: DataType, expected: Any, found: Any) -> bool:
    if isinstance(kind, ArrayType):
        lists = isinstance(expected, Sequence) and not isinstance(expected, str) and found is not None
        return (lists and len(expected) == len(found)) and all(
            _same(kind.inner, one, other) for one, other in zip(expected, found, strict=True)
        )
    if isinstance(kind, MapType):
        maps = isinstance(expected, Mapping) and found is not None
        return (maps and expected.keys() == found.keys()) and all(
            _same(kind.inner, value, found[name]) for name, value in expected.items()
        )
    if expected is None or found is None:
        return expected is found
    if isinstance(found, bool) or isinstance(expected, bool):
        return expected is found
    if isinstance(found, float) and isinstance(expected, int | float | Decimal):
        return close(float(expected), found)
    if isinstance(found, Decimal | int) and isinstance(expected, int | float | Decimal | str):
        # 0.1 written in Python stands for the decimal 0.1.
        try:
            return Decimal(str(expected)) == found
        except InvalidOperation:
            return False
    if kind.time and isinstance(expected, str | date | datetime):
        try:
            return bool(kind.value(expected) == kind.value(found))
        except MisuseError:
            return False
    return bool(expected == found)


def difference_table(found: Sequence[Difference]) -> str:
    """The differences as a table of text: feature, expected, and what the events give."""
    rows = [("feature", "expected", "the events give")]
    rows += [(each.feature, repr(each.expected), repr(each.found)) for each in found]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
