"""States of single events without a JVM: what Spark's aggregate expressions make of one event each.

Answers fold an event that comes with a question by these. The values are those of the events' columns, each
as its type passes it on (`DataType.value`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from anabranch.aggregates.layout import Layout, States
from anabranch.states.blocks import TIME, TIME_ELEMENT, Block, Element, Rows
from anabranch.states.extras import Extra
from anabranch.values.sql.row_functions import Evaluate, Row, RowFunctions
from anabranch.values.types import BIGINT, Column


class Lifter:
    """Makes states of single events of a view's source, whose columns are `schema`.

    Raises DeclarationError, beginning with `place`, for an expression that Spark alone computes.
    """

    def __init__(self, layout: Layout, schema: tuple[Column, ...], place: str) -> None:
        self._layout = layout
        self._functions = RowFunctions((*schema, Column(TIME, BIGINT)))
        self._elements: dict[Element, Evaluate] = {}
        for name, bound in layout.bounds.items():
            parts: list[Block | Extra] = [*bound.blocks, *bound.extras]
            for element in (element for part in parts for element in part.elements):
                if element not in self._elements and element != TIME_ELEMENT:
                    where = f"{place}: feature {name!r}"
                    self._elements[element] = self._functions.add(element.sql, where)

    def values(self, rows: Sequence[Row], times: Sequence[int]) -> list[dict[Element, Any]]:
        """The elements of each event, from its columns and its event time (microseconds); None is NULL."""
        ready = self._functions.ready([{**row, TIME: time} for row, time in zip(rows, times, strict=True)])
        elements = self._elements.items()
        found = [{element: function(row) for element, function in elements} for row in ready]
        for values, time in zip(found, times, strict=True):
            values[TIME_ELEMENT] = time
        return found

    def states(self, rows: Sequence[Row], times: Sequence[int]) -> tuple[Rows, list[States]]:
        """The state of each event: rows (n, width), and the extras of each."""
        states: list[list[float]] = []
        extras: list[States] = []
        layout = self._layout
        for values in self.values(rows, times):
            states.append([one for block in layout.blocks for one in block.state_of(values)])
            extras.append([extra.state_of(values) for extra in layout.extras])
        return np.array(states, dtype=np.float64).reshape(-1, layout.width), extras if layout.extras else []
