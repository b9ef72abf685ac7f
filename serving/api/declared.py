"""Schemas and examples of what a project's declaration types: its key, its features, its events."""

from typing import Any

from anabranch.answers.predict import unknown_key
from anabranch.answers.requests import MOST_INSTANCES
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.values.types import DataType
from serving.api.catalogue import aggregate_text

Schema = dict[str, Any]
_EXAMPLES = {"DOUBLE": 1.5, "FLOAT": 1.5, "STRING": "text", "BOOLEAN": True, "DATE": "2024-05-01", "TIMESTAMP": "2024-05-01T12:00:00Z",
             "DECIMAL": "1.50", "BINARY": "text"}  # fmt: skip
_FORMATS = {"DATE": "date", "TIMESTAMP": "date-time"}
_BITS = {"TINYINT": 8, "SMALLINT": 16, "INT": 32, "BIGINT": 64}
_SINGLE_VALUE = {"type": ["string", "number", "boolean"], "minLength": 1}


class Declared:
    """What a project types in requests and responses; `source` is the one whose events are meant."""

    def __init__(self, project: Project, source: Source | None = None) -> None:
        self.project, self.source = project, source

    @property
    def parts(self) -> dict[str, Schema]:
        """The schemas by the names that serving/api/bodies.py marks them with."""
        features = {"type": "object", "properties": self._features()}
        given = {
            **features,
            "description": "Values that win over stored ones; what neither gives is missing",
            "additionalProperties": False,
        }
        parts = {
            "key": self._key(),
            "shown_key": self._shown_key(),
            "features": features,
            "given_features": given,
        }
        return parts if self.source is None else {**parts, "event": _event(self.source, self.project)}

    def parameter(self, name: str) -> Schema:
        """A parameter of a path."""
        if name != "key":
            return _parameter(name, name, name)
        keys, shown = self.project.keys, self.key_example
        if len(keys) == 1:
            return _parameter(name, f"The value of {keys[0]}, URL-encoded", str(shown))
        form = ",".join(f"{part}=VALUE" for part in keys)
        return _parameter(
            name, f"{form}, URL-encoded", ",".join(f"{part}={value}" for part, value in shown.items())
        )

    @property
    def key_example(self) -> Any:
        """A key as requests write it."""
        columns = {c.name: c.type for source in self.project.sources.values() for c in source.columns}
        values = {name: example(columns[name]) for name in self.project.keys}
        values = {name: "N14228" if columns[name].text else value for name, value in values.items()}
        return next(iter(values.values())) if len(values) == 1 else values

    @property
    def unknown_key(self) -> Schema:
        """The problem with a key of which nothing is known."""
        shown = self.key_example
        key = shown if isinstance(shown, dict) else {self.project.keys[0]: shown}
        return unknown_key(self.project, {name: str(value) for name, value in key.items()}).document

    def predict_examples(self) -> Schema:
        """One of each way to ask for predictions, which can be sent as they are."""
        columns, key = {column.name: column.type for column in self.project.columns}, self.key_example
        given: Schema = {"features": {name: example(columns[name]) for name in self.project.model_features}}
        return {
            "features": {"summary": "Features: only these are used, and no store is read", "value": given},
            "key": {
                "summary": "A key that has events: its stored features; given ones win over them",
                "value": {"key": key},
            },
            "keys": {"summary": f"Up to {MOST_INSTANCES:,} keys", "value": {"keys": [key]}},
            "instances": {
                "summary": f"Up to {MOST_INSTANCES:,} keys, features, or both",
                "value": {"instances": [{"key": key}, given]},
            },
        }

    def event_examples(self) -> Schema:
        """An event of the source."""
        columns = () if self.source is None else self.source.columns
        event = {c.name: f"{c.name}-1" if c.type.text else example(c.type) for c in columns}
        return {"event": {"summary": "One event", "value": event}}

    def _key(self) -> Schema:
        names = self.project.keys
        if len(names) == 1:
            return {**_SINGLE_VALUE, "description": f"The value of {names[0]}"}
        return {
            "type": "object",
            "required": list(names),
            "properties": dict.fromkeys(names, _SINGLE_VALUE),
            "additionalProperties": False,
        }

    def _shown_key(self) -> Schema:
        if len(self.project.keys) == 1:
            return {"type": "string"}
        return {"type": "object", "properties": {name: {"type": "string"} for name in self.project.keys}}

    def _features(self) -> Schema:
        found: Schema = {}
        for view in self.project.views:
            for column in view.columns:
                span = "" if column.window.width is None else f" over {column.window.name}"
                meaning = f"{aggregate_text(view.features[column.feature])} of {view.source.name}{span}"
                found[column.name] = {**nullable(value_schema(column.type)), "description": meaning}
        return found


def value_schema(kind: DataType) -> Schema:
    """JSON Schema of a value of type `kind`."""
    if kind.array:
        return {"type": "array", "items": nullable(value_schema(kind.inner))}
    if kind.integral:
        edge = 1 << (_BITS[kind.name] - 1)
        return {"type": "integer", "minimum": -edge, "maximum": edge - 1}
    if kind.name == "DECIMAL":
        return {"type": ["number", "string"], "description": str(kind)}
    if kind.numeric or kind.name == "BOOLEAN":
        return {"type": "number" if kind.numeric else "boolean"}
    return {"type": "string", **({"format": _FORMATS[kind.name]} if kind.name in _FORMATS else {})}


def example(kind: DataType) -> Any:
    """A value of type `kind`."""
    if kind.array:
        return [example(kind.inner)]
    return 1 if kind.integral else _EXAMPLES[kind.name]


def nullable(schema: Schema) -> Schema:
    """The schema with null as a further value."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **values, "type": [*kinds, "null"]}


def _parameter(name: str, description: str, shown: str) -> Schema:
    text = {"type": "string"}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": text,
        "example": shown,
    }


def _event(source: Source, project: Project) -> Schema:
    keys = {name for view in project.views_of(source.name) for name in view.keys}
    needed = [c.name for c in source.columns if c.name in {source.id, source.time} or keys == {c.name}]
    properties = {c.name: _event_value(c.type, c.name in needed) for c in source.columns}
    return {"type": "object", "description": source.description, "required": needed, "properties": properties}


def _event_value(kind: DataType, needed: bool) -> Schema:
    """A value in an event: it may also come as a text that reads as its type, and any single value is a text."""
    if kind.text:
        found: Schema = {"type": ["string", "number", "boolean"], "minLength": 1 if needed else 0}
    elif kind.name in _FORMATS:
        found = value_schema(kind)
    else:
        further = ["boolean", "number"] if kind.name == "BOOLEAN" else ["number"]
        found = {"type": ["string", *further], "description": f"A {kind}"}
    return found if needed else nullable(found)
