"""Readiness: whether every store that answers need can be reached. Each call checks again, so that the answer is true."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from anabranch.errors import AnabranchError
from serving.api.bodies import ReadinessBody
from serving.api.live import Live, Served
from serving.api.server_parts import ServerParts
from serving.http.access import Caller, only_seen, sees

log = logging.getLogger(__name__)
UNTRAINED = "no model yet: run 'anabranch train {name}'"


async def readiness(parts: ServerParts, caller: Caller | None) -> ReadinessBody:
    """``ok`` or what is wrong with store, bus and model; projects are named when the caller may see them."""
    context, live, seconds = parts.context, parts.live, parts.store.seconds
    projects = list(live)
    first = projects[0].project.name if projects else "none"
    store, bus = await asyncio.gather(
        _check("store", parts.store.pool, lambda: context.views.manifest(first), seconds),
        _check("bus", parts.bus.pool, lambda: context.bus.ensure_topics([]), seconds),
    )
    model = _model(live, caller)
    return ReadinessBody(
        status="ready" if store == bus == model == "ok" else "down",
        store=store,
        bus=bus,
        model=model,
        projects={one.project.name: _project(one) for one in projects if sees(caller, one.project.name)},
        broken=only_seen(caller, live.broken),
    )


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
        return f"{type(error).__name__}: {error}"
    return "ok"


def _model(live: Live, caller: Caller | None) -> str:
    """Down when the registry cannot be read, or when no project that declares a model can predict."""
    if not live.looked:
        return "still loading"
    declaring = [served for served in live if served.project.model is not None]
    seen = [served for served in declaring if sees(caller, served.project.name)]
    for served in declaring:
        if "model" in served.troubles:
            hidden = "the model of a project cannot be read"
            return served.troubles["model"] if served in seen else hidden
    if declaring and all(served.scorer is None for served in declaring):
        for served in seen:
            if "inputs" in served.troubles:
                return served.troubles["inputs"]
        return "no project has " + UNTRAINED.format(name=seen[0].project.name if seen else "PROJECT")
    return "ok"


def _project(served: Served) -> str:
    name = served.project.name
    if served.troubles:
        return "; ".join(f"{what}: {why}" for what, why in served.troubles.items())
    if served.project.model is not None and served.scorer is None:
        return UNTRAINED.format(name=name)
    return "ok" if served.manifest is not None else f"no batch version yet: run 'anabranch build {name}'"
