"""The REST server: its life, its routes and its pages. A running server tells its contract at /docs."""

import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from features.errors import AnabranchError
from serving import catalogue, openapi, pages, requests
from serving.breaker import Breaker, Breakers
from serving.context import Context
from serving.endpoints import Endpoints
from serving.http import Exchange, Request, Response, Scope, json_response, problem_response, read_body
from serving.live import Live, Served
from serving.metrics import Metrics
from serving.pools import Pools
from serving.predictions import Predictions
from serving.problems import ProblemError, of_error
from serving.readiness import readiness

log = logging.getLogger(__name__)
PREFIX = "/v1/projects"
_HTML = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"),
    ("x-content-type-options", "nosniff"),
)
_PLAIN = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


class Application:
    """The server as one object: `handle` answers a request; granian calls it through `__rsgi__`."""

    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, context.settings
        self.metrics = Metrics()
        self.live = Live(context)
        self.predictions = Predictions(context.bus, self.metrics, context.settings.prediction_buffer)
        self._pools = Pools(
            store=ThreadPoolExecutor(context.settings.store_threads, thread_name_prefix="store"),
            bus=ThreadPoolExecutor(context.settings.bus_threads, thread_name_prefix="bus"),
        )
        pause, failures = context.settings.breaker_seconds, context.settings.breaker_failures
        self._breakers = Breakers(store=Breaker("Cassandra", failures, pause), bus=Breaker("Kafka", failures, pause))
        self._endpoints = Endpoints(context, self.live, self.metrics, self.predictions, self._pools, self._breakers)
        self._pages: dict[str, Callable[[], Awaitable[Response]]] = {
            "/": self._home, "/docs": self._docs, "/openapi.json": self._openapi, "/metrics": self._metrics,
            "/healthz": self._health, "/readyz": self._ready, PREFIX: self._catalogue,
        }  # fmt: skip

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load declarations and begin the work in the background; stores may be down."""
        self.live.start()
        self.predictions.start()

    def stop(self) -> None:
        """Publish what is buffered and end the background work."""
        self.live.stop()
        self.predictions.stop(self._settings.drain_seconds)
        for pool in (self._pools.store, self._pools.bus):
            pool.shutdown(wait=False, cancel_futures=True)

    def __rsgi_init__(self, loop: object) -> None:
        self.start()

    def __rsgi_del__(self, loop: object) -> None:
        self.stop()

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        if scope.proto != "http":
            return
        method = scope.method
        request = Request(method, scope.path, content_type=scope.headers.get("content-type") or "")
        try:
            if method not in ("GET", "HEAD"):
                request.body = await read_body(scope, exchange, self._settings.body_bytes)
            response = await self.handle(request)
        except ProblemError as problem:
            response = problem_response(problem)
        exchange.response_bytes(response.status, list(response.headers), b"" if method == "HEAD" else response.body)

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
                response = await page()
            else:
                served, route, rest = self._resource(request.path)
                project = served.project.name
                response = await self._answer(request, served, route, rest)
        except AnabranchError as error:
            response = problem_response(of_error(error))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = problem_response(ProblemError(500, "fault", "the server failed at this request: its log says where"))
        self.metrics.answered(route, project, response.status, started)
        return response

    def _resource(self, path: str) -> tuple[Served, str, str]:
        """Project, route and what follows it; a key may itself hold slashes."""
        if not path.startswith(f"{PREFIX}/"):
            raise ProblemError(404, "unknown-path", f"there is nothing at {path[:200]}: see /docs")
        name, _, tail = path[len(PREFIX) + 1 :].partition("/")
        served = self.live.get(name)
        if served is None:
            broken = self.live.broken.get(name)
            if broken is not None:
                raise ProblemError(503, "broken-declaration", broken)
            known = ", ".join(found.project.name for found in self.live) or "none"
            raise ProblemError(404, "unknown-project", f"no project {name[:100]!r}: there is {known}")
        route, _, rest = tail.partition("/")
        if (bool(rest) != (route in ("features", "scores", "events"))) or route not in ("", "predict", "features", "scores", "events"):
            raise ProblemError(404, "unknown-path", f"there is nothing at {path[:200]}: see /docs")
        return served, route or "project", rest

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
                return await self._endpoints.features(served, requests.path_key(rest, served.project))
            case "scores":
                _allow(request, "GET")
                return await self._endpoints.scores(served, requests.path_key(rest, served.project))
            case _:
                _allow(request, "GET")
                return json_response(catalogue.entry(served))

    # -- pages ---------------------------------------------------------------------------------------------------------

    async def _home(self) -> Response:
        return Response(307, b"", (("location", "/docs"),))

    async def _docs(self) -> Response:
        document = openapi.document([served.project for served in self.live])
        return Response(200, pages.docs(document).encode(), _HTML)

    async def _openapi(self) -> Response:
        return json_response(openapi.document([served.project for served in self.live]))

    async def _metrics(self) -> Response:
        for served in self.live:
            self.metrics.show(served)
        self.metrics.show_stores(self._context.answers.kept, {"store": self._breakers.store.open, "bus": self._breakers.bus.open})
        return Response(200, self.metrics.text(), _PLAIN)

    async def _health(self) -> Response:
        return json_response({"status": "alive"})

    async def _ready(self) -> Response:
        ready, document = await readiness(self._context, self.live, self._pools)
        if ready:
            return json_response(document)
        down = "; ".join(f"{name}: {document[name]}" for name in ("store", "bus", "model") if document[name] != "ok")
        problem = ProblemError(503, "not-ready", down)
        return problem_response(problem, document)

    async def _catalogue(self) -> Response:
        return json_response({"projects": [catalogue.entry(served) for served in self.live], "broken": self.live.broken})


def _allow(request: Request, method: str) -> None:
    if request.method != method and not (request.method == "HEAD" and method == "GET"):
        problem = ProblemError(405, "wrong-method", f"{request.method} is not possible here: use {method}")
        problem.headers = (("allow", "GET, HEAD" if method == "GET" else method),)
        raise problem


def create_app(context: Context) -> Application:
    """The server over `context`; call `start` before the first request (granian does)."""
    return Application(context)
