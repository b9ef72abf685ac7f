"""Tables of tiles: created for a project, filled by the stream's tasks."""

from collections.abc import Sequence

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import answering, prepared, session_for
from anabranch.stores.cassandra.tables import READ_AGAIN, Tables, is_of_project, tiles_table
from anabranch.stores.cassandra.writer import Sender
from anabranch.values.keys import SEPARATOR

_MARK = SEPARATOR
"""No event's key. Its row says that a table was filled from a stream's beginning and not emptied since."""
_NEVER = 2**62  # a slot that is never retired
TILE_COLUMNS = ("key", "slot", "tile_start", "state", "extra")


class TileTables(Tables):
    """The tables of tiles."""

    @answering()
    def ensure_tiles(self, project: Project) -> None:
        """Create the tile tables of a project's views where they are missing."""
        ttl = self.settings.tile_ttl_days * 86_400
        for view in project.own_views:
            # Wide tiles last: who finds their table reads fine ones too.
            for fine in (True, False)[2 - len(view.tiers) :]:
                order = "tile_start, slot" if fine else "slot, tile_start"
                self.session.execute(
                    f"CREATE TABLE IF NOT EXISTS {tiles_table(project.name, view, fine=fine)} "
                    "(key text, slot bigint, tile_start bigint, state blob, extra blob, "
                    f"PRIMARY KEY ((key), {order})) WITH default_time_to_live = {ttl} AND {READ_AGAIN}"
                )

    @answering()
    def mark_tiles(self, project: Project, source: str) -> None:
        """Mark the tile tables of a source's views, which a query fills from its beginning from now on."""
        for table in [one for view in project.views_of(source) for one in self._tables_of(project, view)]:
            self.session.execute(
                f"INSERT INTO {table} (key, slot, tile_start) VALUES (%s, %s, 0) USING TTL 0", (_MARK, _NEVER)
            )

    @answering()
    def lacking_tiles(self, project: Project, source: str) -> set[str]:
        """Views of a source (`tiles_name`) with a table that was emptied or made anew since `mark_tiles`."""
        tables = [
            (view.tiles_name, table)
            for view in project.views_of(source)
            for table in self._tables_of(project, view)
        ]
        found = [
            (name, self.session.execute(f"SELECT key FROM {table} WHERE key = %s", (_MARK,)))
            for name, table in tables
        ]
        return {name for name, rows in found if rows.one() is None}

    @answering()
    def drop_tiles(self, name: str, kept: Sequence[Project] = ()) -> list[str]:
        """Drop the tile tables of a project that none of the declarations `kept` has; returns their names.

        A table whose name was shortened stays, as it does not tell its project: tiles have a time to live.
        """
        needed = {
            tiles_table(name, view, fine=fine)
            for each in kept
            for view in each.own_views
            for fine in (False, True)
        }
        dropped = [one for one in self.tables if is_of_project(one, name, "wf") and one not in needed]
        for table in dropped:
            self.session.execute(f"DROP TABLE IF EXISTS {table}")
        return dropped

    def _tables_of(self, project: Project, view: FeatureView) -> list[str]:
        return [tiles_table(project.name, view, fine=fine) for fine in (False, True)[: len(view.tiers)]]


def tile_sender(views: ViewsSettings, table: str) -> Sender:
    """A sender of tiles to one table: rows of `TILE_COLUMNS` and the write's time, serialized."""
    session, marks = session_for(views), ", ".join("?" * len(TILE_COLUMNS))
    insert = f"INSERT INTO {table} ({', '.join(TILE_COLUMNS)}) VALUES ({marks}) USING TIMESTAMP ?"
    with answering(f"table {table} is missing"):
        return Sender(session, prepared(session, insert))
