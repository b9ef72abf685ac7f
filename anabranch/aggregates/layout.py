"""The layout of a view's states: the columns of each block in the float64 row, and the merge of whole rows.

    | sums: Tally, Total, ExactTotal | minima: Least | other blocks, those of one family adjacent |

A block that several features share is stored once. Every layout holds the time of the latest event,
negated, among its minima.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.base import Bound, Folded
from anabranch.states.blocks import TIME_ELEMENT, Block, Element, Rows, Values
from anabranch.states.extras import Bytes, Extra
from anabranch.states.formulas import Formula
from anabranch.states.leading import Least
from anabranch.values.types import DataType

States = Sequence[bytes | None] | Bytes
Times = NDArray[np.int64]
Whole = NDArray[np.int64]
LATEST = Least(TIME_ELEMENT, -1)
_QUIET = np.errstate(over="ignore", invalid="ignore")  # values of states beyond DOUBLE are NULL (Formula)


@dataclass(frozen=True, eq=False)
class Alike:
    """Features of one type that one formula finishes.

    `columns` has an array (features, width) per block: the columns of each feature. `extras` has the
    position of each feature's extra.
    """

    names: tuple[str, ...]
    type: DataType
    finish: Formula
    columns: tuple[NDArray[np.intp], ...]
    extras: tuple[tuple[int, ...], ...]


class Layout:
    """The columns of one view's states, in the order that the module describes."""

    def __init__(self, bounds: Mapping[str, Bound]) -> None:
        self.bounds = dict(bounds)
        rank = {"sum": 0, "min": 1}
        unique = dict.fromkeys([LATEST, *(block for bound in bounds.values() for block in bound.blocks)])
        self.blocks: tuple[Block, ...] = tuple(
            sorted(
                unique, key=lambda block: (rank.get(block.merge, 2), *(str(part) for part in block.family))
            )
        )
        self.extras: tuple[Extra, ...] = tuple(
            dict.fromkeys(extra for bound in bounds.values() for extra in bound.extras)
        )
        ends = np.cumsum([block.width for block in self.blocks]).tolist()
        self.slices = {
            block: slice(end - block.width, end) for block, end in zip(self.blocks, ends, strict=True)
        }
        self.width: int = ends[-1]
        self.empty: Rows = np.concatenate(
            [np.asarray(block.empty, dtype=np.float64) for block in self.blocks]
        )
        sums = sum(block.width for block in self.blocks if block.merge == "sum")
        minima = sum(block.width for block in self.blocks if block.merge == "min")
        self._sums, self._minima = slice(0, sums), slice(sums, sums + minima)
        self._others = list(self._group(block for block in self.blocks if block.merge not in rank))
        self._settling = [block for block in self.blocks if type(block).settled is not Block.settled]
        self._latest = self.slices[LATEST].start

    def _group(self, blocks: Iterable[Block]) -> Iterable[tuple[Block, slice, int]]:
        groups: dict[tuple[object, ...], list[Block]] = {}
        for block in blocks:
            groups.setdefault(block.family, []).append(block)
        for members in groups.values():
            yield (
                members[0],
                slice(self.slices[members[0]].start, self.slices[members[-1]].stop),
                members[0].width,
            )

    @property
    def elements(self) -> tuple[Element, ...]:
        """Every element that blocks and extras read."""
        parts: list[Block | Extra] = [*self.blocks, *self.extras]
        return tuple(dict.fromkeys(element for part in parts for element in part.elements))

    def sql(self) -> list[str]:
        """Spark aggregate expressions, one per column."""
        return [text for block in self.blocks for text in block.sql()]

    @_QUIET
    def reduce(self, rows: Rows) -> Rows:
        """Merge states (k, width) of disjoint events into one (width,): the empty state for k = 0."""
        if len(rows) <= 1:
            return rows[0] if len(rows) else self.empty
        out = np.empty(self.width)
        rows[:, self._sums].sum(axis=0, out=out[self._sums])
        rows[:, self._minima].min(axis=0, out=out[self._minima])
        for block, columns, width in self._others:
            out[columns] = block.reduce(rows[:, columns].reshape(len(rows), -1, width)).ravel()
        return out

    @_QUIET
    def reduce_groups(self, rows: Rows, first: Whole) -> Rows:
        """Merge adjacent states (n, width) to (groups, width); group i is rows[first[i]:first[i + 1]]."""
        if len(first) == len(rows):
            return rows
        out = np.empty((len(first), self.width))
        np.add.reduceat(rows[:, self._sums], first, axis=0, out=out[:, self._sums])
        np.minimum.reduceat(rows[:, self._minima], first, axis=0, out=out[:, self._minima])
        owner = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows))) if self._others else first
        for block, columns, width in self._others:
            out[:, columns] = block.gather(rows[:, columns].reshape(len(rows), -1, width), owner).reshape(
                len(first), -1
            )
        for block in self._settling:
            out[:, self.slices[block]] = block.settled(out[:, self.slices[block]])
        return out

    def reduce_extras_groups(self, states: Sequence[States], first: Whole) -> Sequence[States]:
        """Merge the extras of adjacent states; `first` as for `reduce_groups`."""
        if len(first) == len(states):
            return states
        ends = [*first[1:].tolist(), len(states)]
        return (
            [
                self.reduce_extras(states[start:end]) if end - start > 1 else states[start]
                for start, end in zip(first.tolist(), ends, strict=True)
            ]
            if states
            else ()
        )

    def reduce_extras(self, states: Sequence[States]) -> list[bytes | None]:
        """Merge the extras of k states, each a sequence with one entry per extra."""
        merged: list[bytes | None] = []
        for position, extra in enumerate(self.extras):
            present = [own for state in states if (own := state[position]) is not None]
            merged.append(extra.merge(present) if present else None)
        return merged

    def latest(self, rows: Rows) -> Rows:
        """Time in microseconds of the latest event in each state (n, width); -inf for no events."""
        return -rows[:, self._latest]

    def finish(self, name: str, rows: Rows, extras: Sequence[States], at: Times, since: Times) -> Values:
        """Values of feature `name` for states (q, width) with their extras, of windows [since, at)."""
        bound = self.bounds[name]
        columns: list[np.ndarray] = []
        for extra in bound.extras:
            column = np.empty(len(rows), dtype=object)
            column[:] = [state[self.extras.index(extra)] for state in extras]
            columns.append(column)
        return bound.finish(
            Folded([rows[:, self.slices[block]] for block in bound.blocks], columns, at, since)
        )

    @cached_property
    def alike(self) -> tuple[Alike, ...]:
        """The features, grouped by their formula."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, bound in self.bounds.items():
            form = (
                bound.finish,
                str(bound.type),
                tuple(block.width for block in bound.blocks),
                len(bound.extras),
            )
            groups.setdefault(form, []).append(name)
        return tuple(self._alike(names) for names in groups.values())

    def _alike(self, names: Sequence[str]) -> Alike:
        bounds = [self.bounds[name] for name in names]
        places = [[np.arange(self.width)[self.slices[block]] for block in bound.blocks] for bound in bounds]
        columns = tuple(np.stack(column) for column in zip(*places, strict=True))
        extras = tuple(
            tuple(self.extras.index(extra) for extra in extras)
            for extras in zip(*(bound.extras for bound in bounds), strict=True)
        )
        return Alike(tuple(names), bounds[0].type, bounds[0].finish, columns, extras)

    def finish_alike(
        self, rows: Rows, extras: Sequence[States], at: Times, since: Times
    ) -> Iterator[tuple[Alike, Values]]:
        """Each group with its values for states (q, width): q of the first feature, q of the second, ..."""
        times = {1: (at, since)}
        for group in self.alike:
            count = len(group.names)
            if count not in times:
                times[count] = np.concatenate([at] * count), np.concatenate([since] * count)
            folded = [
                rows[:, columns[0]] if count == 1 else _one_below_another(rows[:, columns])
                for columns in group.columns
            ]
            blobs: list[np.ndarray] = []
            for positions in group.extras:
                column = np.empty(count * len(rows), dtype=object)
                column[:] = [state[position] for position in positions for state in extras]
                blobs.append(column)
            yield group, group.finish(Folded(folded, blobs, *times[count]))


def _one_below_another(rows: Rows) -> Rows:
    """States (q, features, width) as (features * q, width)."""
    return rows.swapaxes(0, 1).reshape(-1, rows.shape[2])
