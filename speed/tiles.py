"""Writing tiles: what a task of a micro-batch does with its states, and the keys that changed.

A tile's write carries a timestamp that grows with what the tile holds: the slot, plus one microsecond an event. So a slow
retry, or a replay that has not come as far as the stream once was, never beats a fuller tile; which of two writes
happened later does not matter.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.projects import Project
from anabranch.folds.spark import Piece
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import prepared, session_for
from anabranch.stores.cassandra.views import tiles_table
from anabranch.stores.cassandra.writer import Sender, stored

CHANGED_SCHEMA = "key STRING"


def tile_writer(
    views: ViewsSettings, project: Project, pieces: Sequence[Piece]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `DataFrame.mapInArrow` over states (piece, key, slot, tile_start, events, state, extra), times in microseconds.

    Writes those of views to their tables and yields, once all are written, the project's own keys among them.
    """
    named = next(
        (number for number, piece in enumerate(pieces) if piece.keys == project.keys and not piece.fine), None
    )
    tables = [
        None if piece.view is None else tiles_table(project.name, piece.view, fine=piece.fine)
        for piece in pieces
    ]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        senders: dict[int, Sender] = {}
        changed: set[bytes] = set()
        for batch in batches:
            for piece, *row in zip(batch.column("piece").to_pylist(), *_values(batch), strict=True):
                if piece == named:
                    changed.add(row[0])
                if tables[piece] is None:
                    continue
                if piece not in senders:
                    senders[piece] = _sender(views, str(tables[piece]))
                senders[piece].send(tuple(row))
        for sender in senders.values():
            sender.finish()
        yield pa.RecordBatch.from_pydict({"key": pa.array(sorted(changed), pa.binary()).cast(pa.string())})

    return run


def _values(batch: pa.RecordBatch) -> list[list[bytes]]:
    """Columns of the statement below, as they travel."""
    slot, start, events = (
        batch.column(name).to_numpy(zero_copy_only=False) for name in ("slot", "tile_start", "events")
    )
    key = batch.column("key").cast(pa.binary()).to_pylist()
    return [
        key,
        _longs(slot),
        _longs(start),
        stored(batch.column("state")),
        stored(batch.column("extra")),
        _longs(slot + events),
    ]


def _longs(values: NDArray[np.int64]) -> list[bytes]:
    data = values.astype(">i8").tobytes()
    return [data[i : i + 8] for i in range(0, len(data), 8)]


def _sender(views: ViewsSettings, table: str) -> Sender:
    session = session_for(views)
    return Sender(
        session,
        prepared(
            session,
            f"INSERT INTO {table} (key, slot, tile_start, state, extra) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
        ),
    )
