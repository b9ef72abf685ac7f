"""Formulas against closed forms, and the simulation against the formulas."""

import math

import pytest

from anabranch.errors import MisuseError
from jobs.capacity.queues import Times, erlang_c, largest_rate, mean_wait, quantile_of_response
from jobs.capacity.simulation import System, simulate


def erlang_c_by_sums(servers: int, load: float) -> float:
    """As textbooks write it."""
    last = load**servers / math.factorial(servers) / (1 - load / servers)
    return last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 1.5), (5, 4.0), (20, 17.5)])
def test_the_probability_to_wait_is_erlangs(servers: int, load: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(erlang_c_by_sums(servers, load), rel=1e-12)


def test_of_hundreds_of_servers_nothing_overflows() -> None:
    assert 0 < erlang_c(2000, 1980) < 1


def test_waits_are_the_closed_forms() -> None:
    rate, mean = 0.8, 1.0
    busy = rate * mean
    exponential, constant = Times(mean=mean, scv=1), Times(mean=mean, scv=0)
    assert mean_wait(rate, exponential) == pytest.approx(busy * mean / (1 - busy))  # M/M/1
    assert mean_wait(rate, constant) == pytest.approx(busy * mean / 2 / (1 - busy))  # M/D/1
    # Pollaczek and Khinchine: rate * E[S^2] / 2(1 - busy), for gamma service of scv 3
    second = mean**2 * (1 + 3)
    assert mean_wait(rate, Times(mean=mean, scv=3)) == pytest.approx(rate * second / 2 / (1 - busy))
    # M/M/3
    assert mean_wait(2.4, exponential, 3) == pytest.approx(erlang_c_by_sums(3, 2.4) / (3 - 2.4))
    # Kingman
    kingman = busy / (1 - busy) * (0.5 + 2) / 2 * mean
    assert mean_wait(rate, Times(mean=mean, scv=2), arrivals=0.5) == pytest.approx(kingman)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8, 0.95])
def test_responses_of_one_exponential_server_are_exponential(rate: float, share: float) -> None:
    found = quantile_of_response(share, rate, Times(mean=1.0))
    assert found == pytest.approx(-math.log(1 - share) / (1 - rate), rel=0.02)


def test_a_constant_service_alone_takes_its_time_and_what_is_apart_adds_up() -> None:
    constant = Times(mean=0.01, scv=0)
    assert quantile_of_response(0.99, 1e-6, constant) == pytest.approx(0.01, rel=0.01)
    apart = Times(mean=0.02, scv=0)
    assert quantile_of_response(0.99, 1e-6, constant, apart=apart) == pytest.approx(0.03, rel=0.01)


def test_more_than_the_servers_can_do_waits_for_ever() -> None:
    assert mean_wait(3.0, Times(mean=1.0), 3) == math.inf
    assert quantile_of_response(0.99, 1.0, Times(mean=1.0)) == math.inf


def test_the_largest_rate_is_where_the_quantile_is_the_limit() -> None:
    # Of M/M/1 the 99th percentile is ln(100) / (mu - rate).
    found = largest_rate(0.99, 0.05, Times(mean=0.001))
    assert found == pytest.approx(1000 - math.log(100) / 0.05, rel=0.02)
    assert largest_rate(0.99, 0.0001, Times(mean=0.001)) == pytest.approx(0.0, abs=0.1)


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(MisuseError, match="is no time"):
        Times(mean=0.0)


@pytest.mark.parametrize("scv", [0.0, 1.0, 4.0])
def test_simulated_waits_of_one_worker_are_those_of_the_formula(scv: float) -> None:
    service = Times(mean=0.001, scv=scv)
    found = simulate(System(call=service, patience=None, at_once=10**6), 700, 60_000, seed=3)
    assert found.mean_wait == pytest.approx(mean_wait(700, service), rel=0.12)
    assert found.p99 == pytest.approx(quantile_of_response(0.99, 700, service), rel=0.15)
    assert (found.together, found.refused) == (1.0, 0.0)


def test_simulated_cores_that_many_workers_share_are_those_of_erlang() -> None:
    service = Times(mean=0.001)
    system = System(call=service, workers=2000, cores=3, patience=None, at_once=10**6)
    found = simulate(system, 2400, 60_000, seed=5)
    assert found.mean - service.mean == pytest.approx(mean_wait(2400, service, 3), rel=0.12)


def test_calls_that_share_a_read_make_more_answers_a_second() -> None:
    # Alone 1 / (0.2 + 1) a millisecond: 1,500 calls a second are more than a worker does without sharing.
    system = System(call=Times(mean=0.0002, scv=0), read=0.001, apart=Times(mean=0.002, scv=0), at_once=10**6)
    shared = simulate(system, 1500, 20_000, seed=1)
    alone = simulate(
        System(call=system.call, read=system.read, apart=system.apart, patience=None, at_once=10**6),
        1500,
        20_000,
        seed=1,
    )
    assert shared.together > 2
    assert shared.p99 < 0.05
    assert alone.p99 > 1  # the queue grows as long as calls come
    assert alone.throughput == pytest.approx(1 / 0.0012, rel=0.03)


def test_more_calls_than_a_worker_takes_at_once_are_refused() -> None:
    system = System(call=Times(mean=0.001), patience=None, at_once=8)
    found = simulate(system, 2000, 20_000, seed=2)
    # M/M/1/8 at twice its rate: the share that finds it full is 2^8 / (2^9 - 1).
    assert found.refused == pytest.approx(2**8 / (2**9 - 1), rel=0.03)
    assert found.answered == pytest.approx(20_000 * (1 - found.refused))


def test_bursts_wait_longer_than_calls_one_by_one() -> None:
    system = System(call=Times(mean=0.001, scv=0), patience=None, at_once=10**6)
    single, bursts = (simulate(system, 500, 20_000, seed=4, burst=burst).p99 for burst in (1, 20))
    assert bursts > 3 * single
