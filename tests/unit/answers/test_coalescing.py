"""Callers whose questions are put together: who waits for whom, and whose error is whose."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from anabranch.answers.coalescing import Coalescer
from anabranch.errors import UnavailableError

T = TypeVar("T")
HERE = ("here",)


class Desk:
    """Answers a number by its double; records what was asked together, and waits for `hold` when told to."""

    def __init__(self, most: int = 20, patience: float = 10.0) -> None:
        self.lots: list[list[int]] = []
        self.hold = asyncio.Event()
        self.gathering: Coalescer[tuple[str], int, int] = Coalescer(self._ask, most=most, patience=patience)

    async def _ask(self, group: tuple[str], items: Sequence[int]) -> list[int]:
        self.lots.append(list(items))
        if 0 in items:
            await self.hold.wait()
        if -1 in items:
            raise UnavailableError("nobody is there")
        if -2 in items:
            raise ZeroDivisionError("a fault of one's own")
        return [2 * item for item in items]

    async def ask(self, *items: int) -> Sequence[int]:
        """Ask through the coalescer."""
        return await self.gathering.ask(HERE, items)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On a loop of its own, never for long."""
    return asyncio.run(asyncio.wait_for(work, 5))


def test_callers_of_the_same_moment_share_a_call() -> None:
    async def work() -> None:
        desk = Desk()
        assert await desk.ask(1) == [2]
        assert list(await asyncio.gather(desk.ask(1), desk.ask(2, 3), desk.ask(), desk.ask(4))) == [
            [2],
            [4, 6],
            [],
            [8],
        ]
        assert desk.lots == [[1], [1, 2, 3, 4]]

    run(work())


def test_callers_during_a_call_share_the_next_one() -> None:
    async def work() -> None:
        desk = Desk()
        first = asyncio.create_task(desk.ask(0))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(desk.ask(number)) for number in (1, 2)]
        await asyncio.sleep(0.01)
        assert desk.lots == [[0]]
        desk.hold.set()
        assert await asyncio.gather(first, *others) == [[0], [2], [4]]
        assert desk.lots == [[0], [1, 2]]

    run(work())


def test_a_slow_call_delays_later_callers_by_the_patience_at_most() -> None:
    async def work() -> None:
        desk = Desk(patience=0.01)
        slow = asyncio.create_task(desk.ask(0))
        await asyncio.sleep(0)
        assert list(await asyncio.gather(desk.ask(1), desk.ask(2))) == [[2], [4]]
        assert not slow.done()
        desk.hold.set()
        assert await slow == [0]

    run(work())


def test_the_more_callers_wait_the_more_share_a_call_and_a_single_one_never_waits() -> None:
    async def work() -> None:
        desk = Desk()
        gathering: Coalescer[tuple[str], int, int] = Coalescer(desk._ask, most=20, apart=0.5)
        begun = time.monotonic()
        for number in range(1, 20):
            assert await gathering.ask(HERE, [number]) == [2 * number]
        assert time.monotonic() - begun < 5  # each that waits would take 0.5
        desk.lots.clear()
        slow = [asyncio.create_task(gathering.ask((f"group {number}",), [0])) for number in range(100)]
        await asyncio.sleep(0)
        found = []
        for number in range(1, 6):
            found.append(asyncio.create_task(gathering.ask(HERE, [number])))
            await asyncio.sleep(0.002)
        assert await asyncio.gather(*found) == [[2], [4], [6], [8], [10]]
        assert [lot for lot in desk.lots if lot != [0]] == [[1, 2, 3, 4, 5]]
        desk.hold.set()
        assert await asyncio.gather(*slow) == [[0]] * 100

    run(work())


def test_a_call_is_not_larger_than_most_unless_one_caller_asks_for_more() -> None:
    async def work() -> None:
        desk = Desk(most=3)
        asked = [desk.ask(1, 2), desk.ask(3), desk.ask(4), desk.ask(5, 6, 7, 8), desk.ask(9)]
        assert await asyncio.gather(*asked) == [[2, 4], [6], [8], [10, 12, 14, 16], [18]]
        assert desk.lots == [[1, 2, 3], [4], [5, 6, 7, 8], [9]]

    run(work())


def test_groups_are_identified_by_their_objects_not_by_equality() -> None:
    async def work() -> None:
        desk = Desk()
        one, other = ["equal"], ["equal"]
        gathering: Coalescer[tuple[list[str]], int, int] = Coalescer(
            lambda _, items: desk._ask(("",), items), most=20
        )
        assert await asyncio.gather(*(gathering.ask((group,), [1]) for group in (one, other, one))) == [
            [2],
            [2],
            [2],
        ]
        assert sorted(map(len, desk.lots)) == [1, 2]

    run(work())


def test_a_store_that_is_down_fails_every_caller_and_a_fault_only_its_own() -> None:
    async def work() -> None:
        desk = Desk()
        away = await asyncio.gather(desk.ask(1), desk.ask(-1), return_exceptions=True)
        assert [type(one) for one in away] == [UnavailableError, UnavailableError]
        assert desk.lots == [[1, -1]]
        faulty = await asyncio.gather(desk.ask(1), desk.ask(-2), desk.ask(3), return_exceptions=True)
        assert faulty[0] == [2]
        assert isinstance(faulty[1], ZeroDivisionError)
        assert faulty[2] == [6]
        assert await desk.ask(5) == [10]

    run(work())


def test_cancelled_callers_are_left_out_and_delay_nobody() -> None:
    async def work() -> None:
        desk = Desk()
        first = asyncio.create_task(desk.ask(0))
        await asyncio.sleep(0.01)
        gone, stays = asyncio.create_task(desk.ask(1)), asyncio.create_task(desk.ask(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        first.cancel()
        desk.hold.set()
        assert await stays == [4]
        assert desk.lots == [[0], [2]]
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await desk.ask(3) == [6]

    run(work())
