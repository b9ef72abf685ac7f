"""The page at /docs: the OpenAPI document for people, with a form for each operation, in one HTML file."""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.pages.formats import indented_json
from anabranch.pages.rendering import render

Schema = Mapping[str, Any]


def docs(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    return render(
        "docs.html",
        info=document["info"],
        groups=[{"name": name, "operations": operations} for name, operations in groups.items()],
        secured="securitySchemes" in document["components"],
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody")
    responses = operation["responses"].items()
    contents = [
        (status, next(iter(response.get("content", {}).values()), None)) for status, response in responses
    ]
    return {
        "path": path,
        "method": method.upper(),
        "summary": operation["summary"],
        "parameters": operation.get("parameters", ()),
        "request": None if body is None else _content(body["content"]["application/json"]),
        "answers": [
            {"status": status, **_content(content)} for status, content in contents if content is not None
        ],
        "problems": [status for status, response in responses if "$ref" in response],
    }


def _content(content: dict[str, Any]) -> dict[str, Any]:
    return {"schema": _layout(content["schema"]), "examples": _examples(content)}


def _examples(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Summaries and values of the examples; a single example has no summary."""
    if "example" in content:
        return [("", indented_json(content["example"]))]
    return [(one["summary"], indented_json(one["value"])) for one in content.get("examples", {}).values()]


def _layout(schema: Schema, known: Sequence[Schema] = ()) -> dict[str, Any]:
    """A schema as nested lists of members; a schema in `known` is not laid out again."""
    if schema in known:
        return {"repeated": True}
    if "oneOf" in schema:
        choices = schema["oneOf"]
        found = [
            {
                "kind": _kind(choice),
                "description": choice.get("description", ""),
                "schema": _layout(choice, [*known, *choices[:place]]),
            }
            for place, choice in enumerate(choices)
        ]
        return {"repeated": False, "choices": found}
    if schema.get("type") == "array":
        return _layout(schema.get("items", {}), known)
    required = set(schema.get("required", ()))
    members = [
        {
            "name": name,
            "kind": _kind(member),
            "optional": bool(required) and name not in required,
            "description": member.get("description", ""),
            "schema": _layout(member, known),
        }
        for name, member in schema.get("properties", {}).items()
    ]
    return {"repeated": False, "choices": None, "members": members}


def _kind(member: Schema) -> str:
    """The type of a JSON value in words."""
    kinds = member.get("type", "anything")
    if kinds == "array":
        most = f", up to {member['maxItems']:,}" if "maxItems" in member else ""
        return f"array of {_kind(member.get('items', {}))}{most}"
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    return f"{text} ({member['format']})" if "format" in member else str(text)
