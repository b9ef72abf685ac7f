"""Calls of the REST API as values: what to send, whether it may be sent again, what came back. No network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import msgspec

from anabranch.errors import AnabranchError, MisuseError, UnavailableError

Key = str | int | float | bool | Mapping[str, Any]
"""The value of a key of one column, or a dict of its columns."""
MOST_AT_ONCE = 1000
"""Keys or instances of one call."""
AGAIN = (429, 502, 503, 504)
"""Statuses after which a call that changes nothing is sent again."""


class CallError(AnabranchError):
    """A call was answered by a problem. Its text is the problem's; `kind` names it for programs.

    `status` is HTTP's, `field` the part of the request to blame, None where there is none.
    """

    def __init__(self, status: int, kind: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.field = status, kind, field


class InvalidCallError(CallError, MisuseError):
    """The server cannot take what was sent: 400, 405, 413, 415, 422."""


class RefusedError(CallError):
    """Credentials are missing or wrong, or the caller lacks the right: 401, 403."""


class UnknownError(CallError):
    """There is no such project, source, path or key: 404. `kind` is ``unknown-key`` for a key."""


class UnansweredError(CallError, UnavailableError):
    """The server, or what it needs, is away or busy, after all tries; status 0 without any answer."""


_BY_STATUS: dict[int, type[CallError]] = {
    401: RefusedError, 403: RefusedError, 404: UnknownError, 408: UnansweredError, 429: UnansweredError
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RemotePrediction:
    """A score, with the versions and the time behind it. `more` are further members of the answer."""

    key: Any
    score: float | None
    label: Any
    model_version: str | None
    batch_version: int | None
    as_of: datetime
    degraded: bool
    degraded_reason: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any], key: Any = None) -> "RemotePrediction":
        """The prediction of an answer's JSON."""
        given = dict(document)
        return cls(
            key=given.pop("key", key),
            score=given.pop("score"),
            label=given.pop("label", None),
            model_version=given.pop("model_version", None),
            batch_version=given.pop("batch_version", None),
            as_of=datetime.fromisoformat(given.pop("as_of")),
            degraded=given.pop("degraded"),
            degraded_reason=given.pop("degraded_reason", None),
            more=given,
        )


@dataclass(frozen=True)
class ApiCall:
    """A request: `repeatable` when sending it twice does no more than sending it once."""

    method: str
    path: str
    body: bytes | None = None
    repeatable: bool = True


def predict_call(project: str, question: Mapping[str, Any]) -> ApiCall:
    """A call that scores; with an event that is published too it is sent once."""
    event = question.get("event")
    publishes = isinstance(event, Mapping) and bool(event.get("publish"))
    return ApiCall("POST", f"{_place(project)}/predict", encoded(question), repeatable=not publishes)


def instances_call(project: str, questions: Sequence[Mapping[str, Any]]) -> ApiCall:
    """A call that scores up to MOST_AT_ONCE questions."""
    return ApiCall("POST", f"{_place(project)}/predict", encoded({"instances": list(questions)}))


def features_call(project: str, key: Key) -> ApiCall:
    """A call for the stored features of a key."""
    return ApiCall("GET", f"{_place(project)}/features/{_key_path(key)}")


def scores_call(project: str, key: Key) -> ApiCall:
    """A call for the current row of a key."""
    return ApiCall("GET", f"{_place(project)}/scores/{_key_path(key)}")


def publish_call(project: str, source: str, events: Sequence[Mapping[str, Any]], *, again: bool) -> ApiCall:
    """A call that publishes events."""
    return ApiCall(
        "POST", f"{_place(project)}/events/{quote(source, safe='')}", encoded(list(events)), repeatable=again
    )


def project_call(project: str) -> ApiCall:
    """A call for a project's entry in the catalogue."""
    return ApiCall("GET", _place(project))


def question_of(
    key: Key | None,
    features: Mapping[str, Any] | None,
    request: Mapping[str, Any] | None,
    event: Mapping[str, Any] | None,
    explain: bool,
) -> dict[str, Any]:
    """The body of a question: what is None is left out. Raises MisuseError without key and features."""
    if key is None and features is None:
        raise MisuseError("a prediction needs key= or features=, or both")
    given = {"key": key, "features": features, "request": request, "event": event}
    found = {name: value for name, value in given.items() if value is not None}
    return found | ({"explain": True} if explain else {})


def encoded(document: Any) -> bytes:
    """JSON of plain Python, in which times are ISO 8601 and decimals keep their digits."""
    return _ENCODER.encode(document)


def _plain(value: Any) -> Any:
    """What msgspec does not encode by itself."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):  # of numpy
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is no value of JSON")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number")


def _place(project: str) -> str:
    return f"/v1/projects/{quote(project, safe='')}"


def _key_path(key: Key) -> str:
    """A key as the last part of a path: its value, or ``tailnum=N14228,origin=EWR`` for several columns."""
    if not isinstance(key, Mapping):
        return quote(_text(key), safe="")
    if len(key) == 1:
        return quote(_text(next(iter(key.values()))), safe="")
    return quote(",".join(f"{name}={_text(value)}" for name, value in key.items()), safe="=,")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def problem(status: int, body: bytes) -> CallError:
    """The error for an answer that is no success."""
    try:
        document = json.loads(body)
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    kind = str(document.get("type", "")).rpartition(":")[2] or "unreadable"
    detail = str(document.get("detail") or f"the server answered {status} without a reason")
    made = _BY_STATUS.get(status, UnansweredError if status >= 500 else InvalidCallError)
    return made(status, kind, detail, document.get("field"))


def wait_before(attempt: int, retry_after: str | None, now: datetime) -> float:
    """Seconds to wait before a further try: what the server says, or longer with each attempt (from 0)."""
    if retry_after is not None:
        if retry_after.strip().isdigit():
            return float(retry_after)
        try:
            then = parsedate_to_datetime(retry_after)
            return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())
        except ValueError:
            pass
    return float(0.2 * 2**attempt)
