"""Callers that want the same kind of thing at about the same time: what they ask for is got together, which for twenty keys is hardly more
work than for one. Who asks alone waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anabranch.errors import UnavailableError

Group = TypeVar("Group", bound=tuple[object, ...])
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(slots=True)
class _Asked(Generic[Item, Found]):
    """What one caller asked for, and where it waits."""

    items: Sequence[Item]
    found: "asyncio.Future[Sequence[Found]]"


@dataclass(slots=True)
class _Queue(Generic[Group, Item, Found]):
    """The callers of one group that wait, how many lots of others are under way, and when the next begins whatever happens."""

    group: Group
    waiting: list[_Asked[Item, Found]] = field(default_factory=list)
    under_way: int = 0
    next: asyncio.Handle | None = None


class Coalescer(Generic[Group, Item, Found]):
    """Asks `ask` for the items of several callers of a group at once, at most `most` of them; what one caller asks for is never taken apart.

    A group is some objects, the very same ones: an equal but newer one is another group. While a lot of a group is under way, those who
    come wait for its end and are the next, or for `patience` seconds when it takes longer. For one event loop at a time.

    A store that is away is every caller's error; after any other error each caller of the lot is served alone, so that one's trouble is
    not another's.
    """

    def __init__(
        self,
        ask: Callable[[Group, Sequence[Item]], Awaitable[Sequence[Found]]],
        *,
        most: int,
        patience: float = 0.01,
    ) -> None:
        self._ask, self._most, self._patience = ask, most, patience
        self._queues: dict[tuple[int, ...], _Queue[Group, Item, Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, group: Group, items: Sequence[Item]) -> Sequence[Found]:
        """What is found for `items`, in their order."""
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(tuple(map(id, group)), _Queue(group))
        asked: _Asked[Item, Found] = _Asked(items, loop.create_future())
        queue.waiting.append(asked)
        if queue.next is None:
            # Not at once even when nobody is before: what else has come in by now is to be in the same lot.
            queue.next = (
                loop.call_later(self._patience, self._begin, queue)
                if queue.under_way
                else loop.call_soon(self._begin, queue)
            )
        return await asked.found

    def _begin(self, queue: _Queue[Group, Item, Found]) -> None:
        loop = asyncio.get_running_loop()
        if queue.next is not None:
            queue.next.cancel()
        lot: list[_Asked[Item, Found]] = []
        count = 0
        while queue.waiting and (not lot or count + len(queue.waiting[0].items) <= self._most):
            lot.append(queue.waiting.pop(0))
            count += len(lot[-1].items)
        queue.next = loop.call_later(self._patience, self._begin, queue) if queue.waiting else None
        queue.under_way += 1
        task = loop.create_task(self._serve(queue, lot))
        self._tasks.add(task)  # the loop itself would let go of it
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, queue: _Queue[Group, Item, Found], lot: Sequence[_Asked[Item, Found]]) -> None:
        try:
            await self._answer(
                queue.group, [asked for asked in lot if not asked.found.done()]
            )  # the callers of others are gone
        finally:
            queue.under_way -= 1
            if queue.waiting and not queue.under_way:
                self._begin(queue)
            elif not queue.waiting and not queue.under_way:
                self._queues.pop(tuple(map(id, queue.group)), None)

    async def _answer(self, group: Group, lot: Sequence[_Asked[Item, Found]]) -> None:
        try:
            found = await self._ask(group, [item for asked in lot for item in asked.items])
        except Exception as error:  # noqa: BLE001 - whatever it is, a caller meets it
            if isinstance(error, UnavailableError) or len(lot) == 1:
                for asked in lot:
                    if not asked.found.done():
                        asked.found.set_exception(error)
            else:
                for asked in lot:
                    await self._answer(group, [asked])
            return
        start = 0
        for asked in lot:
            end = start + len(asked.items)
            if not asked.found.done():
                asked.found.set_result(found[start:end])
            start = end
