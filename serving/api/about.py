"""Endpoints about the server itself and the projects it serves: health, readiness, metrics, catalogue, contract."""

import asyncio
from collections.abc import Iterator

import msgspec

from anabranch.answers.problems import ProblemError
from serving.api import catalogue, openapi
from serving.api.bodies import AliveBody, CatalogueBody, ProjectBody
from serving.api.declared import Schema
from serving.api.facts import Missing
from serving.api.live import Served
from serving.api.metrics import only_of
from serving.api.promises import judged
from serving.api.readiness import readiness
from serving.api.routing import Call
from serving.api.server_parts import ServerParts
from serving.http import workers
from serving.http.access import Caller, only_seen, sees
from serving.http.messages import Response, problem_response

_PLAIN = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


async def health(_: ServerParts, __: Call) -> AliveBody:
    """The process answers."""
    return AliveBody()


async def ready(parts: ServerParts, call: Call) -> object:
    """Whether every store that answers need can be reached."""
    found = await readiness(parts, call.caller)
    if found.status == "ready":
        return found
    checks = {"store": found.store, "bus": found.bus, "model": found.model}
    down = "; ".join(f"{name}: {check}" for name, check in checks.items() if check != "ok")
    return problem_response(ProblemError(503, "not-ready", down), msgspec.structs.asdict(found))


async def metrics(parts: ServerParts, call: Call) -> Response:
    """Metrics of all workers, of the projects that the caller has the right for."""
    text, shared, caller = own_metrics(parts), parts.context.settings.shared, call.caller
    text = text if shared is None else workers.together(shared, text)
    text = text if caller is None else only_of(text, lambda project: caller.may(project, "metrics"))
    return Response(200, text, _PLAIN)


def own_metrics(parts: ServerParts) -> bytes:
    """The metrics of this worker, in Prometheus' text format."""
    for served in parts.live:
        name = served.project.name
        parts.metrics.show(served)
        now = parts.context.clock()
        parts.metrics.show_freshness(name, judged(served, parts.measured.of(name), now))
    breakers = {"store": parts.store.breaker.open, "bus": parts.bus.breaker.open}
    parts.metrics.show_stores(parts.context.answers.kept, breakers)
    return parts.metrics.text()


async def projects(parts: ServerParts, call: Call) -> CatalogueBody:
    """The catalogue of the projects that the caller may see."""
    entries = await asyncio.gather(*(_entry(parts, served) for served in visible(parts, call.caller)))
    return CatalogueBody(projects=entries, broken=only_seen(call.caller, parts.live.broken))


async def project(parts: ServerParts, call: Call) -> ProjectBody:
    """A project's entry in the catalogue."""
    return await _entry(parts, call.served)


async def _entry(parts: ServerParts, served: Served) -> ProjectBody:
    known = await parts.facts.brief(served)
    model = None if isinstance(known.model, Missing) else known.model
    return catalogue.entry(served, parts.routes, known.now, model, known.known_measures)


async def contract(parts: ServerParts, call: Call) -> Schema:
    """The OpenAPI document."""
    return document(parts, call.caller)


def document(parts: ServerParts, caller: Caller | None) -> Schema:
    """The OpenAPI document of the projects that the caller may see."""
    shown = [served.project for served in visible(parts, caller)]
    return openapi.document(shown, parts.routes, secured=parts.context.access is not None)


def visible(parts: ServerParts, caller: Caller | None) -> Iterator[Served]:
    """The projects that the caller may see."""
    return (served for served in parts.live if sees(caller, served.project.name))
