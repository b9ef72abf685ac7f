"""Wire formats by name: how the messages of a topic are written.

A format is one class, a decoder (anabranch/events/decoders/decoder.py), registered here by its name. The
class is named as text, so that a declaration can be checked in a process that has neither Spark nor the
decoder's libraries.
"""

import re

from anabranch.errors import DeclarationError

_DECODERS = {
    "json": "anabranch.events.decoders.json_objects:JsonDecoder",
    "csv": "anabranch.events.decoders.csv_lines:CsvDecoder",
}


def register_format(name: str, decoder: str) -> None:
    """Let sources declare ``format="<name>"``, read by the class `decoder`, written ``package.module:Class``.

    The module must be importable wherever Spark's workers run. Raises DeclarationError for a name that has
    another decoder already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not re.fullmatch(r"[\w.]+:\w+", decoder):
        raise DeclarationError(
            f"format {name!r} with decoder {decoder!r}: write a lower-case name and 'package.module:Class'"
        )
    if _DECODERS.setdefault(name, decoder) != decoder:
        raise DeclarationError(
            f"format {name!r} has the decoder {_DECODERS[name]} already: choose another name"
        )


def format_names() -> tuple[str, ...]:
    """The names that a source's `format` may have."""
    return tuple(_DECODERS)


def decoder_class(name: str) -> str:
    """The class that reads a format, as ``package.module:Class``."""
    return _DECODERS[name]
