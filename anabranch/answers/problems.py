"""Errors as `application/problem+json` (RFC 9457), over HTTP and in topics, with the field to blame."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from anabranch.errors import AnabranchError, EventError, TooLargeError, UnavailableError, UnknownProjectError

CONTENT_TYPE = "application/problem+json"


class ProblemError(AnabranchError):
    """An error that answers a request. `kind` names it for programs, such as ``unknown-project``."""

    def __init__(self, status: int, kind: str, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.field = status, kind, str(self), field
        self.headers: tuple[tuple[str, str], ...] = ()

    @property
    def document(self) -> dict[str, object]:
        """The problem's own members."""
        document: dict[str, object] = {
            "type": f"urn:anabranch:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            document["field"] = self.field
        return document

    def body(self, extra: Mapping[str, object] | None = None) -> bytes:
        """The problem as JSON, with `extra` members after its own."""
        document = self.document
        return msgspec.json.encode(
            {**document, **{name: value for name, value in (extra or {}).items() if name not in document}}
        )


def unprocessable(field: str, detail: str, kind: str = "wrong-value") -> ProblemError:
    """A 422 that names the field to blame."""
    return ProblemError(422, kind, detail, field=field)


def of_error(error: AnabranchError) -> ProblemError:
    """The problem for an error of the layers below; 503 where the caller may retry."""
    match error:
        case ProblemError():
            return error
        case UnknownProjectError():
            return ProblemError(404, "unknown-project", str(error))
        case TooLargeError():
            return ProblemError(413, "too-large", str(error))
        case EventError():
            return ProblemError(422, "wrong-value", str(error))
        case UnavailableError():
            return ProblemError(503, "unavailable", str(error))
        case _:
            return ProblemError(503, "failed", str(error))
