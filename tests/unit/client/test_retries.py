"""What a client sends again, after how long, and what it raises in the end: against a server that fails."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anabranch import AsyncClient, Client
from anabranch.client import InvalidCallError, RefusedError, UnansweredError, UnknownError
from anabranch.client.calls import problem, publish_call, wait_before
from anabranch.errors import AnabranchError, MisuseError, UnavailableError

BUSY = b'{"type": "urn:anabranch:problem:busy", "status": 503, "detail": "128 calls are being answered"}'


@dataclass
class Script:
    """The statuses that a server answers with, one after the other, and the paths that were asked."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = "0"
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def script() -> Iterator[Script]:
    found = Script()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            found.asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status = found.statuses.pop(0) if found.statuses else 200
            self.send_response(status)
            body = BUSY if status >= 400 else b'{"projects": [], "accepted": 1}'
            if status >= 400 and found.retry_after is not None:
                self.send_header("retry-after", found.retry_after)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the names of the standard library

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_server_is_asked_again_when_it_says(script: Script) -> None:
    script.statuses = [503, 429, 502]
    with Client(script.url) as client:
        assert client.projects() == []
    assert len(script.asked) == 4


def test_an_awaited_call_is_asked_again_too(script: Script) -> None:
    script.statuses = [503]

    async def ask() -> list[dict[str, object]]:
        async with AsyncClient(script.url) as client:
            return await client.projects()

    assert asyncio.run(ask()) == []
    assert len(script.asked) == 2


def test_a_server_that_stays_busy_is_given_up_with_its_own_words(script: Script) -> None:
    script.statuses = [503] * 9
    with Client(script.url, tries=3) as client, pytest.raises(UnansweredError, match="128 calls") as caught:
        client.projects()
    assert (caught.value.status, caught.value.kind, len(script.asked)) == (503, "busy", 3)
    assert isinstance(caught.value, UnavailableError)


def test_a_wait_longer_than_ones_patience_is_an_error_at_once(script: Script) -> None:
    script.statuses, script.retry_after = [503], "3600"
    with Client(script.url, patience=5) as client, pytest.raises(UnansweredError):
        client.projects()
    assert len(script.asked) == 1


def test_events_are_published_again_only_if_the_caller_says_so(script: Script) -> None:
    events = [{"id": "e1", "at": datetime(2024, 5, 1, tzinfo=UTC)}]
    with Client(script.url) as client:
        script.statuses = [503]
        with pytest.raises(UnansweredError):
            client["p"].publish("payments", events)
        assert len(script.asked) == 1
        script.statuses = [503]
        assert client["p"].publish("payments", events, again=True)["accepted"] == 1
        script.statuses = [503]
        event = {"source": "payments", "event": events[0], "publish": True}
        with pytest.raises(UnansweredError):
            client["p"].predict("c1", event=event)
    assert len(script.asked) == 4
    assert publish_call("p", "s", events, again=False).body == b'[{"id":"e1","at":"2024-05-01T00:00:00Z"}]'


def test_a_server_that_is_not_there_is_one_clear_error() -> None:
    with (
        Client("http://127.0.0.1:1", tries=2, patience=1) as client,
        pytest.raises(UnansweredError, match=r"http://127\.0\.0\.1:1 does not answer") as caught,
    ):
        client.projects()
    assert caught.value.status == 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidCallError), (422, InvalidCallError), (401, RefusedError), (403, RefusedError),
     (404, UnknownError), (429, UnansweredError), (500, UnansweredError), (503, UnansweredError)],
)  # fmt: skip
def test_each_status_has_its_exception(status: int, kind: type[AnabranchError]) -> None:
    body = b'{"type": "urn:anabranch:problem:wrong-value", "detail": "age: -1 is no age", "field": "age"}'
    found = problem(status, body)
    assert type(found) is kind
    assert (str(found), found.kind, found.field) == ("age: -1 is no age", "wrong-value", "age")
    assert "without a reason" in str(problem(status, b"<html>"))


def test_the_time_to_wait_is_the_servers_or_grows() -> None:
    now = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
    assert [wait_before(attempt, None, now) for attempt in range(3)] == [0.2, 0.4, 0.8]
    assert wait_before(0, "7", now) == 7
    assert wait_before(0, "Wed, 01 May 2024 12:00:09 GMT", now) == 9
    assert wait_before(1, "soon", now) == 0.4


def test_what_cannot_be_meant_is_refused_and_no_secret_is_shown() -> None:
    with pytest.raises(MisuseError, match="url 'localhost' is no address"):
        Client("localhost")
    with Client("http://127.0.0.1:1", "ab12secret") as client, pytest.raises(MisuseError, match="needs key="):
        client["p"].predict()
    assert "secret" not in repr(client)
