"""Schemas and examples of events: where a source has paths, of its nested messages."""

from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.values.paths import Path
from anabranch.values.types import DataType, nullable

Schema = dict[str, Any]
_ITEM = -1
"""The step to the one item of an array that a source explodes, or to any item of another array."""


def event_schema(source: Source, project: Project) -> Schema:
    """JSON Schema of a message of the source."""
    keys = {name for view in project.views_of(source.name) for name in view.keys}
    needed = [c.name for c in source.columns if c.name in {source.id, source.time} or keys == {c.name}]
    root: Schema = {}
    for column, path in source.nesting.paths:
        _place(root, _steps(source, path), _value(column.type, column.name in needed))
    at_root = [
        str(path[0]) for column, path in source.nesting.paths if column.name in needed and len(path) == 1
    ]
    _close(root)
    return {
        "type": "object",
        "description": source.description,
        "required": at_root,
        "properties": root["properties"],
    }


def event_example(source: Source) -> Any:
    """A message of the source that can be sent as it is."""
    root: Any = {}
    for column, path in sorted(source.nesting.paths, key=lambda pair: -len(pair[1])):
        example = f"{column.name}-1" if column.type.text else column.type.example
        root = _with(root, _steps(source, path), example)
    return {str(path[0]): root[path[0]] for _, path in source.nesting.paths}


def _steps(source: Source, path: Path) -> Path:
    explode = source.nesting.explode
    if explode is not None and path[: len(explode)] == explode:
        return (*explode, _ITEM, *path[len(explode) :])
    return path


def _value(kind: DataType, needed: bool) -> Schema:
    """A value in an event: also a text that reads as its type; a text may be any single value."""
    value = {**kind.event_schema, **({"minLength": 1 if needed else 0} if kind.text else {})}
    return value if needed else nullable(value)


def _place(root: Schema, path: Path, value: Schema) -> None:
    here = root
    for step in path:
        if isinstance(step, str):
            here = here.setdefault("properties", {}).setdefault(step, {})
        else:
            here = here.setdefault("items", {})
    if not here:  # a text that other columns are taken from is described by them
        here.update(value)


def _close(schema: Schema) -> None:
    """Give types to the objects and arrays on the way to columns."""
    for part in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        _close(part)
    if "type" not in schema:
        schema["type"] = ["object" if "properties" in schema else "array", "null"]


def _with(whole: Any, path: Path, value: object) -> Any:
    """`whole` with the value at the path; what is there already stays."""
    if not path:
        return value if whole in (None, {}) else whole
    step, *rest = path
    if isinstance(step, str):
        found = whole if isinstance(whole, dict) else {}
        return {**found, step: _with(found.get(step), tuple(rest), value)}
    items = list(whole) if isinstance(whole, list) else []
    place = max(step, 0)
    items += [None] * (place + 1 - len(items))
    items[place] = _with(items[place], tuple(rest), value)
    return items
