"""A real HTTP server that keeps what is posted to it."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """What was posted, in order, and the statuses to answer with; the last one stays."""

    url: str
    statuses: list[int]
    slow_seconds: float = 0.0
    bodies: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def receiver(statuses: Sequence[int] = (200,), slow_seconds: float = 0.0) -> Iterator[Received]:
    """A receiver on a free port of loopback."""
    received = Received("", list(statuses), slow_seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(received.slow_seconds)
            status = received.statuses.pop(0) if len(received.statuses) > 1 else received.statuses[0]
            received.bodies.append(body)
            received.paths.append(self.path)
            self.send_response(status)
            if status == 302:
                self.send_header("location", received.url + "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as place:
        received.url = f"http://{place}"
        yield received


@contextmanager
def shown(text: Callable[[], bytes]) -> Iterator[str]:
    """A server that shows a text, such as metrics; gives its place (``host:port``)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as place:
        yield place


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of this handler in a thread; gives its place."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
