"""The REST server: its life, who is admitted, and which endpoint answers. /docs shows its contract."""

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from anabranch.answers import spans
from anabranch.answers.problems import ProblemError, of_error
from anabranch.errors import AnabranchError
from serving import routes as api
from serving.api.about import freshness_of, own_metrics, visible
from serving.api.context import ServingContext
from serving.api.live import Served
from serving.api.metrics import leave
from serving.api.promises import kept
from serving.api.routing import PROBLEMS, PROJECT, Call, Route, Router, route_for
from serving.api.server_parts import ServerParts
from serving.http.access import NOBODY, Caller, Hosts
from serving.http.messages import (
    Bodies,
    Exchange,
    GoneError,
    HttpRequest,
    Places,
    Response,
    Scope,
    json_response,
    problem_response,
    until_of,
)
from serving.site.pages import Site
from serving.site.routes import PAGES
from serving.tracing import open_provider

log = logging.getLogger(__name__)
ROUTES = (*api.ROUTES, *PAGES)
_LAST_SECONDS = 2.0
_MOST_BODIES = 256 * 1024 * 1024
"""Bytes of bodies that are being received."""


class Application:
    """The server as one object: `handle` answers a request; granian calls it through `__rsgi__`."""

    def __init__(self, context: ServingContext, routes: Iterable[Route] = ROUTES) -> None:
        self._router = Router(routes)
        self.parts = ServerParts.open(context, self._router.routes)
        self.live = self.parts.live
        self._access, self._settings = context.access, context.settings
        settings = context.settings
        self._hosts = Hosts(settings.host, settings.allowed_hosts)
        self._bodies = Bodies(settings.body_bytes, settings.body_seconds, _MOST_BODIES + settings.body_bytes)
        self._places = Places(
            settings.answers_at_once, settings.answers_in_seconds, lambda: context.answers.read_seconds
        )
        self._site = Site(context, self.live, self.parts.facts, self.parts.service)
        self._spans: Any = None
        self._unsettled = False
        self.joins: Callable[[], object] = lambda: None
        """Called when the server has started, to let gateways know."""
        self.ready: Callable[[], object] = lambda: None
        """Called when the server is about to answer its first request."""

    def start(self) -> None:
        """Load declarations and begin the work in the background; stores may be down."""
        self._spans = open_provider(self._settings)
        if self._spans is not None:
            spans.use(self._spans.get_tracer("anabranch"), values=self._settings.tracing_values)
        self.live.start(self._after_looking)
        self.parts.predictions.start()
        self.parts.shadow.start()

    def stop(self) -> None:
        """Publish what is buffered and end the background work."""
        self.live.stop()
        self.parts.shadow.stop()
        self.parts.predictions.stop(self._settings.drain_seconds)
        if self._spans is not None:
            spans.use(None)
            self._spans.force_flush(round(1000 * self._settings.drain_seconds))
            self._spans.shutdown()
        self.parts.close()

    def __rsgi_init__(self, loop: object) -> None:
        self._unsettled = True
        self.start()
        self.joins()
        self.ready()

    def state(self) -> tuple[bool, int]:
        """Whether projects have been looked at, so that it can answer, and the calls that it answers now."""
        return self.live.looked, self._places.held

    def __rsgi_del__(self, loop: object) -> None:
        self.stop()
        end_within(_LAST_SECONDS)

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        if scope.proto != "http":
            return
        method = scope.method
        headers = scope.headers
        request = HttpRequest(
            method,
            scope.path,
            content_type=headers.get("content-type") or "",
            query=scope.query_string,
            headers=headers,
        )
        if self._access is not None:
            request.authorization, request.api_key = (
                headers.get("authorization") or "",
                headers.get("x-api-key") or "",
            )
        if method not in ("GET", "HEAD"):
            request.receive = partial(self._bodies.read, scope, exchange)
        try:
            self._hosts.check(headers.get("host") or scope.authority or "")
            request.until = until_of(headers)
            response = await self.handle(request)
        except ProblemError as problem:
            response = problem_response(problem)
        except GoneError:
            return
        exchange.response_bytes(
            response.status, list(response.headers), b"" if method == "HEAD" else response.body
        )

    def _after_looking(self) -> None:
        if self._unsettled:
            # What is loaded by now stays. Without this the garbage collector goes through all of it again and
            # again, which stops every call for more than 100 ms.
            self._unsettled = False
            gc.collect()
            gc.freeze()
        self.parts.measured.look([served.project.name for served in self.live])
        self.parts.kept_counts.look()
        for served in self.live:
            name, channels = served.project.name, freshness_of(self.parts, served)
            self.parts.metrics.promise(name, served.project.objectives)
            self.parts.metrics.judge_freshness(name, kept(channels))
        if self._settings.shared is not None:
            leave(self._settings.shared, own_metrics(self.parts))

    async def handle(self, request: HttpRequest) -> Response:
        """Answer a request; every error becomes a problem."""
        if not spans.tracing():
            return await self._handled(request, None)
        with spans.request(request.method, request.headers) as made:
            return await self._handled(request, made)

    async def _handled(self, request: HttpRequest, made: Any) -> Response:
        started = time.perf_counter()
        label, project, errors = "unknown", "", PROBLEMS
        try:
            match = self._router.find(request.path)
            if match is not None:
                routes, parameters = match
                first = next(iter(routes.values()))
                label, name, errors = first.label, parameters.get("project", ""), first.errors
                project = name if self.live.get(name) is not None else ""
                # Rights come first: a caller without any for a project does not learn whether it exists.
                caller = self._admit(request, first, name)
                if first.only:
                    project = self._only(first, caller)
                    parameters = {**parameters, "project": project}
                response = await self._answer(request, routes, parameters, caller)
            elif self._site.owns(request.path):
                label = "page"
                response = await self._site.answer(request, self._reader)
            else:
                self._identify(request)
                response = problem_response(
                    ProblemError(404, "unknown-path", f"no endpoint at {request.path[:200]}: see /docs")
                )
        except AnabranchError as error:
            response = errors.respond(of_error(error))
        except GoneError:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = errors.respond(
                ProblemError(500, "fault", "the server failed at this request: its log says where")
            )
        self.parts.metrics.answered(label, project, response.status, started)
        if made is not None:
            spans.answered(made, request.method, label, response.status, project)
        return response

    async def _answer(
        self,
        request: HttpRequest,
        routes: Mapping[str, Route],
        parameters: Mapping[str, str],
        caller: Caller | None,
    ) -> Response:
        served = self._served(parameters["project"], caller) if "project" in parameters else None
        route = route_for(routes, request.method)
        if route.model and served is not None and served.project.model is None:
            raise ProblemError(
                404,
                "no-model-declared",
                f"{served.project.name} declares no model, it has features only: use its features",
            )
        query = route.read_query(request.query)
        if request.receive is not None:
            request.body = await request.receive()
        call = Call(request, caller, parameters, served, query)
        if route.bounded:
            with self._places.taken(request.until):
                answer = await route.handler(self.parts, call)
        else:
            answer = await route.handler(self.parts, call)
        return answer if isinstance(answer, Response) else json_response(answer, route.status)

    def _admit(self, request: HttpRequest, route: Route, project: str) -> Caller | None:
        """The caller, None when all may ask; raises a 401 or 403 problem."""
        if route.right is None:
            return self._anybody(request)
        caller = self._reader(request) if route.browser else self._identify(request)
        if caller is None:
            return None
        if project:
            caller.require(project, route.right)
        elif not caller.may_somewhere(route.right):
            raise ProblemError(
                403,
                "forbidden",
                f"{caller.name} has no right to {route.right}: ask for a key or token that has",
            )
        return caller

    def _only(self, route: Route, caller: Caller | None) -> str:
        """The one project with a model that the caller may ask; a problem says how to name one of several."""
        names = [
            served.project.name
            for served in self.live
            if served.project.model is not None
            and (caller is None or route.right is None or caller.may(served.project.name, route.right))
        ]
        if len(names) == 1:
            return names[0]
        shown = ", ".join(names) or "none"
        raise ProblemError(
            404,
            "which-project",
            f"{route.path} is for servers of one project with a model, here you may ask {shown}: "
            f"{route.method} {PROJECT}{route.path} names the project",
        )

    def _identify(self, request: HttpRequest) -> Caller | None:
        """The caller, None when all may ask; raises a 401 problem."""
        access = self._access
        return None if access is None else access.identify(request.authorization, request.api_key)

    def _reader(self, request: HttpRequest) -> Caller | None:
        """The caller of a page: browsers send a key as the password they ask for. None when all may ask."""
        access = self._access
        return None if access is None else access.identify_reader(request.authorization, request.api_key)

    def _anybody(self, request: HttpRequest) -> Caller | None:
        """The caller of a path that is open to all: `NOBODY` where credentials are missing or wrong."""
        try:
            return self._reader(request)
        except ProblemError:
            return NOBODY

    def _served(self, name: str, caller: Caller | None) -> Served:
        """The project `name`; raises a problem that names the projects the caller may see."""
        served = self.live.get(name)
        if served is not None:
            return served
        broken = self.live.broken.get(name)
        if broken is not None:
            raise ProblemError(503, "broken-declaration", broken)
        known = ", ".join(other.project.name for other in visible(self.parts, caller)) or "none"
        raise ProblemError(404, "unknown-project", f"no project {name[:100]!r}: known are {known}")


def end_within(seconds: float) -> None:
    """End this process in time, even when a library's thread still waits for a store that is down."""

    def end() -> None:
        time.sleep(seconds)
        logging.shutdown()
        os._exit(0)

    threading.Thread(target=end, name="end", daemon=True).start()


def create_app(context: ServingContext, routes: Iterable[Route] = ROUTES) -> Application:
    """The server over `context`; call `start` before the first request (granian does)."""
    return Application(context, routes)
