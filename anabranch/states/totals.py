"""The extra of totals by category: of each category its total and its size, in bounded memory.

A state is JSON, an array of arrays of text: first the error, then the categories.

    [["", "0.0"], ["food", "1250", "1250.0"], ["travel", "-80", "80.0"]]
     error        category  total  size

The size of a category is the sum of the sizes of its values; it alone decides which categories are kept. Up
to `capacity` categories all are kept and the error is 0. Beyond, the size of the next largest is taken from
all and added to the error, and the smaller ones are dropped: the merge of Misra and Gries' summaries
(Agarwal, Cormode, Huang, Phillips, Wei, Yi, "Mergeable summaries", 2012). The total of a category, or the
nothing of one that was dropped, lacks values of no more size than the error, and the error is at most the
size of all values divided by `capacity` + 1.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anabranch.states.blocks import Element, Lifted
from anabranch.states.sketches import Summary, coded_values
from anabranch.states.sums import SCALE
from anabranch.states.wavelet import Whole
from anabranch.values.numbers import joined

Number = int | float
LONGEST_CATEGORY = 100
"""Letters of a category's text, beyond which the text is cut and ends with a digest."""
_ONE = 1 << 1074  # every double is a whole number of 2 ** -1074


@dataclass(frozen=True)
class CategoryTotals(Summary):
    """Totals of `parts` by `element`, the bytes of a category, for up to `capacity` categories.

    `parts` are the whole numbers that make up a value (values/numbers.py), or one finite number times SCALE;
    without parts, events are counted. `element` is NULL where they are.
    """

    element: Element
    capacity: int
    parts: tuple[Element, ...] = ()
    wide: bool = True
    """Whether totals may have more than 64 bits."""

    @property
    def floating(self) -> bool:
        """Whether totals are sums of floats."""
        return bool(self.parts) and self.parts[0].kind == "double"

    @property
    def largest(self) -> int:
        return self.capacity * (4 * LONGEST_CATEGORY + 60)

    def sql(self) -> str:
        kind = "DOUBLE" if self.floating else "DECIMAL(38,0)" if self.wide else "BIGINT"
        texts = [f"{part.sql} * {SCALE!r}D" if self.floating else part.sql for part in self.parts] or ["1"]
        size = " * 1e18D + ".join(f"CAST({text} AS DOUBLE)" for text in texts)
        names = [f"p{place}" for place in range(len(texts))]
        fields = "".join(
            f"CAST({text} AS {kind}) AS {name}, " for name, text in zip(names, texts, strict=True)
        )
        one = f"struct(CAST({self.element.sql} AS STRING) AS c, {fields}abs({size}) AS w)"
        item = f"STRUCT<c: STRING, {''.join(f'{name}: {kind}, ' for name in names)}w: DOUBLE>"
        listed = f"sort_array(collect_list(CASE WHEN {self.element.sql} IS NOT NULL THEN {one} END))"
        # Neighbours of one category are added up.
        added = "".join(f"CAST(a.l.{name} + x.{name} AS {kind}) AS {name}, " for name in names)
        grown = f"struct(a.d AS d, struct(x.c AS c, {added}a.l.w + x.w AS w) AS l)"
        begun = "struct(CASE WHEN a.l IS NULL THEN a.d ELSE concat(a.d, array(a.l)) END AS d, x AS l)"
        totals = (
            f"aggregate({listed}, CAST(struct(array(), NULL) AS STRUCT<d: ARRAY<{item}>, l: {item}>), "
            f"(a, x) -> CAST(CASE WHEN a.l.c = x.c THEN {grown} ELSE {begun} END "
            f"AS STRUCT<d: ARRAY<{item}>, l: {item}>), "
            "a -> concat(a.d, array(a.l)))"
        )
        by_size = f"sort_array(transform({totals}, x -> struct(x.w AS w, x AS x)), false)"
        shown = "".join(f"CAST(x.x.{name} AS STRING), " for name in names)
        rows = f"transform(slice(s, 1, {self.capacity}), x -> array(x.x.c, {shown}CAST(x.w - e AS STRING)))"
        error = f"coalesce(get(s, {self.capacity}).w, 0D)"
        state = (
            f"transform(array({by_size}), s -> get(transform(array({error}), "
            f"e -> concat(array(array('', CAST(e AS STRING))), {rows})), 0))"
        )
        return f"CASE WHEN count({self.element.sql}) > 0 THEN CAST(to_json(get({state}, 0)) AS BINARY) END"

    def of_value(self, value: Any) -> bytes:
        return encoded(0.0, {value.decode(): [1, 1.0]})

    def state_of(self, values: Mapping[Element, Any]) -> bytes | None:
        category, parts = values[self.element], [values[part] for part in self.parts]
        if category is None or not parts:
            return super().state_of(values)
        if self.floating:
            parts = [float(parts[0]) * SCALE]
        size = abs(float(parts[0])) if len(parts) == 1 else abs(float(parts[0]) * 1e18 + float(parts[1]))
        return encoded(0.0, {category.decode(): [*parts, size]})

    def merge(self, states: Sequence[bytes]) -> bytes:
        number, error = float if self.floating else int, 0.0
        totals: dict[str, list[Number]] = {}
        for state in states:
            (_, missed), *rows = json.loads(state)
            error += float(missed)
            for category, *parts, size in rows:
                found = [*map(number, parts), float(size)]
                known = totals.get(category)
                totals[category] = (
                    found if known is None else [a + b for a, b in zip(known, found, strict=True)]
                )
        if len(totals) > self.capacity:
            ranked = sorted(totals.items(), key=lambda one: (one[1][-1], one[0]), reverse=True)
            least = float(ranked[self.capacity][1][-1])
            totals = {name: [*parts, size - least] for name, (*parts, size) in ranked[: self.capacity]}
            error += least
        return encoded(error, totals)

    @staticmethod
    def error(state: bytes) -> float:
        """How far totals may be from the right ones; of floats times SCALE."""
        return float(json.loads(state)[0][1])

    def totals(self, state: bytes) -> dict[str, Number]:
        """The totals of a state by category: whole numbers, or floats."""
        rows = json.loads(state)[1:]
        if self.floating:
            return {row[0]: float(row[1]) / SCALE for row in rows}
        return {row[0]: joined([int(part) for part in row[1:-1]]) for row in rows}

    def exact_totals(self, lifted: Lifted, first: Whole, end: Whole) -> Iterator[dict[str, Number]]:
        """The totals of each range of events, of all categories, without a state and without rounding.

        Ranges mostly begin and end after those before them, so the totals of one are made from the last's.
        """
        counted = lifted[self.element].valid
        place = np.zeros(len(counted) + 1, dtype=np.int64)
        np.cumsum(counted, out=place[1:])
        values, low, high = self.within(lifted, first, end)
        codes, distinct = coded_values(values)
        names, code = [one.decode() for one in distinct], codes.tolist()
        number = self._numbers(lifted, counted)
        events: dict[int, int] = {}
        sums: dict[int, int] = {}
        start = stop = 0
        shown: dict[str, Number] = {}
        changed = True
        for begin, until in zip(low.tolist(), high.tolist(), strict=True):
            if begin >= stop or begin < start or until < stop:
                events, sums, start, stop, changed = {}, {}, begin, begin, True
            changed |= until > stop or begin > start
            for at in range(stop, until):
                events[code[at]] = events.get(code[at], 0) + 1
                sums[code[at]] = sums.get(code[at], 0) + number[at]
            for at in range(start, begin):
                events[code[at]] -= 1
                sums[code[at]] -= number[at]
                if not events[code[at]]:
                    del events[code[at]], sums[code[at]]
            start, stop = begin, max(until, begin)
            if changed:
                shown = {names[one]: self._shown(total) for one, total in sums.items()}
                changed = False
            yield shown

    def _numbers(self, lifted: Lifted, counted: np.ndarray) -> list[int]:
        """The value of each counted event as a whole number; of floats times 2 ** 1074."""
        if not self.parts:
            return [1] * int(counted.sum())
        parts = [lifted[part].values[counted].tolist() for part in self.parts]
        if not self.floating:
            return [joined(part) for part in zip(*parts, strict=True)]
        ratios = (value.as_integer_ratio() for value in parts[0])
        return [above * (_ONE // below) for above, below in ratios]

    def _shown(self, total: int) -> Number:
        if not self.floating:
            return total
        try:
            return total / _ONE
        except OverflowError:
            return float("inf")


def encoded(error: float, totals: dict[str, list[Number]]) -> bytes:
    """A state of categories with their parts and size."""
    rows = [[category, *map(str, totals[category])] for category in sorted(totals)]
    return json.dumps([["", str(error)], *rows], ensure_ascii=False, separators=(",", ":")).encode()
