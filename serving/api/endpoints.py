"""What a project answers: predictions, features, scores, and events taken in.

The reads of an answer are awaited on the event loop, what else asks stores does so in a small pool of threads; models score on
the loop, for that takes microseconds.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import msgspec

from anabranch.answers import requests
from anabranch.answers.predict import Prediction, shown, shown_features, shown_key
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import Asked, Key
from anabranch.answers.service import AnswerService, Questions
from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.events.faults import find_fault
from anabranch.events.json_values import encode
from anabranch.stores.breaker import Breaker
from anabranch.values.keys import key_text, show_key
from anabranch.values.times import SECOND, format_time
from anabranch.values.types import STRING, DataType
from serving.api.context import ServingContext
from serving.api.live import Live, Served
from serving.api.metrics import ServingMetrics
from serving.api.prediction_log import Predictions
from serving.api.readiness import UNTRAINED
from serving.api.shadow import Shadow
from serving.api.trials import scorers
from serving.http.messages import Request, Response, json_response
from serving.http.pools import Breakers, Pools

T = TypeVar("T")
TIMESTAMP = DataType("TIMESTAMP")


class Endpoints:
    """The endpoints below one project's address."""

    def __init__(
        self,
        context: ServingContext,
        live: Live,
        metrics: ServingMetrics,
        predictions: Predictions,
        shadow: Shadow,
        pools: Pools,
        breakers: Breakers,
    ) -> None:
        self._context, self._live, self._metrics, self._breakers = context, live, metrics, breakers
        self._predictions, self._shadow, self._pools = predictions, shadow, pools
        self._known_topics: set[str] = set()
        self._service = AnswerService(
            context.answers, record=self._record, clock=context.clock, breaker=breakers.store
        )

    def _record(self, project: Project, prediction: Prediction) -> None:
        self._predictions.add(project, prediction)

    async def predict(self, request: Request, served: Served) -> Response:
        """Score a key, given features, or both. An unknown key is a problem; among several requests only in its own place."""
        project, scorer = served.project, served.scorer
        _has_model(served)
        requests.check_json(request.content_type)
        read = requests.read_asked(request.body, project)
        asked = read if isinstance(read, list) else [read]
        if scorer is None:
            raise ProblemError(503, "no-model", self._why_no_model(served))
        questions = Questions(project, scorer, asked, scorers(project, scorer, served.trial, asked))
        if any(questions.wanted):
            _has_manifest(served)
        outcomes = await self._service.predict_async(questions, served.manifest)
        predictions = [one for one in outcomes if isinstance(one, Prediction)]
        if served.trial is not None:
            self._shadow.add(project, scorer, served.trial, predictions)
        degraded = sum(1 for prediction in predictions if prediction.answer["degraded"])
        if degraded:
            self._metrics.degraded.labels(project.name).inc(degraded)
        if isinstance(read, list):
            return Response(200, encode({"predictions": list(map(_in_its_place, asked, outcomes))}))
        (outcome,) = outcomes
        if isinstance(outcome, ProblemError):
            raise outcome
        return Response(200, encode(outcome.answer))

    def _why_no_model(self, served: Served) -> str:
        loading = "" if self._live.looked else "the models are still being loaded: try again in a moment"
        reason = served.troubles.get("model") or served.troubles.get("inputs") or loading
        name = served.project.name
        return reason or f"{name} has " + UNTRAINED.format(name=name)

    async def features(self, served: Served, key: Key) -> Response:
        """Stored features of a key, merged as of now; a key of which nothing is known has empty ones, and the answer says so."""
        _has_manifest(served)
        (stored,) = await self._service.features_async(served.project, [key], served.manifest)
        document = {
            "key": shown_key(key),
            "features": shown_features(served.project, stored.values),
            "known": stored.known,
            "batch_version": stored.batch_version,
            "as_of": format_time(stored.as_of),
            "degraded": stored.degraded is not None,
        }
        if stored.degraded is not None:
            self._metrics.degraded.labels(served.project.name).inc()
            document["degraded_reason"] = stored.degraded
        return json_response(document)

    async def scores(self, served: Served, key: Key) -> Response:
        """The key's current row, which the stream and the builds keep."""
        project = served.project
        _has_model(served)
        text = key_text(project.keys, key)
        row = await self._ask_store(lambda: self._context.views.current(project, text))
        if row is None:
            detail = f"there is no current row of key {show_key(project.keys, text)[:60]!r}: check the key; builds and the stream of {project.name} keep one a key"
            raise ProblemError(404, "unknown-key", detail, field="key")
        document: dict[str, Any] = {"key": shown_key(key)}
        for name in ("score", "label", "model_version", "batch_version", "as_of", "layer"):
            document[name] = shown(row.get(name), TIMESTAMP if name == "as_of" else STRING)
        document["degraded"] = row.get("degraded") is not None
        if document["degraded"]:
            document["degraded_reason"] = row["degraded"]
        document["features"] = shown_features(project, row)
        return json_response(document)

    async def events(self, request: Request, served: Served, name: str) -> Response:
        """Check events against their schema and publish all of them, or none."""
        project = served.project
        source = project.sources.get(name)
        if source is None:
            raise ProblemError(
                404,
                "unknown-source",
                f"{project.name} has no source {name[:100]!r}: it has {', '.join(project.sources)}",
            )
        topic = source.topic
        if topic is None:
            raise ProblemError(
                409,
                "files-only",
                f"source {name!r} has no topic, it takes files only: use 'anabranch ingest {project.name} {name} FILE'",
            )
        requests.check_json(request.content_type)
        document = requests.decode(request.body)
        events = document if isinstance(document, list) else [document]
        latest = self._context.clock() + self._context.future_skew_seconds * SECOND
        keys = project.key_sets(source)
        for position, event in enumerate(events):
            fault = find_fault(event, source, keys, latest)
            if fault is not None:
                place = f"[{position}]." if isinstance(document, list) else ""
                raise unprocessable(
                    f"{place}{fault.field}", f"{place}{fault.reason}: nothing was published", "wrong-event"
                )
        # What is published is the text as it came: decoding could cost digits of a decimal.
        texts = (
            msgspec.json.decode(request.body, type=list[msgspec.Raw])
            if isinstance(document, list)
            else [request.body.strip()]
        )
        messages: list[tuple[bytes | None, bytes]] = [
            (str(event[source.id]).encode(), bytes(text)) for event, text in zip(events, texts, strict=True)
        ]
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
        return await self._wait(
            self._pools.store, ask, self._breakers.store, self._context.settings.store_timeout_seconds
        )

    async def _ask_bus(self, ask: Callable[[], T]) -> T:
        return await self._wait(
            self._pools.bus, ask, self._breakers.bus, self._context.settings.bus_timeout_seconds
        )

    @staticmethod
    async def _wait(pool: Executor, ask: Callable[[], T], breaker: Breaker, seconds: float) -> T:
        """Run a blocking call in a pool; raises UnavailableError when it takes too long, or at once while its breaker is open."""
        with breaker.calling():
            try:
                async with asyncio.timeout(seconds):
                    return await asyncio.get_running_loop().run_in_executor(pool, ask)
            except TimeoutError as error:
                raise UnavailableError(
                    f"{breaker.what} did not answer within {seconds:g} s: try again, or see /readyz"
                ) from error


def _in_its_place(one: Asked, outcome: Prediction | ProblemError) -> dict[str, Any]:
    """The answer or the problem of one of several requests."""
    answer = {"error": outcome.document} if isinstance(outcome, ProblemError) else outcome.answer
    return {"key": shown_key(one.key) if one.key else None, **answer}


def _has_model(served: Served) -> None:
    if served.project.model is None:
        raise ProblemError(
            404,
            "no-model-declared",
            f"{served.project.name} declares no model, it has features only: use its features",
        )


def _has_manifest(served: Served) -> None:
    """Raise a 503 problem while the batch version that serves is not known."""
    if served.manifest is None and (not served.looked or "store" in served.troubles):
        unknown = "the stores have not been looked at yet: try again in a moment"
        raise ProblemError(503, "unavailable", served.troubles.get("store", unknown))
