"""Avro schemas, compiled to trees that decoders walk. Names are resolved, logical types told by name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fastavro import parse_schema
from fastavro.schema import SchemaParseException, UnknownType

from anabranch.errors import EventError
from anabranch.events.decoders.logical import CONNECT

_MOST_SCALE, _MOST_NODES = 1000, 20_000
PRIMITIVE = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


@dataclass(eq=False, slots=True)
class Node:
    """One type of a schema. A record that contains itself is one node, found again within itself."""

    kind: str
    name: str = ""
    logical: str = ""
    scale: int = 0
    size: int = 0
    symbols: tuple[str, ...] = ()
    fields: list[tuple[str, "Node"]] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    """By field what stands for a value that is not given, as the schema's JSON has it."""
    branches: list["Node"] = field(default_factory=list)
    """The types of a union; the one type of the items of an array or map."""

    @property
    def inner(self) -> Iterator["Node"]:
        """The nodes right below it."""
        yield from (node for _, node in self.fields)
        yield from self.branches


@dataclass(frozen=True, eq=False)
class AvroSchema:
    """A compiled schema: its tree, and what fastavro made of it, which writes messages."""

    root: Node
    parsed: Any
    is_recursive: bool
    """Whether a type contains itself."""


@lru_cache(maxsize=1000)
def compiled(text: str, references: tuple[str, ...] = ()) -> AvroSchema:
    """The schema of its JSON text and of those that it refers to; raises EventError for no Avro schema."""
    named: dict[str, Any] = {}
    try:
        for each in references:
            parse_schema(json.loads(each), named_schemas=named)
        # Parsed apart from its references, which would otherwise be written into it.
        parsed = parse_schema(json.loads(text), named_schemas=named)
        root = _Compiler(named).node(parsed)
    except (ValueError, KeyError, TypeError, RecursionError, SchemaParseException, UnknownType) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise EventError(f"the message's schema is no Avro schema ({said})") from error
    size = _size(root, {}, set())
    if size is not None and size > _MOST_NODES:
        raise EventError(f"the message's schema has more than {_MOST_NODES:,} types, counted at each use")
    return AvroSchema(root, parsed, is_recursive=size is None)


class _Compiler:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named, self._made = named, dict[str, Node]()

    def node(self, schema: Any) -> Node:
        if isinstance(schema, str):
            return Node(schema) if schema in PRIMITIVE else self._named_node(schema)
        if isinstance(schema, list):
            return Node("union", branches=[self.node(each) for each in schema])
        kind = schema["type"]
        if isinstance(kind, dict | list):
            return self.node(kind)
        if kind in ("record", "error", "enum", "fixed"):
            return self._made.get(schema["name"]) or self._define(schema)
        if kind in ("array", "map"):
            return Node(kind, branches=[self.node(schema["items" if kind == "array" else "values"])])
        if kind not in PRIMITIVE:
            return self._named_node(kind)
        return Node(kind, logical=_logical(schema), scale=_scale(schema))

    def _named_node(self, name: str) -> Node:
        return self._made.get(name) or self._define(self._named[name])

    def _define(self, schema: Mapping[str, Any]) -> Node:
        name, kind = schema["name"], schema["type"]
        node = Node("record" if kind == "error" else kind, name, _logical(schema), _scale(schema))
        self._made[name] = node  # before its fields, which may have it again
        node.size, node.symbols = int(schema.get("size", 0)), tuple(schema.get("symbols", ()))
        node.fields = [(each["name"], self.node(each["type"])) for each in schema.get("fields", ())]
        node.defaults = {
            each["name"]: each["default"] for each in schema.get("fields", ()) if "default" in each
        }
        return node


def node_at(root: Node, steps: Sequence[str | int]) -> list[Node] | None:
    """The types that may lie at a path; empty where the schema has no such field.

    None where the path leads through a type that is no record, which depends on the message.
    """
    found = [root]
    for step in steps:
        records = [node for node in _alternatives(found) if node.kind != "null"]
        if not isinstance(step, str) or any(node.kind != "record" for node in records):
            return None
        found = [inner for node in records for name, inner in node.fields if name == step]
    return _alternatives(found)


def _alternatives(nodes: Sequence[Node]) -> list[Node]:
    return [one for node in nodes for one in (node.branches if node.kind == "union" else (node,))]


def _size(node: Node, known: dict[int, int], above: set[int]) -> int | None:
    """How many types the tree has, each counted wherever it is used; None where one contains itself."""
    place = id(node)
    if place in above:
        return None
    if place not in known:
        above.add(place)
        size = 1
        for inner in node.inner:
            below = _size(inner, known, above)
            if below is None:
                return None
            size += below
        above.remove(place)
        known[place] = size
    return known[place]


def _logical(schema: Mapping[str, Any]) -> str:
    connect = CONNECT.get(str(schema.get("connect.name", "")))
    return connect or str(schema.get("logicalType", ""))


def _scale(schema: Mapping[str, Any]) -> int:
    scale = int(schema.get("scale", schema.get("connect.parameters", {}).get("scale", 0)))
    if not -_MOST_SCALE <= scale <= _MOST_SCALE:
        raise ValueError(f"a decimal of scale {scale}")
    return scale
