"""How far the tiles of views are, by all queries that write them.

While a changed declaration is fed beside the one that serves, two queries write the tiles of a view that both
have. A tile is as full as the query that is ahead has made it, so that query's place is the one that counts.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from anabranch.stores.cassandra.own_events import OwnEventTables, StreamPlaces


@dataclass(eq=False)
class TilePlaces:
    """The places of one process's queries; none goes back before the tiles are begun anew.

    Answers tell by them whether tiles that they read hold an event that came with a question.
    """

    _known: dict[tuple[str, str], StreamPlaces] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, views: OwnEventTables, project: str, tiles: Iterable[str]) -> None:
        """Note that tiles (`tiles_name` of their views) hold nothing yet."""
        with self._lock:
            for one in tiles:
                self._known[project, one] = StreamPlaces()
                views.note_places(project, [one], began={}, done={})

    def note_begun(
        self, views: OwnEventTables, project: str, tiles: Iterable[str], ends: Mapping[int, int]
    ) -> None:
        """Note that a query begins to write the messages before `ends`, by partition."""
        self._further(views, project, tiles, "began", ends)

    def note_done(
        self, views: OwnEventTables, project: str, tiles: Iterable[str], ends: Mapping[int, int]
    ) -> None:
        """Note that a query has written the messages before `ends`, by partition."""
        self._further(views, project, tiles, "done", ends)

    def _further(
        self, views: OwnEventTables, project: str, tiles: Iterable[str], name: str, ends: Mapping[int, int]
    ) -> None:
        with self._lock:
            for one in tiles:
                known = self._known.get((project, one)) or views.places(project, one)
                before: Mapping[int, int] = getattr(known, name)
                places = {**before, **{part: max(end, before.get(part, 0)) for part, end in ends.items()}}
                self._known[project, one] = replace(known, **{name: places})
                views.note_places(project, [one], **{name: places})
