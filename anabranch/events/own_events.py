"""Events that come with a question: read, judged and placed in the views of a project without a JVM.

The rules are those of events that come by HTTP (faults.py), which are those of landing and the stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import DeclarationError
from anabranch.events.faults import Fault, find_fault
from anabranch.events.messages import identity, kept_events
from anabranch.events.typed_rows import typed_row
from anabranch.values.keys import key_text
from anabranch.values.texts import json_text


@dataclass(frozen=True, slots=True)
class OwnEvent:
    """An event of a question: its columns as types pass them on, and its time in microseconds.

    `positions` are those of the project's views that count it for the question's key. `id` is None where the
    source has none.
    """

    source: Source
    id: str | None
    row: Mapping[str, Any]
    time: int
    positions: frozenset[int]
    message: bytes | None = None
    """The message to publish, where that is asked for."""


def fed_views(project: Project, name: str) -> tuple[Source, tuple[int, ...]] | None:
    """The source of a name, and the positions of the views that read it; None where no view does.

    The name is that of a source of the project, or of another project whose view it uses: ``payments``, or
    ``merchants.payments`` where the project has another source of that name itself. Views of both count
    where the declarations of their sources are equal.
    """
    own = {view.source.name: view.source for view in project.views if view.use.owner is None}
    lent = {view.feed: view.source for view in project.views if view.use.owner is not None}
    by_name = {source.name: source for source in lent.values()}
    source = own.get(name) or lent.get(name) or by_name.get(name)
    if source is None:
        return None
    return source, tuple(place for place, view in enumerate(project.views) if view.source == source)


def known_sources(project: Project) -> tuple[str, ...]:
    """The names of sources whose events a question may bring."""
    return tuple(dict.fromkeys(view.feed for view in project.views))


def spark_alone(project: Project, positions: Sequence[int]) -> str | None:
    """Why one event cannot be folded into the views without Spark; None when it can."""
    for position in positions:
        try:
            _ = project.views[position].lifter
        except DeclarationError as error:
            return str(error)
    return None


def read_events(
    project: Project,
    fed: tuple[Source, tuple[int, ...]],
    given: object,
    key: Mapping[str, str],
    latest: int | None,
) -> list[OwnEvent] | Fault:
    """The events in `given`, a message of the source as it would be published, or what is wrong with it.

    One, or one for each item of the array that the source explodes. `latest` (microseconds) is the last event
    time that is not in the future. Each event must count for `key`, the question's, in one of the views.
    """
    source, positions = fed
    views = [project.views[position] for position in positions]
    keys = tuple(dict.fromkeys(view.keys for view in views))
    fault = find_fault(given, source, keys, latest)
    if fault is not None:
        return fault
    found = []
    for row in _rows(source, given, keys):
        texts = {names: _key_of(source, names, row) for names in keys}
        counting = frozenset(
            position
            for position, view in zip(positions, views, strict=True)
            if texts[view.keys] == key_text(view.asked, key)
        )
        if not counting:
            return _other_key(views[0], row, key)
        name = None if source.id is None else json_text(row[source.id])
        found.append(OwnEvent(source, name, row, source.event_time(row[source.time]), counting))
    return found


def _rows(source: Source, given: object, keys: Sequence[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """The columns of each event of a message that has no fault."""
    if not isinstance(given, Mapping):
        return
    messages: Sequence[Mapping[str, object]] = [given]
    if source.nested:
        events = [event for event, _ in kept_events(given, source.nesting)]
        messages = [
            event.values
            if event.position is None
            else {
                **event.values,
                source.identity: identity(json_text(event.values[source.identity]), event.position),
            }
            for event in events
        ]
    in_keys = {name for names in keys for name in names}
    for values in messages:
        row = typed_row(source, values)
        yield row | {name: None for name in in_keys if row[name] == ""}


def _key_of(source: Source, names: Sequence[str], row: Mapping[str, Any]) -> str | None:
    """The stored text of the event's key in these columns; None where one is missing."""
    if any(row[name] is None for name in names):
        return None
    return key_text(tuple(names), {name: _text(source, name, row[name]) for name in names})


def _text(source: Source, name: str, value: Any) -> str:
    """The value of a column of a key as stored."""
    if type(value) is int and source.column(name, "key").type.integral:
        return str(value)
    if type(value) is str:
        return value
    kind = source.column(name, "key").type
    return kind.key_text(kind.to_json(value)) or ""


def _other_key(view: FeatureView, row: Mapping[str, Any], key: Mapping[str, str]) -> Fault:
    texts = {name: "" if row[name] is None else _text(view.source, name, row[name]) for name in view.keys}
    asked = dict(zip(view.keys, view.asked, strict=True))
    name = next((name for name, text in texts.items() if text != key[asked[name]]), view.keys[0])
    return Fault(
        name,
        f"{name}: the event is of {texts[name][:60]!r}, and the question asks for {key[asked[name]][:60]!r}: "
        "send an event of the key that is asked for",
    )
