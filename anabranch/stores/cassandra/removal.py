"""Removal of rows from the serving store: tiles that no version needs, and every trace of an erased key.

Tiles are retired up to the earlier cut of the manifest's two versions, for answers of either read later
slots only; their TTL is the backstop.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.session import answering
from anabranch.stores.cassandra.tables import current_table, history_table, is_of_project, tiles_table
from anabranch.stores.cassandra.views import Views

_PAGE = 2000


def needed_since(manifest: Manifest | None) -> int | None:
    """The earliest arrival (microseconds) whose tiles an answer can need, also after a rollback."""
    if manifest is None:
        return None
    return min(entry.cut for entry in (manifest, manifest.previous) if entry is not None)


@answering()
def retire_tiles(views: Views, project: Project, before: int, stopping: threading.Event | None = None) -> int:
    """Remove the tiles of slots before `before` (microseconds, a slot boundary); how many keys had some.

    When `stopping` is set it ends after the current key; the next call finds the rest.
    """
    session, keys = views.session, 0
    for view in project.own_views:
        if view.source.topic is None or not views.has_table(tiles_table(project.name, view)):
            continue
        for key in _keys(session, tiles_table(project.name, view), before):
            if stopping is not None and stopping.is_set():
                return keys
            keys += 1
            _retire(session, project.name, view, key, before)
    return keys


def _keys(session: Session, table: str, before: int) -> Iterator[str]:
    """Keys whose first slot is before `before`; reads one row a key."""
    statement = SimpleStatement(f"SELECT key, slot FROM {table} PER PARTITION LIMIT 1", fetch_size=_PAGE)
    return (row.key for row in session.execute(statement) if row.slot < before)


def _retire(session: Session, project: str, view: FeatureView, key: str, before: int) -> None:
    # A tile's write time lies within its slot, so a deletion as of `before` never removes a later tile.
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
    # Wide tiles go last: by them the next call finds keys that still have something to remove.
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


@answering()
def erase_states(
    views: Views, project: Project, manifest: Manifest | None, keys: Mapping[str, Iterable[str]], until: int
) -> None:
    """Remove the batch parts of both versions and every tile of `keys` (stored texts by view).

    Tiles of slots that begin before `until` (microseconds, a slot boundary) stay removed even if a stream
    writes them again from its memory or by a replay, since a tile's write time lies within its slot.
    """
    for view in project.own_views:
        tables = _tables(views, project, view, manifest)
        for key in keys.get(view.name, ()):
            for table, tiles in tables.items():
                using = f" USING TIMESTAMP {until - 1}" if tiles else ""
                views.session.execute(f"DELETE FROM {table}{using} WHERE key = %s", (key,))


@answering()
def erase_current(views: Views, project: Project, keys: Collection[str]) -> None:
    """Remove the current rows of `keys` (stored texts of the project's key) and their history."""
    for table in (current_table(project.name), history_table(project.name)):
        if views.has_table(table):
            for key in keys:
                views.session.execute(f"DELETE FROM {table} WHERE key = %s", (key,))


_OF_PROJECTS = ("manifest", "gaps", "online_models", "batch_versions", "measures_latest")
"""Tables that have a partition of each project."""


@answering()
def tables_of(
    views: Views, name: str, declarations: Iterable[Project], manifest: Manifest | None
) -> list[str]:
    """The tables of a project that are there: those that its declarations and versions name, and those whose
    names tell it.
    """
    entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
    known = {table for entry in entries for table in entry.tables.values()}
    known |= {current_table(name), history_table(name)}
    known |= {
        tiles_table(name, view, fine=fine)
        for project in declarations
        for view in project.own_views
        for fine in (False, True)
    }
    return sorted(table for table in views.tables if table in known or is_of_project(table, name))


@answering()
def drop_project(views: Views, name: str, tables: Iterable[str]) -> None:
    """Remove a project's versions, so that no answer reads its tables, the tables, and its rows in others."""
    session, there = views.session, views.tables
    for table in _OF_PROJECTS:
        if table in there:
            session.execute(f"DELETE FROM {table} WHERE project = %s", (name,))
    if "stream_places" in there:
        rows = session.execute("SELECT DISTINCT project, source FROM stream_places")
        for row in [row for row in rows if row.project == name]:
            session.execute("DELETE FROM stream_places WHERE project = %s AND source = %s", tuple(row))
    for table in tables:
        session.execute(f"DROP TABLE IF EXISTS {table}")


def _tables(views: Views, project: Project, view: FeatureView, manifest: Manifest | None) -> dict[str, bool]:
    """Tables with states of a view, and whether they are tiles."""
    entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
    batch = {entry.tables[view.name]: False for entry in entries if view.name in entry.tables}
    tiles = {tiles_table(project.name, view, fine=fine): True for fine in (False, True)}
    return {table: of_tiles for table, of_tiles in (batch | tiles).items() if views.has_table(table)}
