"""Retirement of tiles beside the streams, in a thread of its own, so that nothing waits for it.

Tiles go when both versions have a later cut, and the tables of views that no version or declaration has any
more go whole.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from anabranch.declare.projects import Project
from anabranch.stores.cassandra.removal import needed_since, retire_tiles
from anabranch.stores.cassandra.views import Views
from anabranch.values.times import SECOND

log = logging.getLogger(__name__)
_INTERVAL = 60.0
_PATIENCE = 10.0  # seconds for the statement under way


class Retirement:
    """Removes the tiles that no answer can need, at `start` and every minute until `stop`.

    `fed` are by project the declarations whose views the streams feed.
    """

    def __init__(self, views: Views, fed: Callable[[], Mapping[str, Sequence[Project]]]) -> None:
        self._views, self._fed = views, fed
        self._retired: dict[tuple[str, str], int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retirement", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the key under way; the next stream removes the rest."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for name in list(self._fed()):
                # Asked anew for each: to retire one project's tiles may take minutes, in which others change.
                self._retire(name, self._fed().get(name, ()))
            self._stopping.wait(_INTERVAL)

    def _retire(self, name: str, projects: Sequence[Project]) -> None:
        try:
            if projects:
                self._views.drop_tiles(name, projects)
            since = needed_since(self._views.manifest(name))
            for project in projects:
                known = name, project.fingerprint
                if since is not None and since > self._retired.get(known, 0):
                    keys = retire_tiles(self._views, project, since, self._stopping)
                    self._retired[known] = since
                    log.info("retired tiles project=%s before=%s keys=%s", name, since // SECOND, keys)
        except Exception as error:  # noqa: BLE001 - streams go on, and tiles have a time to live
            log.warning("tiles of %s are retired later: %s", name, error)
