"""Events that come as JSON, as messages of their source's own format."""

from decimal import Decimal

import msgspec

from anabranch.declare.sources import Source

_EXACT = msgspec.json.Decoder(float_hook=Decimal)


def encode_event(source: Source, text: bytes) -> bytes:
    """The message for an event given as a JSON object that was checked.

    JSON is published as it came, since decoding could cost digits of a decimal. Any other format is encoded
    by its decoder, which raises MisuseError when the format has no writer.
    """
    if source.format == "json":
        return text
    # Decoders import Spark, which no process needs whose sources are all JSON.
    from anabranch.events.decoders.decoder import decoder_of

    return decoder_of(source).encode(source, _EXACT.decode(text))
