"""Bare reads of cassandra-driver as a process of its own: pairs of one batch row and one slice of tiles, as
many as it does.

``python -m tests.bench.bare_reads PLAN.json`` prints pairs a second. Rows come as plain tuples,
the driver's fastest. Nothing is decoded and nothing answered.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import READS, close_sessions, session_for


class Pairs:
    """Keeps `most` pairs of reads under way until the time is over."""

    def __init__(self, session: Any, plan: dict[str, Any]) -> None:
        self._session, self._keys, self._cut = session, plan["keys"], plan["cut"]
        self._batch = session.prepare(f"SELECT states, extras FROM {plan['batch']} WHERE key = ?")
        self._tiles = session.prepare(
            f"SELECT tile_start, state, extra FROM {plan['tiles']} WHERE key = ? AND slot >= ?"
        )
        self._until = time.perf_counter() + plan["seconds"]
        self.begun, self.done, self.over = 0, 0, threading.Event()

    def begin(self) -> None:
        """Start the next pair."""
        self.begun += 1
        key, left = self._keys[self.begun % len(self._keys)], [2]

        def one(_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                self.done += 1
                if time.perf_counter() < self._until:
                    self.begin()
                else:
                    self.over.set()

        def failed(error: Exception) -> None:
            raise SystemExit(str(error))

        for statement, values in ((self._batch, (key,)), (self._tiles, (key, self._cut))):
            self._session.execute_async(statement, values, execution_profile=READS).add_callbacks(one, failed)


def main(plan: dict[str, Any]) -> None:
    """Run and print."""
    settings = ViewsSettings(**{**plan["views"], "hosts": tuple(plan["views"]["hosts"])})
    pairs = Pairs(session_for(settings), plan)
    started = time.perf_counter()
    for _ in range(plan["connections"]):
        pairs.begin()
    pairs.over.wait()
    print(json.dumps({"rate": pairs.done / (time.perf_counter() - started)}))
    close_sessions()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
