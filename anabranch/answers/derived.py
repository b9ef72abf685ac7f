"""Derived features of answers, computed over the keys that are asked together by the project's program.

An answer without a request has NULL for every derived feature that needs one, whatever its defaults are: only
a question has a request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.answers.features import Answer
from anabranch.answers.requests import Asked
from anabranch.declare.projects import Project

Values = Mapping[str, Any]


def asked_values(
    project: Project, asked: Sequence[Asked], stored: Sequence[Answer | None]
) -> Sequence[Values]:
    """What each question adds to its stored features: the request, and derived features over what was given.

    Values that the caller gave for a feature count in the derived features over it.
    """
    if not project.derived_columns and project.request is None:
        return [{}] * len(asked)
    found: list[Values] = [_request(project, one) for one in asked]
    places = [place for place, one in enumerate(asked) if one.features or one.request is not None]
    if not project.derived_columns or not places:
        return found
    program, types = project.program, project.inputs
    columns: dict[str, list[Any]] = {}
    for name in program.reads:
        columns[name] = [_value(types, name, asked[place], stored[place], found[place]) for place in places]
    results = program.run(columns, len(places))
    for row, place in enumerate(places):
        found[place] = {**found[place], **{name: values[row] for name, values in results.items()}}
    return found


def _request(project: Project, asked: Asked) -> Values:
    given = asked.request
    if given is None:
        return {}
    return {one.name: one.type.value(given.get(one.name)) for one in project.request_columns}


def _value(types: Mapping[str, Any], name: str, asked: Asked, stored: Answer | None, request: Values) -> Any:
    if name in asked.features:
        return types[name].value(asked.features[name])
    if name in request:
        return request[name]
    if name in types:
        return None if stored is None else stored.values.get(name)
    return None if asked.key is None else asked.key.get(name)
