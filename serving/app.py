"""The REST server: its life, its routes and its pages. A running server tells its contract at /docs."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anabranch.answers.problems import ProblemError, of_error
from anabranch.answers.requests import path_key
from anabranch.errors import AnabranchError
from anabranch.stores.breaker import Breaker
from serving.api import catalogue, openapi
from serving.api.context import ServingContext
from serving.api.endpoints import Endpoints
from serving.api.facts import Missing
from serving.api.live import Live, Served
from serving.api.measured import Measured
from serving.api.metrics import ServingMetrics, only_of
from serving.api.prediction_log import Predictions
from serving.api.promises import judged
from serving.api.readiness import readiness
from serving.api.shadow import Shadow
from serving.http import workers
from serving.http.access import NOBODY, Caller, only_seen, sees
from serving.http.messages import (
    Exchange,
    Request,
    Response,
    Scope,
    json_response,
    problem_response,
    read_body,
)
from serving.http.pools import Breakers, Pools
from serving.site import docs_page
from serving.site.pages import Site

log = logging.getLogger(__name__)
PREFIX = "/v1/projects"
_LAST_SECONDS = 2.0
_OPEN = ("/healthz", "/readyz")
"""Pages that ask for no credentials: probes have none."""
_READ = ("/docs", "/openapi.json")
"""Pages that people open in a browser, which signs in as on the site's own pages."""
_HTML = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    ),
    ("x-content-type-options", "nosniff"),
)
_PLAIN = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


class Application:
    """The server as one object: `handle` answers a request; granian calls it through `__rsgi__`."""

    def __init__(self, context: ServingContext) -> None:
        self._context, self._settings = context, context.settings
        self._measured = Measured(context.measures)
        self.metrics = ServingMetrics(self._measured)
        self.live = Live(context, self._after_looking)
        self.predictions = Predictions(context.bus, self.metrics, context.settings.prediction_buffer)
        self.shadow = Shadow(context, self.metrics)
        self._pools = Pools(
            store=ThreadPoolExecutor(context.settings.store_threads, thread_name_prefix="store"),
            bus=ThreadPoolExecutor(context.settings.bus_threads, thread_name_prefix="bus"),
        )
        pause, failures = context.settings.breaker_seconds, context.settings.breaker_failures
        self._breakers = Breakers(
            store=Breaker("Cassandra", failures, pause), bus=Breaker("Kafka", failures, pause)
        )
        self._site = Site(context, self.live)
        self._endpoints = Endpoints(
            context, self.live, self.metrics, self.predictions, self.shadow, self._pools, self._breakers
        )
        self._pages: dict[str, Callable[[Caller | None], Awaitable[Response]]] = {
            "/docs": self._docs, "/openapi.json": self._openapi, "/metrics": self._metrics,
            "/healthz": self._health, "/readyz": self._ready, PREFIX: self._catalogue,
        }  # fmt: skip

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load declarations and begin the work in the background; stores may be down."""
        self.live.start()
        self.predictions.start()
        self.shadow.start()

    def stop(self) -> None:
        """Publish what is buffered and end the background work."""
        self.live.stop()
        self.shadow.stop()
        self.predictions.stop(self._settings.drain_seconds)
        self._site.stop()
        for pool in (self._pools.store, self._pools.bus):
            pool.shutdown(wait=False, cancel_futures=True)

    def __rsgi_init__(self, loop: object) -> None:
        self.start()

    def __rsgi_del__(self, loop: object) -> None:
        self.stop()
        end_within(_LAST_SECONDS)

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        if scope.proto != "http":
            return
        method = scope.method
        headers = scope.headers
        request = Request(
            method, scope.path, content_type=headers.get("content-type") or "", query=scope.query_string
        )
        if self._context.access is not None:
            request.authorization, request.api_key = (
                headers.get("authorization") or "",
                headers.get("x-api-key") or "",
            )
        try:
            if method not in ("GET", "HEAD"):
                request.body = await read_body(scope, exchange, self._settings.body_bytes)
            response = await self.handle(request)
        except ProblemError as problem:
            response = problem_response(problem)
        exchange.response_bytes(
            response.status, list(response.headers), b"" if method == "HEAD" else response.body
        )

    # -- routes --------------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Response:
        """Answer a request; every error becomes a problem."""
        started = time.perf_counter()
        route, project = "unknown", ""
        try:
            page = self._pages.get(request.path)
            if page is not None:
                route = request.path
                _allow(request, "GET")
                response = await page(self._admit(request, page=route))
            elif self._site.owns(request.path):
                route = "page"
                response = await self._site.answer(request, self._reader)
            else:
                caller = self._identify(request)
                name, route, rest = _resource(request.path)
                project = name if self.live.get(name) is not None else ""
                # Rights come first: who has none for a project does not learn whether there is one of that name.
                if caller is not None:
                    caller.require(name, "catalogue" if route == "project" else route)
                served = self._served(name, caller)
                response = await self._answer(request, served, route, rest)
        except AnabranchError as error:
            response = problem_response(of_error(error))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = problem_response(
                ProblemError(500, "fault", "the server failed at this request: its log says where")
            )
        self.metrics.answered(route, project, response.status, started)
        return response

    def _identify(self, request: Request) -> Caller | None:
        """Who asks; None when everybody may. Raises a 401 problem."""
        access = self._context.access
        return None if access is None else access.identify(request.authorization, request.api_key)

    def _reader(self, request: Request) -> Caller | None:
        """Who reads a page: browsers send a key as the password that they ask for. None when everybody may."""
        access = self._context.access
        return None if access is None else access.identify_reader(request.authorization, request.api_key)

    def _anybody(self, request: Request) -> Caller | None:
        """Who asks for a page that is open to all: nobody known where credentials are missing or wrong."""
        try:
            return self._reader(request)
        except ProblemError:
            return NOBODY

    def _admit(self, request: Request, page: str) -> Caller | None:
        """Who sees a page, as `_identify`; raises a 403 problem for who may not. Probes and the way to them are open."""
        if page in _OPEN:
            return self._anybody(request)
        caller = self._reader(request) if page in _READ else self._identify(request)
        right = "metrics" if page == "/metrics" else "catalogue"
        if caller is not None and not caller.may_somewhere(right):
            raise ProblemError(
                403, "forbidden", f"{caller.name} has no right to {right}: ask for a key or token that has"
            )
        return caller

    def _shown(self, caller: Caller | None) -> list[Served]:
        """The projects that the caller may see."""
        return [served for served in self.live if sees(caller, served.project.name)]

    def _served(self, name: str, caller: Caller | None) -> Served:
        """The project of that name; raises a problem that names those the caller may see."""
        served = self.live.get(name)
        if served is not None:
            return served
        broken = self.live.broken.get(name)
        if broken is not None:
            raise ProblemError(503, "broken-declaration", broken)
        known = ", ".join(found.project.name for found in self._shown(caller)) or "none"
        raise ProblemError(404, "unknown-project", f"no project {name[:100]!r}: there is {known}")

    async def _answer(self, request: Request, served: Served, route: str, rest: str) -> Response:
        match route:
            case "predict":
                _allow(request, "POST")
                return await self._endpoints.predict(request, served)
            case "events":
                _allow(request, "POST")
                return await self._endpoints.events(request, served, rest)
            case "features":
                _allow(request, "GET")
                return await self._endpoints.features(served, path_key(rest, served.project))
            case "scores":
                _allow(request, "GET")
                return await self._endpoints.scores(served, path_key(rest, served.project))
            case _:
                _allow(request, "GET")
                return json_response(await self._entry(served))

    # -- pages ---------------------------------------------------------------------------------------------------------

    async def _docs(self, caller: Caller | None) -> Response:
        return Response(200, docs_page.docs(self._document(caller)).encode(), _HTML)

    async def _openapi(self, caller: Caller | None) -> Response:
        return json_response(self._document(caller))

    def _document(self, caller: Caller | None) -> dict[str, Any]:
        return openapi.document(
            [served.project for served in self._shown(caller)], secured=self._context.access is not None
        )

    async def _metrics(self, caller: Caller | None) -> Response:
        text = self._own_metrics()
        shown = text if self._settings.shared is None else workers.together(self._settings.shared, text)
        return Response(
            200,
            shown if caller is None else only_of(shown, lambda project: caller.may(project, "metrics")),
            _PLAIN,
        )

    def _own_metrics(self) -> bytes:
        for served in self.live:
            self.metrics.show(served)
            self.metrics.show_freshness(
                served.project.name,
                judged(served, self._measured.of(served.project.name), self._context.clock()),
            )
        self.metrics.show_stores(
            self._context.answers.kept, {"store": self._breakers.store.open, "bus": self._breakers.bus.open}
        )
        return self.metrics.text()

    def _after_looking(self) -> None:
        self._measured.look([served.project.name for served in self.live])
        if self._settings.shared is not None:
            workers.leave(self._settings.shared, self._own_metrics())

    async def _health(self, caller: Caller | None) -> Response:
        return json_response({"status": "alive"})

    async def _ready(self, caller: Caller | None) -> Response:
        ready, document = await readiness(self._context, self.live, self._pools, caller)
        if ready:
            return json_response(document)
        down = "; ".join(
            f"{name}: {document[name]}" for name in ("store", "bus", "model") if document[name] != "ok"
        )
        problem = ProblemError(503, "not-ready", down)
        return problem_response(problem, document)

    async def _catalogue(self, caller: Caller | None) -> Response:
        return json_response(
            {
                "projects": await asyncio.gather(*map(self._entry, self._shown(caller))),
                "broken": only_seen(caller, self.live.broken),
            }
        )

    async def _entry(self, served: Served) -> dict[str, Any]:
        found = await self._site.facts.brief(served)
        return catalogue.entry(
            served, found.now, None if isinstance(found.model, Missing) else found.model, found.known_measures
        )


def _resource(path: str) -> tuple[str, str, str]:
    """Project, route and what follows it; a key may itself hold slashes."""
    name, _, tail = path[len(PREFIX) + 1 :].partition("/")
    route, _, rest = tail.partition("/")
    known = path.startswith(f"{PREFIX}/") and route in ("", "predict", "features", "scores", "events")
    if not known or bool(rest) != (route in ("features", "scores", "events")):
        raise ProblemError(404, "unknown-path", f"there is nothing at {path[:200]}: see /docs")
    return name, route or "project", rest


def _allow(request: Request, method: str) -> None:
    if request.method != method and not (request.method == "HEAD" and method == "GET"):
        problem = ProblemError(405, "wrong-method", f"{request.method} is not possible here: use {method}")
        problem.headers = (("allow", "GET, HEAD" if method == "GET" else method),)
        raise problem


def end_within(seconds: float) -> None:
    """End this process in time, even when a library's thread still waits for a store that is away: nothing is left to be done."""

    def end() -> None:
        time.sleep(seconds)
        logging.shutdown()
        os._exit(0)

    threading.Thread(target=end, name="end", daemon=True).start()


def create_app(context: ServingContext) -> Application:
    """The server over `context`; call `start` before the first request (granian does)."""
    return Application(context)
