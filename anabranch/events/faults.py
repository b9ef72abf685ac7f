"""Events that come by HTTP, checked against the declared schema before anything is published. Pure Python.

The rules are those of landing and the stream, so that no event accepted here is quarantined there: a value
may also be text that reads as its type (``"45"``), unknown fields are ignored, an event needs its id, its
time and all columns of at least one of its keys. NaN and infinities are refused only here, since JSON has no
such values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from anabranch.declare.sources import Source
from anabranch.values.datatype import show
from anabranch.values.keys import KEY_RULE, LONGEST_KEY, SEPARATOR
from anabranch.values.times import format_time, parse_time


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
        return Fault(source.id, f"an event is a JSON object, not {show(event)}")
    for column in source.columns:
        value = event.get(column.name)
        reason = None if value is None else column.type.fault(value)
        if reason is not None:
            return Fault(column.name, f"{column.name}: {reason}")
    for name, role in ((source.id, "id"), (source.time, "time")):
        if event.get(name) in (None, ""):
            return Fault(name, f"{name} is missing: it is the {role} of a {source.name!r} event")
    return _key_fault(event, keys) or _future(event, source, latest)


def _key_fault(event: Mapping[str, object], keys: tuple[tuple[str, ...], ...]) -> Fault | None:
    missing = [next((name for name in names if event.get(name) in (None, "")), None) for names in keys]
    if missing and all(name is not None for name in missing):
        return Fault(str(missing[0]), f"{missing[0]} is missing: an event needs its key")
    for name in dict.fromkeys(name for names in keys for name in names):
        text = str(event.get(name) or "")
        if SEPARATOR in text or len(text.encode("utf-8", "replace")) > LONGEST_KEY:
            return Fault(name, f"{name}: {KEY_RULE}")
    return None


def _future(event: Mapping[str, object], source: Source, latest: int | None) -> Fault | None:
    at = parse_time(str(event[source.time]))
    if latest is None or at <= latest:
        return None
    return Fault(
        source.time, f"{source.time}: {event[source.time]!r} is in the future (after {format_time(latest)})"
    )
