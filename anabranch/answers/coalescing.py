"""Coalescing: calls that are made at about the same time are merged into one.

One read for twenty keys costs hardly more than one for a single key. A single caller is never delayed; of
many, each waits a little for those that come next.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anabranch.answers import spans
from anabranch.errors import UnavailableError

Group = TypeVar("Group", bound=tuple[object, ...])
Item = TypeVar("Item")
Result = TypeVar("Result")
_APART_EACH = 0.001
"""Seconds between the calls of a group for each caller that waits beside another."""
_IDLE_QUEUES = 256


@dataclass(slots=True)
class _Call(Generic[Item, Result]):
    """The items of one caller, and the future on which it waits."""

    items: Sequence[Item]
    results: "asyncio.Future[Sequence[Result]]"
    traced: object = None
    """Where its spans belong, if it is traced."""


@dataclass(slots=True)
class _Queue(Generic[Group, Item, Result]):
    """Callers of one group that wait, the number of its calls in flight, and when the next call starts."""

    group: Group
    waiting: list[_Call[Item, Result]] = field(default_factory=list)
    under_way: int = 0
    next: asyncio.Handle | None = None
    begun: float = -math.inf
    """When its last call started, by the loop's clock."""


class Coalescer(Generic[Group, Item, Result]):
    """Calls `ask` once for the items of several callers of a group; a caller's items stay together.

    At most `most` items are asked for at once, unless one caller has more. `name` is that of the spans.

    A group is identified by its objects: an equal but different object is another group. While a call of a
    group is in flight, new callers wait for its end, or for `patience` seconds if it takes longer. The calls
    of a group start up to `apart` seconds apart, longer the more callers of all groups wait: the busier the
    loop, the more share a call. For one event loop at a time.

    UnavailableError is raised to every caller of a call. After any other error each caller is served by a
    call of its own, so that one caller's fault does not fail the others.
    """

    def __init__(
        self,
        ask: Callable[[Group, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int,
        patience: float = 0.01,
        apart: float = 0.0,
        name: str = "together",
    ) -> None:
        self._ask, self._most, self._patience, self._name = ask, most, patience, name
        self._apart, self._callers = apart, 0
        self._queues: dict[tuple[int, ...], _Queue[Group, Item, Result]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, group: Group, items: Sequence[Item]) -> Sequence[Result]:
        """The results for `items`, in their order."""
        loop = asyncio.get_running_loop()
        queue = self._queue(group)
        asked: _Call[Item, Result] = _Call(items, loop.create_future(), spans.current())
        queue.waiting.append(asked)
        self._callers += 1
        if queue.next is None:
            self._plan(queue, self._patience if queue.under_way else 0.0)
        try:
            return await asked.results
        finally:
            self._callers -= 1

    def _queue(self, group: Group) -> _Queue[Group, Item, Result]:
        """The queue of a group, kept while there are few: it knows when the last call of it started."""
        name = tuple(map(id, group))
        if name not in self._queues:
            if len(self._queues) >= _IDLE_QUEUES:
                self._queues = {
                    key: each for key, each in self._queues.items() if each.waiting or each.under_way
                }
            self._queues[name] = _Queue(group)
        return self._queues[name]

    def _plan(self, queue: _Queue[Group, Item, Result], least: float = 0.0) -> None:
        """Start the next call after `least` seconds, and not too soon after the last one."""
        loop = asyncio.get_running_loop()
        gap = min(self._apart, _APART_EACH * (self._callers - 1))
        wait = max(least, queue.begun + gap - loop.time())
        # Never at once: callers of the same turn of the event loop belong in the same call.
        queue.next = (
            loop.call_later(wait, self._begin, queue) if wait > 0 else loop.call_soon(self._begin, queue)
        )

    def _begin(self, queue: _Queue[Group, Item, Result]) -> None:
        loop = asyncio.get_running_loop()
        if queue.next is not None:
            queue.next.cancel()
        lot: list[_Call[Item, Result]] = []
        count = 0
        while queue.waiting and (not lot or count + len(queue.waiting[0].items) <= self._most):
            lot.append(queue.waiting.pop(0))
            count += len(lot[-1].items)
        queue.next = loop.call_later(self._patience, self._begin, queue) if queue.waiting else None
        queue.begun = loop.time()
        queue.under_way += 1
        task = loop.create_task(self._serve(queue, lot))
        self._tasks.add(task)  # the loop keeps weak references only
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, queue: _Queue[Group, Item, Result], lot: Sequence[_Call[Item, Result]]) -> None:
        try:
            await self._answer(
                queue.group, [asked for asked in lot if not asked.results.done()]
            )  # the other callers have given up
        finally:
            queue.under_way -= 1
            if queue.waiting and not queue.under_way:
                if queue.next is not None:
                    queue.next.cancel()
                self._plan(queue)

    async def _answer(self, group: Group, lot: Sequence[_Call[Item, Result]]) -> None:
        try:
            items = [item for asked in lot for item in asked.items]
            with spans.together(self._name, [asked.traced for asked in lot], items=len(items)):
                results = await self._ask(group, items)
        except Exception as error:  # noqa: BLE001 - raised to the callers
            if isinstance(error, UnavailableError) or len(lot) == 1:
                for asked in lot:
                    if not asked.results.done():
                        asked.results.set_exception(error)
            else:
                for asked in lot:
                    await self._answer(group, [asked])
            return
        start = 0
        for asked in lot:
            end = start + len(asked.items)
            if not asked.results.done():
                asked.results.set_result(results[start:end])
            start = end
