"""How many calls are answered at once, and when a caller's patience refuses one."""

import asyncio
import time
from typing import Any

import pytest

from anabranch.answers.problems import ProblemError
from serving.http.messages import FEWEST, HttpRequest, Places, until_of


def passed(places: Places, seconds: float, clock: list[float]) -> None:
    """A call that takes so long."""
    with places.taken():
        clock[0] += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("serving.http.messages.time.monotonic", lambda: now[0])
    return now


def passed_together(places: Places, count: int, seconds: float, clock: list[float]) -> None:
    """Calls that begin together, of which each takes so long."""
    calls = [places.taken() for _ in range(count)]
    for call in calls:
        call.__enter__()
    clock[0] += seconds
    for call in calls:
        call.__exit__(None, None, None)


def test_places_become_fewer_while_calls_are_late_and_more_again_later(clock: list[float]) -> None:
    places = Places(128, 0.03)
    for _ in range(200):
        passed_together(places, places.now, 0.05, clock)
    assert places.now == FEWEST
    began = clock[0]
    while places.now < 128:
        passed_together(places, places.now, 0.01, clock)
    assert clock[0] - began < 4


def test_calls_that_were_late_together_lower_the_number_once(clock: list[float]) -> None:
    places = Places(128, 0.03)
    passed_together(places, 100, 0.15, clock)
    assert (places.now, places.held) == (int(128 * 0.8), 0)


def test_a_stall_that_ends_soon_is_no_overload(clock: list[float]) -> None:
    places = Places(128, 0.03)
    for _ in range(50):
        passed_together(places, 20, 0.005, clock)
        passed_together(places, 90, 0.06, clock)
        for _ in range(10):
            passed_together(places, 20, 0.005, clock)
    assert places.now == 128


@pytest.mark.parametrize(("elsewhere", "now"), [(0.045, 128), (0.001, FEWEST)])
def test_time_that_the_store_takes_lowers_no_number(clock: list[float], elsewhere: float, now: int) -> None:
    places = Places(128, 0.03, lambda: elsewhere)
    for _ in range(200):
        passed_together(places, places.now, 0.05, clock)
    assert places.now == now


def test_calls_that_are_late_while_most_places_are_free_lower_no_number(clock: list[float]) -> None:
    places = Places(128, 0.03)
    for _ in range(200):
        passed_together(places, 20, 0.5, clock)
    assert places.now == 128


def test_a_few_calls_that_take_long_refuse_no_caller_whose_call_is_quick(clock: list[float]) -> None:
    places = Places(128, 0.03)
    for _ in range(100):
        for _ in range(9):
            passed(places, 0.005, clock)
        passed(places, 2.0, clock)
    with places.taken(), places.taken(clock[0] + 0.02):
        pass


def test_a_few_places_are_never_made_fewer(clock: list[float]) -> None:
    places = Places(2, 0.03)
    for _ in range(10):
        passed(places, 1.0, clock)
    assert places.now == 2


def test_a_caller_that_cannot_wait_as_long_as_calls_take_is_refused_at_once(clock: list[float]) -> None:
    places = Places(8, 0.03)
    for _ in range(200):
        passed(places, 0.02, clock)
    with (
        places.taken(),
        pytest.raises(ProblemError, match="Request-Timeout-Ms") as refused,
        places.taken(clock[0] + 0.01),
    ):
        pass
    assert (refused.value.status, refused.value.kind) == (503, "late")
    assert refused.value.headers == (("retry-after", "1"),)
    with places.taken(clock[0] + 0.01):  # alone it may be quicker
        pass
    with places.taken(), places.taken(clock[0] + 0.1):
        pass


def test_an_answer_that_is_not_there_in_time_is_given_up() -> None:
    request = HttpRequest("POST", "/", until=time.monotonic() + 0.01)
    with pytest.raises(ProblemError) as late:
        asyncio.run(request.in_time(asyncio.sleep(5)))
    assert late.value.kind == "late"
    assert asyncio.run(HttpRequest("POST", "/").in_time(asyncio.sleep(0, 7))) == 7


@pytest.mark.parametrize("said", ["", "-1", "1.5", "soon", "٣", "9" * 20])
def test_a_timeout_that_is_no_number_is_refused(said: str) -> None:
    headers: Any = {"request-timeout-ms": said}
    with pytest.raises(ProblemError, match="whole number of milliseconds"):
        until_of(headers)


def test_no_timeout_means_that_the_caller_waits() -> None:
    headers: Any = {}
    assert until_of(headers) is None
