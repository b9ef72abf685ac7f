"""The events that come with a question, checked against a project. Every problem names its field."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from anabranch.answers.problems import unprocessable
from anabranch.declare.projects import Project
from anabranch.events.faults import Fault
from anabranch.events.own_events import OwnEvent, fed_views, known_sources, read_events, spark_alone
from anabranch.values.datatype import show
from anabranch.values.names import listed

MOST_EVENTS = 100
"""Events that come with one question."""
_EVENT = ("source", "event", "publish")
_KEPT = msgspec.json.Encoder(enc_hook=lambda number: msgspec.Raw(str(number).encode()))
"""Writes events as they came: numbers with a fraction keep their text."""


def event_values(
    given: object,
    project: Project,
    key: Mapping[str, str] | None,
    latest: int | None,
    place: str = "event",
    *,
    publishes: bool = False,
) -> tuple[OwnEvent, ...]:
    """The events that come with a question: ``{"source": ..., "event": {...}}``, or an array of such.

    Raises a 422 problem that names the field, for an event that a view could not count for `key`. `latest` as
    for `read_asked` (requests.py); `publishes` is whether an event may say ``"publish": true``.
    """
    if key is None:
        raise unprocessable(place, "event needs a key: the one whose features it changes")
    several = isinstance(given, list)
    listed = given if isinstance(given, list) else [given]
    if not listed or len(listed) > MOST_EVENTS:
        raise unprocessable(
            place, f"event has {len(listed)} entries: send one event, or an array of 1 to {MOST_EVENTS}"
        )
    found: dict[tuple[str, str | None], OwnEvent] = {}
    for number, one in enumerate(listed):
        here = f"{place}[{number}]" if several else place
        for event in _own_events(one, project, key, latest, here, publishes=publishes):
            # Of several events of one id the first counts, as in the lake.
            name = (event.source.name, event.id if event.id is not None else f"{here} {len(found)}")
            found.setdefault(name, event)
    return tuple(found.values())


def _own_events(
    given: object,
    project: Project,
    key: Mapping[str, str],
    latest: int | None,
    place: str,
    *,
    publishes: bool,
) -> Sequence[OwnEvent]:
    form = 'send {"source": ..., "event": {...}}'
    if not isinstance(given, dict):
        raise unprocessable(place, f"{place} is {show(given)}: {form}")
    for name in given:
        if name not in _EVENT:
            raise unprocessable(
                f"{place}.{name}", f"{name!r} does not belong to an event: {form}", "unknown-field"
            )
    name = given.get("source")
    fed = fed_views(project, name) if isinstance(name, str) else None
    if fed is None:
        declared = isinstance(name, str) and name in project.sources
        why = "no view reads it" if declared else "it is no source"
        known = listed(name, known_sources(project), "send events of")
        raise unprocessable(
            f"{place}.source",
            f"source {show(name)}: {why} of {project.name}: {known}",
            "unknown-source",
        )
    reason = spark_alone(project, fed[1])
    if reason is not None:
        raise unprocessable(
            place,
            f"events of {name} cannot come with a question: {reason}; publish them instead",
            "spark-alone",
        )
    found = read_events(project, fed, given.get("event"), key, latest)
    if isinstance(found, Fault):
        raise unprocessable(f"{place}.event.{found.field}", found.reason, "wrong-event")
    publish = given.get("publish")
    if publish in (None, False):
        return found
    reason = None if publish is True else f"publish is {show(publish)}: send true or false"
    if publish is True and not publishes:
        reason = "an event is published with a question by REST alone: leave publish out, and publish it"
    elif publish is True and (fed[0].topic is None or fed[0].id is None):
        lacks = "topic" if fed[0].topic is None else "id, by which it would count once,"
        reason = f"source {name!r} has no {lacks} so its events cannot be published with a question"
    if reason is not None:
        raise unprocessable(f"{place}.publish", reason, "wrong-value")
    text = _KEPT.encode(given["event"])
    return [replace(event, message=text if number == 0 else None) for number, event in enumerate(found)]
