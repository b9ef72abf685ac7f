"""Read-only pages: the projects, each as a data product, their keys, model cards and quality reports.

No page has a script or needs anything from another server.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from anabranch.answers import requests
from anabranch.answers.features import Answer
from anabranch.answers.predict import shown_key
from anabranch.answers.problems import ProblemError, of_error
from anabranch.answers.service import AnswerService
from anabranch.errors import AnabranchError
from anabranch.pages.formats import address
from anabranch.pages.rendering import STYLE_PATH, render, style
from anabranch.values.keys import key_text
from serving.api.context import ServingContext
from serving.api.facts import Facts, Missing
from serving.api.live import Live, Served
from serving.http.access import Caller, only_seen, sees
from serving.http.messages import Headers, HttpRequest, Response
from serving.site.key_page import KeyFacts, key_page, moments
from serving.site.project_page import project_page
from serving.site.summaries import home_page

_NO_SNIFFING: Headers = (("x-content-type-options", "nosniff"), ("referrer-policy", "same-origin"))
_SITE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HTML: Headers = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", _SITE_POLICY),
    ("cache-control", "no-store"),
    *_NO_SNIFFING,
)
# Stored pages (model cards, reports) carry style and pictures with them; the sandbox refuses all else.
_STORED_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "sandbox"
)
_STORED: Headers = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", _STORED_POLICY),
    ("cache-control", "no-store"),
    *_NO_SNIFFING,
)
_SHEETS: Headers = (
    ("content-type", "text/css; charset=utf-8"),
    ("cache-control", "public, max-age=86400"),
    *_NO_SNIFFING,
)


class Site:
    """The pages of the served projects; `facts` reads what they show of the stores, `service` explains."""

    def __init__(self, context: ServingContext, live: Live, facts: Facts, service: AnswerService) -> None:
        self._context, self._live, self.facts, self._service = context, live, facts, service

    def owns(self, path: str) -> bool:
        """Whether the site answers requests for a path."""
        return path in ("/", STYLE_PATH, "/projects") or path.startswith("/projects/")

    async def answer(
        self, request: HttpRequest, identify: Callable[[HttpRequest], Caller | None]
    ) -> Response:
        """The page of a request by the caller that `identify` finds; an error is a page too."""
        try:
            if request.method not in ("GET", "HEAD"):
                raise ProblemError(
                    405, "wrong-method", f"{request.method} is not allowed: pages are read with GET or HEAD"
                )
            if request.path == STYLE_PATH:
                return Response(200, style().encode(), _SHEETS)
            return await self._page(request, identify(request))
        except AnabranchError as error:
            return failure(of_error(error))

    async def _page(self, request: HttpRequest, caller: Caller | None) -> Response:
        parts = [part for part in request.path.split("/", 4)[2:] if part]
        if request.path == "/" or not parts:
            visible = [served for served in self._live if sees(caller, served.project.name)]
            briefs = await asyncio.gather(*[self.facts.brief(served) for served in visible])
            return _html(home_page(briefs, only_seen(caller, self._live.broken)))
        name = parts[0]
        if caller is not None:
            caller.require(name, "catalogue")
        served = self._served(name)
        match parts[1:]:
            case []:
                return _html(project_page(await self.facts.whole(served)))
            case ["keys"]:
                return self._lookup(request, served)
            case ["keys", key]:
                if caller is not None:
                    caller.require(name, "features")
                return await self._key(served, key)
            case ["card"]:
                why = f"has no model card: run 'anabranch train {name}'"
                why = why if served.project.model is not None else "declares no model, so it has no card"
                return _stored(await self.facts.card(served), f"{name} {why}")
            case ["quality", report]:
                source, _, which = report.partition("/")
                found = await self.facts.report(served, source, which)
                return _stored(
                    found, f"{name} has no quality report {report[:100]!r}: its page lists the newest"
                )
        raise ProblemError(404, "unknown-path", f"no page at {request.path[:200]}: / lists the projects")

    def _served(self, name: str) -> Served:
        served = self._live.get(name)
        if served is None:
            raise ProblemError(404, "unknown-project", f"no project {name[:100]!r}: / lists the projects")
        return served

    @staticmethod
    def _lookup(request: HttpRequest, served: Served) -> Response:
        """A redirect from the fields of the form to the key's own address."""
        fields: Mapping[str, str] = dict(parse_qsl(request.query, keep_blank_values=True))
        names = served.project.keys
        text = fields.get(names[0], "")
        if len(names) > 1:
            text = ",".join(f"{name}={fields.get(name, '')}" for name in names)
        requests.path_key(text, served.project)
        place = address("projects", served.project.name, "keys", text)
        return Response(303, b"", (("location", place), *_NO_SNIFFING))

    async def _key(self, served: Served, text: str) -> Response:
        project = served.project
        key = requests.path_key(text, project)
        row, answers = await asyncio.gather(
            self.facts.row(served, key_text(project.keys, key)), self._answers(served, key)
        )
        shown = shown_key(key)
        name = (
            shown if isinstance(shown, str) else " ".join(f"{part}={value}" for part, value in shown.items())
        )
        why = None if isinstance(answers, Missing) else await self._why(served, answers[-1])
        return _html(key_page(KeyFacts(served=served, key=name, answers=answers, row=row, why=why)))

    async def _why(self, served: Served, stored: Answer) -> Mapping[str, Any] | Missing | None:
        """The explained score of the features of now; None without a model or for an unknown key."""
        scorer, project = served.scorer, served.project
        if scorer is None or not stored.known:
            return None
        if project.asks(scorer.features):
            return Missing("The model reads the request, so scores of a key alone do not exist.")
        try:
            return await asyncio.to_thread(self._service.describe, project, stored, scorer, explain=True)
        except AnabranchError as error:
            return Missing(str(error))

    async def _answers(self, served: Served, key: requests.Key) -> list[Answer] | Missing:
        """Answers at moments up to now; those that are not exact are marked degraded."""
        project, manifest = served.project, served.manifest
        answer = self._context.answers.answer
        try:
            times = moments(served, self._context.clock())[:-1]
            past = [(await answer(project, [key], manifest, at))[0] for at in times]
            return [*past, (await answer(project, [key], manifest))[0]]
        except AnabranchError as error:
            return Missing(str(error))


def _html(page: str) -> Response:
    return Response(200, page.encode("utf-8", "replace"), _HTML)


def _stored(page: bytes | Missing | None, otherwise: str) -> Response:
    if isinstance(page, Missing):
        raise ProblemError(503, "unavailable", page.why)
    if page is None:
        raise ProblemError(404, "unknown-path", otherwise)
    return Response(200, page, _STORED)


def failure(problem: ProblemError) -> Response:
    """A problem as a page."""
    page = render("problem.html", status=problem.status, detail=problem.detail)
    return Response(problem.status, page.encode("utf-8", "replace"), (*_HTML, *problem.headers))
