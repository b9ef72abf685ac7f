"""The law for given rows: hypothesis draws how they come, and the merge must give what the plain fold gives.

A history is a number of deliveries, each one of the given events at a drawn time of arrival: in any order,
some several times as producers and restarts deliver them, some not at all. A batch covers what arrived before
a cut, tiles hold the rest. The states of batch and tiles are merged from pieces that are drawn too, as builds
and micro-batches make them. What is proven is the code that serves: aggregates, windows, states, the merge
and training sets. Derived features are expressions over these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.aggregates.layout import States
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.declare.views import FeatureColumn, FeatureView
from anabranch.errors import MisuseError
from anabranch.folds.merge import Known, merge_all
from anabranch.folds.training_sets import SortedRun, features_before
from anabranch.states.blocks import Rows
from anabranch.testing import oracle
from anabranch.testing.rows import FUTURE_SKEW, GivenEvent, events_of, read_events
from anabranch.testing.states import SLACK, SLOT, Stored, batch_part, lift, single_states, tiles
from anabranch.values.keys import show_key
from anabranch.values.times import HOUR, MINUTE, SECOND, floor_to, format_time

_LAGS = (0, 1, SECOND, MINUTE, 3 * HOUR, 50 * HOUR, -1, -FUTURE_SKEW)
"""How long after its time an event arrives."""
_SHOWN = 12
_MOST_KEYS = 4
_MOST_OWN = 6


class BrokenLawError(AssertionError):
    """The merge gives another value than the plain fold; the text has the history that shows it."""


@dataclass(frozen=True)
class History:
    """Deliveries in the order of their arrival, the batch's cut (None: no batch), and the time asked for."""

    deliveries: Sequence[GivenEvent]
    cut: int | None
    at: int
    seed: int


@dataclass(frozen=True)
class ProvenView:
    """A view and the events that have its key, with the states of each event alone."""

    view: FeatureView
    events: Sequence[GivenEvent]
    rows: Rows
    extras: Sequence[States]
    own: bool = False
    """Whether labels of the view's source count their own events."""

    @classmethod
    def of(cls, view: FeatureView, given_events: Sequence[GivenEvent], label: Label | None) -> "ProvenView":
        """The view with the events of its feed."""
        events = events_of(view, given_events)
        own = label is not None and label.own_event and label.source == view.source
        return cls(view, events, *single_states(view, events), own)

    @cached_property
    def witnessed(self) -> dict[int, GivenEvent]:
        """The events by position, with the values of the expressions that witnesses fold."""
        witnesses = [one for each in self.view.parts.values() for one in each.witnesses().values()]
        texts = [text for each in witnesses for text in each.texts]
        return {event.position: event for event in events_of(self.view, self.events, texts)}


def assert_lawful(project: Project, events: Sequence[Mapping[str, Any]], *, examples: int = 40) -> None:
    """Prove the law for these events: any order, duplicates, late arrivals, restarts and cuts of batches.

    For each view of the project, the merge of batch and stream and the rows of training sets give the values
    of `fold`, as closely as each aggregate promises. Equal events are tried in equal histories each time,
    `examples` of them drawn. Events that landing would send to quarantine are left out, `_arrival` is drawn.

    Raises BrokenLawError, an AssertionError, with the smallest history found that shows a difference;
    MisuseError as `fold` does, and when no event can be used.
    """
    found = read_events(project, [{k: v for k, v in event.items() if k != "_arrival"} for event in events])
    views = [ProvenView.of(view, found.used[view.feed], project.label) for view, _ in project.stored_views]
    views = [each for each in views if each.events]
    if not views:
        why = f": the first is refused because {found.refused[0].reason}" if found.refused else ""
        raise MisuseError(f"no event of those given makes a feature of project {project.name!r}{why}")

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def prove(data: st.DataObject) -> None:
        for each in views:
            _check(each, data.draw(_histories(each)))

    for each in views:
        for history in _plain_histories(each):
            _check(each, history)
    prove()


def _plain_histories(proven: ProvenView) -> list[History]:
    """All events as they were given, asked for after the last: without a batch, and with one in between."""
    events = [replace(event, arrival=event.time + number) for number, event in enumerate(proven.events)]
    events.sort(key=lambda event: event.arrival)
    at = events[-1].arrival + 1
    cuts = (None, floor_to(at, SLOT), floor_to(at - SLACK // 2, SLOT))
    return [History(events, cut, at, seed) for seed, cut in enumerate(cuts)]


@st.composite
def _histories(draw: st.DrawFn, proven: ProvenView) -> History:
    events = proven.events
    most = len(events)
    few = st.lists(st.integers(0, most - 1), min_size=1, max_size=6)
    many = st.lists(st.integers(0, most - 1), min_size=1, max_size=2 * most)
    whole = st.permutations(range(most)) if most <= 200 else many
    chosen = draw(st.one_of(few, whole, many))
    deliveries = []
    for position in chosen:
        event = events[position]
        lag = draw(st.sampled_from(_LAGS))
        deliveries.append(replace(event, arrival=event.time + lag))
    deliveries.sort(key=lambda event: event.arrival)
    # Of two copies that arrive at one instant either may count: real arrivals carry an offset as well.
    unique: list[GivenEvent] = []
    for event in deliveries:
        later = max(event.arrival, unique[-1].arrival + 1) if unique else event.arrival
        unique.append(replace(event, arrival=later))
    at = draw(st.sampled_from(_times(proven.view, unique)))
    cut = draw(st.none() | st.integers(0, SLACK // SLOT - 1))
    return History(
        unique,
        None if cut is None else floor_to(at, SLOT) - cut * SLOT,
        at,
        draw(st.integers(0, 2**16)),
    )


def _times(view: FeatureView, events: Sequence[GivenEvent]) -> list[int]:
    """Times at which something changes: an event comes into a window, leaves it, or arrives."""
    found = {events[-1].arrival + 1}
    for event in events[:: max(1, len(events) // 8)]:
        for time in (event.time, event.arrival):
            found |= {time + 1}
        found |= {event.time, event.time + 1}
        for span in view.spans:
            edges = {span.tail(event.time), span.head(event.time)}
            for back in {event.time - edge for edge in edges if edge is not None}:
                found |= {event.time + back + step for step in (-span.hop, -1, 0, 1, span.hop)}
    return sorted(found)


def _check(proven: ProvenView, history: History) -> None:
    """Raises BrokenLawError when a key's features differ."""
    at = history.at
    arrived = [event for event in history.deliveries if event.arrival < at]
    keys = list(dict.fromkeys(event.key for event in history.deliveries))[:_MOST_KEYS]
    known = [_known(proven, arrived, key, history) for key in keys]
    merged = merge_all(proven.view, known, at)
    for key, each in zip(keys, merged, strict=True):
        if each.degraded is not None:
            raise BrokenLawError(f"an answer that should be exact is degraded: {each.degraded}")
        _compare(proven, history, key, arrived, each.values, "the merge")
    asked = [(key, history.at, None) for key in keys]
    for (key, _, _), values in zip(asked, _training_rows(proven, history, keys, asked), strict=True):
        _compare(proven, history, key, history.deliveries, values, "the training set")
    if proven.own:
        distinct = oracle.distinct(history.deliveries)
        events = [event for event in distinct if event.key in keys][-_MOST_OWN:]
        events.sort(key=lambda event: (keys.index(event.key), event.time))
        labels = [(event.key, event.time, event) for event in events]
        for event, values in zip(events, _training_rows(proven, history, keys, labels), strict=True):
            own = replace(history, at=event.time + 1)
            counted = [one for one in distinct if one.time < event.time or one.id == event.id]
            _compare(proven, own, event.key, counted, values, "the training set with the label's own event")


def _known(proven: ProvenView, arrived: Sequence[GivenEvent], key: str, history: History) -> Known:
    """The batch part and the tiles of a key, from events that are counted once as landing and stream do."""
    seen: set[Any] = set()
    mine = []
    for event in arrived:
        if event.id not in seen:
            seen.add(event.id)
            mine.append(event)
    mine = [event for event in mine if event.key == key]
    make, view, cut = _DrawnPieces(proven, Random(history.seed)), proven.view, history.cut  # noqa: S311
    if cut is None:
        return None, tiles(view, mine, make)
    before = [event for event in mine if event.arrival < cut]
    since = [event for event in mine if event.arrival >= cut]
    return batch_part(view, before, cut, SLACK, make), tiles(view, since, make)


@dataclass(frozen=True)
class _DrawnPieces:
    """Makes the state of a group from those of its events, merged in drawn pieces."""

    proven: ProvenView
    draw: Random

    def __call__(self, view: FeatureView, groups: Sequence[Sequence[Stored]]) -> tuple[Rows, list[States]]:
        place = {event.position: number for number, event in enumerate(self.proven.events)}
        rows: list[Rows] = []
        extras: list[States] = []
        for group in groups:
            numbers = [place[event.position] for event in group]  # type: ignore[attr-defined]
            self.draw.shuffle(numbers)
            row, extra = self._merged(view, numbers)
            rows.append(row)
            extras.append(extra)
        return (np.stack(rows) if rows else np.empty((0, view.layout.width))), extras

    def _merged(self, view: FeatureView, numbers: Sequence[int]) -> tuple[Rows, States]:
        layout, rows, extras = view.layout, self.proven.rows, self.proven.extras
        if len(numbers) > 2:
            split = self.draw.randrange(1, len(numbers))
            parts = [self._merged(view, numbers[:split]), self._merged(view, numbers[split:])]
            return (
                layout.reduce(np.stack([row for row, _ in parts])),
                layout.reduce_extras([extra for _, extra in parts]),
            )
        chosen = list(numbers)
        return layout.reduce(rows[chosen]), layout.reduce_extras([extras[number] for number in chosen])


def _training_rows(
    proven: ProvenView,
    history: History,
    keys: Sequence[str],
    asked: Sequence[tuple[str, int, GivenEvent | None]],
) -> list[dict[str, Any]]:
    """The rows of a training set for keys at times: from all events strictly before, and the own event."""
    events = [event for event in oracle.distinct(history.deliveries) if event.key in keys]
    events.sort(key=lambda event: (keys.index(event.key), event.time))
    view = proven.view
    run = SortedRun(
        np.array([keys.index(event.key) for event in events], dtype=np.int64),
        np.array([event.time for event in events], dtype=np.int64),
        lift(view, events),
        np.array([keys.index(key) for key, _, _ in asked], dtype=np.int64),
        np.array([time for _, time, _ in asked], dtype=np.int64),
    )
    if any(own for _, _, own in asked):
        places = {event.id: place for place, event in enumerate(events)}
        own = [-1 if event is None else places[event.id] for _, _, event in asked]
        run = replace(run, own=np.array(own, dtype=np.int64))
    columns = features_before(view, run)
    rows = []
    for number in range(len(asked)):
        found = {name: each.values[number] if each.valid[number] else None for name, each in columns.items()}
        rows.append(
            {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
        )
    return rows


def _compare(
    proven: ProvenView,
    history: History,
    key: str,
    known: Sequence[GivenEvent],
    found: Mapping[str, Any],
    what: str,
) -> None:
    """Raises BrokenLawError when values differ from the fold by more than their aggregates promise."""
    view, at = proven.view.unused, history.at
    mine = [event for event in oracle.distinct(known) if event.key == key and event.time < at]
    wrong = []
    for column in view.columns:
        aggregate = view.features[column.feature]
        since, until = oracle.beginning(column.window, at), oracle.ending(column.window, at)
        inside = [event for event in mine if (since is None or event.time >= since) and event.time < until]
        expected = oracle.fold(aggregate, inside, until, since or 0, column.category)
        if expected == found[column.name]:
            continue
        witnesses = view.parts[column.part].witnesses()
        seen = [proven.witnessed[event.position] for event in inside] if witnesses else []
        witnessed = {name: oracle.fold(each, seen, until, since or 0) for name, each in witnesses.items()}
        if not view.parts[column.part].agrees(expected, found[column.name], witnessed):
            wrong.append((column, expected, found[column.name]))
    if wrong:
        raise BrokenLawError(_told(proven, history, key, wrong, what))


def _told(
    proven: ProvenView,
    history: History,
    key: str,
    wrong: Sequence[tuple[FeatureColumn, Any, Any]],
    what: str,
) -> str:
    view = proven.view
    shown = [f"  {c.name}: the fold gives {expected!r}, {what} {found!r}" for c, expected, found in wrong]
    cut = "there is no batch yet" if history.cut is None else f"the batch's cut is {format_time(history.cut)}"
    own = [event for event in history.deliveries if event.key == key]
    lines = [
        f"  event {event.position + 1}, time {format_time(event.time)}, arrives {format_time(event.arrival)}"
        for event in own[:_SHOWN]
    ]
    more = f"\n  and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    return (
        f"view {view.name!r}: {what} differs from the fold for key {show_key(view.keys, key)!r} "
        f"at {format_time(history.at)}; {cut}:\n"
        + "\n".join(shown[:_SHOWN])
        + "\nevents of the key, in the order of their arrival:\n"
        + "\n".join(lines)
        + more
    )
