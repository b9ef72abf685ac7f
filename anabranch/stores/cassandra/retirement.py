"""Retirement: tiles that a batch covers, and that no rollback can need, are removed. Their TTL is the backstop.

The bound is the earlier cut of the two versions of the manifest: answers of either read slots at or after it only.
"""

import threading
from collections.abc import Iterator
from itertools import groupby

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.views import Views, tiles_table

_PAGE = 2000


def needed_since(manifest: Manifest | None) -> int | None:
    """The earliest arrival (microseconds) whose tiles an answer can need, now or after a rollback; None: all of them."""
    if manifest is None:
        return None
    return min(entry.cut for entry in (manifest, manifest.previous) if entry is not None)


def retire_tiles(views: Views, project: Project, before: int, stopping: threading.Event | None = None) -> int:
    """Remove the tiles of slots before `before` (microseconds, a slot boundary); returns how many keys had some.

    Ends after the key under way when told to by `stopping`: what is left is found again.
    """
    session, keys = views.session, 0
    for view in project.views:
        if view.source.topic is None or not views.has_table(tiles_table(project.name, view)):
            continue
        for key in _keys(session, tiles_table(project.name, view), before):
            if stopping is not None and stopping.is_set():
                return keys
            keys += 1
            _retire(session, project.name, view, key, before)
    return keys


def _keys(session: Session, table: str, before: int) -> Iterator[str]:
    """Keys whose first slot lies before the bound: one row a key is read."""
    statement = SimpleStatement(f"SELECT key, slot FROM {table} PER PARTITION LIMIT 1", fetch_size=_PAGE)
    return (row.key for row in session.execute(statement) if row.slot < before)


def _retire(session: Session, project: str, view: FeatureView, key: str, before: int) -> None:
    # A tile's write time lies within its slot, so a removal as of the bound never meets a later tile.
    if len(view.tiers) > 1:
        fine = tiles_table(project, view, fine=True)
        rows = session.execute(f"SELECT tile_start, slot FROM {fine} WHERE key = %s", (key,))
        for first, last in _runs([(row.tile_start, row.slot) for row in rows], before):
            where = (
                "tile_start >= %s AND tile_start <= %s" if first < last else "tile_start = %s AND slot < %s"
            )
            session.execute(
                f"DELETE FROM {fine} USING TIMESTAMP %s WHERE key = %s AND {where}",
                (before, key, first, last if first < last else before),
            )
    wide = tiles_table(project, view)
    # The wide ones last: they are what says that a key has something to remove.
    session.execute(
        f"DELETE FROM {wide} USING TIMESTAMP %s WHERE key = %s AND slot < %s", (before, key, before)
    )


def _runs(tiles: list[tuple[int, int]], before: int) -> list[tuple[int, int]]:
    """First and last start of each stretch of tiles to remove; `tiles` are (start, slot), sorted.

    A start of which a later slot is kept is a stretch of its own, as is a lone one.
    """
    starts = [
        (start, [slot < before for _, slot in found])
        for start, found in groupby(tiles, key=lambda tile: tile[0])
    ]
    runs = [
        [start for start, _ in run] for over, run in groupby(starts, key=lambda found: all(found[1])) if over
    ]
    mixed = [(start, start) for start, found in starts if any(found) and not all(found)]
    return [*((run[0], run[-1]) for run in runs), *mixed]
