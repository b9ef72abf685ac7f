"""REST servers that are up, by what they say themselves, and the gateways that send them requests.

    replicas  (kind) place, worker -> ready, load, places    rows expire in seconds
      kind 'server'   a worker at `place`, and the calls that it answers just now
      kind 'gateway'  a gateway at `place`, and the places that it sends requests to
      kind 'left'     a worker that stopped by itself, for a minute

A gateway, or the exporter of metrics, creates the table. Where none has ever run, nothing is written.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from anabranch.stores.cassandra.session import MissingTableError, answering, prepared
from anabranch.stores.cassandra.tables import Tables

EXPIRES_SECONDS = 5
LEFT_SECONDS = 60
_TABLE = f"""CREATE TABLE IF NOT EXISTS replicas
(kind text, place text, worker text, ready boolean, load int, places list<text>,
PRIMARY KEY ((kind), place, worker))
WITH default_time_to_live = {EXPIRES_SECONDS} AND gc_grace_seconds = 600"""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A worker of a REST server at `place` (``host:port``); `load` is the number of calls it answers."""

    place: str
    worker: str
    ready: bool
    load: int = 0


class Replicas(Tables):
    """The table of replicas."""

    @answering()
    def ensure(self) -> None:
        """Create the table where it is missing."""
        self.session.execute(_TABLE)

    @property
    def followed(self) -> bool:
        """Whether a gateway has ever looked for replicas here."""
        return self.has_table("replicas")

    @answering()
    def tell(self, replica: Replica) -> None:
        """Say that a worker is up; to be repeated, as the row expires."""
        statement = "INSERT INTO replicas (kind, place, worker, ready, load) VALUES ('server', ?, ?, ?, ?)"
        values = (replica.place, replica.worker, replica.ready, replica.load)
        self.session.execute(prepared(self.session, statement), values)

    @answering()
    def leave(self, replica: Replica) -> None:
        """Say that a worker is about to stop."""
        left = f"INSERT INTO replicas (kind, place, worker) VALUES ('left', ?, ?) USING TTL {LEFT_SECONDS}"
        gone = "DELETE FROM replicas WHERE kind = 'server' AND place = ? AND worker = ?"
        for statement in (left, gone):
            self.session.execute(prepared(self.session, statement), (replica.place, replica.worker))

    def left(self) -> set[str]:
        """The places whose workers have stopped by themselves just now, and were not killed."""
        return {place for (place,) in self._read("left", "place")}

    def all(self) -> list[Replica]:
        """Every worker that has said that it is up, by place."""
        rows = self._read("server", "place, worker, ready, load")
        return [
            Replica(place=place, worker=worker, ready=ready, load=load) for place, worker, ready, load in rows
        ]

    @answering()
    def send_to(self, gateway: str, places: Collection[str]) -> None:
        """Say which places the gateway at `gateway` sends requests to; to be repeated."""
        statement = "INSERT INTO replicas (kind, place, worker, places) VALUES ('gateway', ?, '', ?)"
        self.session.execute(prepared(self.session, statement), (gateway, sorted(places)))

    def sent_to(self) -> set[str]:
        """The places that some gateway sends requests to."""
        return {place for (places,) in self._read("gateway", "places") for place in places or ()}

    def _read(self, kind: str, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM replicas WHERE kind = '{kind}'"
        try:
            with answering():
                return [tuple(row) for row in self.session.execute(query)]
        except MissingTableError:
            return []
