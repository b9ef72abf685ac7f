"""Capacity as it is planned, against a load test: predicted p99 and saturation beside measured ones.

A few low rates say what a call takes of the workers, of the store and of everything else on this machine;
from that alone the simulation predicts what higher rates, and as many calls as are answered, come to. All of
it shares this machine's cores, the load generator too, and so it is simulated. `--quick` for a minute.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from scipy.optimize import nnls

from jobs.capacity.figures import Scrape, read_metrics, variability
from jobs.capacity.queues import Times
from jobs.capacity.simulation import System, simulate
from jobs.servers.embedded import processor_seconds
from jobs.show import Steps
from jobs.wiring.settings import Settings
from tests.bench.load import Outcome
from tests.bench.report import Row, alone, save
from tests.bench.serving import by_key, load, serving
from tests.bench.serving_data import river

WORKERS, CONNECTIONS = 2, 128


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rates that are learnt from, calls a second; shares of the predicted saturation that are compared."""

    learnt: tuple[float, ...]
    compared: tuple[float, ...]
    seconds: float
    keys: int
    projects: int = 10
    simulated: int = 40_000


QUICK = Size(learnt=(100, 300, 600), compared=(0.5, 0.8), seconds=5, keys=200, projects=4, simulated=20_000)
FULL = Size(learnt=(100, 300, 600, 900), compared=(0.4, 0.6, 0.7, 0.8, 0.9), seconds=30, keys=1000)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One load: what callers saw, and a second of it: processor of the workers and of all others."""

    outcome: Outcome
    scrape: Scrape
    rate: float
    workers: float
    others: float


def seen(settings: Settings, port: int, calls: list[tuple[str, str]], seconds: float, rate: float) -> Seen:
    """Call at a rate, 0 for as many as are answered, and look at what it took."""
    before = _looked(settings, port)
    outcome = load(port, calls, seconds, rate=rate, connections=CONNECTIONS)
    time.sleep(2)  # workers leave their figures for each other every second
    found = _looked(settings, port)
    scrape = found[0].since(before[0])
    return Seen(
        outcome=outcome,
        scrape=scrape,
        rate=outcome.rate,
        # By answers, not by seconds: the seconds around the load cost next to nothing.
        workers=scrape.processor * outcome.rate / max(1.0, scrape.answers),
        others=(found[1] - before[1]) * outcome.rate / max(1.0, scrape.answers),
    )


def _looked(settings: Settings, port: int) -> tuple[Scrape, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        scrape = read_metrics(answer.read().decode(), ("predict",))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # the load generators that have ended
    others = sum(processor_seconds(settings, name) for name in ("cassandra", "kafka"))
    return scrape, others + children.ru_utime + children.ru_stime


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What low rates show: processor seconds a second that are always used, and those a call adds.

    `others` are those of Cassandra, Kafka and the load generator.
    """

    system: System
    workers: float
    others: float

    def at(self, rate: float) -> System:
        """The system at a rate: what is always used is shared by the calls."""
        system = self.system
        call = replace(system.call, mean=system.call.mean + self.workers / rate)
        store = Times(mean=(system.store.mean if system.store else 0.0) + self.others / rate)
        return replace(system, call=call, store=store)


def learnt(found: Sequence[Seen], projects: int) -> Learnt:
    """The system that low rates show, by least squares with nothing below 0.

    The processor time of the workers is one that is always used, a share of every call and one of every read;
    the more calls come, the more share a read: with x calls during a read, of a worker and a project,
    n = x + exp(-x).
    """
    rates = np.array([each.rate for each in found])
    waits = [each.scrape.seconds / each.scrape.answers for each in found]
    within = rates / (WORKERS * projects) * np.array(waits)
    together = within + np.exp(-within)
    ones = np.ones(len(found))
    workers = np.array([each.workers for each in found])
    others = np.array([each.others for each in found])
    # Relative errors count: every rate says as much as another.
    idle, call, read = nnls(np.stack([ones, rates, rates / together], 1) / workers[:, None], ones)[0]
    always, each_call = nnls(np.stack([ones, rates], 1) / others[:, None], ones)[0]
    first = found[0]
    scv = variability(first.scrape)
    apart = max(waits[0] - call - read - each_call, waits[0] / 20)
    system = System(
        call=Times(mean=max(float(call), 1e-6), scv=scv),
        read=float(read),
        store=Times(mean=max(float(each_call), 1e-6)),
        apart=Times(mean=float(apart), scv=scv),
        workers=WORKERS,
        cores=len(os.sched_getaffinity(0)),
        projects=projects,
        at_once=CONNECTIONS // WORKERS,
    )
    return Learnt(system=system, workers=float(idle), others=float(always))


def saturation(found: Learnt, calls: int) -> float:
    """Answers a second when more calls come than are answered, as many at once as there are connections."""
    most = 1000.0
    for _ in range(4):
        system = found.at(most)
        needed = system.call.mean + system.read + (system.store.mean if system.store else 0.0)
        most = simulate(system, 6 * (system.cores or system.workers) / needed, calls, seed=7).throughput
    return most


def rows(size: Size, steps: Steps) -> list[Row]:
    """Learn, predict, measure."""
    with (
        tempfile.TemporaryDirectory() as folder,
        river(Path(folder), size.projects, size.keys, steps.step) as found,
        serving(found.settings, workers=WORKERS) as port,
    ):
        calls = by_key(found)
        load(port, calls, size.seconds, connections=CONNECTIONS)  # warm
        light = [seen(found.settings, port, calls, size.seconds, rate) for rate in size.learnt]
        known = learnt(light, size.projects)
        system = known.system
        steps.step(f"learnt {known}")
        most = saturation(known, size.simulated)
        made = []
        for share in size.compared:
            rate = round(share * most)
            predicted = simulate(known.at(rate), rate, size.simulated, seed=11)
            outcome = seen(found.settings, port, calls, size.seconds, rate).outcome
            steps.step(f"{rate}/s: p99 {outcome.p99:.1f} ms, predicted {1000 * predicted.p99:.1f} ms")
            made.append(_beside(f"p99 at {share:.0%} of saturation", 1000 * predicted.p99, outcome.p99, "ms"))
        reached = seen(found.settings, port, calls, size.seconds, 0.0).outcome
    made.insert(0, _beside("saturation, as many calls as are answered", most, reached.rate, "a second"))
    took = system.call.mean + system.read
    return [
        *made,
        alone("learnt: processor of a worker, a call alone", 1e6 * took, "us"),
        alone("learnt: of that: of a read, which calls share", 1e6 * system.read, "us"),
        alone("learnt: processor that workers always use", known.workers, "cores"),
        alone("learnt: processor that everything else always uses", known.others, "cores"),
        alone("learnt: processor of everything else, a call", 1e6 * (system.store or system.call).mean, "us"),
        alone("learnt: wait for the store", 1000 * (system.apart or system.call).mean, "ms"),
        alone("learnt: squared coefficient of variation", system.call.scv, ""),
    ]


def _beside(work: str, predicted: float, measured: float, unit: str) -> Row:
    """Predicted beside measured; the ratio is the smaller of the two over the larger, 1 where they agree."""
    ratio = min(predicted, measured) / max(predicted, measured)
    return Row(work=work, peer="measured", ours=predicted, theirs=measured, unit=unit, ratio=ratio,
               goal=">= 0.8", equal=None)  # fmt: skip


def main(arguments: list[str]) -> None:
    """`--quick` saves nothing."""
    quick = "--quick" in arguments
    size = QUICK if quick else FULL
    made = rows(size, Steps())
    compared = [row.ratio for row in made if row.ratio is not None]
    notes = [
        "ours is what is predicted from the low rates alone, theirs what the load test measured afterwards.",
        f"Learnt from {', '.join(map(str, size.learnt))} calls a second, {size.seconds:g} s each; "
        f"{size.projects} projects, {WORKERS} workers, {CONNECTIONS} connections.",
        "Workers, Cassandra, Kafka and the load generator share the cores, and are simulated so.",
        f"The median of the ratios is {statistics.median(compared):.2f}, the worst {min(compared):.2f}.",
    ]
    packages = ["numpy", "granian", "acsylla"]
    save("capacity", "Capacity: predicted beside measured", made, packages, notes, dry=quick)


if __name__ == "__main__":
    main(sys.argv[1:])
