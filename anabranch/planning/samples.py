"""Events of a few keys, read from the lake without a JVM, and what two declarations make of them.

Both see the same events: those that have landed, of the newest files. So a difference is one of meaning.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anabranch.declare.names import IDENTITY
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.stores.lake.light import (
    MOST_FILES,
    LightTable,
    Mask,
    among_parts,
    key_part,
    lake_place,
    stored_name,
)
from anabranch.testing import oracle
from anabranch.testing.folding import derived_values
from anabranch.testing.rows import GivenEvent, GivenEvents, events_of, feeds, read_events
from anabranch.values.datatype import DataType
from anabranch.values.keys import SEPARATOR
from anabranch.values.times import to_micros

MOST_EVENTS = 30_000
"""Events of a source that are read for the sampled keys, those of the newest files first."""
MOST_COPIES = 1_000_000
"""Copies of these events that are looked at."""
MOST_STEPS = 500_000
"""Events times features that are folded for one declaration; keys beyond are left out."""
_ORDER = ("_arrival", "_topic", "_file", "_partition", "_offset")
Row = Mapping[str, Any]
Key = Mapping[str, str]


@dataclass(frozen=True)
class Feed:
    """A source as one declaration has it, whose events its `views` read; `owner` has its tables."""

    owner: Project
    source: Source
    views: Sequence[FeatureView]


@dataclass(frozen=True)
class LakeSample:
    """Reads samples from the lake at `root`; `missing` collects, in words, what was not looked through."""

    root: str
    missing: list[str]

    def table(self, owner: Project, source: Source) -> LightTable:
        """The source's table of events. Raises AnabranchError for one that only Spark reads."""
        return LightTable(lake_place(self.root, owner, "events", source), stored_name(source.time))

    def keys(self, project: Project, most: int) -> list[dict[str, str]]:
        """Up to `most` keys that the newest events name, chosen by the digest of their text."""
        found: dict[str, dict[str, str]] = {}
        for source in project.sources.values():
            columns = project.key_columns_in(source)
            if not columns:
                continue
            names = [stored_name(name) for name in columns]
            kinds = [source.column(name, "key").type for name in columns]
            for row in self._rows(project, source, names, names, _spread(20 * most), most=20 * most):
                texts = [key_part(kind, row[name]) for kind, name in zip(kinds, names, strict=True)]
                if None not in texts:
                    parts = list(map(str, texts))
                    found.setdefault(SEPARATOR.join(parts), dict(zip(project.keys, parts, strict=True)))
        chosen = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())[:most]
        return [found[text] for text in chosen]

    def latest(self, project: Project) -> int | None:
        """Just after the latest event time of the project's views in the lake; None without events."""
        times = [
            file.latest
            for name, (source, _) in feeds(project).items()
            for file in self.table(_owner(project, name), source).files
            if file.latest is not None
        ]
        return max(times, default=None)

    def labels(self, project: Project, most: int) -> list[dict[str, Any]]:
        """The newest rows of the label's source, each once, with the columns as declared; newest first."""
        label = project.label
        if label is None:
            return []
        source = label.source
        kinds = {column.name: column.type for column in source.columns}
        time, names = stored_name(source.time), [*map(stored_name, kinds), *_EXTRA]
        # A label may come again: twice as many rows as are wanted have enough of them.
        rows = list(self._rows(project, source, [time], names, _spread(0), most=2 * most))
        distinct = _first_copies(source, kinds, rows)
        distinct.sort(key=lambda row: str(row[source.time]), reverse=True)
        return distinct[:most]

    def events(self, projects: Sequence[Project], keys: Sequence[Key]) -> dict[str, list[dict[str, Any]]]:
        """By feed the distinct events in the lake that a view of one of the declarations reads for the keys.

        The projects are declarations of one project; columns are those of all of them.
        """
        read: dict[str, list[Feed]] = {}
        for project in projects:
            for name, (source, _) in feeds(project).items():
                views = tuple(view for view in project.views if view.feed == name)
                if views:
                    read.setdefault(name, []).append(Feed(_owner(project, name), source, views))
        return {name: self._events(name, each, keys) for name, each in read.items()}

    def _events(self, name: str, feeds_: Sequence[Feed], keys: Sequence[Key]) -> list[dict[str, Any]]:
        source = feeds_[0].source
        if source.table is not None:
            self._note(
                f"rows of {source.table}, which source {name!r} reads in place, are not looked through"
            )
        wanted: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for view in (view for feed in feeds_ for view in feed.views):
            texts = {tuple(key[column] for column in view.asked) for key in keys}
            wanted[view.keys] = wanted.get(view.keys, set()) | texts
        kinds = {column.name: column.type for feed in reversed(feeds_) for column in feed.source.columns}
        names = {column: stored_name(column) for column in kinds}

        def mask(part: pa.Table) -> pa.Array:
            each = []
            for columns, texts in wanted.items():
                parts = [{text[place] for text in texts} for place in range(len(columns))]
                found = [
                    among_parts(part.column(names[column]), kinds[column], one)
                    for column, one in zip(columns, parts, strict=True)
                ]
                each.append(reduce(pc.and_, found))
            return reduce(pc.or_, each)

        def mine(row: Row) -> bool:
            return any(
                tuple(key_part(kinds[column], row[names[column]]) for column in columns) in texts
                for columns, texts in wanted.items()
            )

        columns = list({names[column] for each in wanted for column in each})
        owner = feeds_[0].owner
        rows = self._rows(owner, source, columns, [*names.values(), *_EXTRA], mask, name)
        counted = self._counted(owner, source, [row for row in rows if mine(row)])
        return _first_copies(source, kinds, counted)

    def _counted(self, owner: Project, source: Source, rows: Sequence[Row]) -> list[Row]:
        """The rows without those of which a copy with another key came first."""
        name = _identified(source)
        ids = {row[name] for row in rows if row[name] is not None}
        first: dict[Any, tuple[Any, ...]] = {}

        def mask(part: pa.Table) -> pa.Array:
            column = part.column(name).combine_chunks()
            return pc.is_in(column, value_set=pa.array(list(ids), column.type))

        for row in self._rows(owner, source, [name], [name, *_ORDER], mask, most=MOST_COPIES) if ids else ():
            first[row[name]] = min(first.get(row[name], _order(row)), _order(row))
        return [row for row in rows if first.get(row[name], ()) == _order(row)]

    def _rows(
        self,
        owner: Project,
        source: Source,
        keys: Sequence[str],
        names: Sequence[str],
        mask: Mask,
        feed: str | None = None,
        most: int | None = None,
    ) -> Iterator[Row]:
        """The newest rows, up to `most` or MOST_EVENTS; with `feed` it is noted when older ones are left."""
        table, time = self.table(owner, source), stored_name(source.time)
        files, cut = table.files[:MOST_FILES], False
        most = left = MOST_EVENTS if most is None else most
        for place, file in enumerate(files):
            if left <= 0:
                cut, files = True, files[:place]
                break
            chosen = _bounded(mask, time, left)
            count = 0
            for row in table.rows([file], [*{*keys, time}], chosen, names):
                count += 1
                yield row
            cut, left = cut or count >= left, left - count
        if feed is not None and (cut or len(files) < len(table.files)):
            self._note(
                f"of source {feed!r} only the newest {most - left:,} events of the sampled keys were read"
            )

    def _note(self, text: str) -> None:
        if text not in self.missing:
            self.missing.append(text)


_EXTRA = (*_ORDER, IDENTITY)


def _owner(project: Project, feed: str) -> Project:
    owner, dot, _ = feed.rpartition(".")
    return project.lenders[owner] if dot else project


def _bounded(mask: Mask, time: str, most: int) -> Mask:
    """Chooses of the rows that `mask` chooses the `most` with the latest times, and more of equal ones."""

    def bounded(part: pa.Table) -> pa.Array:
        chosen = pc.fill_null(mask(part), fill_value=False)
        if chosen.true_count <= most:
            return chosen
        times = pc.if_else(
            chosen, part.column(time).combine_chunks(), pa.scalar(None, part.schema.field(time).type)
        )
        latest = pc.array_take(times, pc.select_k_unstable(times, most, [("", "descending")]))
        return pc.fill_null(pc.greater_equal(times, pc.min(latest)), fill_value=False)

    return bounded


def _spread(most: int) -> Mask:
    """Chooses about `most` rows of a file, evenly spread; all of them for 0."""
    return lambda part: pa.array(
        np.arange(part.num_rows) % max(1, part.num_rows // (most or part.num_rows or 1)) == 0
    )


def _identified(source: Source) -> str:
    """The column of the lake that tells copies of one event."""
    return IDENTITY if source.id is None else stored_name(source.id)


def _first_copies(source: Source, kinds: Mapping[str, DataType], rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows by column as JSON, in order of arrival; of an id the first."""
    identified = _identified(source)
    found: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=_order):
        identity = row[identified]
        if identity is not None and identity not in found:
            found[identity] = {name: kind.to_json(row[stored_name(name)]) for name, kind in kinds.items()}
    return list(found.values())


def _order(row: Row) -> tuple[Any, ...]:
    place = (-1 if row[name] is None else row[name] for name in ("_partition", "_offset"))
    return (to_micros(row["_arrival"]), row["_topic"] or "", row["_file"] or "", *place)


class Folding:
    """What a declaration makes of events: features of a key at a time, by their plain definition.

    `names` are the features that are needed. `events` are what `read_sample` gives.
    """

    def __init__(self, project: Project, events: GivenEvents, names: Iterable[str]) -> None:
        self.project, self.names = project, tuple(names)
        needed = project.needed(self.names)
        self._views = [
            each
            for view in project.views
            if (each := _Needed.of(view, needed, events.used.get(view.feed, ())))
        ]

    def steps(self, key: Key, at: int) -> int:
        """Events times features that `values` looks at."""
        return sum(len(each.around(key, at)) * len(each.view.columns) for each in self._views)

    def values(
        self, key: Key, at: int, request: Mapping[str, Any] | None = None, own: Any = None
    ) -> dict[str, Any]:
        """The features by name; `own` is the id of an event of time `at` that counts too, or None."""
        found: dict[str, Any] = {}
        label = self.project.label
        for each in self._views:
            view, text, events = each.view, _stored_key(each.view, key), each.around(key, at)
            if own is not None and label is not None and view.source == label.source:
                found |= oracle.answer_with_own(view, events, text, at, own)
            else:
                found |= oracle.answer(view, events, text, at)
        if self.project.derived_columns:
            blank = {column.name: None for column in self.project.view_columns}
            found |= derived_values(self.project, {**blank, **found}, key, request)
        if request is not None:
            found |= request
        return {name: found.get(name) for name in self.names}


@dataclass(frozen=True, kw_only=True)
class _Needed:
    """A view with the features that are needed, and its events by key in order of time."""

    view: FeatureView
    events: Mapping[str, Sequence[GivenEvent]]

    @classmethod
    def of(cls, view: FeatureView, needed: Collection[str], given: Sequence[GivenEvent]) -> "_Needed | None":
        wanted = {column.feature for column in view.columns if column.name in needed}
        if not wanted:
            return None
        features = {name: one for name, one in view.features.items() if name in wanted}
        by_key: dict[str, list[GivenEvent]] = {}
        for event in events_of(replace(view, features=features), given):
            by_key.setdefault(event.key, []).append(event)
        for events in by_key.values():
            events.sort(key=_time)
        return cls(view=replace(view, features=features), events=by_key)

    def around(self, key: Key, at: int) -> Sequence[GivenEvent]:
        """The events of a key that may be in a window at `at`, or at that very time."""
        events = self.events.get(_stored_key(self.view, key), ())
        tails = [span.tail(at) for span in self.view.spans]
        known = [tail for tail in tails if tail is not None]
        first = bisect_left(events, min(known), key=_time) if len(known) == len(tails) else 0
        return events[first : bisect_right(events, at, key=_time)]


def _time(event: GivenEvent) -> int:
    return event.time


def read_sample(project: Project, events: Mapping[str, Sequence[Row]]) -> GivenEvents:
    """Sampled events by feed, as landing would read them by the declaration."""
    known = {name: {column.name for column in each.columns} for name, (each, _) in feeds(project).items()}
    return read_events(
        project,
        [
            {"source": feed, **{name: value for name, value in row.items() if name in known[feed]}}
            for feed, rows in events.items()
            if feed in known
            for row in rows
        ],
    )


def _stored_key(view: FeatureView, key: Key) -> str:
    return SEPARATOR.join(key[name] for name in view.asked)
