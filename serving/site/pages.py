"""Pages for people, read-only: the projects, each as a data product, its keys, its model card and reports. No script, nothing from elsewhere."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl

from anabranch.answers import requests
from anabranch.answers.features import Answer
from anabranch.answers.predict import shown_key
from anabranch.answers.problems import ProblemError, of_error
from anabranch.errors import AnabranchError
from anabranch.values.keys import key_text
from serving.api.context import ServingContext
from serving.api.facts import Facts, Missing
from serving.api.live import Live, Served
from serving.http.access import Caller, only_seen, sees
from serving.http.messages import Headers, Request, Response
from serving.site.home_page import home
from serving.site.key_page import KeyFound, key_page, moments
from serving.site.markup import Content, document, path, tag
from serving.site.product_page import product

_SHEET = (Path(__file__).parent / "style.css").read_bytes()
STYLE = "/style.css"
_STYLE_ADDRESS = f"{STYLE}?v={hashlib.sha256(_SHEET).hexdigest()[:10]}"
_THREADS = 2
_NO_SNIFFING: Headers = (("x-content-type-options", "nosniff"), ("referrer-policy", "same-origin"))
_HTML: Headers = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    *_NO_SNIFFING,
)
# Kept pages (model cards, reports) bring their style and pictures with them; sandboxed, they could do nothing else if they wanted to.
_KEPT: Headers = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox",
    ),
    ("cache-control", "no-store"),
    *_NO_SNIFFING,
)
_SHEETS: Headers = (
    ("content-type", "text/css; charset=utf-8"),
    ("cache-control", "public, max-age=86400"),
    *_NO_SNIFFING,
)


class Site:
    """The pages over what is served; what they read beyond it they read in threads of their own."""

    def __init__(self, context: ServingContext, live: Live) -> None:
        self._context, self._live = context, live
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pages")
        self.facts = Facts(context, self._pool, context.settings.store_timeout_seconds)

    def stop(self) -> None:
        """Begin no more reads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def owns(self, address: str) -> bool:
        """Whether an address is one of these pages."""
        return address in ("/", STYLE) or address == "/projects" or address.startswith("/projects/")

    async def answer(self, request: Request, identify: Callable[[Request], Caller | None]) -> Response:
        """The page at an address for whoever `identify` says; what goes wrong is a page too."""
        try:
            if request.method not in ("GET", "HEAD"):
                raise ProblemError(
                    405, "wrong-method", f"{request.method} is not possible here: these pages are for reading"
                )
            if request.path == STYLE:
                return Response(200, _SHEET, _SHEETS)
            return await self._page(request, identify(request))
        except AnabranchError as error:
            return failure(of_error(error))

    async def _page(self, request: Request, caller: Caller | None) -> Response:
        parts = [part for part in request.path.split("/", 4)[2:] if part]
        if request.path == "/" or not parts:
            shown = [served for served in self._live if sees(caller, served.project.name)]
            found = await asyncio.gather(*[self.facts.brief(served) for served in shown])
            return _html("Anabranch", home(found, only_seen(caller, self._live.broken)))
        name = parts[0]
        if caller is not None:
            caller.require(name, "catalogue")
        served = self._served(name)
        match parts[1:]:
            case []:
                return _html(name, product(await self.facts.whole(served)), (path("projects", name), name))
            case ["keys"]:
                return self._lookup(request, served)
            case ["keys", key]:
                if caller is not None:
                    caller.require(name, "features")
                return await self._key(served, key)
            case ["card"]:
                return _kept(await self.facts.card(served), f"{name} has no model card: train it")
            case ["quality", report]:
                source, _, which = report.partition("/")
                return _kept(await self.facts.report(served, source, which), "there is no such report")
        raise ProblemError(404, "unknown-path", f"there is nothing at {request.path[:200]}")

    def _served(self, name: str) -> Served:
        served = self._live.get(name)
        if served is None:
            raise ProblemError(
                404, "unknown-project", f"no project {name[:100]!r}: the first page lists all there are"
            )
        return served

    @staticmethod
    def _lookup(request: Request, served: Served) -> Response:
        """From the form's fields to the key's own address."""
        given: Mapping[str, str] = dict(parse_qsl(request.query, keep_blank_values=True))
        names = served.project.keys
        text = (
            given.get(names[0], "")
            if len(names) == 1
            else ",".join(f"{name}={given.get(name, '')}" for name in names)
        )
        requests.path_key(text, served.project)
        return Response(
            303, b"", (("location", path("projects", served.project.name, "keys", text)), *_NO_SNIFFING)
        )

    async def _key(self, served: Served, text: str) -> Response:
        project = served.project
        key = requests.path_key(text, project)
        now = self._context.clock()
        row, answers = await asyncio.gather(
            self.facts.row(served, key_text(project.keys, key)), self._answers(served, key, now)
        )
        told = shown_key(key)
        shown = told if isinstance(told, str) else " ".join(f"{name}={value}" for name, value in told.items())
        body = key_page(KeyFound(served=served, key=shown, now=now, answers=answers, row=row))
        return _html(f"{shown} · {project.name}", body, (path("projects", project.name), project.name))

    async def _answers(self, served: Served, key: requests.Key, now: int) -> list[Answer] | Missing:
        """Answers at moments up to now; what cannot be told of the past is left to the page."""
        asked = moments(served, now)
        try:
            past = [
                (await self._context.answers.answer(served.project, [key], served.manifest, at))[0]
                for at in asked[:-1]
            ]
            return [*past, (await self._context.answers.answer(served.project, [key], served.manifest))[0]]
        except AnabranchError as error:
            return Missing(str(error))


def _html(title: str, body: Content, *trail: tuple[str, str]) -> Response:
    return Response(200, document(title, body, style=_STYLE_ADDRESS, trail=trail), _HTML)


def _kept(page: bytes | Missing | None, otherwise: str) -> Response:
    if isinstance(page, Missing):
        raise ProblemError(503, "unavailable", page.why)
    if page is None:
        raise ProblemError(404, "unknown-path", otherwise)
    return Response(200, page, _KEPT)


def failure(problem: ProblemError) -> Response:
    """A problem as a page."""
    body = [tag("h1", f"{problem.status}: not possible"), tag("p", problem.detail, class_="note")]
    return Response(
        problem.status, document(f"{problem.status}", body, style=_STYLE_ADDRESS), (*_HTML, *problem.headers)
    )
