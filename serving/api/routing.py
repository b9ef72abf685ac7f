"""Routes: an endpoint is one row, from which routing, rights, addresses and the OpenAPI document follow."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from anabranch.answers import requests
from anabranch.answers.problems import CONTENT_TYPE, ProblemError, unprocessable
from anabranch.declare.projects import Project
from serving.api.bodies import ProblemBody
from serving.api.live import Served
from serving.http.access import Caller
from serving.http.messages import HttpRequest, Response, problem_response

if TYPE_CHECKING:
    from serving.api.openapi import Declared
    from serving.api.server_parts import ServerParts

T = TypeVar("T")
PROJECTS = "/v1/projects"
PROJECT = f"{PROJECTS}/{{project}}"
"""Below it lie the endpoints of a project."""
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(slots=True)
class Call:
    """One request to an endpoint. `caller` is None where nobody needs credentials."""

    request: HttpRequest
    caller: Caller | None
    parameters: Mapping[str, str]
    target: Served | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def served(self) -> Served:
        """The project, for endpoints below `/v1/projects/{project}`."""
        if self.target is None:
            raise LookupError("the path of this endpoint names no project")
        return self.target

    def read(self, kind: type[T]) -> T:
        """The JSON body as a value of `kind`; raises a 400, 415 or 422 problem."""
        requests.check_json(self.request.content_type)
        return read_as(requests.decode(self.request.body), kind)


def read_as(document: object, kind: type[T]) -> T:
    """A decoded body as a value of `kind`; raises a 422 problem that names the field."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).rstrip("`").partition(" - at `$")
        field = place.removeprefix(".") or "body"
        raise unprocessable(field, f"{field}: {reason}") from error


Handler = Callable[["ServerParts", Call], Awaitable[object]]
"""Returns a `Response`, or a document that is sent as JSON with the route's `status`."""


@dataclass(frozen=True, kw_only=True)
class ErrorForm:
    """How a route writes its problems: `respond` makes the response, whose body is a `body`."""

    name: str
    """Its component in the OpenAPI document."""
    body: Any
    media: str
    respond: Callable[[ProblemError], Response]


PROBLEMS = ErrorForm(name="Problem", body=ProblemBody, media=CONTENT_TYPE, respond=problem_response)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One endpoint.

    `path` is a template: ``{name}`` is one segment, ``{name:path}`` is all that follows. A route below
    `PROJECT` is listed for each project, and one with ``{source}`` for each source with a topic. `request`
    and `response` are `msgspec.Struct` types that do not contain themselves (a tuple: one of them), or the
    media type of a text. A route without `response` is a page: the OpenAPI document does not list it.
    """

    name: str
    """Its label in metrics and, with _ for spaces, its member in the addresses of a project."""
    method: str
    path: str
    handler: Handler
    summary: str
    right: str | None = "catalogue"
    """The right a caller needs for the project (for any, where the path names none); None: open to all."""
    browser: bool = False
    """Whether people open it in a browser, which signs in with a key as the password."""
    model: bool = False
    """Whether the project must declare a model."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What each parameter of its query means, by name; a request with any other is refused."""
    request: tuple[Any, ...] = ()
    response: Any = None
    status: int = 200
    errors: ErrorForm = PROBLEMS
    further: tuple[str, ...] = ()
    """Media types that a request may have besides JSON, as text."""
    only: bool = False
    """Whether it is of the one project with a model that the caller may ask: its path names none."""
    tag: str = "server"
    """Where the document lists it, unless it lies below a project."""
    problems: tuple[int, ...] = ()
    """Statuses of its problems, besides 401 and 403."""
    example: Any = None
    """An example of the response."""
    examples: "Callable[[Declared], Mapping[str, Any]] | None" = None
    """Examples of the request, as OpenAPI writes them."""
    bounded: bool = False
    """Whether calls beyond `serving.answers_at_once` are refused, so that those before them are in time."""
    unknown_key: bool = False
    """Whether a key of which nothing is known is a 404."""

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names in the template."""
        return tuple(name for name, _ in _PARAMETER.findall(self.path))

    @cached_property
    def label(self) -> str:
        """Its label in metrics."""
        return self.name if self.parameters else self.path

    def read_query(self, text: str) -> dict[str, str]:
        """The parameters of a query; raises a 422 problem that names one which is not declared."""
        if not text:
            return {}
        found = dict(parse_qsl(text, keep_blank_values=True))
        for name in found:
            if name not in self.query:
                known = f"it has {', '.join(self.query)}" if self.query else "it takes none"
                raise unprocessable(
                    name[:100],
                    f"{name[:100]!r} is not a parameter of {self.method} {self.path}: {known}",
                    "unknown-parameter",
                )
        return found

    def address(self, **known: str) -> str:
        """The path with the parameters that are known; others stay as ``{name}``."""
        return _PARAMETER.sub(lambda match: known.get(match[1], f"{{{match[1]}}}"), self.path)


def listed(routes: Iterable[Route], project: Project) -> list[Route]:
    """The documented routes of a project: those that need a model where it declares one."""
    return [
        route
        for route in routes
        if "project" in route.parameters
        and route.response is not None
        and (project.model is not None or not route.model)
    ]


@dataclass(slots=True)
class _Branch:
    """The routes of one path template, by method."""

    pattern: re.Pattern[str]
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed: dict[str, _Branch] = {}
        self._templates: dict[str, _Branch] = {}
        for route in self.routes:
            branches = self._templates if route.parameters else self._fixed
            branch = branches.setdefault(route.path, _Branch(_pattern(route.path)))
            if route.method in branch.routes:
                raise ValueError(f"two routes for {route.method} {route.path}: a method and a path have one")
            branch.routes[route.method] = route

    def find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]] | None:
        """The routes of a path by method, and its parameters; None for an unknown path.

        Raises a 400 problem for a path that was not UTF-8, which the server decodes with U+FFFD.
        """
        if "\ufffd" in path:
            raise ProblemError(
                400, "bad-path", "the path is not UTF-8 (or holds U+FFFD): write each byte of UTF-8 as %XX"
            )
        branch = self._fixed.get(path) or self._fixed.get(path.rstrip("/"))
        if branch is not None:
            return branch.routes, {}
        for branch in self._templates.values():
            match = branch.pattern.fullmatch(path)
            if match is not None:
                return branch.routes, match.groupdict()
        return None


def route_for(routes: Mapping[str, Route], method: str) -> Route:
    """The route for a method, HEAD being a GET; raises a 405 problem that allows the others."""
    route = routes.get("GET" if method == "HEAD" else method)
    if route is None:
        allowed = [one for each in routes for one in (("GET", "HEAD") if each == "GET" else (each,))]
        problem = ProblemError(
            405, "wrong-method", f"{method} is not possible here: use {' or '.join(routes)}"
        )
        problem.headers = (("allow", ", ".join(allowed)),)
        raise problem
    return route


def _pattern(template: str) -> re.Pattern[str]:
    parts, end, rest = [], 0, False
    for match in _PARAMETER.finditer(template):
        rest = match[2] is not None
        parts += [re.escape(template[end : match.start()]), f"(?P<{match[1]}>{'.+' if rest else '[^/]+'})"]
        end = match.end()
    return re.compile("".join((*parts, re.escape(template[end:]), "" if rest else "/?")), re.DOTALL)
