"""The features of a key after events that are given as dicts, by the plain definition of every aggregate."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.typed_rows import typed
from anabranch.testing import oracle
from anabranch.testing.rows import GivenEvents, asked_key, events_of, moment, read_events, shown
from anabranch.values.keys import SEPARATOR
from anabranch.values.names import listed


def fold(
    project: Project,
    events: Sequence[Mapping[str, Any]],
    key: Mapping[str, Any],
    at: str | datetime,
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The features of `key` at `at` after `events`: what the law says every layer answers.

    An event is a dict of its source's columns and ``"source"``, the source's name (``"owner.source"`` for the
    events of a shared view); times are ISO 8601 texts or datetimes, without a zone UTC. Events arrive in the
    order of the list; of one id the first counts. With ``"_arrival"`` in each of them they arrive then, and
    those that arrive at `at` or later are not known yet. Events that landing would send to quarantine do not
    count. The result has every feature column in order: a TIMESTAMP is a datetime in UTC, a DATE a date, a
    DECIMAL with a fraction a Decimal, NULL is None. Derived features over the request are None without one.

    Raises MisuseError for a key, an event or a request that does not fit the project, and for an expression
    that cannot be evaluated without Spark.
    """
    asked, now = asked_key(project, key), moment(at, "at")
    given = known_at(read_events(project, events), now)
    values: dict[str, Any] = {}
    for view in project.views:
        mine = events_of(view, given.used[view.feed])
        text = SEPARATOR.join(asked[name] for name in view.asked)
        values |= oracle.answer(view, mine, text, now)
    if project.derived_columns:
        values |= derived_values(project, values, asked, request)
    elif request is not None:
        _request(project, request)
    return {column.name: shown(column.type, values[column.name]) for column in project.columns}


def known_at(given: GivenEvents, at: int) -> GivenEvents:
    """The events that have arrived before `at`; all of them when they do not say when they arrive."""
    if not given.timed:
        return given
    used = {name: [event for event in events if event.arrival < at] for name, events in given.used.items()}
    return GivenEvents(used, given.refused, given.timed)


def derived_values(
    project: Project,
    values: Mapping[str, Any],
    key: Mapping[str, str],
    request: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The derived features from those of views and the texts of the key; of the request None without one."""
    asked = {} if request is None else _request(project, request)
    program = project.program_without_request if request is None else project.program
    known = {**key, **values, **asked}
    found = program.run({name: [known[name]] for name in program.reads}, 1)
    return {column.name: found.get(column.name, [None])[0] for column in project.derived_columns}


def _request(project: Project, request: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the request's columns; raises MisuseError for others than the project declares."""
    columns = {column.name: column for column in project.request_columns}
    unknown = [name for name in request if name not in columns]
    missing = [name for name, column in columns.items() if column.required and name not in request]
    if unknown or missing:
        which = f"has {unknown[0]!r}, which is no column of it" if unknown else f"lacks {missing[0]!r}"
        known = listed("".join(unknown[:1]), columns)
        raise MisuseError(f"the request of project {project.name!r} {which}: {known}")
    found: dict[str, Any] = {}
    for name, column in columns.items():
        value = request.get(name, column.default)
        fault = None if value is None else column.type.fault(value)
        if fault is not None:
            raise MisuseError(f"request.{name}: {fault}")
        found[name] = typed(column.type, value)
    return found
