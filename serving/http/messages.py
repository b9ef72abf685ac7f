"""HTTP as plain values, and the RSGI adapter that granian calls. Knows nothing of projects."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from anabranch.answers.problems import CONTENT_TYPE, ProblemError
from anabranch.events.json_values import encode

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]
JSON: Headers = (("content-type", "application/json"),)
_DROPPED = 16 * 1024 * 1024
"""Bytes beyond the limit that are read and dropped: a caller that is refused while it sends may see a broken
connection instead of the reason."""
FEWEST = 32
"""Calls that are answered at once, however long they take."""
_JUDGED_SECONDS = 0.1  # of calls that tell whether there are too many: a stall is shorter
_LATE, _DECREASE, _INCREASE = 0.8, 0.8, 1.05
_STEP = 1.05  # by which what calls usually take goes up or down with each of them: so it is their median
_AT_ONCE = 16 * 1024
"""Bytes of a body that is read in one piece and not counted as waiting."""


@dataclass(slots=True)
class HttpRequest:
    """One request; `path` is percent-decoded and without the query, `query` as it came.

    `receive` reads the body, for a caller that has been admitted.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    authorization: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    query: str = ""
    headers: "Mapping[str, str] | HeaderTable" = field(default_factory=dict, repr=False)
    """Headers by lower-case name, of which only `get` may be asked."""
    receive: Callable[[], Awaitable[bytes]] | None = field(default=None, repr=False)
    until: float | None = None
    """When the caller stops waiting (time.monotonic), None where it did not say."""

    async def in_time(self, answer: Awaitable[T]) -> T:
        """The answer; a 503 problem once the caller waits no more. For what changes nothing."""
        if self.until is None:
            return await answer
        try:
            async with asyncio.timeout(self.until - time.monotonic()):
                return await answer
        except TimeoutError as error:
            raise _too_late() from error


@dataclass(slots=True)
class Response:
    """A complete response."""

    status: int
    body: bytes
    headers: Headers = JSON


def json_response(document: object, status: int = 200) -> Response:
    """`document` as JSON; NaN and infinities become null."""
    return Response(status, encode(document))


def problem_response(problem: ProblemError, extra: Mapping[str, object] | None = None) -> Response:
    """The response for a problem, with `extra` members in its body."""
    return Response(problem.status, problem.body(extra), (("content-type", CONTENT_TYPE), *problem.headers))


class Scope(Protocol):
    """RSGI's scope: a request before its body."""

    proto: str
    method: str
    path: str
    query_string: str
    authority: str | None

    @property
    def headers(self) -> "HeaderTable":
        """Headers by lower-case name."""
        ...


class HeaderTable(Protocol):
    """Headers by lower-case name."""

    def get(self, key: str, default: str | None = None) -> str | None:
        """The header's first value."""
        ...


class Exchange(Protocol):
    """RSGI's handle on one request and its response."""

    async def __call__(self) -> bytes:
        """The whole body."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send the response."""
        ...


class GoneError(Exception):
    """The caller went away before the whole body had come: nobody waits for an answer."""


def until_of(headers: "HeaderTable") -> float | None:
    """When a caller stops waiting, by its header `Request-Timeout-Ms`; a 400 problem for no whole number."""
    said = headers.get("request-timeout-ms")
    if said is None:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 12):
        detail = f"Request-Timeout-Ms is {said[:20]!r}: send a whole number of milliseconds"
        raise ProblemError(400, "bad-header", detail)
    return time.monotonic() + int(said) / 1000


def _too_late() -> ProblemError:
    return _come_again("late", "the answer would come after the caller's Request-Timeout-Ms: try again later")


def _come_again(kind: str, detail: str) -> ProblemError:
    problem = ProblemError(503, kind, detail)
    problem.headers = (("retry-after", "1"),)
    return problem


@dataclass(slots=True)
class Places:
    """Calls that are answered at once: one more would make all of them late.

    There are `most`. While calls take longer than `goal` seconds there are fewer, down to `FEWEST`. Of a call
    the `elsewhere()` seconds for which it waits for a store do not count: fewer calls would wait as long. Nor
    do calls count of which less than half the places are taken, since these wait for no other.
    """

    most: int
    goal: float = 0.0
    elsewhere: Callable[[], float] = lambda: 0.0
    held: int = 0
    _now: float = 0.0
    _usual: float = 0.0
    _judged: float = 0.0
    _lowered: float = 0.0
    _calls: int = 0
    _late: int = 0
    _peak: int = 0

    def __post_init__(self) -> None:
        self._now = float(self.most)

    @property
    def now(self) -> int:
        """How many there are at present."""
        return int(self._now)

    @contextmanager
    def taken(self, until: float | None = None) -> Iterator[None]:
        """Hold a place; raises a 503 problem, which says when to come again, if there is none.

        So it does for a caller that waits `until` a time before which calls are not answered at present.
        """
        started = time.monotonic()
        if self.held >= self.now:
            detail = f"{self.held} calls are being answered, more would be late: try again in a second"
            raise _come_again("busy", detail)
        if until is not None and started + (self._usual if self.held else 0.0) > until:
            raise _too_late()
        self.held += 1
        self._peak = max(self._peak, self.held)
        try:
            yield
        finally:
            self.held -= 1
            self._learn(started, time.monotonic())

    def _learn(self, started: float, ended: float) -> None:
        taken = ended - started
        self._usual = self._usual * _STEP if taken > self._usual > 0 else max(taken, self._usual / _STEP)
        if not self.goal:
            return
        if started >= self._lowered:  # calls that began before the last decrease do not show its effect
            self._calls += 1
            self._late += taken > self.goal and taken - self.elsewhere() > self.goal
        if ended < self._judged + _JUDGED_SECONDS:
            return
        if self._late > _LATE * self._calls and 2 * self._peak > self._now:
            self._now, self._lowered = max(min(float(self.most), FEWEST), self._now * _DECREASE), ended
        elif self._calls:
            self._now = min(float(self.most), self._now * _INCREASE + 1)
        self._judged, self._calls, self._late, self._peak = ended, 0, 0, self.held


@dataclass(slots=True)
class Bodies:
    """Reads bodies of at most `limit` bytes that come within `seconds`.

    All that are being read hold at most `most` bytes together.
    """

    limit: int
    seconds: float
    most: int
    held: int = 0

    async def read(self, scope: Scope, exchange: Exchange) -> bytes:
        """The body. Raises a 408, 413, 415 or 503 problem, GoneError when the caller goes away.

        One that is too large is told so once all or `_DROPPED` more bytes were sent.
        """
        encoding = scope.headers.get("content-encoding") or "identity"
        if encoding.strip().lower() != "identity":
            raise ProblemError(
                415, "wrong-content-encoding", f"content encoding {encoding[:100]!r}: send the body as it is"
            )
        length = scope.headers.get("content-length") or ""
        announced = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
        if announced is not None and announced > self.limit + _DROPPED:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.seconds):
                if announced is not None and announced <= min(self.limit, _AT_ONCE):
                    return await exchange()
                body, size = await self._pieces(exchange)
        except TimeoutError as error:
            raise ProblemError(
                408,
                "too-slow",
                f"the body did not come within {self.seconds:g} s: send it faster, or less at once",
            ) from error
        except RuntimeError as error:  # the class of granian's errors of a closed connection
            raise GoneError from error
        if size > self.limit:
            raise self._too_large()
        if announced is not None and size < announced:
            raise GoneError
        return body

    async def _pieces(self, exchange: Exchange) -> tuple[bytes, int]:
        """The body as far as it fits, and how many bytes were sent."""
        pieces: list[bytes] = []
        size = kept = 0
        try:
            async for piece in exchange:
                size += len(piece)
                if size > self.limit + _DROPPED:
                    break
                if size <= self.limit:
                    if self.held + len(piece) > self.most:
                        raise ProblemError(
                            503, "busy", "too many bodies are being sent to this server: try again"
                        )
                    pieces.append(piece)
                    kept, self.held = kept + len(piece), self.held + len(piece)
        finally:
            self.held -= kept
        return b"".join(pieces), size

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "too-large",
            f"the body is larger than {self.limit} bytes: send less at once, "
            "or have serving.body_bytes raised",
        )
