"""Erasure in the serving store: the rows of a key are removed from every table that a version, a rollback or the stream can read."""

from collections.abc import Collection, Iterable, Mapping

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.views import Views, current_table, history_table, tiles_table


def erase_states(
    views: Views, project: Project, manifest: Manifest | None, keys: Mapping[str, Iterable[str]], until: int
) -> None:
    """Remove batch parts of both versions and every tile of `keys` (stored texts by view).

    Tiles of slots that begin before `until` (microseconds, a slot boundary) stay away, also those that a stream writes again
    from what it remembers or from a replay: a tile's write time lies within its slot.
    """
    for view in project.views:
        tables = _tables(views, project, view, manifest)
        for key in keys.get(view.name, ()):
            for table, tiles in tables.items():
                using = f" USING TIMESTAMP {until - 1}" if tiles else ""
                views.session.execute(f"DELETE FROM {table}{using} WHERE key = %s", (key,))


def erase_current(views: Views, project: Project, keys: Collection[str]) -> None:
    """Remove the current rows of `keys` (stored texts of the project's key) and their history."""
    for table in (current_table(project.name), history_table(project.name)):
        if views.has_table(table):
            for key in keys:
                views.session.execute(f"DELETE FROM {table} WHERE key = %s", (key,))


def _tables(views: Views, project: Project, view: FeatureView, manifest: Manifest | None) -> dict[str, bool]:
    """Tables with states of a view, and whether they are tiles."""
    entries = [entry for entry in (manifest, manifest and manifest.previous) if entry]
    batch = {entry.tables[view.name]: False for entry in entries if view.name in entry.tables}
    tiles = {tiles_table(project.name, view, fine=fine): True for fine in (False, True)}
    return {table: of_tiles for table, of_tiles in (batch | tiles).items() if views.has_table(table)}
