"""JSON that goes out, by HTTP or in topics, and messages for events that came as JSON."""

import msgspec
import numpy as np

from anabranch.declare.sources import Source
from anabranch.events.messages import EXACT


def encode(document: object) -> bytes:
    """JSON, numbers of numpy and dates of drivers included."""
    return msgspec.json.encode(document, enc_hook=_plain)


def encode_event(source: Source, text: bytes) -> bytes:
    """The message for an event given as a JSON object that was checked.

    JSON is published as it came, since decoding could cost digits of a decimal. Any other format is encoded
    by its decoder, which raises MisuseError when the format has no writer.
    """
    if source.format == "json":
        return text
    # Decoders import Spark, which a process needs only if it has a source of another format.
    from anabranch.events.decoders.decoder import decoder_of

    return decoder_of(source).encode(source, EXACT.decode(text))


def _plain(value: object) -> object:
    # Drivers have types of their own for dates; their text is ISO 8601.
    return value.item() if isinstance(value, np.generic) else str(value)
