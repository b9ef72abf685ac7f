"""The OpenAPI 3.1 document, typed for each project from its declaration, with examples that can be sent as they are."""

from collections.abc import Iterable
from typing import Any

from anabranch.answers.predict import unknown_key
from anabranch.answers.problems import CONTENT_TYPE
from anabranch.answers.requests import MOST_INSTANCES
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.values.types import DataType
from serving.api.catalogue import aggregate_text
from serving.api.openapi_catalogue import CATALOGUE, ENTRY

Schema = dict[str, Any]
_EXAMPLES = {"DOUBLE": 1.5, "FLOAT": 1.5, "STRING": "text", "BOOLEAN": True, "DATE": "2024-05-01", "TIMESTAMP": "2024-05-01T12:00:00Z",
             "DECIMAL": "1.50", "BINARY": "text"}  # fmt: skip
_FORMATS = {"DATE": "date", "TIMESTAMP": "date-time"}
_BITS = {"TINYINT": 8, "SMALLINT": 16, "INT": 32, "BIGINT": 64}


def document(projects: Iterable[Project], *, secured: bool = False) -> dict[str, Any]:
    """The whole document; `secured` when callers need a key or a token."""
    paths: dict[str, Any] = dict(_common())
    for project in projects:
        paths.update(_project(project))
    components: Schema = {"schemas": {"Problem": _PROBLEM}, "responses": {"Problem": _problem_response()}}
    if secured:
        bearer = {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (anb_...) or a token of the issuer",
        }
        components["securitySchemes"] = {
            "bearer": bearer,
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, methods in paths.items():
            for operation in methods.values() if path not in ("/healthz", "/readyz") else ():
                operation["security"] = [{"bearer": []}, {"key": []}]
                operation["responses"] = {
                    **operation["responses"],
                    **{code: {"$ref": "#/components/responses/Problem"} for code in ("401", "403")},
                }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Anabranch",
            "version": "1",
            "description": "Features merged from batch and stream, and scores of the models trained on them. "
            "Every error is application/problem+json and names the field to blame.",
        },
        "paths": paths,
        "components": components,
    }


_PROBLEM: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "description": "Names the kind of problem for programs",
            "examples": ["urn:anabranch:problem:wrong-type"],
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What and which, what was expected, what to do"},
        "field": {
            "type": "string",
            "description": "The field to blame, when one is",
            "examples": ["features.age"],
        },
    },
}


def _problem_response() -> Schema:
    return {
        "description": "What went wrong",
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _unknown(project: Project) -> Schema:
    """The 404 of endpoints that know keys."""
    example = _key_example(project)
    key = example if isinstance(example, dict) else {project.keys[0]: example}
    shown = unknown_key(project, {name: str(value) for name, value in key.items()}).document
    return {
        "description": "No such project, or a key of which nothing is known",
        "content": {CONTENT_TYPE: {"schema": _PROBLEM, "example": shown}},
    }


def value_schema(kind: DataType) -> Schema:
    """JSON Schema of a value of type `kind`."""
    if kind.array:
        return {"type": "array", "items": _nullable(value_schema(kind.inner))}
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


def _nullable(schema: Schema) -> Schema:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


def _operation(
    tag: str, summary: str, answer: Schema, shown: Any, errors: Iterable[int], *, status: int = 200
) -> Schema:
    content: Schema = {"schema": answer} if shown is None else {"schema": answer, "example": shown}
    responses: Schema = {str(status): {"description": "OK", "content": {"application/json": content}}}
    responses.update({str(code): {"$ref": "#/components/responses/Problem"} for code in errors})
    return {"tags": [tag], "summary": summary, "operationId": f"{tag}: {summary}", "responses": responses}


def _body(schema: Schema, **shown: Any) -> Schema:
    """A JSON body with its `example`, or `examples`."""
    return {"required": True, "content": {"application/json": {"schema": schema, **shown}}}


def _common() -> Iterable[tuple[str, Schema]]:
    anything: Schema = {"type": "object"}
    text = {"text/plain": {"schema": {"type": "string"}}}
    yield (
        "/v1/projects",
        {
            "get": _operation(
                "catalogue", "All projects: schemas, features, freshness, addresses", CATALOGUE, None, ()
            )
        },
    )
    yield (
        "/healthz",
        {"get": _operation("server", "Is the process alive?", anything, {"status": "alive"}, ())},
    )
    yield (
        "/readyz",
        {
            "get": _operation(
                "server", "Are store, bus and model there?", anything, {"status": "ready"}, (503,)
            )
        },
    )
    metrics = _operation("server", "Counters for Prometheus", anything, None, ())
    metrics["responses"]["200"]["content"] = text
    yield "/metrics", {"get": metrics}


def _project(project: Project) -> Iterable[tuple[str, Schema]]:
    base, name = f"/v1/projects/{project.name}", project.name
    yield base, {"get": _operation(name, "Its page of the catalogue", ENTRY, None, (404,))}
    features = _operation(
        name, "Stored features of a key, merged as of now", _features_answer(project), None, (404, 422, 503)
    )
    yield f"{base}/features/{{key}}", {"get": {**features, "parameters": [_path_key(project)]}}
    if project.model is not None:
        scores = _operation(
            name,
            "The current row of a key: score, versions, features",
            _scores_answer(project),
            None,
            (404, 422, 503),
        )
        answer: Schema = {"oneOf": [_PREDICTION, _predictions(project)]}
        predict = _operation(
            name,
            "Score a key, features, or both; or up to 1,000 of them",
            answer,
            _PREDICTED,
            (400, 404, 413, 415, 422, 503),
        )
        for operation in (scores, predict):
            operation["responses"]["404"] = _unknown(project)
        yield f"{base}/scores/{{key}}", {"get": {**scores, "parameters": [_path_key(project)]}}
        yield (
            f"{base}/predict",
            {"post": {**predict, "requestBody": _body(_asked(project), examples=_asked_examples(project))}},
        )
    for source in project.sources.values():
        if source.topic is not None:
            taken: Schema = {
                "type": "object",
                "required": ["accepted"],
                "properties": {"accepted": {"type": "integer"}},
            }
            publish = _operation(
                name,
                f"Publish {source.name} events: all of them, or none",
                taken,
                {"accepted": 1},
                (400, 404, 413, 415, 422, 503),
                status=202,
            )
            event = _event(source, project)
            body = _body(
                {"oneOf": [event, {"type": "array", "items": event}]}, example=_event_example(source)
            )
            yield f"{base}/events/{source.name}", {"post": {**publish, "requestBody": body}}


_PREDICTION: Schema = {
    "type": "object",
    "required": ["score", "label", "model_version", "batch_version", "as_of", "degraded"],
    "properties": {
        "score": {
            "type": ["number", "null"],
            "description": "Probability of the label, or the number that the model gives",
        },
        "label": {"description": "The class that the score means; null for a model of numbers"},
        "model_version": {"type": "string"},
        "batch_version": {"type": ["integer", "null"], "description": "Null when no stored feature was read"},
        "as_of": {"type": "string", "format": "date-time"},
        "degraded": {"type": "boolean", "description": "Whether stored features may be wrong"},
        "degraded_reason": {"type": "string", "description": "Only when degraded"},
    },
}
_PREDICTED = {
    "score": 0.83,
    "label": 1,
    "model_version": "3",
    "batch_version": 12,
    "as_of": "2024-05-01T12:00:00Z",
    "degraded": False,
}


def _key_types(project: Project) -> dict[str, DataType]:
    found = {column.name: column.type for source in project.sources.values() for column in source.columns}
    return {name: found[name] for name in project.keys}


def _key(project: Project) -> Schema:
    single = {
        "type": ["string", "number", "boolean"],
        "minLength": 1,
        "description": f"The value of {project.keys[0]}",
    }
    if len(project.keys) == 1:
        return single
    parts = {name: {"type": ["string", "number", "boolean"], "minLength": 1} for name in project.keys}
    return {
        "type": "object",
        "required": list(project.keys),
        "properties": parts,
        "additionalProperties": False,
    }


def _key_example(project: Project) -> Any:
    values = {name: "N14228" if kind.text else example(kind) for name, kind in _key_types(project).items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _path_key(project: Project) -> Schema:
    form = ",".join(f"{name}=VALUE" for name in project.keys)
    single = len(project.keys) == 1
    shown = _key_example(project)
    return {
        "name": "key",
        "in": "path",
        "required": True,
        "description": f"The value of {project.keys[0]}, URL-encoded" if single else f"{form}, URL-encoded",
        "schema": {"type": "string"},
        "example": str(shown) if single else ",".join(f"{name}={value}" for name, value in shown.items()),
    }


def _feature_properties(project: Project) -> Schema:
    found: Schema = {}
    for view in project.views:
        for column in view.columns:
            span = "" if column.window.width is None else f" over {column.window.name}"
            meaning = f"{aggregate_text(view.features[column.feature])} of {view.source.name}{span}"
            found[column.name] = {**_nullable(value_schema(column.type)), "description": meaning}
    return found


def _asked(project: Project) -> Schema:
    given: Schema = {
        "type": "object",
        "description": "Values that win over stored ones; what neither gives is missing",
        "properties": _feature_properties(project),
        "additionalProperties": False,
    }
    # Null is as good as left out, but something must be there.
    keyed: Schema = {"required": ["key"], "properties": {"key": _key(project)}}
    filled: Schema = {
        "required": ["features"],
        "properties": {"features": {"type": "object", "minProperties": 1}},
    }
    one: Schema = {
        "type": "object",
        "description": "A key to read stored features of, features that win over them, or both",
        "properties": {"key": _nullable(_key(project)), "features": _nullable(given)},
        "anyOf": [keyed, filled],
        "additionalProperties": False,
    }
    return {"oneOf": [one, _many("keys", _key(project)), _many("instances", one)]}


def _many(name: str, items: Schema) -> Schema:
    listed: Schema = {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_INSTANCES}
    return {"type": "object", "required": [name], "properties": {name: listed}, "additionalProperties": False}


def _predictions(project: Project) -> Schema:
    """Answers in the order in which they were asked for; of an unknown key the problem that it would be alone."""
    each = {
        **_PREDICTION,
        "required": ["key", *_PREDICTION["required"]],
        "properties": {"key": _shown_key(project), **_PREDICTION["properties"]},
    }
    error: Schema = {**_PROBLEM, "description": "As of a request for this key alone: nothing is known of it"}
    wrong: Schema = {
        "type": "object",
        "required": ["key", "error"],
        "properties": {"key": _shown_key(project), "error": error},
    }
    return {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": {"type": "object", "oneOf": [each, wrong]}}},
    }


def _shown_key(project: Project) -> Schema:
    """A key as answers show it: null where none was asked for."""
    if len(project.keys) == 1:
        return {"type": ["string", "null"]}
    return {"type": ["object", "null"], "properties": {name: {"type": "string"} for name in project.keys}}


def _asked_examples(project: Project) -> Schema:
    """One of each way to ask, which can be sent as they are."""
    kinds, key = {column.name: column.type for column in project.columns}, _key_example(project)
    given: Schema = {"features": {name: example(kinds[name]) for name in project.model_features}}
    return {
        "features": {
            "summary": "Features: what is given is all that is known, and no store is read",
            "value": given,
        },
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


def _features_answer(project: Project) -> Schema:
    shared = {
        name: _PREDICTION["properties"][name]
        for name in ("batch_version", "as_of", "degraded", "degraded_reason")
    }
    values: Schema = {"type": "object", "properties": _feature_properties(project)}
    known: Schema = {
        "type": "boolean",
        "description": "Whether anything is known of the key: else these are the features of no events",
    }
    members = {"key": _shown_key(project), "features": values, "known": known, **shared}
    return {
        "type": "object",
        "required": ["key", "features", "known", "as_of", "degraded"],
        "properties": members,
    }


def _scores_answer(project: Project) -> Schema:
    moment: Schema = {"type": ["string", "null"], "format": "date-time"}
    versions: Schema = {
        "model_version": {"type": ["string", "null"]},
        "batch_version": {"type": ["integer", "null"]},
        "as_of": moment,
    }
    layer: Schema = {
        "type": ["string", "null"],
        "description": "Which channel wrote the row last: batch or speed",
    }
    degraded = _PREDICTION["properties"]["degraded"]
    scored: Schema = {
        "score": _PREDICTION["properties"]["score"],
        "label": {"type": ["string", "null"]},
        **versions,
        "layer": layer,
        "degraded": degraded,
    }
    values: Schema = {"type": "object", "properties": _feature_properties(project)}
    shown = {
        "key": _shown_key(project),
        **scored,
        "degraded_reason": _PREDICTION["properties"]["degraded_reason"],
        "features": values,
    }
    return {"type": "object", "required": ["key", *scored, "features"], "properties": shown}


def _event(source: Source, project: Project) -> Schema:
    keys = {name for view in project.views_of(source.name) for name in view.keys}
    needed = [
        column.name
        for column in source.columns
        if column.name in {source.id, source.time} or keys == {column.name}
    ]
    properties = {column.name: _event_value(column.type, column.name in needed) for column in source.columns}
    return {"type": "object", "description": source.description, "required": needed, "properties": properties}


def _event_value(kind: DataType, needed: bool) -> Schema:
    """As landing takes it: a value may also come as text that reads as its type, and any single value is a text."""
    if kind.text:
        found: Schema = {"type": ["string", "number", "boolean"], "minLength": 1 if needed else 0}
    elif kind.name in _FORMATS:
        found = value_schema(kind)
    else:
        found = {
            "type": [
                "string",
                *({"boolean": ["boolean", "number"]}.get(value_schema(kind)["type"], ["number"])),
            ],
            "description": f"A {kind}",
        }
    return found if needed else _nullable(found)


def _event_example(source: Source) -> Schema:
    return {
        column.name: f"{column.name}-1" if column.type.text else example(column.type)
        for column in source.columns
    }
