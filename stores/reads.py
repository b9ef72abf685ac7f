"""Reads under way: what the driver will bring of one key of one view, asked for by itself or together with others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cassandra import InvalidRequest, OperationTimedOut, RequestExecutionException
from cassandra.cluster import NoHostAvailable, ResponseFuture

from features.declaration import FeatureView
from features.errors import UnavailableError, ViewUnavailableError
from features.merge import LABELS, BatchPart, Tiles
from stores.manifest import Manifest
from stores.states import unpack_extras, unpack_rows

AWAY = (NoHostAvailable, OperationTimedOut, RequestExecutionException)
"""What the driver raises while Cassandra does not answer."""


class _Rows(list[Any]):
    """Rows of one key, asked for as the driver's results are."""

    def one(self) -> Any:
        return self[0] if self else None

    def all(self) -> list[Any]:
        return self


class Together:
    """A read of many keys; each row begins with its key."""

    def __init__(self, read: ResponseFuture) -> None:
        self.read = read
        self._found: dict[str, _Rows] | None = None

    def rows(self, key: str) -> _Rows:
        """Wait, and give the rows of one of the keys without it."""
        if self._found is None:
            found: dict[str, _Rows] = {}
            for name, *row in self.read.result():
                found.setdefault(name, _Rows()).append(row)
            self._found = found  # only then: a read that failed fails for every key
        return self._found.get(key, _Rows())


@dataclass(frozen=True)
class OfKey:
    """One key's part of such a read."""

    together: Together
    key: str

    def result(self) -> _Rows:
        return self.together.rows(self.key)


@dataclass(frozen=True)
class Pending:
    """Reads under way for one key of one view."""

    view: FeatureView
    manifest: Manifest | None
    batch: ResponseFuture | OfKey | None
    tiles: ResponseFuture | OfKey | None
    fine: ResponseFuture | OfKey | None = None
    known: BatchPart | None = None
    """The batch part, when it need not be read."""

    @property
    def futures(self) -> list[ResponseFuture]:
        """The driver's reads; keys that were asked for together have the same ones."""
        return [read.together.read if isinstance(read, OfKey) else read for read in (self.batch, self.tiles, self.fine) if read is not None]

    def result(self) -> tuple[BatchPart | None, Tiles | None]:
        """Wait for both; raises UnavailableError when the store is away."""
        try:
            return self._batch(), self._tiles()
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error
        except InvalidRequest as error:
            raise gone(f"view {self.view.name!r}", error) from error

    def _batch(self) -> BatchPart | None:
        if self.manifest is None or self.known is not None:
            return self.known
        return batch_part(self.view, self.manifest, self.batch.result().one() if self.batch else None)

    def _tiles(self) -> Tiles | None:
        rows = self.tiles.result().all() if self.tiles else []
        if not rows:
            return None
        # Slots that the batch covers are left out here: fine tiles are found by their start, not by their slot.
        cut = self.manifest.cut if self.manifest else 0
        fine = [row[1:] for row in self.fine.result().all() if row[0] >= cut] if self.fine else []
        return self._unpacked(rows, self._unpacked(fine) if fine else None)

    def _unpacked(self, rows: Sequence[Any], fine: Tiles | None = None) -> Tiles:
        width, count = self.view.layout.width, len(self.view.layout.extras)
        starts, states, framed = zip(*rows, strict=True)
        extras = [unpack_extras(frame, count)[0] for frame in framed] if count else []
        return Tiles(np.array(starts, dtype=np.int64), unpack_rows(b"".join(states), width), extras, fine)


def gone(what: str, error: InvalidRequest) -> ViewUnavailableError:
    """The error for a read of a table that Cassandra does not know any more."""
    return ViewUnavailableError(f"a table of {what} is gone ({error}): another batch version is current by now, try again")


def batch_part(view: FeatureView, manifest: Manifest, row: Any) -> BatchPart:
    """The batch part in a row (states, extras) of the version's table; an empty one where there is none."""
    width = LABELS + view.layout.width
    if row is None:
        return BatchPart(manifest.cut, manifest.slack, np.empty((0, width)))
    states, extras = row
    return BatchPart(manifest.cut, manifest.slack, unpack_rows(states, width), unpack_extras(extras, len(view.layout.extras)))
