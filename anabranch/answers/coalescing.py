"""Coalescing: calls that are made at about the same time are merged into one.

One read for twenty keys costs hardly more than one for a single key. A single caller is never delayed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anabranch.answers import spans
from anabranch.errors import UnavailableError

Group = TypeVar("Group", bound=tuple[object, ...])
Item = TypeVar("Item")
Result = TypeVar("Result")


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


class Coalescer(Generic[Group, Item, Result]):
    """Calls `ask` once for the items of several callers of a group; a caller's items stay together.

    At most `most` items are asked for at once, unless one caller has more. `name` is that of the spans.

    A group is identified by its objects: an equal but different object is another group. While a call of a
    group is in flight, new callers wait for its end, or for `patience` seconds if it takes longer. For one
    event loop at a time.

    UnavailableError is raised to every caller of a call. After any other error each caller is served by a
    call of its own, so that one caller's fault does not fail the others.
    """

    def __init__(
        self,
        ask: Callable[[Group, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int,
        patience: float = 0.01,
        name: str = "together",
    ) -> None:
        self._ask, self._most, self._patience, self._name = ask, most, patience, name
        self._queues: dict[tuple[int, ...], _Queue[Group, Item, Result]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, group: Group, items: Sequence[Item]) -> Sequence[Result]:
        """The results for `items`, in their order."""
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(tuple(map(id, group)), _Queue(group))
        asked: _Call[Item, Result] = _Call(items, loop.create_future(), spans.current())
        queue.waiting.append(asked)
        if queue.next is None:
            # Not at once: callers of the same turn of the event loop belong in the same call.
            queue.next = (
                loop.call_later(self._patience, self._begin, queue)
                if queue.under_way
                else loop.call_soon(self._begin, queue)
            )
        return await asked.results

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
                self._begin(queue)
            elif not queue.waiting and not queue.under_way:
                self._queues.pop(tuple(map(id, queue.group)), None)

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
