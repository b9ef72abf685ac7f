"""States as bytes in Cassandra: rows of little-endian float64, read without per-value work, and extras.

states   float64[k, 2 + width]           rows as in memory (anabranch/folds/merge.py)
extras   per state, per extra:           uint32 length + 1, then the bytes; length 0 means no events

A key whose states take more than LARGEST loses its extras, or all of them, and an answer says so: Cassandra
refuses a write of half its commit log's segment (16 MiB by default), and an answer would have to read it.
"""

import struct
from collections.abc import Sequence

import numpy as np

from anabranch.aggregates.layout import States
from anabranch.states.blocks import Rows

LARGEST = 4 * 2**20
"""Bytes of the states that a key may have in one row of a table."""
LOST_EXTRAS = b"\xff" * 4
"""The extras of a tile that were too large: no extra has such a length."""


def pack_extras(states: Sequence[States]) -> bytes | None:
    """Extras of k states as one blob; None when there are none."""
    pieces: list[bytes] = []
    for state in states:
        for value in state:
            pieces.append(struct.pack("<I", 0 if value is None else len(value) + 1))
            if value is not None:
                pieces.append(bytes(value))
    return b"".join(pieces) or None


def unpack_extras(blob: bytes | None, per_state: int) -> list[States]:
    """Extras of states, `per_state` each, from the blob that `pack_extras` returned."""
    if not blob or not per_state:
        return []
    values: list[bytes | None] = []
    place = 0
    while place < len(blob):
        (size,) = struct.unpack_from("<I", blob, place)
        place += 4
        values.append(None if size == 0 else blob[place : place + size - 1])
        place += max(size - 1, 0)
    return [values[i : i + per_state] for i in range(0, len(values), per_state)]


def unpack_rows(blob: bytes, columns: int) -> Rows:
    """Rows of `columns` float64, a view into `blob`."""
    return np.frombuffer(blob, dtype="<f8").reshape(-1, columns)
