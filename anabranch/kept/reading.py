"""Declarations from the text that `written` made: the same objects, checked as when they were declared."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

from anabranch.aggregates.base import Aggregate
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.wire_formats import schemas_as_kept
from anabranch.errors import DeclarationError
from anabranch.kept.classes import FORMAT, IS, MAP, SOURCE, TUPLE, class_of


@lru_cache(maxsize=256)
def read(text: str) -> Project:
    """The declaration that was kept as `text`, without its examples.

    Views of other projects are those that the project was built with. Raises DeclarationError for a class,
    type, window or format that is registered no more, and for a text of a later version of Anabranch.
    """
    try:
        found = json.loads(text)
        form, listed, described = found["format"], found["sources"], found["project"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeclarationError(f"the declaration that was kept cannot be read: {error}") from error
    if form != FORMAT:
        raise DeclarationError(
            f"the declaration that was kept has format {form!r}, and this version of Anabranch reads "
            f"{FORMAT}: use the version that built it"
        )
    with schemas_as_kept():
        sources = [_made(Source, one, ()) for one in listed]
        project = _data(described, sources)
    if not isinstance(project, Project):
        raise DeclarationError("the declaration that was kept is no project")
    return project


def _data(value: Any, sources: list[Any]) -> Any:
    if isinstance(value, list):
        return [_data(one, sources) for one in value]
    if not isinstance(value, dict):
        return value
    if IS in value:
        kind = class_of(value[IS])
        return _made(kind, {name: one for name, one in value.items() if name != IS}, sources)
    ((name, inner),) = value.items()
    if name == SOURCE:
        return sources[inner]
    if name == TUPLE:
        return tuple(_data(one, sources) for one in inner)
    if name == MAP:
        return {_data(key, sources): _data(one, sources) for key, one in inner}
    return float(inner)


def _made(kind: type[Any], described: Mapping[str, Any], sources: Any) -> Any:
    given = {name: _data(value, sources) for name, value in described.items()}
    unknown = given.keys() - {one.name for one in fields(kind)}
    if unknown:
        raise DeclarationError(
            f"the declaration that was kept gives {kind.__name__} {sorted(unknown)[0]!r}, which it does not "
            "have here: use the version of Anabranch, or of the class, that it was built with"
        )
    if not issubclass(kind, Aggregate):
        try:
            return kind(**given)
        except TypeError as error:
            raise DeclarationError(f"the declaration that was kept cannot be read: {error}") from error
    # The parameters of an aggregate's constructor need not be named as its fields are.
    one: Any = object.__new__(kind)
    for each in fields(kind):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        object.__setattr__(one, each.name, given.get(each.name, default))
    return one
