"""What pages read from the stores, each part separately and in threads of the site's own.

A store that is away costs a page one part. Results are cached for some seconds, so that pages put little
load on the stores that answers need.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from cachetools import TTLCache

from anabranch.answers.delays import STREAM
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.current_rows import CurrentRow
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.versions import ModelVersion
from anabranch.values.times import from_micros
from serving.api.budgets import Budget, Judgements, budgets
from serving.api.context import ServingContext
from serving.api.live import Served
from serving.api.promises import ChannelFreshness, judged
from serving.api.routing import Route

T = TypeVar("T")
MOST_ROWS = 2000
MOST_REPORTS = 5
_CACHE_SECONDS = 5.0
_ALONE_SECONDS = 15.0
"""How long a page waits for the one thing that it shows, where others show what they have by then."""
_PAST = timedelta(days=30)
_MOST_HISTORIES, _MOST_POINTS = 24, 2000
_MOST_CACHED = 1024


@dataclass(frozen=True)
class Missing:
    """A part that could not be read, and why."""

    why: str


@dataclass(frozen=True, kw_only=True)
class ProjectFacts:
    """A project with what the stores hold about it at `now` (microseconds)."""

    served: Served
    now: int
    routes: Sequence[Route] = ()
    model: ModelVersion | Missing | None = None
    rows: Sequence[CurrentRow] | Missing = ()
    reports: Sequence[dict[str, Any]] | Missing = ()
    measures: Sequence[Measure] | Missing = ()
    histories: Sequence[Measure] | Missing = ()
    budgets: Sequence[Budget] = ()

    @property
    def known_measures(self) -> Sequence[Measure]:
        """The latest measures; empty when they could not be read."""
        return () if isinstance(self.measures, Missing) else self.measures

    @property
    def freshness(self) -> dict[str, ChannelFreshness]:
        """Freshness of both channels against their promises."""
        return judged(self.served, self.known_measures, self.now)


@dataclass
class Facts:
    """Reads in threads of `pool`; one that takes longer than `serving.store_timeout_seconds` is `Missing`.

    A page that shows one thing alone waits longer.
    """

    context: ServingContext
    pool: Executor
    routes: Sequence[Route]
    tally: Callable[[], Judgements] = Judgements
    """What objectives have judged so far."""
    _cache: TTLCache[tuple[str, ...], Any] = field(
        default_factory=lambda: TTLCache(maxsize=_MOST_CACHED, ttl=_CACHE_SECONDS)
    )

    async def brief(self, served: Served) -> ProjectFacts:
        """The facts in the list of projects."""
        name = served.project.name
        model, measures = await asyncio.gather(
            self.model(served),
            self._read(("measures", name), lambda: self.context.stores.measures.latest(name)),
        )
        return ProjectFacts(
            served=served,
            now=self.context.clock(),
            routes=self.routes,
            model=model,
            measures=measures,
            budgets=self._budgets(served),
        )

    async def whole(self, served: Served) -> ProjectFacts:
        """The facts on the page of a project."""
        name = served.project.name
        model, rows, reports, measures, histories = await asyncio.gather(
            self.model(served),
            self._read(
                ("rows", name), lambda: self.context.stores.views.sample_current(served.project, MOST_ROWS)
            ),
            self._read(
                ("reports", name), lambda: self.context.stores.reports.latest(served.project, MOST_REPORTS)
            ),
            self._read(("measures", name), lambda: self.context.stores.measures.latest(name)),
            self._read(("histories", name), lambda: self._histories(name)),
        )
        return ProjectFacts(
            served=served,
            now=self.context.clock(),
            routes=self.routes,
            model=model,
            rows=rows,
            reports=reports,
            measures=measures,
            histories=histories,
            budgets=self._budgets(served),
        )

    def _budgets(self, served: Served) -> list[Budget]:
        objectives = served.project.objectives
        return [] if objectives is None else budgets(served.project.name, objectives, self.tally())

    def _histories(self, project: str) -> list[Measure]:
        """Measures of the last 30 days, a bounded number of them."""
        since = from_micros(self.context.clock()) - _PAST
        names = list(
            dict.fromkeys(
                (one.subject, one.name)
                for one in self.context.stores.measures.latest(project)
                if one.subject != STREAM
            )
        )[:_MOST_HISTORIES]
        return [
            one
            for subject, name in names
            for one in self.context.stores.measures.history(project, subject, name, since, _MOST_POINTS)
        ]

    async def model(self, served: Served) -> ModelVersion | Missing | None:
        """The registry's entry of the version that serves; None when no version serves."""
        if served.scorer is None:
            return None
        name, version = served.project.name, served.scorer.version
        return await self._read(
            ("model", name, version), lambda: self.context.stores.models.entry(name, version)
        )

    async def card(self, served: Served) -> bytes | Missing | None:
        """The model card of the version that serves."""
        if served.scorer is None:
            return None
        name, version = served.project.name, served.scorer.version
        files = await self._read(
            ("card", name, version),
            lambda: self.context.stores.models.files(name, version, ["report/model_card.html"]),
            _ALONE_SECONDS,
        )
        return files if isinstance(files, Missing) else files.get("report/model_card.html")

    async def report(self, served: Served, source: str, name: str) -> bytes | Missing | None:
        """One report of the quality gate."""
        return await self._read(
            ("report", served.project.name, source, name),
            lambda: self.context.stores.reports.page(served.project, source, name),
            _ALONE_SECONDS,
        )

    async def row(self, served: Served, key: str) -> Any:
        """The current row of a key as stored text."""
        return await self._read(
            ("row", served.project.name, key), lambda: self.context.stores.views.current(served.project, key)
        )

    async def _read(
        self, what: tuple[str, ...], ask: Callable[[], T], least_seconds: float = 0.0
    ) -> T | Missing:
        if what in self._cache:
            cached: T = self._cache[what]
            return cached
        seconds = max(self.context.settings.store_timeout_seconds, least_seconds)
        try:
            async with asyncio.timeout(seconds):
                read = await asyncio.get_running_loop().run_in_executor(self.pool, ask)
        except TimeoutError:
            return Missing(f"no answer within {seconds:g} s")
        except AnabranchError as error:
            return Missing(str(error))
        self._cache[what] = read
        return read
