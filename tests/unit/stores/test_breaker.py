"""The circuit breaker: when it opens, who tests the store, and which errors count."""

import pytest

from anabranch.errors import MisuseError, UnavailableError, ViewUnavailableError
from anabranch.stores.breaker import Breaker


def breaker(now: list[float], failures: int = 2) -> Breaker:
    return Breaker("Cassandra", failures, 1.0, lambda: now[0])


def fail(one: Breaker, error: Exception) -> None:
    with pytest.raises(type(error)), one.calling():
        raise error


def test_one_call_tests_the_store_after_each_pause() -> None:
    now = [0.0]
    one = breaker(now)
    fail(one, UnavailableError("gone"))
    one.check()
    fail(one, UnavailableError("gone"))
    assert (one.open, one.refuses) == (True, True)
    with pytest.raises(UnavailableError, match=r"Cassandra failed 2 times in a row .* within 1 s: gone"):
        one.check()
    now[0] = 1.5
    assert (one.open, one.refuses) == (True, False)
    one.check()
    with pytest.raises(UnavailableError):
        one.check()
    one.succeeded()
    one.check()
    assert not one.open


def test_a_call_that_succeeds_forgets_earlier_failures() -> None:
    one = breaker([0.0])
    for _ in range(5):
        fail(one, UnavailableError("gone"))
        with one.calling():
            pass
    assert not one.open


def test_a_missing_table_and_an_error_of_the_caller_do_not_open_it() -> None:
    one = breaker([0.0], failures=1)
    fail(one, ViewUnavailableError("a table is gone"))
    fail(one, MisuseError("no such project"))
    assert not one.open


def test_a_breaker_that_opens_at_once_says_so_plainly() -> None:
    one = breaker([0.0], failures=1)
    fail(one, UnavailableError("no route to host"))
    with pytest.raises(UnavailableError, match=r"^Cassandra failed and is tried again within 1 s: no route"):
        one.check()
