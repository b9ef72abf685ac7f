"""The gateway's process where replicas come and go: an nginx for callers, one behind it, and what follows.

    callers -> nginx (nginx.conf) -> nginx (back.conf) -> REST servers that say that they are up
               never reloaded        reloaded when they change

An nginx that is reloaded closes idle connections, and a request that is under way on one is lost to its
caller. So callers are connected to an nginx that stays as it is, which tries such a request again.

While the store does not answer, requests go where they went before.
"""

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch.errors import AnabranchError
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.replicas import Replica, Replicas
from jobs.servers.nginx import GIVEN, filled, nginx_command, upstream_lines, user_line

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
_SETTLE_SECONDS = 0.25
_STOP_SECONDS = 20.0
_NOBODY = "127.0.0.1:1 down"


def chosen(replicas: Sequence[Replica]) -> list[str]:
    """The places that requests go to: those that are ready, or all while none is, so that one says why."""
    ready = {one.place for one in replicas if one.ready}
    return sorted(ready or {one.place for one in replicas})


@dataclass
class Gateway:
    """Both nginx processes, in the folder `home`, and the places in force."""

    home: Path
    given: dict[str, Any]
    replicas: Replicas
    places: tuple[str, ...] | None = None

    def follow(self, stopping: threading.Event) -> None:
        """Run until `stopping`, or until an nginx ends."""
        self._write(())
        (self.home / "back.sock").unlink(missing_ok=True)
        back, front = (
            subprocess.Popen(nginx_command(self.home, file)) for file in ("back.conf", "nginx.conf")
        )
        try:
            while not stopping.wait(LOOK_SECONDS) and back.poll() is None and front.poll() is None:
                try:
                    self._look(back)
                except AnabranchError as error:
                    log.warning("requests go where they went before: %s", error)
        finally:
            for process in (front, back):  # requests that were begun are answered
                if process.poll() is None:
                    process.send_signal(signal.SIGQUIT)
                    try:
                        process.wait(_STOP_SECONDS)
                    except subprocess.TimeoutExpired:
                        process.kill()

    def _look(self, back: "subprocess.Popen[bytes]") -> None:
        if self.places is None:
            self.replicas.ensure()
        places = tuple(chosen(self.replicas.all()))
        if places != self.places:
            self._write(places)
            back.send_signal(signal.SIGHUP)
            threading.Event().wait(_SETTLE_SECONDS)
            log.warning("requests go to %s", ", ".join(places) or "no server")
            self.places = places
        self.replicas.send_to(str(self.given["place"]), places)

    def _write(self, places: Sequence[str]) -> None:
        values = {
            "user": user_line(),
            "upstreams": upstream_lines(places) if places else f"        server {_NOBODY};",
            "body_bytes": self.given["body_bytes"],
            "patience": self.given["patience"],
        }
        (self.home / "back.conf").write_text(filled("back.conf", values), encoding="utf-8")


def main(home: Path) -> None:
    """Run the gateway in the foreground until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    given = json.loads((home / GIVEN).read_text(encoding="utf-8"))
    (home / GIVEN).unlink()
    views: dict[str, Any] = given["views"]
    views["hosts"] = tuple(views["hosts"])
    stopping = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stopping.set())
    Gateway(home, given, Replicas(ViewsSettings(**views))).follow(stopping)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
