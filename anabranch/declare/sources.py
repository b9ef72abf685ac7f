"""Sources: where events of one kind come from."""

import re
from dataclasses import dataclass

from anabranch.declare.names import check_name
from anabranch.declare.wire_formats import format_names
from anabranch.errors import DeclarationError
from anabranch.values.types import Column, parse_schema


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where events of one kind come from. `id` names an event: its first arrival wins.

    Without a `topic` they come by files only. `format` is how the topic's messages are written: ``"json"`` (one object),
    ``"csv"`` (one line, the columns in the order of the schema), or a name of `register_format`.
    """

    name: str
    schema: str
    id: str
    time: str
    topic: str | None = None
    format: str = "json"
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "source")
        if self.topic is not None and not re.fullmatch(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", self.topic):
            raise DeclarationError(
                f"source {self.name!r}: topic {self.topic!r} is not a Kafka topic name: use letters, digits, '.', '_' and '-'"
            )
        if self.format not in format_names():
            raise DeclarationError(
                f"source {self.name!r}: format {self.format!r} is unknown: use {', '.join(format_names())}, or register it"
            )
        self.column(self.id, "id")
        if not self.column(self.time, "time").type.time:
            raise DeclarationError(
                f"source {self.name!r}: time {self.time!r} is {self.column(self.time, 'time').type}: it must be TIMESTAMP or DATE"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        """The schema's columns, in order."""
        return parse_schema(self.schema)

    def column(self, name: str, role: str) -> Column:
        """The column `name`; raises DeclarationError naming the `role` it was wanted for."""
        for column in self.columns:
            if column.name == name:
                return column
        raise DeclarationError(
            f"source {self.name!r}: {role} {name!r} is no column: it has {', '.join(c.name for c in self.columns)}"
        )


def key_columns(key: str | tuple[str, ...], source: Source, place: str) -> tuple[str, ...]:
    """The key\'s columns; raises DeclarationError, beginning with `place`, when one cannot be part of a key."""
    names = (key,) if isinstance(key, str) else tuple(key)
    if not names or len(set(names)) != len(names):
        raise DeclarationError(f"{place}: key {key!r} must name one column or several different ones")
    for name in names:
        if not source.column(name, f"key of {place}").type.in_keys:
            raise DeclarationError(
                f"{place}: key {name!r} cannot be {source.column(name, 'key').type}: use STRING, a whole number, DATE or BOOLEAN"
            )
    return names
