"""What a load needs: workers by queueing models, cores, nodes, memory, hours of builds, and money."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from anabranch.errors import AnabranchError
from jobs.capacity.figures import Answering, Measured, Streaming, core_hours
from jobs.capacity.queues import Times, largest_rate, quantile_of_response
from jobs.capacity.simulation import SimulatedAnswers, System, simulate

SHARE = 0.99
"""The share of answers that must be in time."""
BUSY = 0.7
"""The share of their cores that streams and stores may use: the rest is for peaks and for catching up."""
MONTH_HOURS = 730.0
_MOST_WORKERS = 4096
_CALLS = 20_000
_LARGE = 5  # calls at once, in the sensitivity to bursts


@dataclass(frozen=True, kw_only=True)
class WantedLoad:
    """What is asked for: calls a second, of which 99% are answered within `p99` seconds; events a second;
    bytes in the lake. `node_cores` are those of a node of the store, `cores` those of the Spark cluster.
    """

    rate: float
    p99: float
    events: float = 0.0
    lake: float = 0.0
    node_cores: int = 4
    cores: int = 16


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices in one currency, each None where it is not given."""

    core_hour: float | None = None
    gib_hour: float | None = None
    tib_month: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any(price is not None for price in asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one part needs: cores and MiB all month, TiB kept, core-hours a month of jobs that end."""

    part: str
    count: str
    cores: float
    memory: float
    disk: float = 0.0
    core_hours: float = 0.0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The answer: what is needed, how sure it is, and what it rests on."""

    workers: int
    p99: float
    largest: float
    """Calls a second that so many workers answer in time."""
    simulated: SimulatedAnswers
    needs: Sequence[Need]
    hours: Mapping[str, float]
    sensitivities: Sequence[tuple[str, int | None, float]]
    curve: Sequence[tuple[float, float]]
    sources: Sequence[str]
    money: Mapping[str, float] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """As JSON has it; a time that never ends is None."""
        found = asdict(self)
        found["sensitivities"] = [
            {"change": change, "workers": workers, "p99": _finite(p99)}
            for change, workers, p99 in self.sensitivities
        ]
        found["curve"] = [{"rate": rate, "p99": _finite(p99)} for rate, p99 in self.curve]
        return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def capacity(
    wanted: WantedLoad, answering: Answering, streaming: Streaming, batch: Measured, prices: Prices
) -> Capacity:
    """The answer; raises AnabranchError where no number of workers is enough."""
    workers = workers_for(wanted.rate, wanted.p99, answering)
    if workers is None:
        alone = quantile_of_response(SHARE, 1e-6, _call(answering), apart=answering.apart)
        raise AnabranchError(
            f"no number of workers answers 99% of calls within {1000 * wanted.p99:g} ms: one call alone "
            f"takes up to {1000 * alone:.1f} ms ({answering.said}): ask for a longer --p99"
        )
    workers, simulated = _simulated(wanted, workers, answering)
    needs = _needs(wanted, workers, answering, streaming, batch)
    hours = core_hours(batch, wanted.lake) if wanted.lake else {}
    return Capacity(
        workers=workers,
        p99=p99_of(wanted.rate, workers, answering),
        largest=workers * largest_rate(SHARE, wanted.p99, _call(answering), apart=answering.apart),
        simulated=simulated,
        needs=needs,
        hours={name: value / wanted.cores for name, value in hours.items()},
        sensitivities=_sensitivities(wanted, workers, answering),
        curve=_curve(wanted, workers, answering),
        sources=_sources(wanted, answering, streaming),
        money=_money(needs, prices) if prices.given else {},
    )


def p99_of(rate: float, workers: int, answering: Answering) -> float:
    """The time within which 99% are answered: every worker has its own connections, so its own queue."""
    return quantile_of_response(SHARE, rate / workers, _call(answering), apart=answering.apart)


def workers_for(rate: float, p99: float, answering: Answering) -> int | None:
    """The fewest workers that answer 99% in time; None where a call alone takes longer."""
    if quantile_of_response(SHARE, 1e-6, _call(answering), apart=answering.apart) > p99:
        return None
    low, high = math.floor(rate * _call(answering).mean), 1
    low = max(1, low)
    while high < _MOST_WORKERS and p99_of(rate, max(high, low), answering) > p99:
        high *= 2
    high = max(high, low)
    while low < high:
        middle = (low + high) // 2
        if p99_of(rate, middle, answering) <= p99:
            high = middle
        else:
            low = middle + 1
    return high if high < _MOST_WORKERS else None


def _simulated(wanted: WantedLoad, workers: int, answering: Answering) -> tuple[int, SimulatedAnswers]:
    """So many workers, or as many more as the simulation needs to be in time, and what it gives.

    Calls that share a read are answered together, when the last of them is made: what the formulas do not
    know. Twice the workers are tried at most.
    """
    for more in range(workers, 2 * workers + 2):
        found = simulate(_system(answering, more), wanted.rate, _CALLS, seed=1)
        if found.p99 <= wanted.p99:
            return more, found
    return workers, simulate(_system(answering, workers), wanted.rate, _CALLS, seed=1)


def _call(answering: Answering) -> Times:
    """Processor time of a call that shares its read with none: the formulas know no sharing."""
    return replace(answering.call, mean=answering.call.mean + answering.read)


def _system(answering: Answering, workers: int) -> System:
    return System(call=answering.call, read=answering.read, apart=answering.apart, workers=workers)


def _needs(
    wanted: WantedLoad, workers: int, answering: Answering, streaming: Streaming, batch: Measured
) -> list[Need]:
    busy = wanted.rate * _call(answering).mean
    needs = [
        Need(
            part="REST server",
            count=f"{workers} worker{'s' if workers > 1 else ''}",
            cores=float(workers),
            memory=workers * answering.memory,
            why=f"busy {busy / workers:.0%} on average; a worker uses one core at most",
        )
    ]
    if answering.store:
        cores = wanted.rate * answering.store / BUSY
        nodes = max(3, math.ceil(cores / wanted.node_cores))
        needs.append(
            Need(
                part="Cassandra",
                count=f"{nodes} nodes of {wanted.node_cores} cores",
                cores=float(nodes * wanted.node_cores),
                memory=0.0,
                why=f"{cores:.2f} cores for reads at {BUSY:.0%}; three nodes survive the loss of one",
            )
        )
    if wanted.events:
        cores = wanted.events / streaming.rate / BUSY
        needs.append(
            Need(
                part="stream",
                count="1 process",
                cores=math.ceil(cores),
                memory=streaming.memory,
                why=f"{cores:.2f} cores at {BUSY:.0%}, of {streaming.rate:,.0f} events/s a core",
            )
        )
    if wanted.lake:
        hours = core_hours(batch, wanted.lake)
        day = hours["a build of one new day over 90 days"]
        needs.append(
            Need(
                part="builds",
                count=f"{wanted.cores} cores while they run",
                cores=0.0,
                memory=batch.driver + batch.workers * wanted.cores / batch.cores,
                disk=wanted.lake / 3 / 2**40,
                core_hours=30 * day,
                why=f"a build a day: {day / wanted.cores:.1f} h; the lake is a third of its CSV",
            )
        )
    return needs


def _sensitivities(
    wanted: WantedLoad, workers: int, answering: Answering
) -> list[tuple[str, int | None, float]]:
    """What other figures would need, and what the workers of the answer would give with them."""
    rate, p99, call = wanted.rate, wanted.p99, answering.call
    varied = replace(answering, call=replace(call, scv=2 * call.scv))
    slower = replace(answering, call=replace(call, mean=1.2 * call.mean), read=1.2 * answering.read)
    store = replace(answering, apart=replace(answering.apart, mean=2 * answering.apart.mean))
    found: list[tuple[str, int | None, float]] = [
        ("half the calls", workers_for(rate / 2, p99, answering), p99_of(rate / 2, workers, answering)),
        ("twice the calls", workers_for(2 * rate, p99, answering), p99_of(2 * rate, workers, answering)),
        ("a call takes 20% more", workers_for(rate, p99, slower), p99_of(rate, workers, slower)),
        ("calls vary twice as much", workers_for(rate, p99, varied), p99_of(rate, workers, varied)),
        ("the store takes twice as long", workers_for(rate, p99, store), p99_of(rate, workers, store)),
        ("half the time to answer", workers_for(rate, p99 / 2, answering), p99_of(rate, workers, answering)),
    ]
    if workers > 1:
        found.append(("one worker is lost", None, p99_of(rate, workers - 1, answering)))
    bursts = simulate(_system(answering, workers), rate, _CALLS, seed=1, burst=_LARGE)
    return [*found, (f"calls come {_LARGE} at once (simulated)", None, bursts.p99)]


def _curve(wanted: WantedLoad, workers: int, answering: Answering) -> list[tuple[float, float]]:
    most = workers / _call(answering).mean
    rates = sorted({wanted.rate, *(most * share / 20 for share in range(1, 20))})
    return [(rate, p99_of(rate, workers, answering)) for rate in rates]


def _sources(wanted: WantedLoad, answering: Answering, streaming: Streaming) -> list[str]:
    call, apart = answering.call, answering.apart
    found = [
        f"answers: {answering.said}",
        "every worker, and the store, is taken to have cores of its own",
        f"a call takes {1e6 * (call.mean + answering.read):,.0f} us of a worker and "
        f"{1e3 * apart.mean:.2f} ms besides; squared coefficient of variation {call.scv:.2f}",
    ]
    found += [f"stream: {streaming.said}"] if wanted.events else []
    found += ["builds: docs/sizing.md, in proportion to the size of the lake"] if wanted.lake else []
    return found


def _money(needs: Sequence[Need], prices: Prices) -> dict[str, float]:
    """A month by part; what has no price is left out."""
    found = {}
    for need in needs:
        running = need.cores * MONTH_HOURS + need.core_hours
        memory_hours = need.memory / 1024 * (MONTH_HOURS if need.cores else need.core_hours)
        found[need.part] = (
            running * (prices.core_hour or 0)
            + memory_hours * (prices.gib_hour or 0)
            + need.disk * (prices.tib_month or 0)
        )
    return {**found, "together": sum(found.values())}
