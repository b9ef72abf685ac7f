"""What a soak under faults says of a year: no sample without a loss promises a year without one."""

import pytest

from tests.bench.availability import A_YEAR, RATE, YEAR, Call, Fault, a_year, interval, lost, recovered


def call(due: float, *, answered: bool = True, degraded: bool = False) -> Call:
    return Call(due=due, end=due + 0.5, answered=answered, degraded=degraded)


def test_without_a_loss_the_bound_is_that_of_poisson() -> None:
    low, high = interval([0, 0])
    assert low == 0
    assert high == pytest.approx(3.689 / 2, abs=1e-3)


def test_losses_that_come_together_widen_the_interval() -> None:
    low, high = interval([0, 200])
    even_low, even_high = interval([100, 100])
    assert low == 0 < even_low < 100 < even_high < high


def test_a_year_adds_up_the_lost_seconds_of_every_fault() -> None:
    worst, measured, best = a_year({kind: [3, 3, 3] for kind in A_YEAR})
    assert measured == pytest.approx(1 - sum(A_YEAR.values()) * 3 / RATE / YEAR)
    assert worst < measured < best < 1


def test_a_fault_ends_with_the_last_call_that_was_lost_or_degraded() -> None:
    fault = Fault(kind="k", start=10, end=20)
    calls = [call(9, answered=False), call(11, answered=False), call(12, degraded=True), call(13), call(20)]
    assert lost(fault.of(calls)) == 1
    assert recovered(fault, calls) == 2.5
    assert recovered(fault, calls[3:]) == 0
