"""Schemas of binary messages: where they come from, and the frame in which a message names its schema.

A message of a schema registry begins with a zero byte and the id of its writer's schema, big-endian:

    00 | 00 00 00 07 | the encoded value
"""

from dataclasses import dataclass
from typing import Protocol

from anabranch.errors import EventError, UnavailableError

AWAY = "the schema registry at "
"""Begins the text of the UnavailableError of a registry that does not answer."""
FRAME = 5
"""Bytes before the value of a message that names its schema."""


@dataclass(frozen=True, kw_only=True)
class WriterSchema:
    """A schema as its registry has it. `references` are the texts of those that it uses, used ones first."""

    id: int
    kind: str = "AVRO"
    text: str
    references: tuple[str, ...] = ()


class Schemas(Protocol):
    """Where the schemas of messages come from. It is sent to Spark's workers."""

    def by_id(self, number: int) -> WriterSchema:
        """The schema of that id. Raises EventError for an unknown id, UnavailableError if none can tell."""

    def latest(self, subject: str) -> WriterSchema | None:
        """The latest schema of a subject; None for an unknown subject."""


@dataclass(frozen=True)
class NoSchemas:
    """No schema registry is set."""

    def by_id(self, number: int) -> WriterSchema:
        """Raises EventError: the message may be read when a schema registry is set."""
        raise EventError(f"unknown schema: the message names {number}, and bus.schema_registry is not set")

    def latest(self, subject: str) -> WriterSchema | None:
        """None."""
        return None


def is_registry_away(reason: str) -> bool:
    """Whether this is why a query failed: then it is started again until the registry answers."""
    return f"{UnavailableError.__name__}: {AWAY}" in reason


def is_framed(value: bytes) -> bool:
    """Whether the message begins as one that names its schema."""
    return len(value) >= FRAME and value[0] == 0


def schema_id(value: bytes) -> int:
    """The id of the schema that a message names; raises EventError for a message that names none."""
    if not value:
        raise EventError(
            "no schema: the message is empty, where a zero byte and the id of a schema are expected"
        )
    if value[0] != 0:
        raise EventError(
            f"no schema: the message begins with the byte {value[0]}, where a zero byte and the id of its "
            "schema are expected"
        )
    if len(value) < FRAME:
        raise EventError(f"truncated: the message has {len(value)} bytes, the id of its schema needs {FRAME}")
    return int.from_bytes(value[1:FRAME], "big")


def framed(number: int, value: bytes) -> bytes:
    """The message of a value whose schema has that id."""
    return b"\0" + number.to_bytes(4, "big") + value
