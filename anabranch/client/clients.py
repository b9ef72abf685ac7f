"""Clients of a REST server: one that waits, one that is awaited. They differ in how a call is sent alone."""

import asyncio
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from anabranch.client.calls import (
    AGAIN,
    MOST_AT_ONCE,
    ApiCall,
    CallError,
    InvalidCallError,
    Key,
    RemotePrediction,
    UnansweredError,
    encoded,
    features_call,
    instances_call,
    predict_call,
    problem,
    project_call,
    publish_call,
    question_of,
    scores_call,
    wait_before,
)
from anabranch.client.frames import as_table, rows_as_questions, with_predictions
from anabranch.errors import MisuseError

Document = dict[str, Any]
_JSON = {"Content-Type": "application/json"}
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class _Settings:
    """What both clients know: the address, the key, how long and how often they try."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        tries: int = 4,
        patience: float = 30.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise MisuseError(f"url {url!r} is no address: write http://HOST:PORT or https://HOST")
        if tries < 1:
            raise MisuseError(f"tries={tries}: a call is sent at least once")
        self.url, self.tries, self.patience = url.rstrip("/"), tries, patience
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "timeout": timeout,
            "headers": {
                # A server that is late anyway need not begin.
                "Request-Timeout-Ms": str(int(1000 * timeout)),
                **({} if key is None else {"Authorization": f"Bearer {key}"}),
            },
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _next_wait(
        self, call: ApiCall, attempt: int, waited: float, failed: httpx.Response | httpx.TransportError
    ) -> float | None:
        """Seconds until the call is sent again; None when it is not."""
        answered = isinstance(failed, httpx.Response)
        may = (
            failed.status_code in AGAIN and call.repeatable
            if isinstance(failed, httpx.Response)
            else call.repeatable or isinstance(failed, _NOT_SENT)
        )
        if not may or attempt + 1 >= self.tries:
            return None
        said = failed.headers.get("retry-after") if answered else None  # type: ignore[union-attr]
        wait = wait_before(attempt, said, datetime.now(UTC))
        # Callers that were told the same moment do not all come back in it.
        wait *= 1.0 if said == "0" else random.uniform(1.0, 1.25)  # noqa: S311
        return wait if waited + wait <= self.patience else None

    def _failed(self, error: httpx.TransportError) -> UnansweredError:
        reason = str(error) or type(error).__name__
        return UnansweredError(0, "no-answer", f"{self.url} does not answer ({reason}): is the server up?")


def _headers() -> dict[str, str]:
    """The headers of a call: with `traceparent` where the caller traces its own work by OpenTelemetry."""
    headers = dict(_JSON)
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        TraceContextTextMapPropagator().inject(headers)
    return headers


def _found(response: httpx.Response) -> Any:
    if not response.is_success:
        raise problem(response.status_code, response.content)
    return response.json() if response.content else None


class Client(_Settings):
    """A REST server: ``Client(url, key)["card_fraud"].answer("c1")``. Calls wait for their answers.

    `key` is an API key or a token. A call may take `timeout` seconds; one that can be repeated is sent up to
    `tries` times while the server is away or busy, after what `Retry-After` says, for `patience` seconds in
    all. Threads may share a client. Errors are `CallError` and its subclasses.
    """

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        super().__init__(url, key, **options)
        self._http = httpx.Client(**self._options)

    def __getitem__(self, project: str) -> "RemoteProject":
        return RemoteProject(self, project)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def projects(self) -> list[Document]:
        """The catalogue: every project that the caller may see."""
        found: list[Document] = self.send(ApiCall("GET", "/v1/projects"))["projects"]
        return found

    def health(self) -> Document:
        """Whether the server can answer; raises UnansweredError, which says what is away, when it cannot."""
        found: Document = self.send(ApiCall("GET", "/readyz"))
        return found

    def send(self, call: ApiCall) -> Any:
        """The JSON that answers a call."""
        waited, attempt = 0.0, 0
        while True:
            try:
                response = self._http.request(call.method, call.path, content=call.body, headers=_headers())
            except httpx.TransportError as error:
                wait = self._next_wait(call, attempt, waited, error)
                if wait is None:
                    raise self._failed(error) from error
            else:
                wait = None if response.is_success else self._next_wait(call, attempt, waited, response)
                if wait is None:
                    return _found(response)
            time.sleep(wait)
            waited, attempt = waited + wait, attempt + 1


class RemoteProject:
    """One project of a server."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name
        self._entry: Document | None = None

    def about(self) -> Document:
        """Its entry in the catalogue: keys, sources, features, model, freshness."""
        found: Document = self.client.send(project_call(self.name))
        self._entry = found
        return found

    def predict(
        self,
        key: Key | None = None,
        *,
        features: Mapping[str, Any] | None = None,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
        explain: bool = False,
    ) -> RemotePrediction:
        """The score of a key, of features that win over stored ones, or both; with the declared request.

        `event` is an event of the key that counts in the answer: ``{"source": ..., "event": {...}}``. With
        ``"publish": True`` the call is sent once. `explain` asks for reasons (`more` of the prediction).
        """
        question = question_of(key, features, request, event, explain)
        return RemotePrediction.read(self.client.send(predict_call(self.name, question)), key)

    def predict_many(self, questions: Sequence[Mapping[str, Any]]) -> list[RemotePrediction | CallError]:
        """Predictions of questions such as ``{"key": "c1", "request": {...}}``, in their order.

        A key of which nothing is known has an UnknownError in its place. At most 1,000 are sent in a call,
        fewer where the server takes no body of that size.
        """
        return [found for part in _parts(questions) for found in self._predict(part)]

    def _predict(self, part: Sequence[Mapping[str, Any]]) -> list[RemotePrediction | CallError]:
        try:
            return _predictions(self.client.send(instances_call(self.name, part)), part)
        except InvalidCallError as error:
            if not _splits(error, part):
                raise
        half = len(part) // 2
        return self._predict(part[:half]) + self._predict(part[half:])

    def answer(
        self,
        key: Key,
        *,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
        explain: bool = False,
    ) -> RemotePrediction:
        """`predict` of a key."""
        return self.predict(key, request=request, event=event, explain=explain)

    def features(self, key: Key) -> Document:
        """The stored features of a key as of now: `features`, `known`, `as_of`, `degraded`."""
        found: Document = self.client.send(features_call(self.name, key))
        return found

    def scores(self, key: Key) -> Document:
        """The current row of a key: the latest score and features that were written for analysts."""
        found: Document = self.client.send(scores_call(self.name, key))
        return found

    def publish(self, source: str, events: Sequence[Mapping[str, Any]], *, again: bool = False) -> Document:
        """Publish events of a source: all of them, or none. `again`: send them again when no answer came.

        Events that have ids count once however often they are sent, so `again` is safe for these.
        """
        found: Document = self.client.send(publish_call(self.name, source, events, again=again))
        return found

    def score(self, frame: Any) -> Any:
        """The rows with columns `score`, `label`, `model_version`, `degraded` and `error`, as the same kind.

        Columns of the key, features and columns of the request are sent, others come back as they were.
        """
        table, back = as_table(frame)
        questions = rows_as_questions(table, self._entry or self.about())
        return back(with_predictions(table, self.predict_many(questions)))


class AsyncClient(_Settings):
    """`Client` for calls that are awaited: ``await AsyncClient(url, key)["card_fraud"].answer("c1")``."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        super().__init__(url, key, **options)
        self._http = httpx.AsyncClient(**self._options)

    def __getitem__(self, project: str) -> "AsyncRemoteProject":
        return AsyncRemoteProject(self, project)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def projects(self) -> list[Document]:
        """The catalogue: every project that the caller may see."""
        found: list[Document] = (await self.send(ApiCall("GET", "/v1/projects")))["projects"]
        return found

    async def health(self) -> Document:
        """Whether the server can answer; raises UnansweredError, which says what is away, when it cannot."""
        found: Document = await self.send(ApiCall("GET", "/readyz"))
        return found

    async def send(self, call: ApiCall) -> Any:
        """The JSON that answers a call."""
        waited, attempt = 0.0, 0
        while True:
            try:
                response = await self._http.request(
                    call.method, call.path, content=call.body, headers=_headers()
                )
            except httpx.TransportError as error:
                wait = self._next_wait(call, attempt, waited, error)
                if wait is None:
                    raise self._failed(error) from error
            else:
                wait = None if response.is_success else self._next_wait(call, attempt, waited, response)
                if wait is None:
                    return _found(response)
            await asyncio.sleep(wait)
            waited, attempt = waited + wait, attempt + 1


class AsyncRemoteProject:
    """`RemoteProject` for calls that are awaited."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.client, self.name = client, name
        self._entry: Document | None = None

    async def about(self) -> Document:
        """Its entry in the catalogue: keys, sources, features, model, freshness."""
        found: Document = await self.client.send(project_call(self.name))
        self._entry = found
        return found

    async def predict(
        self,
        key: Key | None = None,
        *,
        features: Mapping[str, Any] | None = None,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
        explain: bool = False,
    ) -> RemotePrediction:
        """As `RemoteProject.predict`."""
        question = question_of(key, features, request, event, explain)
        return RemotePrediction.read(await self.client.send(predict_call(self.name, question)), key)

    async def predict_many(
        self, questions: Sequence[Mapping[str, Any]]
    ) -> list[RemotePrediction | CallError]:
        """As `RemoteProject.predict_many`."""
        return [found for part in _parts(questions) for found in await self._predict(part)]

    async def _predict(self, part: Sequence[Mapping[str, Any]]) -> list[RemotePrediction | CallError]:
        try:
            return _predictions(await self.client.send(instances_call(self.name, part)), part)
        except InvalidCallError as error:
            if not _splits(error, part):
                raise
        half = len(part) // 2
        return await self._predict(part[:half]) + await self._predict(part[half:])

    async def answer(
        self,
        key: Key,
        *,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
        explain: bool = False,
    ) -> RemotePrediction:
        """`predict` of a key."""
        return await self.predict(key, request=request, event=event, explain=explain)

    async def features(self, key: Key) -> Document:
        """As `RemoteProject.features`."""
        found: Document = await self.client.send(features_call(self.name, key))
        return found

    async def scores(self, key: Key) -> Document:
        """As `RemoteProject.scores`."""
        found: Document = await self.client.send(scores_call(self.name, key))
        return found

    async def publish(
        self, source: str, events: Sequence[Mapping[str, Any]], *, again: bool = False
    ) -> Document:
        """As `RemoteProject.publish`."""
        found: Document = await self.client.send(publish_call(self.name, source, events, again=again))
        return found

    async def score(self, frame: Any) -> Any:
        """As `RemoteProject.score`."""
        table, back = as_table(frame)
        questions = rows_as_questions(table, self._entry or await self.about())
        return back(with_predictions(table, await self.predict_many(questions)))


def _splits(error: InvalidCallError, part: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part is sent in halves: the server takes no body of its size."""
    return error.status == 413 and len(part) > 1


def _parts(questions: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    return (questions[at : at + MOST_AT_ONCE] for at in range(0, len(questions), MOST_AT_ONCE))


def _predictions(
    answer: Mapping[str, Any], questions: Sequence[Mapping[str, Any]]
) -> list[RemotePrediction | CallError]:
    return [
        problem(found["error"]["status"], encoded(found["error"]))
        if "error" in found
        else RemotePrediction.read(found, question.get("key"))
        for found, question in zip(answer["predictions"], questions, strict=True)
    ]
