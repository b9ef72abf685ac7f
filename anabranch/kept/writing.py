"""A declaration as JSON: plain data, whatever reads it runs no code of an author's.

    {"format": 1, "sources": [{...}], "project": {"is": "Project", "name": "card_fraud", "views": ..., ...}}

An object is its class's name and all of its fields, with their defaults, so that a later default changes
nothing that was kept. A source is written once, and named by its position where it is used. JSON has neither
tuples nor mappings whose keys are no texts: ``{"tuple": [...]}`` and ``{"map": [[key, value], ...]}``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import DeclarationError
from anabranch.kept.classes import FORMAT, IS, MAP, NOT_KEPT, SOURCE, TUPLE, name_of


def written(project: Project) -> str:
    """The text of a declaration, alike for equal ones. Examples are left out: no answer depends on them.

    Raises DeclarationError for a value that is no data, such as a function among a model's parameters.
    """
    sources: list[Source] = []
    described = _object(project, sources, f"project {project.name!r}")
    listed = [_fields(one, sources, f"source {one.name!r}") for one in sources]
    return json.dumps({"format": FORMAT, "sources": listed, "project": described}, ensure_ascii=False)


def _object(value: object, sources: list[Source], place: str) -> dict[str, object]:
    name = name_of(type(value))
    if name is None:
        raise DeclarationError(
            f"{place}: {value!r} cannot be kept with a batch version: "
            "give a text, a number, a list or a mapping"
        )
    return {IS: name, **_fields(value, sources, place)}


def _fields(value: Any, sources: list[Source], place: str) -> dict[str, object]:
    return {
        one.name: _data(getattr(value, one.name), sources, f"{place}, {one.name}")
        for one in fields(value)
        if not (isinstance(value, Project) and one.name in NOT_KEPT)
    }


def _data(value: object, sources: list[Source], place: str) -> object:
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Source):
        if value not in sources:
            sources.append(value)
        return {SOURCE: sources.index(value)}
    if isinstance(value, list):
        return [_data(one, sources, place) for one in value]
    if type(value) is tuple:
        return {TUPLE: [_data(one, sources, place) for one in value]}
    if isinstance(value, Mapping):
        pairs = [[_data(name, sources, place), _data(one, sources, place)] for name, one in value.items()]
        return {MAP: pairs}
    return _object(value, sources, place)
