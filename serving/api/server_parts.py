"""The parts of a running REST server, which every endpoint is called with."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from anabranch.answers.costs import StageCosts
from anabranch.answers.service import AnswerService
from anabranch.errors import UnavailableError
from anabranch.stores.breaker import Breaker
from anabranch.stores.cassandra.measures import Measure
from serving.api.budgets import Judgements, KeptCounts, counted
from serving.api.context import ServingContext
from serving.api.facts import Facts
from serving.api.live import Live
from serving.api.metrics import MeasuredValues, ServingMetrics, together
from serving.api.prediction_log import Predictions
from serving.api.routing import Route
from serving.api.shadow import Shadow

T = TypeVar("T")
_PAGE_THREADS = 2


@dataclass(frozen=True)
class BlockingStore:
    """A store whose calls block: they wait in threads, behind a circuit breaker, for at most `seconds`."""

    breaker: Breaker
    pool: Executor
    seconds: float

    async def ask(self, call: Callable[[], T]) -> T:
        """Call the store; raises UnavailableError after `seconds`, or at once while the breaker is open."""
        with self.breaker.calling():
            try:
                async with asyncio.timeout(self.seconds):
                    return await asyncio.get_running_loop().run_in_executor(self.pool, call)
            except TimeoutError as error:
                raise UnavailableError(
                    f"{self.breaker.what} did not answer within {self.seconds:g} s: try again, or see /readyz"
                ) from error


@dataclass(kw_only=True)
class ServerParts:
    """The parts of one server process; `open` builds them, `close` ends their threads."""

    context: ServingContext
    routes: tuple[Route, ...]
    live: Live
    metrics: ServingMetrics
    measured: MeasuredValues
    kept_counts: KeptCounts
    predictions: Predictions
    shadow: Shadow
    service: AnswerService
    store: BlockingStore
    bus: BlockingStore
    """In a pool of its own, so that a bus that is down does not delay reads."""
    facts: Facts
    known_topics: set[str] = field(default_factory=set)
    """Topics that this server has created or checked."""
    checked: "tuple[float, asyncio.Future[tuple[str, str]]] | None" = None
    """When store and bus were last asked for `/readyz`, and what they say."""

    @classmethod
    def open(cls, context: ServingContext, routes: tuple[Route, ...]) -> "ServerParts":
        """The parts over `context`; no background work has begun."""
        settings = context.settings

        def latest(project: str) -> Sequence[Measure]:
            return context.stores.measures.latest(project)  # opened by the first call, when Cassandra is up

        measured = MeasuredValues(latest)
        costs = context.answers.costs = StageCosts()
        timed = [route.label for route in routes if route.bounded]
        metrics = ServingMetrics(measured, timed, costs)
        predictions = Predictions(
            context.stores.bus, metrics, settings.prediction_buffer, settings.prediction_buffer_bytes
        )
        pause, failures = settings.breaker_seconds, settings.breaker_failures
        store = BlockingStore(
            Breaker("Cassandra", failures, pause),
            ThreadPoolExecutor(settings.store_threads, thread_name_prefix="store"),
            settings.store_timeout_seconds,
        )
        bus = BlockingStore(
            Breaker("Kafka", failures, pause),
            ThreadPoolExecutor(settings.bus_threads, thread_name_prefix="bus"),
            settings.bus_timeout_seconds,
        )
        parts = cls(
            context=context,
            routes=routes,
            live=Live(context),
            metrics=metrics,
            measured=measured,
            kept_counts=KeptCounts(settings.prometheus),
            predictions=predictions,
            shadow=Shadow(context, metrics),
            service=AnswerService(
                context.answers,
                record=predictions.add,
                clock=context.clock,
                breaker=store.breaker,
                costs=costs,
            ),
            store=store,
            bus=bus,
            facts=Facts(context, ThreadPoolExecutor(_PAGE_THREADS, thread_name_prefix="pages"), routes),
        )
        parts.facts.tally = parts.tally
        return parts

    def tally(self) -> Judgements:
        """What objectives judged: by Prometheus, or by this server's workers since they started."""
        if self.kept_counts.latest is not None:
            return Judgements("prometheus", self.kept_counts.latest)
        shared, text = self.context.settings.shared, self.metrics.text()
        return Judgements("server", counted((text if shared is None else together(shared, text)).decode()))

    def close(self) -> None:
        """Begin no more calls of stores."""
        for pool in (self.store.pool, self.bus.pool, self.facts.pool):
            pool.shutdown(wait=False, cancel_futures=True)
