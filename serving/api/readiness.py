"""Is every store that answers need there? Asked anew at each call, so that readiness tells the truth."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from anabranch.errors import AnabranchError
from serving.api.context import ServingContext
from serving.api.live import Live
from serving.http.access import Caller, only_seen, sees
from serving.http.pools import Pools

log = logging.getLogger(__name__)
UNTRAINED = "no model yet: run 'anabranch train {name}'"


async def readiness(
    context: ServingContext, live: Live, pools: Pools, caller: Caller | None
) -> tuple[bool, Mapping[str, Any]]:
    """Whether the server can answer, and for store, bus and model ``ok`` or what is wrong; projects are named when the caller may see them."""
    names = [served.project.name for served in live]
    store, bus = await asyncio.gather(
        _check(context, pools.store, "store", lambda: context.views.manifest(names[0] if names else "none")),
        _check(context, pools.bus, "bus", lambda: context.bus.ensure_topics([])),
    )
    checks = {"store": store, "bus": bus, "model": _model(live, caller)}
    projects = {
        served.project.name: _project(served.project.name, live)
        for served in live
        if sees(caller, served.project.name)
    }
    down = {name: text for name, text in checks.items() if text != "ok"}
    return not down, {
        "status": "down" if down else "ready",
        **checks,
        "projects": projects,
        "broken": only_seen(caller, live.broken),
    }


async def _check(context: ServingContext, pool: Executor, what: str, ask: Callable[[], object]) -> str:
    asked: Awaitable[object] = asyncio.get_running_loop().run_in_executor(pool, ask)
    seconds = context.settings.store_timeout_seconds
    try:
        await asyncio.wait_for(asked, seconds)
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
    for served in declaring:
        if "model" in served.troubles:
            return (
                served.troubles["model"]
                if sees(caller, served.project.name)
                else "the model of a project cannot be read"
            )
    if declaring and all(served.scorer is None for served in declaring):
        seen = [served for served in declaring if sees(caller, served.project.name)]
        unfit = [served.troubles["inputs"] for served in seen if "inputs" in served.troubles]
        return (
            unfit[0]
            if unfit
            else "no project has " + UNTRAINED.format(name=seen[0].project.name if seen else "PROJECT")
        )
    return "ok"


def _project(name: str, live: Live) -> str:
    served = live.get(name)
    if served is None:
        return "gone"
    if served.troubles:
        return "; ".join(f"{what}: {why}" for what, why in served.troubles.items())
    if served.project.model is not None and served.scorer is None:
        return UNTRAINED.format(name=name)
    return "ok" if served.manifest is not None else f"no batch version yet: run 'anabranch build {name}'"
