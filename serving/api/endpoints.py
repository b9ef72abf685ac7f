"""What a project answers: predictions, features, scores, and events taken in.

The reads of an answer are awaited on the event loop, what else asks stores does so in a small pool of threads; models score on
the loop, for that takes microseconds.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import msgspec

from anabranch.answers import requests
from anabranch.answers.coalescing import Coalescer
from anabranch.answers.predict import (
    Answer,
    Prediction,
    Scorer,
    needs_store,
    shown,
    shown_features,
    shown_key,
    unknown_keys,
)
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import Asked, Key
from anabranch.errors import UnavailableError
from anabranch.events.faults import find_fault
from anabranch.events.json_values import encode
from anabranch.values.keys import key_text, show_key
from anabranch.values.times import SECOND, format_time
from anabranch.values.types import STRING, DataType
from serving.api.context import ServingContext
from serving.api.live import Live, Served
from serving.api.metrics import ServingMetrics
from serving.api.prediction_log import Predictions
from serving.api.readiness import UNTRAINED
from serving.api.shadow import Shadow
from serving.api.trials import predictions as score
from serving.api.trials import scorers
from serving.http.breaker import Breaker, Breakers
from serving.http.messages import Request, Response, json_response
from serving.http.pools import Pools

T = TypeVar("T")
TIMESTAMP = DataType("TIMESTAMP")
_MOST_SCORED = 100  # requests at once; what one request asks is never taken apart
_Scored = tuple[Scorer, Asked, Answer | None]


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
        # Answers that were read together are scored together: they come here at the same time.
        self._scoring: Coalescer[tuple[Served], _Scored, tuple[Prediction, int]] = Coalescer(
            self._score, most=_MOST_SCORED
        )

    async def predict(self, request: Request, served: Served) -> Response:
        """Score a key, given features, or both. A key of which nothing is known is a problem, among several that of its own place."""
        project, scorer = served.project, served.scorer
        _has_model(served)
        requests.check_json(request.content_type)
        read = requests.read_asked(request.body, project)
        asked = read if isinstance(read, list) else [read]
        if scorer is None:
            troubles, loading = (
                served.troubles,
                "" if self._live.looked else "the models are still being loaded: try again in a moment",
            )
            reason = troubles.get("model") or troubles.get("inputs") or loading
            raise ProblemError(
                503, "no-model", reason or f"{project.name} has " + UNTRAINED.format(name=project.name)
            )
        answering = scorers(project, scorer, served.trial, asked)
        # Of a canary's keys the champion must be able to answer too, should it fail.
        wanted = [
            one.key if needs_store(one, by) or (by is not scorer and needs_store(one, scorer)) else None
            for one, by in zip(asked, answering, strict=True)
        ]
        keys = [key for key in wanted if key is not None]
        found = iter(await self._stored(served, keys) if keys else ())
        stored = [None if key is None else next(found) for key in wanted]
        unknown = unknown_keys(project, asked, stored)
        if unknown and not isinstance(read, list):
            raise unknown[0]
        if unknown:
            places = [place for place in range(len(asked)) if place not in unknown]
            asked, answering, stored = (
                [asked[place] for place in places],
                [answering[place] for place in places],
                [stored[place] for place in places],
            )
        scored = await self._scoring.ask((served,), list(zip(answering, asked, stored, strict=True)))
        predictions = [prediction for prediction, _ in scored]
        for one, (prediction, now) in zip(asked, scored, strict=True):
            self._predictions.add(project.name, now, one, prediction)
        if served.trial is not None:
            self._shadow.add(project, scorer, served.trial, asked, stored, predictions)
        degraded = sum(1 for prediction in predictions if prediction.answer["degraded"])
        if degraded:
            self._metrics.degraded.labels(project.name).inc(degraded)
        if not isinstance(read, list):
            return Response(200, encode(predictions[0].answer))
        return Response(200, encode({"predictions": _in_their_places(read, predictions, unknown)}))

    async def _score(self, group: tuple[Served], items: Sequence[_Scored]) -> list[tuple[Prediction, int]]:
        """Predictions, and when they were made."""
        (served,) = group
        if not items or served.scorer is None:
            return []
        answering, asked, stored = zip(*items, strict=True)
        now = self._context.clock()
        return [
            (prediction, now)
            for prediction in score(served.project, served.scorer, answering, asked, stored, now)
        ]

    async def features(self, served: Served, key: Key) -> Response:
        """Stored features of a key, merged as of now; a key of which nothing is known has empty ones, and the answer says so."""
        (stored,) = await self._stored(served, [key])
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

    async def _stored(self, served: Served, keys: Sequence[Key]) -> Sequence[Answer]:
        """Merged answers of the versions in `served`; without the store the last known batch parts, which say that they are degraded."""
        answers, breaker, project = self._context.answers, self._breakers.store, served.project
        if served.manifest is None and (not served.looked or "store" in served.troubles):
            raise ProblemError(
                503,
                "unavailable",
                served.troubles.get("store", "the stores have not been looked at yet: try again in a moment"),
            )
        try:
            with breaker.calling():
                return await answers.answer(project, keys, served.manifest)
        except UnavailableError as error:
            return answers.last_known(project, keys, served.manifest, str(error))

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


def _in_their_places(
    asked: Sequence[Asked], predictions: Sequence[Prediction], unknown: Mapping[int, ProblemError]
) -> list[dict[str, Any]]:
    """What is said of each of several requests, in their order."""
    rest = iter(predictions)
    said = (
        {"error": unknown[place].document} if place in unknown else next(rest).answer
        for place in range(len(asked))
    )
    return [
        {"key": shown_key(one.key) if one.key else None, **each}
        for one, each in zip(asked, said, strict=True)
    ]


def _has_model(served: Served) -> None:
    if served.project.model is None:
        raise ProblemError(
            404,
            "no-model-declared",
            f"{served.project.name} declares no model, it has features only: use its features",
        )
