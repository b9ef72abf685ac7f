"""JSON that goes out, by HTTP or in topics, and messages for events that came as JSON."""

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from anabranch.declare.sources import Source
from anabranch.events.messages import EXACT

if TYPE_CHECKING:
    from anabranch.events.decoders.decoder import Decoder
    from anabranch.events.decoders.schemas import Schemas


def encode(document: object) -> bytes:
    """JSON, numbers of numpy and dates of drivers included."""
    return msgspec.json.encode(document, enc_hook=_plain)


def encode_event(source: Source, text: bytes, schemas: "Schemas | None" = None) -> bytes:
    """The message for an event given as a JSON object that was checked.

    JSON is published as it came, since decoding could cost digits of a decimal. Any other format is encoded
    by its decoder, which raises MisuseError when the format has no writer, and EventError for an event that
    its schema cannot hold.
    """
    if source.format == "json":
        return text
    writer = _writer(source, schemas)  # type: ignore[arg-type] # registries are frozen values
    return writer.encode(source, EXACT.decode(text))


@lru_cache(maxsize=64)
def _writer(source: Source, schemas: "Schemas | None") -> "Decoder":
    # Decoders import Spark, which a process needs only if it has a source of another format.
    from anabranch.events.decoders.decoder import decoder_of

    return decoder_of(source, schemas)


def _plain(value: object) -> object:
    # Drivers have types of their own for dates; their text is ISO 8601.
    return value.item() if isinstance(value, np.generic) else str(value)
