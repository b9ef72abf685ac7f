"""Endpoints about the server and its projects: health, readiness, metrics, catalogue, OpenAPI document."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import msgspec

from anabranch.answers.problems import ProblemError
from anabranch.errors import AnabranchError, without_secrets
from serving.api import catalogue, openapi
from serving.api.bodies import AliveBody, CatalogueBody, ProjectBody, ReadinessBody
from serving.api.facts import Missing
from serving.api.live import UNTRAINED, Live, Served
from serving.api.metrics import of_projects, together
from serving.api.promises import ChannelFreshness, judged
from serving.api.routing import Call
from serving.api.server_parts import ServerParts
from serving.http.access import Caller, only_seen, sees
from serving.http.messages import Response, problem_response

log = logging.getLogger(__name__)
_PLAIN = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


async def health(_: ServerParts, __: Call) -> AliveBody:
    """The process answers."""
    return AliveBody()


async def ready(parts: ServerParts, call: Call) -> object:
    """Whether every store that answers need can be reached."""
    checked = await readiness(parts, call.caller)
    if checked.status == "ready":
        return checked
    checks = {"store": checked.store, "bus": checked.bus, "model": checked.model}
    down = "; ".join(f"{name}: {check}" for name, check in checks.items() if check != "ok")
    return problem_response(ProblemError(503, "not-ready", down), msgspec.structs.asdict(checked))


async def metrics(parts: ServerParts, call: Call) -> Response:
    """Metrics of all workers, of the projects that the caller has the right for."""
    text, shared, caller = own_metrics(parts), parts.context.settings.shared, call.caller
    text = text if shared is None else together(shared, text)
    text = text if caller is None else of_projects(text, lambda project: caller.may(project, "metrics"))
    return Response(200, text, _PLAIN)


def own_metrics(parts: ServerParts) -> bytes:
    """The metrics of this worker, in Prometheus' text format."""
    for served in parts.live:
        parts.metrics.show(served)
        parts.metrics.show_freshness(served.project.name, freshness_of(parts, served))
    breakers = {"store": parts.store.breaker.open, "bus": parts.bus.breaker.open}
    parts.metrics.show_stores(parts.context.answers.kept, breakers)
    return parts.metrics.text()


def freshness_of(parts: ServerParts, served: Served) -> dict[str, ChannelFreshness]:
    """The freshness of a project now, by the measures that were last read."""
    return judged(served, parts.measured.of(served.project.name), parts.context.clock())


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
    return catalogue.entry(served, parts.routes, known.now, model, known.known_measures, known.budgets)


async def contract(parts: ServerParts, call: Call) -> openapi.Schema:
    """The OpenAPI document."""
    return document(parts, call.caller)


def document(parts: ServerParts, caller: Caller | None) -> openapi.Schema:
    """The OpenAPI document of the projects that the caller may see."""
    shown = [served.project for served in visible(parts, caller)]
    return openapi.document(shown, parts.routes, secured=parts.context.access is not None)


def visible(parts: ServerParts, caller: Caller | None) -> Iterator[Served]:
    """The projects that the caller may see."""
    return (served for served in parts.live if sees(caller, served.project.name))


async def readiness(parts: ServerParts, caller: Caller | None) -> ReadinessBody:
    """``ok`` or what is wrong with store, bus and model; projects are named when the caller may see them."""
    live = parts.live
    store, bus = await _checked(parts)
    model = _model(live, caller)
    return ReadinessBody(
        status="ready" if store == bus == model == "ok" else "down",
        store=store,
        bus=bus,
        model=model,
        keys="ok" if live.keys_trouble is None else "the file of API keys cannot be read: the log says why",
        projects={one.project.name: _project(one) for one in live if sees(caller, one.project.name)},
        broken=only_seen(caller, live.broken),
    )


async def _checked(parts: ServerParts) -> tuple[str, str]:
    """What store and bus say, of now or of up to `serving.ready_seconds` ago: anybody may ask for it."""
    kept, now = parts.checked, time.monotonic()
    if kept is None or now - kept[0] > parts.context.settings.ready_seconds:
        kept = parts.checked = now, asyncio.ensure_future(_check_both(parts))
    # A caller who goes away does not end the check that others wait for.
    return await asyncio.shield(kept[1])


async def _check_both(parts: ServerParts) -> tuple[str, str]:
    stores, seconds = parts.context.stores, parts.store.seconds
    first = next((served.project.name for served in parts.live), "none")
    store, bus = await asyncio.gather(
        _check("store", parts.store.pool, lambda: stores.views.manifest(first), seconds),
        _check("bus", parts.bus.pool, lambda: stores.bus.ensure_topics([]), seconds),
    )
    trouble = stores.bus.trouble if bus == "ok" else None
    return store, bus if trouble is None else f"Kafka answers, but did not take messages ({trouble})"


async def _check(what: str, pool: Executor, call: Callable[[], object], seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().run_in_executor(pool, call)
    except AnabranchError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except Exception as error:
        log.exception("checking the %s failed", what)
        return without_secrets(f"{type(error).__name__}: {error}")
    return "ok"


def _model(live: Live, caller: Caller | None) -> str:
    """Down when the registry cannot be read, or when champions serve nowhere as their inputs changed.

    A project that declares no model, or has not been trained, holds up no other: it has features to answer
    with, and another server would have no model for it either.
    """
    if not live.looked:
        return "still loading"
    declaring = [served for served in live if served.project.model is not None]
    seen = [served for served in declaring if sees(caller, served.project.name)]
    for served in declaring:
        if "model" in served.troubles:
            hidden = "the model of a project cannot be read"
            return served.troubles["model"] if served in seen else hidden
    unfit = [served for served in declaring if "inputs" in served.troubles]
    if unfit and all(served.scorer is None for served in declaring):
        reasons = [served.troubles["inputs"] for served in unfit if served in seen]
        return reasons[0] if reasons else "no champion fits its declaration"
    return "ok"


def _project(served: Served) -> str:
    name = served.project.name
    if served.troubles:
        return "; ".join(f"{what}: {why}" for what, why in served.troubles.items())
    if served.project.model is not None and served.scorer is None:
        return UNTRAINED.format(name=name)
    return "ok" if served.manifest is not None else f"no batch version yet: run 'anabranch build {name}'"
