"""Reads under way: what the driver will bring of some keys of one view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from cassandra import InvalidRequest, OperationTimedOut, RequestExecutionException
from cassandra.cluster import NoHostAvailable, ResponseFuture

from anabranch.declare.views import FeatureView
from anabranch.errors import UnavailableError, ViewUnavailableError
from anabranch.folds.merge import LABELS, BatchPart, Known, Tiles
from anabranch.folds.packing import unpack_extras, unpack_rows
from anabranch.stores.cassandra.manifest import Manifest

AWAY = (NoHostAvailable, OperationTimedOut, RequestExecutionException)
"""What the driver raises while Cassandra does not answer."""


@dataclass(frozen=True)
class Pending:
    """Reads under way for some keys of one view, of which the batch parts of some are `known` already; every row begins with its key."""

    view: FeatureView
    manifest: Manifest | None
    known: Mapping[str, BatchPart | None]
    batch: ResponseFuture | None
    tiles: ResponseFuture | None
    fine: ResponseFuture | None = None

    @property
    def futures(self) -> list[ResponseFuture]:
        """The driver's reads."""
        return [read for read in (self.batch, self.tiles, self.fine) if read is not None]

    def result(self) -> dict[str, Known]:
        """Wait for all of them; raises UnavailableError when the store is away."""
        try:
            parts, tiles = self._batch(), self._tiles()
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error
        except InvalidRequest as error:
            raise gone(f"view {self.view.name!r}", error) from error
        return {key: (parts[key], tiles.get(key)) for key in self.known}

    def _batch(self) -> Mapping[str, BatchPart | None]:
        manifest = self.manifest
        if manifest is None:
            return self.known
        rows = {key: row for key, *row in self.batch.result().all()} if self.batch else {}
        return {
            key: batch_part(self.view, manifest, rows.get(key)) if part is None else part
            for key, part in self.known.items()
        }

    def _tiles(self) -> dict[str, Tiles]:
        wide = self._tier(self.tiles.result().all()) if self.tiles else {}
        if not wide or self.fine is None:
            return wide
        # Slots that the batch covers are left out here: fine tiles are found by their start, not by their slot.
        cut = self.manifest.cut if self.manifest else 0
        fine = self._tier([row for *row, slot in self.fine.result().all() if slot >= cut])
        return {key: replace(tiles, fine=fine[key]) if key in fine else tiles for key, tiles in wide.items()}

    def _tier(self, rows: Sequence[Sequence[Any]]) -> dict[str, Tiles]:
        """Tiles by key from rows (key, start, state, extra): all of them are decoded at once, and each key has a slice."""
        if not rows:
            return {}
        keys, starts, states, framed = zip(*sorted(rows, key=itemgetter(0)), strict=True)
        count = len(self.view.layout.extras)
        moments, matrix = (
            np.array(starts, dtype=np.int64),
            unpack_rows(b"".join(states), self.view.layout.width),
        )
        extras = [unpack_extras(frame, count)[0] for frame in framed] if count else []
        found, end = {}, 0
        for key, group in groupby(keys):
            begin, end = end, end + sum(1 for _ in group)
            found[key] = Tiles(moments[begin:end], matrix[begin:end], extras[begin:end])
        return found


def gone(what: str, error: InvalidRequest) -> ViewUnavailableError:
    """The error for a read of a table that Cassandra does not know any more."""
    return ViewUnavailableError(
        f"a table of {what} is gone ({error}): another batch version is current by now, try again"
    )


def batch_part(view: FeatureView, manifest: Manifest, row: Any) -> BatchPart:
    """The batch part in a row (states, extras) of the version's table; an empty one where there is none."""
    width = LABELS + view.layout.width
    if row is None:
        return BatchPart(manifest.cut, manifest.slack, np.empty((0, width)))
    states, extras = row
    return BatchPart(
        manifest.cut,
        manifest.slack,
        unpack_rows(states, width),
        unpack_extras(extras, len(view.layout.extras)),
    )
