"""The endpoints of a project: predictions, features, current rows, and events to publish.

Reads of an answer are awaited on the event loop; every other call of a store waits in a thread. Models
score on the loop, because that takes microseconds.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from anabranch.answers import requests, spans
from anabranch.answers.evidence.why import WhyQuestion, trace
from anabranch.answers.own import publish_own
from anabranch.answers.predict import Prediction, shown_features, shown_key
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import MOST_SHOWN, SHOWN, Asked, Key, path_key
from anabranch.answers.service import Outcome, Questions
from anabranch.answers.trials import scorers
from anabranch.declare.names import INTERVAL
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, EventError
from anabranch.events.faults import find_fault, find_text_fault
from anabranch.events.json_values import encode, encode_event
from anabranch.events.own_events import OwnEvent
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_text, show_key
from anabranch.values.paths import value_at
from anabranch.values.times import SECOND, format_time, parse_time
from anabranch.values.types import TIMESTAMP
from serving.api.bodies import AcceptedBody, CurrentRowBody, FeaturesBody
from serving.api.live import UNTRAINED, Live, Served
from serving.api.routing import Call
from serving.api.server_parts import ServerParts
from serving.http.messages import Response

_MOST_IGNORED = 20  # names of fields that are no columns; an answer is no longer than it has to be


async def predict(parts: ServerParts, call: Call) -> Response:
    """Score a key, given features, or both.

    An unknown key is a problem; among several requests, only in its own place.
    """
    costs = parts.service.costs
    since = costs.begin("request")
    requests.check_json(call.request.content_type)
    read = requests.read_asked(call.request.body, call.served.project, _latest(parts))
    costs.end("request", since, len(read) if isinstance(read, list) else 1)
    asked = read if isinstance(read, list) else [read]
    outcomes = await answered(parts, call, asked)
    if isinstance(read, list):
        return Response(200, encode({"predictions": list(map(_with_key, asked, outcomes))}))
    (outcome,) = outcomes
    if isinstance(outcome, ProblemError):
        raise outcome
    since = costs.begin("write")
    response = Response(200, encode(outcome.answer))
    costs.end("write", since)
    return response


async def answered(
    parts: ServerParts, call: Call, asked: Sequence[Asked], *, champion: bool = False
) -> list[Outcome]:
    """The outcome of each question; predictions are recorded, compared with a version on trial, and counted.

    With `champion` the champion answers, whatever is on trial. Raises a 503 problem without one.
    """
    served = call.served
    project, scorer = served.project, serving_scorer(parts, served)
    trial = None if champion else served.trial
    questions = Questions(project, scorer, asked, scorers(project, scorer, trial, asked))
    if any(questions.wanted):
        _require_manifest(served)
    publishing = [event for one in asked for event in one.events if event.message is not None]
    if publishing:
        await _may_publish(parts, call, publishing)
    spans.note_questions(asked)
    answering = parts.service.predict_async(questions, served.manifest)
    # A question that publishes is answered to its end: its events must not be published without an answer.
    outcomes = await (answering if publishing else call.request.in_time(answering))
    if publishing:
        await _publish_own(parts, project.name, asked, outcomes)
    predictions = [one for one in outcomes if isinstance(one, Prediction)]
    if served.trial is not None:
        parts.shadow.add(project, scorer, served.trial, predictions)
    degraded = sum(1 for prediction in predictions if prediction.answer["degraded"])
    if degraded:
        parts.metrics.degraded.labels(project.name).inc(degraded)
    return outcomes


def serving_scorer(parts: ServerParts, served: Served) -> Scorer:
    """The champion that serves; raises a 503 problem that says why there is none."""
    if served.scorer is None:
        raise ProblemError(503, "no-model", _why_no_model(served, parts.live))
    return served.scorer


async def features(parts: ServerParts, call: Call) -> FeaturesBody:
    """Stored features of a key, merged as of now; an unknown key has empty ones and `known` is false."""
    served, key = call.served, _key(call)
    _require_manifest(served)
    reading = parts.service.features_async(served.project, [key], served.manifest)
    (stored,) = await call.request.in_time(reading)
    if stored.degraded is not None:
        parts.metrics.degraded.labels(served.project.name).inc()
    return FeaturesBody(
        key=shown_key(key),
        features=shown_features(served.project, stored.values),
        known=stored.known,
        as_of=format_time(stored.as_of),
        degraded=stored.degraded is not None,
        batch_version=stored.batch_version,
        degraded_reason=msgspec.UNSET if stored.degraded is None else stored.degraded,
    )


async def scores(parts: ServerParts, call: Call) -> CurrentRowBody:
    """The current row of a key, which the stream and the builds keep."""
    project, key = call.served.project, _key(call)
    text = key_text(project.keys, key)
    row = await parts.store.ask(lambda: parts.context.stores.views.current(project, text))
    if row is None:
        raise ProblemError(
            404,
            "unknown-key",
            f"there is no current row of key {show_key(project.keys, text)[:60]!r}: check the key; builds "
            f"and the stream of {project.name} keep one row a key",
            field="key",
        )
    columns: dict[str, Any] = {
        name: row.get(name) for name in ("score", "label", "model_version", "batch_version", "layer")
    }
    reason, classes = row.get("degraded"), row.get("scores")
    ends = [row[name] for name in INTERVAL if row.get(name) is not None]
    return CurrentRowBody(
        key=shown_key(key),
        **columns,
        as_of=TIMESTAMP.to_json(row.get("as_of")),
        degraded=reason is not None,
        features=shown_features(project, row),
        scores=msgspec.UNSET if classes is None else json.loads(classes),
        interval=ends if len(ends) == 2 else msgspec.UNSET,
        degraded_reason=msgspec.UNSET if reason is None else reason,
    )


async def why(parts: ServerParts, call: Call) -> dict[str, Any]:
    """From the score of a key to the events behind its features, now or at a time since the batch's cut."""
    served, key = call.served, _key(call)
    _require_manifest(served)
    at, most = _moment(call.query.get("at")), _most(call.query.get("events"))
    if at is None:
        (stored,) = await parts.service.features_async(served.project, [key], served.manifest)
    else:
        (stored,) = await parts.context.answers.answer(served.project, [key], served.manifest, at)
    asked = WhyQuestion(
        project=served.project,
        key=key,
        stored=stored,
        scorer=served.scorer,
        manifest=served.manifest,
        most=most,
    )
    stores, service = parts.context.stores, parts.service
    return await asyncio.get_running_loop().run_in_executor(
        parts.facts.pool, lambda: trace(stores, service, asked)
    )


def _moment(text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except AnabranchError as error:
        raise unprocessable("at", f"at: {error}") from error


def _most(text: str | None) -> int:
    if text is None:
        return SHOWN
    if not text.isdecimal() or not 0 <= int(text[:9]) <= MOST_SHOWN:
        raise unprocessable("events", f"events is {text[:20]!r}: give a number from 0 to {MOST_SHOWN}")
    return int(text)


async def events(parts: ServerParts, call: Call) -> AcceptedBody:
    """Check events against their schema and publish all of them, or none."""
    request, project, name = call.request, call.served.project, call.parameters["source"]
    source = project.sources.get(name)
    if source is None:
        known = ", ".join(project.sources)
        raise ProblemError(
            404, "unknown-source", f"{project.name} has no source {name[:100]!r}: it has {known}"
        )
    if source.topic is None:
        raise ProblemError(
            409,
            "files-only",
            f"source {name!r} has no topic and takes files only: "
            f"use 'anabranch ingest {project.name} {name} FILE'",
        )
    requests.check_json(request.content_type)
    document = requests.decode(request.body, exact=True)
    several = isinstance(document, list)
    sent: list[Any] = document if isinstance(document, list) else [document]
    latest = _latest(parts)
    keys = project.key_sets(source)
    texts = msgspec.json.decode(request.body, type=list[msgspec.Raw]) if several else [request.body.strip()]
    for position, (event, text) in enumerate(zip(sent, texts, strict=True)):
        fault = find_fault(event, source, keys, latest) or find_text_fault(bytes(text), source)
        if fault is not None:
            place = f"[{position}]." if several else ""
            raise unprocessable(
                f"{place}{fault.field}", f"{place}{fault.reason}: nothing was published", "wrong-event"
            )
    keys_of = [_message_key(source, event) for event in sent]
    values = await _encoded(parts, source, [bytes(text) for text in texts], several=several)
    messages: list[tuple[bytes | None, bytes]] = list(zip(keys_of, values, strict=True))
    if messages:
        topic = source.topic
        await parts.bus.ask(lambda: _publish(parts, topic, messages))
        parts.metrics.events.labels(project.name, name).inc(len(messages))
    known_fields = source.nesting.fields
    ignored = dict.fromkeys(field[:100] for event in sent for field in event if field not in known_fields)
    return AcceptedBody(accepted=len(messages), ignored=list(ignored)[:_MOST_IGNORED] or msgspec.UNSET)


async def _may_publish(parts: ServerParts, call: Call, events: Sequence[OwnEvent]) -> None:
    """Raise a problem for events that this caller, or a question, cannot publish."""
    if call.caller is not None:
        call.caller.require(call.served.project.name, "events")
    topics = list(dict.fromkeys(str(event.source.topic) for event in events))
    bus = parts.context.stores.bus

    def ready() -> str | None:
        new = [topic for topic in topics if topic not in parts.known_topics]
        if new:
            bus.ensure_topics(new)
            parts.known_topics.update(new)
        return next((topic for topic in topics if bus.read_as(topic) != topic), None)

    copied = await parts.bus.ask(ready)
    if copied is not None:
        raise ProblemError(
            409,
            "stamped-by-producers",
            f"topic {copied!r} is read through a relay's copy, so that its events cannot be published with a "
            "question: leave publish out, and publish the event",
        )
    views = parts.context.stores.views
    await parts.store.ask(views.ensure_own_events)


async def _publish_own(
    parts: ServerParts, project: str, asked: Sequence[Asked], outcomes: Sequence[Prediction | ProblemError]
) -> None:
    """Publish the events of answered questions that ask for it, each once, after the states were read."""
    stores, now = parts.context.stores, parts.context.clock()
    seconds = stores.settings.times.dedup_horizon_seconds
    for one, outcome in zip(asked, outcomes, strict=True):
        for event in one.events if isinstance(outcome, Prediction) else ():
            if event.message is None:
                continue
            source, name = event.source, str(event.id)
            (value,) = await _encoded(parts, source, [event.message], several=False)
            publish = partial(publish_own, stores.views, stores.bus, source, name, value, now, seconds)
            if await parts.bus.ask(publish):
                parts.metrics.events.labels(project, source.name).inc()


def _latest(parts: ServerParts) -> int:
    """The last event time (microseconds) that is not in the future."""
    return parts.context.clock() + parts.context.stores.settings.times.future_skew_seconds * SECOND


def _message_key(source: Source, event: Any) -> bytes | None:
    """The key of an event's message: its id, so that copies of an event go to one partition."""
    if source.id is None:
        return None
    return str(value_at(event, source.nesting.path(source.id))).encode()


async def _encoded(parts: ServerParts, source: Source, texts: list[bytes], *, several: bool) -> list[bytes]:
    """The messages for checked events; a 422 names the first that the format's schema cannot hold."""
    if source.format == "json":
        return texts
    schemas = parts.context.stores.schemas

    def encode_all() -> list[bytes]:
        values = []
        for position, text in enumerate(texts):
            try:
                values.append(encode_event(source, text, schemas))
            except EventError as error:
                place = f"[{position}]." if several else ""
                field = str(error).partition(":")[0]
                raise unprocessable(
                    f"{place}{field}", f"{place}{error}: nothing was published", "wrong-event"
                ) from error
        return values

    # On a thread: a schema registry may have to be asked.
    return await asyncio.get_running_loop().run_in_executor(parts.bus.pool, encode_all)


def _publish(parts: ServerParts, topic: str, messages: list[tuple[bytes | None, bytes]]) -> int:
    # A topic that the broker creates by itself would not carry arrival times.
    bus = parts.context.stores.bus
    if topic not in parts.known_topics:
        bus.ensure_topics([topic])
        parts.known_topics.add(topic)
    return bus.publish(topic, messages)


def _key(call: Call) -> Key:
    return path_key(call.parameters["key"], call.served.project)


def _with_key(one: Asked, outcome: Prediction | ProblemError) -> dict[str, Any]:
    """The answer or the problem of one of several requests."""
    answer = {"error": outcome.document} if isinstance(outcome, ProblemError) else outcome.answer
    return {"key": shown_key(one.key) if one.key else None, **answer}


def _why_no_model(served: Served, live: Live) -> str:
    loading = "" if live.looked else "the models are still being loaded: try again in a moment"
    name = served.project.name
    reason = served.troubles.get("model") or served.troubles.get("inputs") or loading
    return reason or f"{name} has {UNTRAINED.format(name=name)}"


def _require_manifest(served: Served) -> None:
    """Raise a 503 problem while the batch version that serves is not known."""
    if served.manifest is None and (not served.looked or "store" in served.troubles):
        unknown = "the stores have not been looked at yet: try again in a moment"
        raise ProblemError(503, "unavailable", served.troubles.get("store", unknown))
