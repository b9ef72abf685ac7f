"""The OpenAPI 3.1 document of a route table, typed for each project from its declaration.

Its examples can be sent as they are.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from anabranch.answers.own_requests import MOST_EVENTS
from anabranch.answers.predict import unknown_key
from anabranch.answers.problems import CONTENT_TYPE
from anabranch.answers.requests import MOST_INSTANCES
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.event_schemas import event_example, event_schema
from anabranch.events.own_events import known_sources
from anabranch.values.types import nullable
from serving.api.bodies import DECLARED, KEY_ANSWERS, ProblemBody
from serving.api.catalogue import addresses_schema, aggregate_text
from serving.api.routing import ErrorForm, Route, listed

Schema = dict[str, Any]
_SINGLE_VALUE = {"type": ["string", "number", "boolean"], "minLength": 1}
Parts = Mapping[str, Any]
"""Schemas, or tuples of types, of the parts that serving/api/bodies.py marks."""
_NULL = {"type": "null"}
_ABOUT = (
    "Features merged from batch and stream, and scores of the models trained on them. "
    "Errors are application/problem+json and name the field to blame, except where another protocol has its "
    "own form."
)


class Declared:
    """The parts of bodies that a declaration types; `source` is that of the published events."""

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
        parts["own_events"] = self._own_events()
        parts["row"] = self._row()
        if self.project.request is not None:
            parts["request"] = self._request()
        return parts if self.source is None else {**parts, "event": event_schema(self.source, self.project)}

    def parameter(self, name: str) -> Schema:
        """A parameter of a path."""
        if name == "version":
            return _parameter(name, "A version that serves", "3")
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
        types = self.project.key_types
        values = {name: "N14228" if types[name].text else types[name].example for name in self.project.keys}
        return next(iter(values.values())) if len(values) == 1 else values

    @property
    def unknown_key(self) -> Schema:
        """The problem with a key of which nothing is known."""
        shown = self.key_example
        key = shown if isinstance(shown, dict) else {self.project.keys[0]: shown}
        return unknown_key(self.project, {name: str(value) for name, value in key.items()}).document

    @property
    def row_example(self) -> dict[str, Any]:
        """A row with all that the model reads, and the columns of the request."""
        types, own = self.project.inputs, [column.name for column in self.project.request_columns]
        return {name: types[name].example for name in dict.fromkeys((*self.project.model_features, *own))}

    def predict_examples(self) -> Schema:
        """One of each way to ask for predictions, which can be sent as they are."""
        types, key = self.project.inputs, self.key_example
        own = {column.name for column in self.project.request_columns}
        given: Schema = {
            "features": {name: value for name, value in self.row_example.items() if name not in own}
        }
        asked: Schema = {"request": {name: types[name].example for name in own}} if own else {}
        given |= asked
        several = {"summary": f"Up to {MOST_INSTANCES:,} keys", "value": {"keys": [key]}}
        return {
            "features": {"summary": "Features: only these are used, and no store is read", "value": given},
            "key": {
                "summary": "A key that has events: its stored features; given ones win over them",
                "value": {"key": key, **asked},
            },
            "explain": {
                "summary": "What each feature contributed to the score",
                "value": {**given, "explain": True},
            },
            **({} if own else {"keys": several}),
            "instances": {
                "summary": f"Up to {MOST_INSTANCES:,} keys, features, or both",
                "value": {"instances": [{"key": key, **asked}, given]},
            },
        }

    def event_examples(self) -> Schema:
        """An event of the source."""
        event = {} if self.source is None else event_example(self.source)
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
        features: Schema = {}
        for view in self.project.views:
            for column in view.columns:
                span = f" over {column.window.name}" if column.window.bounded else ""
                meaning = f"{aggregate_text(view, column)} of {view.feed}{span}"
                features[column.name] = {**nullable(column.type.json_schema), "description": meaning}
        for derived in self.project.derived_columns:
            meaning = f"Derived: {derived.text}"
            features[derived.name] = {**nullable(derived.type.json_schema), "description": meaning}
        return features

    def _row(self) -> Schema:
        """A row of a table: columns of the key, features, columns of the request."""
        names = self.project.keys
        request = {column.name: nullable(column.type.json_schema) for column in self.project.request_columns}
        keys = {name: nullable(_SINGLE_VALUE) for name in names}
        return {
            "type": "object",
            "description": f"With {' and '.join(names)} stored features are read, and features that the row "
            "has win over them, null ones too; without, its features alone are scored",
            "properties": {**self._features(), **request, **keys},
            "additionalProperties": False,
        }

    def _own_events(self) -> Schema:
        """One event, or an array of such."""
        one: Schema = {
            "required": ["source", "event"],
            "properties": {
                "source": {"type": "string", "enum": list(known_sources(self.project))},
                "event": {"type": "object", "description": "As it is published"},
                "publish": {"type": ["boolean", "null"], "description": "Publish it too, under its id"},
            },
            "additionalProperties": False,
        }
        return {
            "type": ["object", "array"],
            "description": "An event of the key, or several, that count as if they had arrived now",
            **one,
            "items": {"type": "object", **one},
            "minItems": 1,
            "maxItems": MOST_EVENTS,
        }

    def _request(self) -> Schema:
        columns = self.project.request_columns
        return {
            "type": "object",
            "description": "Columns that only the caller knows; null where one is not known",
            "required": [column.name for column in columns if column.required],
            "properties": {column.name: nullable(column.type.json_schema) for column in columns},
            "additionalProperties": False,
        }


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


def _query(name: str, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}


def document(projects: Iterable[Project], routes: Iterable[Route], *, secured: bool = False) -> Schema:
    """The whole document; `secured` when callers need a key or a token."""
    routes = tuple(routes)
    shared: Parts = {"addresses": addresses_schema(routes), "key_answer": KEY_ANSWERS}
    paths: Schema = {}
    shown = list(projects)
    for route in routes:
        if route.response is not None and "project" not in route.parameters and not route.only:
            _list(paths, route, route.path, _operation(route, shared, route.tag, secured))
    modelled = [project for project in shown if project.model is not None]
    for route in routes if len(modelled) == 1 else ():
        if route.only:
            declared = Declared(modelled[0])
            operation = _operation(route, {**shared, **declared.parts}, route.tag, secured, declared)
            _list(paths, route, route.path, operation)
    for project in shown:
        for route in listed(routes, project):
            for declared in _cases(route, project):
                source = {} if declared.source is None else {"source": declared.source.name}
                _list(
                    paths,
                    route,
                    route.address(project=project.name, **source),
                    _operation(route, {**shared, **declared.parts}, project.name, secured, declared),
                )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Anabranch", "version": "1", "description": _ABOUT},
        "paths": paths,
        "components": _components({route.errors.name: route.errors for route in routes}.values(), secured),
    }


def schema(body: Any, parts: Parts) -> Schema:
    """The JSON schema of a type, or of one of several in a tuple; marked parts are taken from `parts`."""
    if isinstance(body, tuple):
        return schema(body[0], parts) if len(body) == 1 else {"oneOf": [schema(one, parts) for one in body]}
    (reference,), components = msgspec.json.schema_components((body,), ref_template="{name}")
    inlined: Schema = _inlined(reference, components, parts)
    return inlined


def _inlined(node: Any, components: Schema, parts: Parts) -> Any:
    """A schema without references; null is one of a value's types instead of one of its choices."""
    if isinstance(node, list):
        return [_inlined(one, components, parts) for one in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        node = {**components[node["$ref"]], **{name: one for name, one in node.items() if name != "$ref"}}
    values = node.get("enum")
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        node = {"type": "string", **node}
    choices = node.get("anyOf", ())
    rest = {name: one for name, one in node.items() if not (name == "default" and one is None)}
    if DECLARED in node:
        part = parts[node[DECLARED]]
        about = {"description": node["description"]} if "description" in node else {}
        whole = {**(schema(part, parts) if isinstance(part, tuple) else part), **about}
        return nullable(whole) if _NULL in choices else whole
    if _NULL in choices and len(choices) == 2:
        (only,) = (choice for choice in choices if choice != _NULL)
        del rest["anyOf"]
        return {**nullable(_inlined(only, components, parts)), **_inlined(rest, components, parts)}
    # A project without a request has no member for it.
    return {
        name: _inlined(one, components, parts)
        for name, one in rest.items()
        if not (isinstance(one, dict) and isinstance(one.get(DECLARED), str) and one[DECLARED] not in parts)
    }


def _cases(route: Route, project: Project) -> list[Declared]:
    """A route that names a source is listed for every source that has a topic."""
    if "source" not in route.parameters:
        return [Declared(project)]
    return [Declared(project, source) for source in project.sources.values() if source.topic is not None]


def _list(paths: Schema, route: Route, address: str, operation: Schema) -> None:
    paths.setdefault(address, {})[route.method.lower()] = operation


def _operation(
    route: Route, parts: Parts, tag: str, secured: bool, declared: Declared | None = None
) -> Schema:
    source = declared.source.name if declared is not None and declared.source is not None else ""
    summary = route.summary.format(source=source)
    operation: Schema = {"tags": [tag], "summary": summary, "operationId": f"{tag}: {summary}"}
    named = [name for name in route.parameters if name not in ("project", "source")]
    parameters = [] if declared is None else [declared.parameter(name) for name in named]
    parameters += [_query(name, meaning) for name, meaning in route.query.items()]
    if parameters:
        operation["parameters"] = parameters
    if route.request:
        shown = {} if route.examples is None or declared is None else {"examples": route.examples(declared)}
        content = {"application/json": {"schema": schema(route.request, parts), **shown}}
        content |= {media: {"schema": {"type": "string"}} for media in route.further}
        operation["requestBody"] = {"required": True, "content": content}
    if isinstance(route.response, str):
        answer: Schema = {route.response: {"schema": {"type": "string"}}}
    else:
        shown = {} if route.example is None else {"example": msgspec.to_builtins(route.example)}
        answer = {"application/json": {"schema": schema(route.response, parts), **shown}}
    guarded = secured and route.right is not None
    # Any path with parameters may be no UTF-8, and any request have a parameter that is not declared.
    codes = sorted(
        {*route.problems, 422, *((400,) if route.parameters else ()), *((401, 403) if guarded else ())}
    )
    responses: Schema = {str(route.status): {"description": "OK", "content": answer}}
    problem = {"$ref": f"#/components/responses/{route.errors.name}"}
    responses.update({str(code): problem for code in codes})
    if route.unknown_key and declared is not None:
        unknown = {"schema": schema(ProblemBody, {}), "example": declared.unknown_key}
        about = "No such project, or a key of which nothing is known"
        responses["404"] = {"description": about, "content": {CONTENT_TYPE: unknown}}
    operation["responses"] = responses
    return {**operation, "security": [{"bearer": []}, {"key": []}]} if guarded else operation


def _components(forms: Iterable[ErrorForm], secured: bool) -> Schema:
    components: Schema = {"schemas": {}, "responses": {}}
    for form in forms:
        reference = {"schema": {"$ref": f"#/components/schemas/{form.name}"}}
        components["schemas"][form.name] = schema(form.body, {})
        components["responses"][form.name] = {
            "description": "What went wrong",
            "content": {form.media: reference},
        }
    if secured:
        about = "An API key (anb_...) or a token of the issuer"
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": about},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return components
