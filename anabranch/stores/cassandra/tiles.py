"""Tables of tiles: created for a project, filled by the stream's tasks."""

from anabranch.declare.projects import Project
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import answering, prepared, session_for
from anabranch.stores.cassandra.tables import Tables, tiles_table
from anabranch.stores.cassandra.writer import Sender

TILE_COLUMNS = ("key", "slot", "tile_start", "state", "extra")


class TileTables(Tables):
    """The tables of tiles."""

    @answering()
    def ensure_tiles(self, project: Project) -> None:
        """Create the tile tables of a project's views where they are missing."""
        ttl = self.settings.tile_ttl_days * 86_400
        for view in project.views:
            for fine in (False, True)[: len(view.tiers)]:
                order = "tile_start, slot" if fine else "slot, tile_start"
                self.session.execute(
                    f"CREATE TABLE IF NOT EXISTS {tiles_table(project.name, view, fine=fine)} "
                    "(key text, slot bigint, tile_start bigint, state blob, extra blob, "
                    f"PRIMARY KEY ((key), {order})) WITH default_time_to_live = {ttl}"
                )


def tile_sender(views: ViewsSettings, table: str) -> Sender:
    """A sender of tiles to one table: rows of `TILE_COLUMNS` and the write's time, serialized."""
    session, marks = session_for(views), ", ".join("?" * len(TILE_COLUMNS))
    insert = f"INSERT INTO {table} ({', '.join(TILE_COLUMNS)}) VALUES ({marks}) USING TIMESTAMP ?"
    with answering(f"table {table} is missing"):
        return Sender(session, prepared(session, insert))
