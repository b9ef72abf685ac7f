"""Events of a few keys, read from the lake without a JVM, and what two declarations make of them.

Both see the same events: those that have landed, of the newest files. So a difference is one of meaning.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

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
from anabranch.testing.rows import GivenEvent, events_of, feeds, read_events
from anabranch.values.datatype import DataType
from anabranch.values.keys import SEPARATOR
from anabranch.values.times import to_micros

MOST_EVENTS = 60_000
"""Events of a source that are read for the sampled keys, those of the newest files first."""
MOST_STEPS = 4_000_000
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
            for row in self._rows(project, source, names, names, _all, most=20 * most):
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
        keys, names = map(stored_name, label.keys), [*map(stored_name, kinds), *_EXTRA]
        rows = list(self._rows(project, source, list(keys), names, _all, most=20 * most))
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
        rows = self._rows(feeds_[0].owner, source, columns, [*names.values(), *_EXTRA], mask, name)
        return _first_copies(source, kinds, [row for row in rows if mine(row)])

    def _rows(
        self,
        owner: Project,
        source: Source,
        keys: Sequence[str],
        names: Sequence[str],
        mask: Mask,
        feed: str | None = None,
        most: int = MOST_EVENTS,
    ) -> Iterator[Row]:
        """Rows of the newest files until there are `most`; with `feed` it is noted when files are left."""
        table = self.table(owner, source)
        files, count = table.files[:MOST_FILES], 0
        for place, file in enumerate(files):
            for row in table.rows([file], keys, mask, names):
                count += 1
                yield row
            left = len(table.files) - place - 1
            if count >= most and left:
                if feed is not None:
                    self._note(f"{left} older files of source {feed!r} were not looked through")
                return

    def _note(self, text: str) -> None:
        if text not in self.missing:
            self.missing.append(text)


_EXTRA = (*_ORDER, IDENTITY)


def _owner(project: Project, feed: str) -> Project:
    owner, dot, _ = feed.rpartition(".")
    return project.lenders[owner] if dot else project


def _all(part: pa.Table) -> pa.Array:
    return pa.array([True] * part.num_rows)


def _first_copies(source: Source, kinds: Mapping[str, DataType], rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows by column as JSON, in order of arrival; of an id the first."""
    identified = stored_name(source.identity) if source.identity in kinds else IDENTITY
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
    """What a declaration makes of events: `values` of a key at a time, by the plain definition of features.

    `names` limits views to the features needed. `refused` counts the events that landing would now send to
    quarantine.
    """

    def __init__(
        self, project: Project, events: Mapping[str, Sequence[Row]], names: Iterable[str] | None = None
    ) -> None:
        self.project = project
        self.names = tuple(column.name for column in project.columns) if names is None else tuple(names)
        known = {
            name: {column.name for column in source.columns} for name, (source, _) in feeds(project).items()
        }
        given = [
            {"source": feed, **{name: value for name, value in row.items() if name in known[feed]}}
            for feed, rows in events.items()
            if feed in known
            for row in rows
        ]
        read = read_events(project, given)
        self.count, self.refused = len(given), len(read.refused)
        self._used = {feed: oracle.distinct(events) for feed, events in read.used.items()}

    @cached_property
    def views(self) -> list[tuple[FeatureView, FeatureView, dict[str, list[GivenEvent]]]]:
        """Each view that is needed: as declared, with the features needed, and its events by key."""
        needed, found = self.project.needed(self.names), []
        for view in self.project.views:
            wanted = {column.feature for column in view.columns if column.name in needed}
            if not wanted:
                continue
            fewer = replace(
                view, features={name: one for name, one in view.features.items() if name in wanted}
            )
            by_key: dict[str, list[GivenEvent]] = {}
            for event in events_of(fewer, self._used.get(view.feed, [])):
                by_key.setdefault(event.key, []).append(event)
            found.append((view, fewer, by_key))
        return found

    def steps(self, key: Key) -> int:
        """Events times features that `values` looks at for a key."""
        return sum(
            len(events.get(_stored_key(view, key), ())) * len(view.columns) for _, view, events in self.views
        )

    def values(
        self, key: Key, at: int, request: Mapping[str, Any] | None = None, own: Any = None
    ) -> dict[str, Any]:
        """The features by name; `own` is the id of an event of time `at` that counts too, or None."""
        found: dict[str, Any] = {}
        label = self.project.label
        for _, view, by_key in self.views:
            text = _stored_key(view, key)
            events = by_key.get(text, [])
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


def _stored_key(view: FeatureView, key: Key) -> str:
    return SEPARATOR.join(key[name] for name in view.asked)
