"""Events given as plain dicts, read and judged as landing would, and SQL over them without Spark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import DeclarationError, MisuseError
from anabranch.events.faults import row_fault
from anabranch.events.typed_rows import typed_row
from anabranch.values.keys import SEPARATOR
from anabranch.values.names import listed
from anabranch.values.sql.expressions import compiled
from anabranch.values.sql.row_functions import RowFunctions
from anabranch.values.times import DAY, SECOND, format_time, from_micros, parse_time, to_micros
from anabranch.values.types import DATE, TIMESTAMP, ArrayType, DataType

SOURCE, ARRIVAL = "source", "_arrival"
"""Members of an event beside the columns of its source."""
FUTURE_SKEW = 300 * SECOND
"""How far the time of an event may be ahead of its arrival, as the settings have it by default."""


@dataclass(frozen=True)
class GivenEvent:
    """An event that was given as a dict; times in microseconds.

    `row` are its values by column, `values` those of the SQL expressions of the view that it is read for.
    """

    id: Any
    time: int
    arrival: int
    row: Mapping[str, Any]
    texts: Mapping[str, str | None]
    """Its columns as texts of keys."""
    position: int
    key: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def value(self, text: str) -> Any:
        """The value of a column or SQL expression of the view."""
        return self.values[text]


@dataclass(frozen=True)
class Refused:
    """An event that goes to quarantine: its position among those given, and why."""

    position: int
    reason: str


@dataclass(frozen=True)
class GivenEvents:
    """The events of a project: those that are used, by feed, and those that go to quarantine.

    `timed` tells whether they say when they arrived; those that do not arrive in their order.
    """

    used: Mapping[str, Sequence[GivenEvent]]
    refused: Sequence[Refused]
    timed: bool


Feed = tuple[Source, tuple[tuple[str, ...], ...]]
"""A source, and the keys for which its events are used."""


def feeds(project: Project) -> dict[str, Feed]:
    """The sources whose events make the project's features, by their names in a project."""
    found: dict[str, Feed] = {name: (each, project.key_sets(each)) for name, each in project.sources.items()}
    for owner, lender in project.lenders.items():
        found |= {
            f"{owner}.{name}": (source, lender.key_sets(source)) for name, source in lender.sources.items()
        }
    return found


def read_events(project: Project, events: Sequence[Mapping[str, Any]]) -> GivenEvents:
    """The events, each a dict of its source's columns and ``"source"``, read and judged as landing would.

    Raises MisuseError for what is no event: an unknown source or column, or `_arrival` in some events only.
    """
    known = feeds(project)
    given: Sequence[object] = events
    for number, each in enumerate(given, 1):
        if not isinstance(each, Mapping):
            raise MisuseError(f"event {number} is {each!r}: an event is a dict of its source's columns")
    used: dict[str, list[GivenEvent]] = {name: [] for name in known}
    refused: list[Refused] = []
    timed = len([event for event in events if ARRIVAL in event])
    if timed not in (0, len(events)):
        raise MisuseError(f"{timed} of {len(events)} events have {ARRIVAL!r}: give it in all of them or none")
    for position, event in enumerate(events):
        place = f"event {position + 1}"
        name = _feed_of(event, known, place)
        source, key_sets = known[name]
        _check_columns(event, source, place)
        arrival = moment(event[ARRIVAL], f"{place}: {ARRIVAL}") if timed else None
        read = _read(event, source, key_sets, position, arrival)
        if isinstance(read, Refused):
            refused.append(read)
        else:
            used[name].append(read)
    return GivenEvents(used, refused, timed > 0)


def _feed_of(event: Mapping[str, Any], known: Mapping[str, Feed], place: str) -> str:
    if SOURCE not in event and len(known) == 1:
        return next(iter(known))
    named = event.get(SOURCE)
    found = [name for name in known if named in (name, name.rpartition(".")[2])]
    if named in found or len(found) == 1:
        return str(named) if named in found else found[0]
    raise MisuseError(
        f"{place}: {SOURCE!r} is {named!r}: {listed(named, known, 'it must be one of')}"
        if SOURCE in event
        else f"{place} has no {SOURCE!r}: it must name one of {', '.join(map(repr, known))}"
    )


def _check_columns(event: Mapping[str, Any], source: Source, place: str) -> None:
    names = [column.name for column in source.columns]
    for name in event:
        if name not in (*names, SOURCE, ARRIVAL):
            hint = listed(name, names)
            raise MisuseError(f"{place}: {name!r} is no column of source {source.name!r}: {hint}")


def _read(
    event: Mapping[str, Any],
    source: Source,
    key_sets: tuple[tuple[str, ...], ...],
    position: int,
    arrival: int | None,
) -> GivenEvent | Refused:
    values = {column.name: _json(event.get(column.name)) for column in source.columns}
    fault = row_fault(values, source, key_sets, None if arrival is None else arrival + FUTURE_SKEW)
    if fault is not None:
        return Refused(position, fault.reason)
    types = {column.name: column.type for column in source.columns}
    row = typed_row(source, values)
    in_keys = {name for names in key_sets for name in names}
    texts = {name: _text(types[name], values[name]) for name in in_keys}
    row |= {name: None for name in in_keys if row[name] == ""}  # a key of empty text is none
    time = source.event_time(row[source.time])
    if source.id is not None:
        identity: Any = row[source.id]
    elif source.topic is not None:
        identity = position  # each message is itself
    else:
        identity = tuple(repr(value) for value in row.values())
    return GivenEvent(identity, time, position if arrival is None else arrival, row, texts, position)


def _json(value: Any) -> Any:
    """A Python value as JSON would have it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime):
        return format_time(to_micros(value))
    return value.isoformat() if isinstance(value, date) else value


def _text(kind: DataType, value: Any) -> str | None:
    return None if value in (None, "") else kind.key_text(value)


def shown(kind: DataType, value: Any) -> Any:
    """A value for Python: a TIMESTAMP as an aware datetime, a DATE as a date, others as they are."""
    if value is None:
        return None
    if isinstance(kind, ArrayType):
        return [shown(kind.inner, each) for each in value]
    if kind == TIMESTAMP:
        return from_micros(kind.value(value))
    return from_micros(kind.value(value) * DAY).date() if kind == DATE else kind.value(value)


def moment(value: object, what: str) -> int:
    """Microseconds of an ISO 8601 text or a datetime, without a zone UTC; raises MisuseError."""
    if isinstance(value, datetime):
        return to_micros(value)
    if isinstance(value, date):
        return to_micros(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if not isinstance(value, str):
        raise MisuseError(f"{what} is {value!r}: write ISO 8601, such as 2024-05-01T12:00:00Z, or a datetime")
    return parse_time(value)


def asked_key(project: Project, key: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a key's columns; raises MisuseError when they are not those of the project's key."""
    given: object = key
    if not isinstance(given, Mapping) or set(key) != set(project.keys):
        shape = ", ".join(f"{name!r}: ..." for name in project.keys)
        raise MisuseError(f"key {key!r} does not fit project {project.name!r}: write {{{shape}}}")
    found = {name: _text(kind, _json(key[name])) for name, kind in project.key_types.items()}
    for name, text in found.items():
        if not text:
            kind = project.key_types[name]
            raise MisuseError(f"key {name!r} is {key[name]!r}, which is no {kind}: give a value of it")
    return {name: text or "" for name, text in found.items()}


def events_of(view: FeatureView, given: Sequence[GivenEvent], more: Sequence[str] = ()) -> list[GivenEvent]:
    """The events that have the view's key, with the values of its expressions and of those in `more`."""
    keyed = [
        (event, [event.texts.get(name) if event.row[name] is not None else None for name in view.keys])
        for event in given
    ]
    mine = [(event, SEPARATOR.join(map(str, parts))) for event, parts in keyed if None not in parts]
    texts = dict.fromkeys([*(text for each in view.features.values() for text in each.texts), *more])
    columns = evaluate(view.source, [event.row for event, _ in mine], texts, f"view {view.full_name!r}")
    return [
        GivenEvent(
            **{
                **event.__dict__,
                "key": key,
                "values": {text: values[place] for text, values in columns.items()},
            }
        )
        for place, (event, key) in enumerate(mine)
    ]


def evaluate(
    source: Source, rows: Sequence[Mapping[str, Any]], texts: Iterable[str], place: str
) -> dict[str, Sequence[Any]]:
    """The values of SQL expressions over rows of the source; raises MisuseError for one that needs Spark."""
    functions = RowFunctions(source.columns)
    try:
        found = {text: functions.add(compiled(text, source.columns, place).sql, place) for text in texts}
        ready = functions.ready(rows)
    except DeclarationError as error:
        raise MisuseError(f"{error} (proof on rows is without Spark)") from error
    return {text: [function(row) for row in ready] for text, function in found.items()}
