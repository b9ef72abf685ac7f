"""Writing of tiles by the tasks of a micro-batch, and the keys that changed.

The timestamp of a tile's write grows with the events that the tile holds: the slot, plus one microsecond an
event. So a slow retry, or a replay that has not yet reached the place where the stream once was, never
overwrites a fuller tile, whichever is written last. A tile whose texts and sketches are more than the store
takes is written without them, and answers of its key say so (folds/packing.py).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.folds.packing import LARGEST, LOST_EXTRAS
from anabranch.folds.spark import Piece
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.tables import tiles_table
from anabranch.stores.cassandra.tiles import tile_sender
from anabranch.stores.cassandra.writer import Sender, stored

CHANGED_SCHEMA = "key STRING"


def tile_writer(
    views: ViewsSettings, project: Project, source: Source, pieces: Sequence[Piece]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `DataFrame.mapInArrow` over states (piece, key, slot, tile_start, events, state, extra).

    Times are in microseconds. Writes the states of views to their tables and, once all are written, yields
    the keys among them that are the project's own.
    """
    entity = project.key_columns_in(source)
    own = [piece.keys == entity and not piece.fine for piece in pieces]
    named = own.index(True) if True in own else None
    tables = [piece.view and tiles_table(project.name, piece.view, fine=piece.fine) for piece in pieces]

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
                    senders[piece] = tile_sender(views, str(tables[piece]))
                senders[piece].send(tuple(row))
        for sender in senders.values():
            sender.finish()
        yield pa.RecordBatch.from_pydict({"key": pa.array(sorted(changed), pa.binary()).cast(pa.string())})

    return run


def _values(batch: pa.RecordBatch) -> list[list[bytes]]:
    """Columns of `TILE_COLUMNS` and the write's time, as Cassandra's protocol carries them."""
    names = ("slot", "tile_start", "events")
    slot, start, events = (batch.column(name).to_numpy(zero_copy_only=False) for name in names)
    key = batch.column("key").cast(pa.binary()).to_pylist()
    state = stored(batch.column("state"))
    extra = [
        LOST_EXTRAS if one is not None and len(one) > LARGEST else one
        for one in stored(batch.column("extra"))
    ]
    return [key, _longs(slot), _longs(start), state, extra, _longs(slot + events)]


def _longs(values: NDArray[np.int64]) -> list[bytes]:
    data = values.astype(">i8").tobytes()
    return [data[i : i + 8] for i in range(0, len(data), 8)]
