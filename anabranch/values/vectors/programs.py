"""Programs: compiled expressions as lists of steps, run over the values of many rows at once.

    {"reads": [["spent_1h", "double"], ["channel", "text"]],         columns and how their values are kept
     "constants": [["whole", 0], ["text", "web"]],
     "steps": [["divide", [0, 4]], ["round", [5], 2], ...],          a twin, what it takes, settings
     "results": [["ratio", 5]]}                                      names and where their values are

Places count the columns read, then the constants, then the results of steps. A program is plain JSON, so
that an export carries it; equal parts of several expressions are one step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anabranch.values.vectors.numbers import NUMBERS, Nulls, Twin, Vector
from anabranch.values.vectors.texts import TEXTS, texts
from anabranch.values.vectors.times import TIMES

TWINS: dict[str, Twin] = {**NUMBERS, **TEXTS, **TIMES}
_KEPT: dict[str, tuple[Any, Any]] = {
    "double": (np.float64, 0.0),
    "whole": (np.int64, 0),
    "boolean": (np.bool_, False),
    "text": (object, ""),
}
"""The array and the value of NULL of each kind: DATE, TIMESTAMP and whole numbers are all ``whole``."""


class Program:
    """A program, ready to run."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        self.described = described
        self._reads = [(str(name), str(kind)) for name, kind in described["reads"]]
        self._constants = [_constant(kind, value) for kind, value in described["constants"]]
        self._steps = [(TWINS[name], tuple(takes), settings) for name, takes, *settings in described["steps"]]
        self._results = [(str(name), int(place)) for name, place in described["results"]]

    def __reduce__(self) -> tuple[type["Program"], tuple[Mapping[str, Any]]]:
        return Program, (self.described,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the results, in order."""
        return tuple(name for name, _ in self._results)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name, _ in self._reads)

    def run(self, columns: Mapping[str, Sequence[Any]], count: int) -> dict[str, list[Any]]:
        """The results for `count` rows, lists of plain values, from columns of such; NULL is None."""
        with np.errstate(all="ignore"):
            found = [_vector(kind, columns[name]) for name, kind in self._reads]
            found += self._constants
            for twin, takes, settings in self._steps:
                found.append(twin(*[found[place] for place in takes], *settings))
        return {name: _plain(found[place], count) for name, place in self._results}


def _vector(kind: str, values: Sequence[Any]) -> Vector:
    array, empty = _KEPT[kind]
    nulls: Nulls = None
    if None in values:
        nulls = np.array([value is None for value in values], dtype=np.bool_)
        values = [empty if value is None else value for value in values]
    return (texts(list(values)) if kind == "text" else np.array(values, dtype=array)), nulls


def _constant(kind: str, value: Any) -> Vector:
    return _vector(kind, [value])


def _plain(vector: Vector, count: int) -> list[Any]:
    values, nulls = vector
    found: list[Any] = values.tolist() if len(values) == count else values.tolist() * count
    if nulls is None:
        return found
    absent = nulls.tolist() if len(nulls) == count else nulls.tolist() * count
    return [None if none else value for value, none in zip(found, absent, strict=True)]
