"""Events that came with a question and were published: which stand in a topic, and how far streams are.

    own_events    (topic, id) -> claimed, partition, message, arrived; TTL
    stream_places (project, tiles) -> began, done: offsets of the topic by partition; the view's `tiles_name`

A row of an own event is there before its message, at first without a place; places of streams are written
around each micro-batch. An answer must count such an event exactly once, whether or not the stream has added
it to the tiles that the answer reads. `counted` tells which it is, from the place of the event's message and
the stream's places before and after the tiles were read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anabranch.stores.cassandra.session import answering, prepared
from anabranch.stores.cassandra.tables import Tables

_TABLES = (
    "CREATE TABLE IF NOT EXISTS own_events (topic text, id text, claimed bigint, "
    "partition int, message bigint, arrived bigint, PRIMARY KEY ((topic, id)))",
    "CREATE TABLE IF NOT EXISTS stream_places (project text, source text, began map<int, bigint>, "
    "done map<int, bigint>, PRIMARY KEY ((project, source)))",
)


@dataclass(frozen=True)
class OwnPlace:
    """Where the message of an own event stands; nothing is known of one that is just being published.

    `claimed` is when a server set out to publish it, in microseconds, as `arrived` is.
    """

    claimed: int = 0
    partition: int | None = None
    offset: int | None = None
    arrived: int | None = None


@dataclass(frozen=True)
class StreamPlaces:
    """By partition the offset after the last message that a stream has begun to write, and has written."""

    began: Mapping[int, int] = field(default_factory=dict)
    done: Mapping[int, int] = field(default_factory=dict)


def counted(event: OwnPlace, before: StreamPlaces, after: StreamPlaces, cut: int | None) -> bool | None:
    """Whether what an answer read holds the event: tiles read between `before` and `after`, and a batch.

    None where the stream was just writing it, or where the event has no place yet. `cut` is the batch's.
    """
    if event.partition is None or event.offset is None or event.arrived is None:
        return None
    if cut is not None and event.arrived < cut:
        return True
    if event.offset < before.done.get(event.partition, 0):
        return True
    return False if event.offset >= after.began.get(event.partition, 0) else None


class OwnEventTables(Tables):
    """The tables of own events and of streams' places."""

    @answering()
    def ensure_own_events(self) -> None:
        """Create the tables where they are missing."""
        for statement in _TABLES:
            self.session.execute(statement)

    @answering("the tables of own events are missing")
    def published(self, topic: str, ids: Sequence[str]) -> dict[str, OwnPlace]:
        """Those of the events that were published with a question, by id."""
        if not self.has_table("own_events"):
            return {}
        statement = "SELECT claimed, partition, message, arrived FROM own_events WHERE topic = ? AND id = ?"
        session = self.session
        reads = [(one, session.execute_async(prepared(session, statement), (topic, one))) for one in ids]
        rows = [(one, read.result().one()) for one, read in reads]
        return {one: OwnPlace(*row) for one, row in rows if row is not None}

    @answering("the tables of own events are missing")
    def claim(self, topic: str, event: str, now: int, seconds: int) -> bool:
        """Whether the caller is the one who publishes an event, noted for `seconds`."""
        statement = "INSERT INTO own_events (topic, id, claimed) VALUES (?, ?, ?) IF NOT EXISTS USING TTL ?"
        bound = (topic, event, now, seconds)
        return bool(self.session.execute(prepared(self.session, statement), bound).was_applied)

    @answering("the tables of own events are missing")
    def note_published(self, topic: str, event: str, at: OwnPlace, seconds: int) -> None:
        """Keep where an event's message stands, for `seconds`."""
        statement = (
            "INSERT INTO own_events (topic, id, claimed, partition, message, arrived) "
            "VALUES (?, ?, ?, ?, ?, ?) USING TTL ?"
        )
        bound = (topic, event, at.claimed, at.partition, at.offset, at.arrived, seconds)
        self.session.execute(prepared(self.session, statement), bound)

    @answering("the tables of own events are missing")
    def places(self, project: str, view: str) -> StreamPlaces:
        """How far the stream that keeps the tiles of a view (`tiles_name`) is."""
        statement = "SELECT began, done FROM stream_places WHERE project = ? AND source = ?"
        row: Any = self.session.execute(prepared(self.session, statement), (project, view)).one()
        return StreamPlaces() if row is None else StreamPlaces(dict(row[0] or {}), dict(row[1] or {}))

    @answering("the tables of own events are missing")
    def note_places(self, project: str, views: Iterable[str], **places: Mapping[int, int]) -> None:
        """Set `began`, `done` or both, of views by their `tiles_name`."""
        names = list(places)
        sets = ", ".join(f"{name} = ?" for name in names)
        statement = f"UPDATE stream_places SET {sets} WHERE project = ? AND source = ?"
        values = [dict(places[name]) for name in names]
        for view in views:
            self.session.execute(prepared(self.session, statement), (*values, project, view))
