"""Where a copied message comes from: topics stamped by their producers are read through copies that we stamp.

A relay copies `payments` into `anabranch.payments`, partition by partition, and adds one header to a message:

    anabranch.origin   payments/3/42/1764529452123/VQ3...    topic, partition, offset, stamp (ms), topic's id

The stamp is the one that the message has in the original, in milliseconds since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass

COPIES = "anabranch."
"""Copies are named after their originals, behind this."""
HEADER = "anabranch.origin"
_LONGEST_NAME = 249


def copy_of(topic: str) -> str:
    """The name of a topic's copy."""
    return f"{COPIES}{topic}"


def original_of(topic: str) -> str:
    """The topic that a copy is of; the topic itself where it is none."""
    return topic.removeprefix(COPIES)


def is_copy(topic: str) -> bool:
    """Whether a topic is, by its name, a copy."""
    return topic.startswith(COPIES)


def can_be_copied(topic: str) -> bool:
    """Whether Kafka takes the name of the topic's copy."""
    return len(copy_of(topic)) <= _LONGEST_NAME


@dataclass(frozen=True)
class Origin:
    """The place of a message in the original topic; `stamp` is in milliseconds, `topic_id` Kafka's own."""

    topic: str
    partition: int
    offset: int
    stamp: int
    topic_id: str

    def header(self) -> bytes:
        """The value of the header that names it."""
        return f"{self.topic}/{self.partition}/{self.offset}/{self.stamp}/{self.topic_id}".encode()

    @staticmethod
    def of(headers: "Sequence[tuple[str, bytes | None]] | None") -> "Origin | None":
        """The origin that a message's headers name; None where they name none."""
        values = [value for name, value in headers or [] if name == HEADER and value is not None]
        try:
            # An id may hold the sign that divides the others.
            topic, partition, offset, stamp, topic_id = values[-1].decode().split("/", 4)
            return Origin(topic, int(partition), int(offset), int(stamp), topic_id)
        except (IndexError, ValueError):
            return None
