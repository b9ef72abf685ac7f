"""Waiting in queues by formulas: what is exact is exact, and what is an approximation says so.

Rates are per second, times in seconds. `scv` is the squared coefficient of variation, variance divided by the
squared mean: 0 for a constant, 1 for an exponential time.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import MisuseError

_STEPS = 4096


@dataclass(frozen=True, kw_only=True)
class Times:
    """A time by its mean (seconds) and its variability."""

    mean: float
    scv: float = 1.0

    def __post_init__(self) -> None:
        if not (self.mean > 0 and self.scv >= 0 and math.isfinite(self.mean + self.scv)):
            raise MisuseError(f"{self} is no time: its mean must be above 0, its scv 0 or more")


def erlang_c(servers: int, load: float) -> float:
    """The probability that an arrival waits in M/M/k; `load` is the rate times the mean service, in Erlang.

    By the recursion of Erlang's loss formula, which is stable for any number of servers.
    """
    if load >= servers:
        return 1.0
    loss = 1.0
    for number in range(1, servers + 1):
        loss = load * loss / (number + load * loss)
    busy = load / servers
    return loss / (1 - busy + busy * loss)


def mean_wait(rate: float, service: Times, servers: int = 1, arrivals: float = 1.0) -> float:
    """The mean time in the queue of G/G/k; infinite when the load is as large as the servers.

    Exact for M/M/k and M/G/1 (Pollaczek and Khinchine), for `arrivals` 1, the scv of the times between
    arrivals; else the approximation of Allen and Cunneen, for one server that of Kingman.
    """
    load = rate * service.mean
    if load >= servers:
        return math.inf
    exponential = erlang_c(servers, load) * service.mean / (servers - load)
    return exponential * (arrivals + service.scv) / 2


def quantile_of_response(
    share: float,
    rate: float,
    service: Times,
    *,
    servers: int = 1,
    arrivals: float = 1.0,
    apart: Times | None = None,
) -> float:
    """The time within which a `share` of the arrivals is served; infinite when the servers are not enough.

    The wait is 0 or, with the probability of M/M/k, exponential with the mean of G/G/k. Service, and what an
    arrival spends `apart` without occupying a server, are gamma distributed; the three are taken as
    independent. Exact for M/M/1.
    """
    wait = mean_wait(rate, service, servers, arrivals)
    if math.isinf(wait):
        return math.inf
    waits = erlang_c(servers, rate * service.mean)
    means = wait + service.mean + (apart.mean if apart else 0.0)
    # Wide enough for a tail: far beyond the mean of the slowest part.
    slowest = max(wait / waits if waits else 0.0, service.mean * max(1.0, service.scv))
    slowest = max(slowest, apart.mean * max(1.0, apart.scv) if apart else 0.0)
    step = (means + 16 * slowest) / _STEPS
    found = _gamma(service, step)
    if apart is not None:
        found = np.convolve(found, _gamma(apart, step))[:_STEPS]
    if wait > 0:
        queued = waits * _gamma(Times(mean=wait / waits, scv=1.0), step)
        queued[0] += 1 - waits
        found = np.convolve(found, queued)[:_STEPS]
    reached = np.cumsum(found)
    at = int(np.searchsorted(reached, share * min(1.0, reached[-1])))
    return float((at + 0.5) * step)


def _gamma(time: Times, step: float) -> NDArray[np.float64]:
    """The probabilities of a gamma distributed time on a grid; a constant is a single point."""
    if time.scv < 1e-4:
        found = np.zeros(_STEPS)
        found[min(_STEPS - 1, round(time.mean / step))] = 1.0
        return found
    shape = 1 / time.scv
    scale = time.mean / shape
    # Midpoints of finer cells: the density may be infinite at 0.
    fine = 16
    edges = np.concatenate([[0.0], np.geomspace(step * 1e-9, step, fine), step * np.arange(2, _STEPS + 1)])
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    logs = (shape - 1) * np.log(middle / scale) - middle / scale - math.lgamma(shape) - math.log(scale)
    masses = np.exp(logs) * width
    found = np.concatenate([[masses[:fine].sum()], masses[fine:]])
    if shape < 1 or found.sum() < 0.5:
        # What lies below the first cell's finest edge, and what the midpoints miss of a steep beginning.
        found[0] += max(0.0, 1 - found.sum())
    return np.asarray(found / found.sum())


def largest_rate(
    share: float, within: float, service: Times, *, arrivals: float = 1.0, apart: Times | None = None
) -> float:
    """The highest rate of one server at which a `share` is served within so many seconds; 0 where none is."""
    low, high = 0.0, 1 / service.mean
    for _ in range(24):
        rate = (low + high) / 2
        good = quantile_of_response(share, rate, service, arrivals=arrivals, apart=apart) <= within
        low, high = (rate, high) if good else (low, rate)
    return low
