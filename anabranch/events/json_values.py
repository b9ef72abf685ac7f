"""JSON that goes out, by HTTP or in topics."""

import msgspec
import numpy as np


def encode(document: object) -> bytes:
    """JSON, numbers of numpy and dates of drivers included."""
    return msgspec.json.encode(document, enc_hook=_plain)


def _plain(value: object) -> object:
    # Drivers have types of their own for dates; their text is ISO 8601.
    return value.item() if isinstance(value, np.generic) else str(value)
