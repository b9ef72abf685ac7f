"""What a project answers: predictions, features, scores, and events taken in.

Stores are asked in a small pool of threads, never on the event loop; models score on the loop, for that takes microseconds.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import msgspec

from features.keys import key_text
from features.schema import STRING, DataType
from features.times import SECOND, format_time
from serving import requests
from serving.context import Answer, Context
from serving.events import find_fault, key_sets
from serving.http import Request, Response, encode, json_response
from serving.live import Live, Served
from serving.metrics import Metrics
from serving.pools import Pools
from serving.predict import needs_store, predict, shown, shown_features, shown_key
from serving.predictions import Predictions
from serving.problems import ProblemError, unprocessable
from serving.readiness import UNTRAINED
from serving.requests import Key

T = TypeVar("T")
TIMESTAMP = DataType("TIMESTAMP")


class Endpoints:
    """The endpoints below one project's address."""

    def __init__(self, context: Context, live: Live, metrics: Metrics, predictions: Predictions, pools: Pools) -> None:
        self._context, self._live, self._metrics = context, live, metrics
        self._predictions, self._pools = predictions, pools
        self._known_topics: set[str] = set()

    async def predict(self, request: Request, served: Served) -> Response:
        """Score a key, given features, or both."""
        project, scorer = served.project, served.scorer
        _has_model(served)
        requests.check_json(request.content_type)
        asked = requests.read_asked(request.body, project)
        if scorer is None:
            reason = served.troubles.get("model") or ("the models are still being loaded: try again in a moment" if not self._live.looked else "")
            raise ProblemError(503, "no-model", reason or f"{project.name} has " + UNTRAINED.format(name=project.name))
        stored = None
        if asked.key is not None and needs_store(asked, scorer):
            stored = await self._stored(served, asked.key)
        now = self._context.clock()
        prediction = predict(project, scorer, asked, stored, now)
        if prediction.answer["degraded"]:
            self._metrics.degraded.labels(project.name).inc()
        self._predictions.add(project.name, now, asked, prediction)
        return Response(200, encode(prediction.answer))

    async def features(self, served: Served, key: Key) -> Response:
        """Stored features of a key, merged as of now; a key never seen has empty ones."""
        stored = await self._stored(served, key)
        document = {
            "key": shown_key(key),
            "features": shown_features(served.project, stored.values),
            "batch_version": stored.batch_version,
            "as_of": format_time(stored.as_of),
            "degraded": stored.degraded is not None,
        }
        if stored.degraded is not None:
            self._metrics.degraded.labels(served.project.name).inc()
            document["degraded_reason"] = stored.degraded
        return json_response(document)

    async def _stored(self, served: Served, key: Key) -> Answer:
        found = await self._ask_store(lambda: self._context.answers.features(served.project, [key], None))
        return found[0]

    async def scores(self, served: Served, key: Key) -> Response:
        """The key's current row, which the stream and the builds keep; empty for a key never seen."""
        project = served.project
        _has_model(served)
        row = await self._ask_store(lambda: self._context.views.current(project, key_text(project.keys, key))) or {}
        document: dict[str, Any] = {"key": shown_key(key)}
        for name in ("score", "label", "model_version", "batch_version", "as_of", "layer"):
            document[name] = shown(row.get(name), TIMESTAMP if name == "as_of" else STRING)
        document["features"] = shown_features(project, row)
        return json_response(document)

    async def events(self, request: Request, served: Served, name: str) -> Response:
        """Check events against their schema and publish all of them, or none."""
        project = served.project
        source = project.sources.get(name)
        if source is None:
            raise ProblemError(404, "unknown-source", f"{project.name} has no source {name[:100]!r}: it has {', '.join(project.sources)}")
        topic = source.topic
        if topic is None:
            raise ProblemError(409, "files-only", f"source {name!r} has no topic, it takes files only: use 'anabranch ingest {project.name} {name} FILE'")
        requests.check_json(request.content_type)
        document = requests.decode(request.body)
        events = document if isinstance(document, list) else [document]
        latest = self._context.clock() + self._context.future_skew_seconds * SECOND
        keys = key_sets(project, source)
        for position, event in enumerate(events):
            fault = find_fault(event, source, keys, latest)
            if fault is not None:
                place = f"[{position}]." if isinstance(document, list) else ""
                raise unprocessable(f"{place}{fault.field}", f"{place}{fault.reason}: nothing was published", "wrong-event")
        # What is published is the text as it came: decoding could cost digits of a decimal.
        texts = msgspec.json.decode(request.body, type=list[msgspec.Raw]) if isinstance(document, list) else [request.body.strip()]
        messages: list[tuple[bytes | None, bytes]] = [(str(event[source.id]).encode(), bytes(text)) for event, text in zip(events, texts, strict=True)]
        if messages:
            await self._ask_bus(lambda: self._publish(topic, messages))
            self._metrics.events.labels(project.name, name).inc(len(messages))
        return json_response({"accepted": len(messages)}, 202)

    def _publish(self, topic: str, messages: list[tuple[bytes | None, bytes]]) -> int:
        # A topic that the broker makes by itself would not carry arrival times.
        if topic not in self._known_topics:
            self._context.bus.ensure_topics([topic])
            self._known_topics.add(topic)
        return self._context.bus.publish(topic, messages)

    async def _ask_store(self, ask: Callable[[], T]) -> T:
        return await self._wait(self._pools.store, ask, "the store", self._context.settings.store_timeout_seconds)

    async def _ask_bus(self, ask: Callable[[], T]) -> T:
        return await self._wait(self._pools.bus, ask, "the bus", self._context.settings.bus_timeout_seconds)

    async def _wait(self, pool: Executor, ask: Callable[[], T], what: str, seconds: float) -> T:
        """Run a blocking call in a pool; raises a 503 problem when it takes too long."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(pool, ask)
        except TimeoutError as error:
            raise ProblemError(503, "unavailable", f"{what} did not answer within {seconds:g} s: try again, or see /readyz") from error


def _has_model(served: Served) -> None:
    if served.project.model is None:
        raise ProblemError(404, "no-model-declared", f"{served.project.name} declares no model, it has features only: use its features")
