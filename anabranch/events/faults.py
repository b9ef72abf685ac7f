"""Events that come by HTTP, checked against the declared schema before anything is published. Pure Python.

The rules are those of landing and the stream (judging.py), so that an event is accepted everywhere or
nowhere: a value may also be text that reads as its type (``"45"``), text of nothing but spaces is unknown,
unknown fields are ignored, an event needs its id, its time and all columns of at least one of its keys.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from anabranch.declare.sources import Source
from anabranch.errors import EventError
from anabranch.events.messages import MessageEvent, check_levels, identity, kept_events
from anabranch.values.datatype import show
from anabranch.values.keys import KEY_RULE, LONGEST_KEY, SEPARATOR
from anabranch.values.texts import json_text
from anabranch.values.times import format_time

_MOST_DIGITS, _LONGEST_FIELD = 1000, 50_000
"""Of a number and of a field's name, by Spark's parser of JSON, in any field of a flat message."""
_MANY_DIGITS = re.compile(rb"[0-9.eE+-]{%d}" % (_MOST_DIGITS + 1))


@dataclass(frozen=True)
class Fault:
    """Why an event is refused: the field and the reason, which begins with the field."""

    field: str
    reason: str


def find_fault(
    event: object, source: Source, keys: tuple[tuple[str, ...], ...], latest: int | None = None
) -> Fault | None:
    """The first fault of a decoded event, or None.

    `latest` (microseconds) is the last event time that is not in the future.
    """
    if not isinstance(event, dict):
        return Fault(source.id or source.time, f"an event is a JSON object, not {show(event)}")
    if not source.nested:
        return row_fault(event, source, keys, latest)
    try:
        check_levels(event)
        for each, _ in kept_events(event, source.nesting):
            fault = _event_fault(each, source, keys, latest)
            if fault is not None:
                return fault
    except EventError as error:
        return _named(str(error))
    return None


def _event_fault(
    event: MessageEvent, source: Source, keys: tuple[tuple[str, ...], ...], latest: int | None
) -> Fault | None:
    if event.fault is not None or event.position is None:
        return _named(event.fault) if event.fault else row_fault(event.values, source, keys, latest)
    message = event.values[source.identity]
    text = None if message is None else json_text(message)
    fault = row_fault({**event.values, source.identity: identity(text, event.position)}, source, keys, latest)
    return fault and Fault(fault.field, f"{source.explode}[{event.position}]: {fault.reason}")


def _named(reason: str) -> Fault:
    return Fault(reason.partition(":")[0], reason)


def find_text_fault(text: bytes, source: Source) -> Fault | None:
    """What Spark's parser alone would find in the JSON of an event that has no fault, or None."""
    if source.nested or source.format != "json":
        return None
    if len(text) <= _LONGEST_FIELD and not _MANY_DIGITS.search(text):
        return None
    try:
        json.loads(text, parse_int=_short_number, parse_float=_short_number, object_pairs_hook=_short_names)
    except EventError as error:
        return Fault(source.id or source.time, str(error))
    except RecursionError:
        return Fault(source.id or source.time, "the event is nested too deeply")
    return None


def _short_number(text: str) -> int:
    if sum(map(str.isdigit, text.removeprefix("-").removeprefix("0"))) > _MOST_DIGITS:
        raise EventError(f"the event has a number of more than {_MOST_DIGITS:,} digits")
    return 0


def _short_names(pairs: list[tuple[str, object]]) -> None:
    if any(len(name) > _LONGEST_FIELD for name, _ in pairs):
        raise EventError(f"the event has a field whose name is longer than {_LONGEST_FIELD:,} letters")


def row_fault(
    given: Mapping[str, object], source: Source, keys: tuple[tuple[str, ...], ...], latest: int | None
) -> Fault | None:
    """The first fault of the values of an event's columns."""
    values: dict[str, object] = {}
    for column in source.columns:
        value = column.type.given(given.get(column.name))
        reason = None if value is None else column.type.fault(value)
        if reason is not None:
            return Fault(column.name, f"{column.name}: {reason}")
        values[column.name] = value
    for name, role in ((source.id, "id"), (source.time, "time")):
        if name is None:
            continue
        if values[name] in (None, ""):
            return Fault(name, f"{name} is missing: it is the {role} of a {source.name!r} event")
    return _key_fault(values, source, keys) or _future(values, source, latest)


def _key_fault(
    values: Mapping[str, object], source: Source, keys: tuple[tuple[str, ...], ...]
) -> Fault | None:
    missing = [next((name for name in names if values[name] in (None, "")), None) for names in keys]
    if missing and all(name is not None for name in missing):
        return Fault(str(missing[0]), f"{missing[0]} is missing: an event needs its key")
    for name in dict.fromkeys(name for names in keys for name in names):
        value = values[name]
        text = "" if value is None else source.column(name, "key").type.key_text(value) or ""
        if SEPARATOR in text or len(text.encode("utf-8", "replace")) > LONGEST_KEY:
            return Fault(name, f"{name}: {KEY_RULE}")
    return None


def _future(values: Mapping[str, object], source: Source, latest: int | None) -> Fault | None:
    given = values[source.time]
    at = source.event_time(source.column(source.time, "time").type.value(given))
    if latest is None or at <= latest:
        return None
    return Fault(source.time, f"{source.time}: {given!r} is in the future (after {format_time(latest)})")
