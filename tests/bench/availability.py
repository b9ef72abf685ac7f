"""Availability as callers see it: a constant load on the gateway while replicas, stores and versions change,
and what a year with an assumed number of each fault would come to.

python -m tests.bench.availability [MINUTES]
"""

import http.client
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, cycle
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import chi2, t

from anabranch.errors import UnavailableError
from anabranch.stores.cassandra.replicas import Replicas
from batch.building.versions import rollback
from jobs.servers import embedded
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.serve import serve
from jobs.wiring.settings import Settings
from tests.bench.report import Row, alone, save
from tests.bench.serving_data import River, publish, river
from tests.conftest import free_ports

RATE = 30.0
PATIENCE = 5.0
"""Seconds after which an answer is worth nothing to its caller, counted from when the call was due."""
SETTLE = 5.0
KEYS = 200
YEAR = 365.25 * 86400
A_YEAR = {
    "a replica is killed": 12,
    "deploy: replicas replaced one by one": 100,
    "Cassandra restarts (one node)": 4,
    "the broker restarts (one broker)": 4,
    "a batch version is written and swapped in": 8766,
    "rollback to the previous batch version": 12,
}
"""How often each fault is assumed to happen in a year."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: when it was due and when it ended, in seconds of the monotonic clock."""

    due: float
    end: float
    answered: bool
    degraded: bool = False


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, from `start` until at `end` all had been well for a while."""

    kind: str
    start: float
    end: float

    def of(self, calls: Sequence[Call]) -> list[Call]:
        """The calls that were due during it."""
        return [call for call in calls if self.start <= call.due < self.end]


@dataclass
class Callers:
    """An open loop: calls are due at a constant rate, whether or not earlier ones have been answered."""

    port: int
    paths: Sequence[tuple[str, str]]
    calls: list[Call] = field(default_factory=list)

    def _call(self, due: float, path: str, body: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        status, data = 0, b""
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, data = response.status, response.read()
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        end = time.monotonic()
        good = status == 200 and end - due <= PATIENCE
        self.calls.append(Call(due=due, end=end, answered=good, degraded=b'"degraded":true' in data))

    def well(self) -> bool:
        """Whether every call that was due in the last seconds was answered, and fully."""
        since = time.monotonic() - SETTLE
        recent = [call for call in tuple(self.calls[-int(4 * RATE * SETTLE) :]) if call.end >= since]
        return len(recent) > RATE and all(call.answered and not call.degraded for call in recent)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Call until the block ends; every call has ended after it."""
        done = threading.Event()

        def pace(pool: ThreadPoolExecutor) -> None:
            began = time.monotonic()
            for number, (path, body) in zip(count(), cycle(self.paths), strict=False):
                due = began + number / RATE
                if done.wait(max(0.0, due - time.monotonic())):
                    return
                pool.submit(self._call, due, path, body)

        # As many threads as calls can wait at once, so that no call is late for want of one.
        with ThreadPoolExecutor(int(2 * RATE * PATIENCE)) as pool:
            pacer = threading.Thread(target=pace, args=(pool,))
            pacer.start()
            try:
                yield
            finally:
                done.set()
                pacer.join()


@dataclass
class Fleet:
    """Two replicas of the REST server, and what befalls them."""

    settings: Settings
    running: list[tuple[int, multiprocessing.process.BaseProcess]] = field(default_factory=list)

    def start(self) -> None:
        (port,) = free_ports(1)
        ours = replace(self.settings, serving=replace(self.settings.serving, port=port))
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(ours,))
        process.start()
        self.running.append((port, process))

    def wait(self) -> None:
        """Wait until the gateway sends requests to exactly those that run."""
        replicas = Replicas(self.settings.views)
        places = {f"127.0.0.1:{port}" for port, _ in self.running}

        def sent_to() -> set[str]:
            with suppress(UnavailableError):  # while the table is made, or Cassandra restarts
                return replicas.sent_to()
            return set()

        if not wait_until(lambda: sent_to() == places, 120):
            raise SystemExit(f"error: the gateway sends to {sent_to()}, not to {places}")

    def stop(self) -> None:
        """End the oldest as a deploy does."""
        _, process = self.running.pop(0)
        process.terminate()
        process.join(60)

    def end(self) -> None:
        """Stop all."""
        while self.running:
            self.stop()

    def kill(self) -> None:
        """Kill the oldest with its workers, and start another one."""
        _, process = self.running.pop(0)
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            each.kill()
        process.join(10)
        self.start()
        self.wait()

    def deploy(self) -> None:
        """Replace each: first a new one, then without the old one."""
        for _ in range(len(self.running)):
            self.start()
            self.wait()
            self.stop()
            self.wait()


def restart(settings: Settings, name: str) -> None:
    """Stop a server and start it again."""
    embedded.down(settings, [name], lambda _text: None)
    embedded.up(settings, [name], lambda _text: None)


def faults_of(found: River, fleet: Fleet, context: Context) -> dict[str, Callable[[], object]]:
    """What is done, in the order in which it is done."""
    project = found.projects[0]
    # The swap before the rollback, which needs a previous version.
    deeds = (
        fleet.kill,
        fleet.deploy,
        partial(restart, found.settings, "cassandra"),
        partial(restart, found.settings, "kafka"),
        lambda: publish(context.views, project, found),
        lambda: rollback(context, project),
    )
    return dict(zip(A_YEAR, deeds, strict=True))


def soak(minutes: float, steps: Steps) -> tuple[list[Call], list[Fault]]:
    """Rounds of all faults for as long as given, at least one; returns the calls, and the faults."""
    with tempfile.TemporaryDirectory(prefix="anabranch-bench-") as folder, ExitStack() as stack:
        found = stack.enter_context(river(Path(folder), 1, KEYS, steps.step))
        (port,) = free_ports(1)
        servers = replace(found.settings.servers, nginx_port=port, nginx_upstreams=())
        settings = replace(
            found.settings, servers=replace(servers, nginx_rate=100_000, nginx_address_rate=100_000)
        )
        context = stack.enter_context(closing(Context(settings)))
        embedded.up(settings, ["nginx"], steps.step)
        stack.callback(embedded.down, settings, ["nginx"], steps.step)
        fleet = Fleet(settings)
        stack.callback(fleet.end)
        fleet.start()
        fleet.start()
        fleet.wait()
        path = f"/v1/projects/{found.projects[0].name}/predict"
        callers = Callers(port, [(path, json.dumps({"key": key})) for key in found.keys])
        faults: list[Fault] = []
        with callers.calling():
            until = time.monotonic() + 60 * minutes
            while not faults or time.monotonic() < until:
                for kind, deed in faults_of(found, fleet, context).items():
                    time.sleep(SETTLE)
                    start = time.monotonic()
                    deed()
                    time.sleep(SETTLE)
                    if not wait_until(callers.well, 120):
                        raise SystemExit(f"error: {kind}: calls are still lost or degraded two minutes later")
                    faults.append(Fault(kind=kind, start=start, end=time.monotonic()))
                    steps.step(f"{kind}: {time.monotonic() - start:.0f} s")
        return callers.calls, faults


def lost(calls: Sequence[Call]) -> int:
    """How many were not answered in time."""
    return sum(not call.answered for call in calls)


def recovered(fault: Fault, calls: Sequence[Call]) -> float:
    """Seconds from the start of a fault until the last call of it that was lost or degraded had ended."""
    ends = [call.end for call in fault.of(calls) if call.degraded or not call.answered]
    return max(ends, default=fault.start) - fault.start


def interval(losses: Sequence[int]) -> tuple[float, float]:
    """Bounds, at 95%, of the calls that one fault loses, of what repetitions of it lost.

    The wider of two: of a Poisson count (Garwood, 1936), which says what a sample without a loss cannot
    exclude, and of Student's t between the repetitions, since losses of one fault come together.
    """
    total, times = sum(losses), len(losses)
    low = float(chi2.ppf(0.025, 2 * total)) / 2 / times if total else 0.0
    high = float(chi2.ppf(0.975, 2 * total + 2)) / 2 / times
    if times > 1:
        half = float(t.ppf(0.975, times - 1)) * float(np.std(losses, ddof=1)) / times**0.5
        low, high = min(low, max(0.0, total / times - half)), max(high, total / times + half)
    return low, high


def a_year(losses: dict[str, list[int]]) -> tuple[float, float, float]:
    """Availability of a year with the assumed faults: worst, as measured, best.

    A lost call stands for 1 / RATE seconds without an answer. The bounds add up those of every kind.
    """
    seconds = np.zeros(3)
    for kind, each in losses.items():
        low, high = interval(each)
        seconds += np.array([high, sum(each) / len(each), low]) * A_YEAR[kind] / RATE
    worst, measured, best = np.clip(1 - seconds / YEAR, 0.0, 1.0).tolist()
    return worst, measured, best


def rows_of(calls: Sequence[Call], faults: Sequence[Fault]) -> tuple[list[Row], list[str]]:
    """The table and its notes."""
    rows, notes, losses, within = [], [], {}, 0
    for kind, times in A_YEAR.items():
        ours = [fault for fault in faults if fault.kind == kind]
        of = [fault.of(calls) for fault in ours]
        losses[kind] = [lost(each) for each in of]
        within += sum(map(len, of))
        slowest = max(recovered(fault, calls) for fault in ours)
        degraded = sum(call.answered and call.degraded for each in of for call in each)
        rows += [
            alone(f"{kind}: calls lost", float(sum(losses[kind])), "calls"),
            alone(f"{kind}: last lost or degraded call after", slowest, "s"),
        ]
        low, high = interval(losses[kind])
        notes.append(
            f"{kind}: {len(ours)} times, {sum(map(len, of)):,} calls, {sum(losses[kind])} lost "
            f"({low:.1f} to {high:.1f} each), {degraded} degraded; assumed {times:,} times a year."
        )
    quiet = len(calls) - within
    quiet_lost = lost(calls) - sum(map(sum, losses.values()))
    worst, measured, best = a_year(losses)
    rows += [
        alone("between faults: calls lost", float(quiet_lost), "calls"),
        alone("seconds a year without an answer", (1 - measured) * YEAR, "s", goal=f"<= {YEAR * 1e-5:.0f}"),
    ]
    notes += [
        f"A year of these faults: {measured:.5%}, 95% interval {worst:.5%} to {best:.5%}. It is 1 - sum("
        "times a year x mean calls lost / rate) / seconds of a year.",
        "An interval is the wider of Poisson's and Student's; the bounds of all kinds are added. Of one time "
        "the spread between times is unknown, and the interval is too narrow.",
        f"Between faults {quiet_lost} of {quiet:,} calls were lost: a sample of this size cannot exclude "
        f"a share of {interval([quiet_lost])[1] / max(quiet, 1):.3%}. It is not part of the year.",
        "Not part of it either: power, disks, networks, other machines, faults that nobody thought of, and "
        "two faults at once.",
        f"Calls of `predict` at the gateway, {RATE:g} a second whatever becomes of earlier ones, two "
        f"replicas. Lost: any status but 200, or no answer {PATIENCE:g} s after it was due.",
        "A restart ends when the server is ready. A swap writes the tables and the manifest as a build does, "
        "without the build's Spark job beside it.",
    ]
    return rows, notes


def main(arguments: list[str]) -> None:
    """Minutes may be given; 30 by default."""
    calls, faults = soak(float(arguments[0]) if arguments else 30.0, Steps())
    rows, notes = rows_of(calls, faults)
    if len(arguments) > 1:
        notes.append(arguments[1])
    packages = ["cassandra-driver", "kafka-python", "granian"]
    save("availability", "Availability under faults", rows, packages, notes, command="make soak-availability")


if __name__ == "__main__":
    main(sys.argv[1:])
