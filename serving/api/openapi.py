"""The OpenAPI 3.1 document of a route table, typed for each project from its declaration, with examples that can be sent as they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from anabranch.answers.problems import CONTENT_TYPE
from anabranch.declare.projects import Project
from serving.api.bodies import DECLARED, KEY_ANSWERS, ProblemBody
from serving.api.catalogue import addresses_schema
from serving.api.declared import Declared, Schema, nullable
from serving.api.routing import Route, listed

Parts = Mapping[str, Any]
"""What stands for the parts that serving/api/bodies.py marks: schemas, or tuples of types."""
_NULL = {"type": "null"}
_PROBLEM = {"$ref": "#/components/responses/Problem"}
_ABOUT = (
    "Features merged from batch and stream, and scores of the models trained on them. "
    "Every error is application/problem+json and names the field to blame."
)


def document(projects: Iterable[Project], routes: Iterable[Route], *, secured: bool = False) -> Schema:
    """The whole document; `secured` when callers need a key or a token."""
    routes = tuple(routes)
    shared: Parts = {"addresses": addresses_schema(routes), "key_answer": KEY_ANSWERS}
    paths: Schema = {}
    for route in routes:
        if route.response is not None and "project" not in route.parameters:
            _list(paths, route, route.path, _operation(route, shared, route.tag, secured))
    for project in projects:
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
        "components": _components(secured),
    }


def schema(body: Any, parts: Parts) -> Schema:
    """The JSON schema of a type (of one of several, where it is a tuple), whose marked parts are those of `parts`."""
    if isinstance(body, tuple):
        return schema(body[0], parts) if len(body) == 1 else {"oneOf": [schema(one, parts) for one in body]}
    (found,), components = msgspec.json.schema_components((body,), ref_template="{name}")
    inlined: Schema = _inlined(found, components, parts)
    return inlined


def _inlined(node: Any, components: Schema, parts: Parts) -> Any:
    """A schema without references; a value that may be null has null among its types, instead of among its choices."""
    if isinstance(node, list):
        return [_inlined(one, components, parts) for one in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        node = {**components[node["$ref"]], **{name: one for name, one in node.items() if name != "$ref"}}
    if isinstance(node.get("enum"), list):
        node = {"type": "string", **node}
    choices = node.get("anyOf", ())
    rest = {name: one for name, one in node.items() if not (name == "default" and one is None)}
    if DECLARED in node:
        part = parts[node[DECLARED]]
        about = {"description": node["description"]} if "description" in node else {}
        found = {**(schema(part, parts) if isinstance(part, tuple) else part), **about}
        return nullable(found) if _NULL in choices else found
    if _NULL in choices and len(choices) == 2:
        (only,) = (choice for choice in choices if choice != _NULL)
        del rest["anyOf"]
        return {**nullable(_inlined(only, components, parts)), **_inlined(rest, components, parts)}
    return {name: _inlined(one, components, parts) for name, one in rest.items()}


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
    if named and declared is not None:
        operation["parameters"] = [declared.parameter(name) for name in named]
    if route.request:
        shown = {} if route.examples is None or declared is None else {"examples": route.examples(declared)}
        content = {"schema": schema(route.request, parts), **shown}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if isinstance(route.response, str):
        answer: Schema = {route.response: {"schema": {"type": "string"}}}
    else:
        shown = {} if route.example is None else {"example": msgspec.to_builtins(route.example)}
        answer = {"application/json": {"schema": schema(route.response, parts), **shown}}
    guarded = secured and route.right is not None
    codes = sorted({*route.problems, *((401, 403) if guarded else ())})
    responses: Schema = {str(route.status): {"description": "OK", "content": answer}}
    responses.update({str(code): _PROBLEM for code in codes})
    if route.unknown_key and declared is not None:
        problem = {"schema": schema(ProblemBody, {}), "example": declared.unknown_key}
        about = "No such project, or a key of which nothing is known"
        responses["404"] = {"description": about, "content": {CONTENT_TYPE: problem}}
    operation["responses"] = responses
    return {**operation, "security": [{"bearer": []}, {"key": []}]} if guarded else operation


def _components(secured: bool) -> Schema:
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    found: Schema = {
        "schemas": {"Problem": schema(ProblemBody, {})},
        "responses": {"Problem": {"description": "What went wrong", "content": {CONTENT_TYPE: reference}}},
    }
    if secured:
        about = "An API key (anb_...) or a token of the issuer"
        found["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": about},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return found
