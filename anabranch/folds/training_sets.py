"""Point-in-time features in numpy: each window's state strictly before each query's time, many keys at once.

The input is a sorted run of whole keys, events and queries separate. There is no loop over keys: keys are
numbered, binary searches over (key, time) find the edges of windows, and blocks fold ranges of positions
(ranges.py). Which of the events had arrived by a query's time is arrivals.py's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.base import Exactly
from anabranch.declare.views import FeatureView
from anabranch.declare.windows import Window
from anabranch.folds.arrivals import LateEvents, Pieces, Whole, along, cut, gathered, positions, uncut
from anabranch.states.blocks import Element, Values
from anabranch.states.extras import Bytes, Extra
from anabranch.states.ranges import prepare


@dataclass(frozen=True)
class SortedRun:
    """Events and queries, each sorted by (key, time): `key` numbers the keys of both, times are microseconds.

    With `arrival`, the arrival times of the events, queries see only events that had arrived. With `own`, the
    position of each query's own event (-1: none), that event counts too if it is of the query's time,
    whenever it arrived: features are those of an instant later, when an event of that time counts.
    """

    key: Whole
    time: Whole
    lifted: Mapping[Element, Values]
    query_key: Whole
    query_time: Whole
    arrival: Whole | None = None
    own: Whole | None = None

    @property
    def asked_time(self) -> Whole:
        """The time as of which each query is answered."""
        return self.query_time if self.own is None else self.query_time + 1


@dataclass(frozen=True)
class Sight:
    """Feature columns of every query with hindsight, and where an event had not arrived, as known.

    Only `examined` queries are looked at for events that had not arrived.

    `values` are from all events strictly before the queries' times. `late` counts, for each query, those of
    them in its windows that had not arrived by then, and `first` and `end` bound the events of the windows;
    `own` is a query's own event where it lies beyond these, else -1.
    `known` are the values of the queries `places` (those with late events) without their late events.
    """

    values: dict[str, Values]
    known: dict[str, Values]
    places: Whole
    late: Whole
    first: Whole
    end: Whole
    own: Whole
    examined: NDArray[np.bool_]


def features_before(view: FeatureView, run: SortedRun) -> dict[str, Values]:
    """Values of every feature column of `view` for each query, from events strictly before its time.

    Its own event, where the run has one, counts besides.
    """
    sight = sights_before(view, run)
    return sight.values if run.arrival is None else as_known(sight)


def as_known(sight: Sight) -> dict[str, Values]:
    """The feature columns of every query from what had arrived by its time."""
    return {
        name: _put(values, sight.places, sight.known[name]) if len(sight.places) else values
        for name, values in sight.values.items()
    }


@np.errstate(over="ignore", invalid="ignore")  # values beyond DOUBLE are NULL (Formula)
def sights_before(view: FeatureView, run: SortedRun, examined: NDArray[np.bool_] | None = None) -> Sight:
    """The feature columns of `view` for each query, with hindsight, and as known for those `examined`."""
    fold = _Fold(view, run)
    everyone = np.arange(len(run.query_key))
    late = np.zeros(len(everyone), dtype=np.int64)
    examined = np.ones(len(everyone), dtype=bool) if examined is None else examined
    values, parts, places = fold.values(everyone, None), [], [np.zeros(0, dtype=np.int64)]
    missing = (
        None
        if run.arrival is None
        else LateEvents.of(run.query_key, run.query_time, run.key, run.time, run.arrival)
    )
    for query, event in () if missing is None else missing.pairs(fold.first, fold.end, examined):
        asked, place = np.unique(query, return_inverse=True)
        late[asked] = np.bincount(place)
        places.append(asked)
        parts.append(fold.values(asked, (place, event)))
    known = {
        name: Values(
            np.concatenate([part[name].values for part in parts]),
            np.concatenate([part[name].valid for part in parts]),
        )
        for name in (values if parts else ())
    }
    return Sight(values, known, np.concatenate(places), late, fold.first, fold.end, fold.own, examined)


class _Edges:
    """Where a window of each query begins and ends: in microseconds, and as positions of events.

    `own` is the query's own event where it counts and is not the last event of the range already, else -1.
    """

    def __init__(self, run: SortedRun, span: Window, now: Whole, own: Whole) -> None:
        asked = run.asked_time
        tails, self.heads = span.tails(asked), span.heads(asked)
        self.since: Whole = np.zeros(len(self.heads), dtype=np.int64) if tails is None else tails
        self.first: Whole = _first(run, tails)
        ends_now = self.heads is asked
        self.end = now if ends_now else positions(run.key, run.time, run.query_key, self.heads)
        self.own = own
        if run.own is not None:
            # Other events of the query's very time do not count, though they lie before what is asked for.
            end = np.maximum(np.minimum(self.end, now), self.first)
            begun = np.ones(len(own), dtype=bool) if tails is None else tails <= run.query_time
            counts = (own >= 0) & begun & (run.query_time < self.heads)
            next_to = counts & (own == end)
            self.end, self.own = end + next_to, np.where(counts & ~next_to, own, -1)


class _Fold:
    """A view over a run: the edges of its windows, and its blocks prepared for ranges."""

    def __init__(self, view: FeatureView, run: SortedRun) -> None:
        self.view, self.run = view, run
        self.folders = {block: prepare(block, run.lifted) for block in view.layout.blocks}
        now = positions(run.key, run.time, run.query_key, run.query_time)
        own = _own_events(run)
        self.edges = [_Edges(run, span, now, own) for span in view.spans]
        self.first: Whole = np.minimum.reduce([edges.first for edges in self.edges])
        self.end: Whole = np.maximum.reduce([edges.end for edges in self.edges])
        further: Whole = np.maximum.reduce([edges.own for edges in self.edges])
        self.own: Whole = np.where(further >= self.end, further, -1)

    def values(self, queries: Whole, missing: tuple[Whole, Whole] | None) -> dict[str, Values]:
        """The feature columns of some queries (positions).

        `missing` are sorted pairs of a place in `queries` and the position of an event that does not count.
        """
        view, run, layout, out = self.view, self.run, self.view.layout, {}
        for span, edges in zip(view.spans, self.edges, strict=True):
            first, end = edges.first[queries], edges.end[queries]
            since, heads = edges.since[queries], edges.heads[queries]
            pieces = uncut(first, end) if missing is None else cut(first, end, *missing)
            own = edges.own[queries]
            if (own >= 0).any():
                pieces = along(pieces, np.flatnonzero(own >= 0), own[own >= 0])
            rows = np.empty((len(end), layout.width))
            for block, over in self.folders.items():
                rows[:, layout.slices[block]] = block.gather(over(pieces.first, pieces.end), pieces.owner)
            extras = np.empty((len(end), len(layout.extras)), dtype=object)
            for position, extra in enumerate(layout.extras):
                extras[:, position] = _gather_extras(
                    extra, extra.over(run.lifted, pieces.first, pieces.end), pieces.owner, len(end)
                )
            states = list(extras)
            for column in view.columns:
                if column.window != span:
                    continue
                exactly = layout.bounds[column.part].exactly
                out[column.name] = (
                    layout.finish(column.part, rows, states, heads, since)
                    if exactly is None
                    else _exact(exactly, run.lifted, pieces, first, end)
                )
        return {name: out[name] for name in view.column_names}


def _exact(
    exactly: Exactly, lifted: Mapping[Element, Values], pieces: Pieces, first: Whole, end: Whole
) -> Values:
    """Values computed from whole ranges; the events of several pieces are laid side by side first."""
    several = np.bincount(pieces.owner, minlength=len(first)) > 1
    found = exactly(lifted, first, np.where(several, first, end))
    for owners, position, low, high in gathered(pieces, np.flatnonzero(several)):
        found = _put(found, owners, exactly(_Taken(lifted, position), low, high))
    return found


class _Taken(Mapping[Element, Values]):
    """Elements of chosen events."""

    def __init__(self, lifted: Mapping[Element, Values], position: Whole) -> None:
        self._lifted, self._position = lifted, position

    def __getitem__(self, element: Element) -> Values:
        found = self._lifted[element]
        return Values(found.values[self._position], found.valid[self._position])

    def __iter__(self) -> Iterator[Element]:
        return iter(self._lifted)

    def __len__(self) -> int:
        return len(self._lifted)


def _put(values: Values, places: Whole, others: Values) -> Values:
    """`values` with those at `places` replaced."""
    changed, valid = values.values.copy(), values.valid.copy()
    changed[places], valid[places] = others.values, others.valid
    return Values(changed, valid)


def _own_events(run: SortedRun) -> Whole:
    """Each query's own event, -1 where there is none of the query's time."""
    if run.own is None or not len(run.time):
        return np.full(len(run.query_key), -1, dtype=np.int64)
    found: Whole = np.where(run.time[run.own] == run.query_time, run.own, -1)
    return found


def _first(run: SortedRun, tails: Whole | None) -> Whole:
    if tails is None:
        first: Whole = np.searchsorted(run.key, run.query_key, side="left").astype(np.int64)
        return first
    return positions(run.key, run.time, run.query_key, tails)


def _gather_extras(extra: Extra, states: Bytes, owner: Whole, count: int) -> Bytes:
    if len(states) == count:
        return states
    states_of: list[list[bytes]] = [[] for _ in range(count)]
    for who, state in zip(owner.tolist(), states.tolist(), strict=True):
        if state is not None:
            states_of[who].append(state)
    out = np.empty(count, dtype=object)
    out[:] = [extra.merge(parts) if parts else None for parts in states_of]
    return out
