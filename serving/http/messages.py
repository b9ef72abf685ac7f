"""HTTP as plain values, and the RSGI adapter that granian calls. Knows nothing of projects."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from anabranch.answers.problems import CONTENT_TYPE, ProblemError
from anabranch.events.json_values import encode

Headers = tuple[tuple[str, str], ...]
JSON: Headers = (("content-type", "application/json"),)
_DROPPED = 16 * 1024 * 1024
"""Bytes beyond the limit that are read and dropped: a caller that is refused while it sends may see a broken
connection instead of the reason."""


@dataclass(slots=True)
class Request:
    """One request; `path` is percent-decoded and without the query, `query` as it came."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    authorization: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    query: str = ""


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


async def read_body(scope: Scope, exchange: Exchange, limit: int) -> bytes:
    """The body; raises a 413 problem for more than `limit` bytes, once all or `_DROPPED` more were sent."""
    length = scope.headers.get("content-length") or ""
    announced = int(length) if length.isascii() and length.isdigit() else None
    if announced is not None and announced <= limit:
        return await exchange()
    if announced is not None and announced > limit + _DROPPED:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in exchange:
        size += len(chunk)
        if size > limit + _DROPPED:
            break
        if size <= limit:
            chunks.append(chunk)
    if size > limit or announced is not None:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        413,
        "too-large",
        f"the body is larger than {limit} bytes: send less at once, or have serving.body_bytes raised",
    )
