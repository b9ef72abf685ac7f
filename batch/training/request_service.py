"""Training on request: messages are validated, put together, trained and answered.

Requests for one project that wait at the same time become one training, whichever trainer reads them. No
message ends the service: each is answered. A request whose id was answered before gets the same answer and no
second training.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.progress import Progress
from anabranch.stores.kafka.training_topics import Message, TrainingTopics
from anabranch.values.names import listed
from batch.training.train import Trained

log = logging.getLogger(__name__)
_LONGEST_ID = 200
_FIELDS = ("request_id", "project", "reason", "rows")

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


class RefusedRequestError(AnabranchError):
    """A message that is no valid request, with its request id and project where it has them."""

    def __init__(self, text: str, request_id: str | None = None, project: str | None = None) -> None:
        super().__init__(text)
        self.request_id, self.project = request_id, project


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """A request for a training; its `rows` by source become events first."""

    request_id: str
    project: str
    reason: str = ""
    rows: Rows = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Requests for one project that become one training, by id; `places` are the places of their messages."""

    project: Project
    requests: dict[str, TrainingRequest] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)


class TrainingDesk(Protocol):
    """The trainer behind the service; jobs/ provides it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the projects that are trained here."""
        ...

    def project(self, name: str) -> Project:
        """The project `name` as it is declared now."""
        ...

    def check(self, project: Project, rows: Rows) -> None:
        """Raises AnabranchError for a row that is no event of its source."""
        ...

    def land(self, project: Project, rows: Sequence[Rows]) -> None:
        """Bring rows, and all that waits in the project's topics, into the lake."""
        ...

    def train(self, project: Project, requests: Sequence[str]) -> Trained:
        """Train on the lake for the requests with these ids."""
        ...


def read_request(value: bytes) -> TrainingRequest:
    """The request in a message; raises RefusedRequestError."""
    try:
        content = json.loads(value)
    except ValueError as error:
        raise RefusedRequestError(f"a request is a JSON object, this is no JSON: {value[:60]!r}") from error
    if not isinstance(content, dict):
        raise RefusedRequestError(f"a request is a JSON object, not {json.dumps(content)[:60]}")
    known = {name: content.get(name) for name in _FIELDS}
    found = {
        name: text for name in ("request_id", "project") if isinstance(text := known[name], str) and text
    }
    request_id, project = found.get("request_id"), found.get("project")
    if request_id is None or len(request_id) > _LONGEST_ID:
        raise RefusedRequestError(
            f"request_id is missing or no text of at most {_LONGEST_ID} characters", None, project
        )
    if project is None:
        raise RefusedRequestError("project is missing: give the name of a declared project", request_id)
    unknown = [name for name in content if name not in _FIELDS]
    if unknown:
        raise RefusedRequestError(
            f"a request has no field {unknown[0]!r}: {listed(unknown[0], _FIELDS)}", request_id, project
        )
    rows = known["rows"] or {}
    if not isinstance(rows, dict) or not all(
        isinstance(each, list) and all(isinstance(row, dict) for row in each) for each in rows.values()
    ):
        raise RefusedRequestError(
            "rows is to be an object with a list of objects for each source", request_id, project
        )
    return TrainingRequest(
        request_id=request_id, project=project, reason=str(known["reason"] or ""), rows=rows
    )


class TrainingService:
    """Answers requests, all that wait together; `answered` has the final answers so far, by id."""

    def __init__(
        self, topics: TrainingTopics, desk: TrainingDesk, progress: Progress, *, others: bool
    ) -> None:
        """With `others`, requests for projects that are not trained here are left to other trainers."""
        self.topics, self.desk, self.progress, self.others = topics, desk, progress, others
        self.answered = topics.answered()
        self.trainings = self.requests = 0

    def serve(self, seconds: float) -> bool:
        """Answer the requests that wait; False when none arrives within `seconds`."""
        messages = self.topics.requests(seconds)
        if not messages:
            return False
        waiting: dict[str, Waiting] = {}
        for message in messages:
            self._sort(message, waiting)
        for each in waiting.values():
            self._train(each)
        # Committed last: a service that is killed before reads the requests again.
        self.topics.commit()
        return True

    def _sort(self, message: Message, waiting: dict[str, Waiting]) -> None:
        """Add a request to those that wait for a training of their project, or answer it at once."""
        try:
            request = read_request(message.value)
            if self._answer_again(request.request_id, [message.place]):
                return
            if self.others and request.project not in self.desk.names:
                return
            project = self._project(request)
        except RefusedRequestError as error:
            self.progress.step(f"refused: {error}")
            self._answer(
                {
                    "request_id": error.request_id,
                    "project": error.project,
                    "status": "refused",
                    "error": str(error),
                    "message": message.place,
                }
            )
            return
        found = waiting.setdefault(request.project, Waiting(project=project))
        found.requests[request.request_id] = request
        found.places.setdefault(request.request_id, []).append(message.place)

    def _answer_again(self, request_id: str, places: Sequence[str]) -> bool:
        """Whether the id was answered before; a repeated request gets the same answer again.

        Nothing is sent for messages that another trainer has answered meanwhile.
        """
        before = self.answered.get(request_id)
        if before is None:
            return False
        if not set(places) <= set(before.get("messages", [before.get("message")])):
            self.progress.step(f"request {request_id} was answered before: {before['status']}")
            self.topics.answer([before])
        return True

    def _project(self, request: TrainingRequest) -> Project:
        """The project to train; raises RefusedRequestError when it or the rows are not valid."""
        try:
            return self._fitting(request)
        except AnabranchError as error:
            raise RefusedRequestError(str(error), request.request_id, request.project) from error

    def _fitting(self, request: TrainingRequest) -> Project:
        if request.project not in self.desk.names:
            raise AnabranchError(f"there is no project {request.project!r}: give the name of a declared one")
        project = self.desk.project(request.project)
        if project.model is None:
            raise AnabranchError(f"project {request.project!r} declares no model: there is nothing to train")
        self.desk.check(project, request.rows)
        return project

    def _train(self, waiting: Waiting) -> None:
        name = waiting.project.name
        with self.topics.alone(
            name, lambda: self.progress.step(f"another trainer trains {name}: waiting for it")
        ):
            self.answered |= self.topics.answered()
            ids = [one for one in waiting.requests if not self._answer_again(one, waiting.places[one])]
            if ids:
                self._train_alone(replace(waiting, requests={one: waiting.requests[one] for one in ids}))

    def _train_alone(self, waiting: Waiting) -> None:
        name, ids = waiting.project.name, list(waiting.requests)
        reasons = "; ".join(
            dict.fromkeys(request.reason for request in waiting.requests.values() if request.reason)
        )
        self.progress.step(f"training {name} for {len(ids)} requests{f': {reasons}' if reasons else ''}")
        self.topics.answer(
            [
                {"request_id": one, "project": name, "status": "accepted", "at": _now(), "together": ids}
                for one in ids
            ]
        )
        outcome = self._result(waiting)
        for one in ids:
            self._answer(
                {
                    "request_id": one,
                    "project": name,
                    "together": ids,
                    "messages": waiting.places[one],
                    **outcome,
                }
            )

    def _result(self, waiting: Waiting) -> dict[str, Any]:
        """The outcome of the training, for the answers."""
        project = waiting.project
        try:
            self.desk.land(project, [request.rows for request in waiting.requests.values() if request.rows])
            trained = self.desk.train(project, list(waiting.requests))
        except AnabranchError as error:
            return {"status": "failed", "error": str(error)}
        except Exception as error:
            # Any error of one training is answered; the service goes on.
            log.exception("training of %s failed", project.name)
            return {
                "status": "failed",
                "error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            }
        self.trainings += 1
        metrics = {
            name: value
            for name, value in trained.metrics.items()
            if not name.startswith("train_") and value == value  # noqa: PLR0124 - no NaN in JSON
        }
        outcome = {
            "model_version": trained.version,
            "champion": trained.champion,
            "reason": trained.reason,
            "rows": trained.rows,
            "metrics": metrics,
        }
        self.progress.step(
            f"version {trained.version} of {project.name}: "
            f"{'champion' if trained.champion else trained.reason}"
        )
        return {"status": "done", **outcome}

    def _answer(self, answer: Mapping[str, Any]) -> None:
        final = {**answer, "at": _now()}
        self.topics.answer([final])
        self.requests += 1
        if final["request_id"] is not None:
            self.answered[final["request_id"]] = final


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
