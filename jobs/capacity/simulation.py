"""Answers as events in time, where formulas do not hold.

That is: calls that share a read, cores that are shared, calls that are refused, bursts.

One call is drawn so:

    arrives -> its worker -> joins the read of its project that starts next
            -> the read: processor of the store, and the wait for it -> processor of the worker -> answered

A worker is one process that does one thing at a time. While a read of a project is under way, further calls
of that project wait for its end, or for `patience` (anabranch/answers/coalescing.py). Workers and store
share `cores`, where these are given.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jobs.capacity.queues import Times


@dataclass(frozen=True, kw_only=True)
class System:
    """What answers calls; times in seconds.

    `call` is the worker's processor time of one call, `read` that of one read, however many calls share it;
    `store` the processor time of the store a call, on the same `cores`; `apart` what a read waits besides.
    `patience` None: every call reads alone. A worker refuses a call while it answers `at_once` others.
    """

    call: Times
    read: float = 0.0
    store: Times | None = None
    apart: Times | None = None
    workers: int = 1
    cores: int | None = None
    projects: int = 1
    patience: float | None = 0.01
    most: int = 20
    at_once: int = 128


@dataclass(frozen=True, kw_only=True)
class SimulatedAnswers:
    """What came of it: times of answers in seconds, and shares of 1."""

    answered: int
    refused: float
    mean: float
    mean_wait: float
    p50: float
    p99: float
    together: float
    """Calls that shared a read, on average."""
    throughput: float
    """Answers a second, while calls came."""


@dataclass
class _Read:
    worker: int
    project: int
    began: list[float]
    alone: float = 0.0


@dataclass
class _Worker:
    reads: list[int]
    waiting: list[list[float]]
    timers: list[int]
    tasks: "deque[tuple[float, Callable[[float], None]]]" = field(default_factory=deque)
    busy: bool = False
    under_way: int = 0


def simulate(system: System, rate: float, calls: int, seed: int, burst: int = 1) -> SimulatedAnswers:
    """Calls at random times at `rate` a second, `burst` of them at once; the first tenth is not counted."""
    run = _Run(system, np.random.default_rng(seed))
    return run.through(rate, calls, burst)


class _Run:
    """One simulation; `_later` keeps what happens when."""

    def __init__(self, system: System, random: np.random.Generator) -> None:
        self._system, self._random = system, random
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        self._free = system.cores
        self._runnable: deque[tuple[float, Callable[[float], None]]] = deque()
        groups = system.projects
        self._workers = [
            _Worker([0] * groups, [[] for _ in range(groups)], [0] * groups) for _ in range(system.workers)
        ]
        self._drawn: dict[Times, list[float]] = {}
        self._times: list[tuple[float, float]] = []
        self._waits: list[float] = []
        self._lots: list[int] = []
        self._refused = 0

    def through(self, rate: float, calls: int, burst: int) -> SimulatedAnswers:
        gaps = self._random.exponential(burst / rate, (calls + burst - 1) // burst)
        moments = np.repeat(np.cumsum(gaps), burst)[:calls]
        where = self._random.integers(self._system.workers, size=calls)
        whose = self._random.integers(self._system.projects, size=calls)
        for moment, worker, project in zip(moments.tolist(), where.tolist(), whose.tolist(), strict=True):
            self._until(moment)
            self._arrive(moment, worker, project)
        last = float(moments[-1])
        self._until(float("inf"))
        counted = np.array([took for began, took in self._times if began >= moments[calls // 10]] or [np.nan])
        ended = sum(began + took <= last for began, took in self._times)
        return SimulatedAnswers(
            answered=len(self._times),
            refused=self._refused / calls,
            mean=float(counted.mean()),
            mean_wait=float(np.mean(self._waits[len(self._waits) // 10 :] or [np.nan])),
            p50=float(np.percentile(counted, 50)),
            p99=float(np.percentile(counted, 99)),
            together=float(np.mean(self._lots) if self._lots else np.nan),
            throughput=ended / last,
        )

    def _later(self, moment: float, then: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (moment, self._count, then))

    def _until(self, moment: float) -> None:
        while self._queue and self._queue[0][0] <= moment:
            at, _, then = heapq.heappop(self._queue)
            then(at)

    def _draw(self, time: Times | None) -> float:
        if time is None:
            return 0.0
        if time.scv == 0:
            return time.mean
        drawn = self._drawn.get(time)
        if not drawn:
            shape = 1 / time.scv
            drawn = self._drawn[time] = self._random.gamma(shape, time.mean / shape, 4096).tolist()
        return drawn.pop()

    def _arrive(self, now: float, number: int, project: int) -> None:
        worker = self._workers[number]
        if worker.under_way >= self._system.at_once:
            self._refused += 1
            return
        worker.under_way += 1
        patience = self._system.patience
        if patience is None:
            self._read(now, _Read(number, project, [now]))
            return
        worker.waiting[project].append(now)
        if not worker.reads[project]:
            self._begin(now, number, project)
        elif len(worker.waiting[project]) == 1:
            self._wait(now, number, project, patience)

    def _wait(self, now: float, number: int, project: int, patience: float) -> None:
        worker = self._workers[number]
        worker.timers[project] += 1
        timer = worker.timers[project]

        def elapsed(at: float) -> None:
            if worker.timers[project] == timer and worker.waiting[project]:
                self._begin(at, number, project)

        self._later(now + patience, elapsed)

    def _begin(self, now: float, number: int, project: int) -> None:
        worker, most = self._workers[number], self._system.most
        lot, worker.waiting[project] = worker.waiting[project][:most], worker.waiting[project][most:]
        worker.timers[project] += 1
        if worker.waiting[project] and self._system.patience is not None:
            self._wait(now, number, project, self._system.patience)
        self._read(now, _Read(number, project, lot))

    def _read(self, now: float, read: _Read) -> None:
        self._workers[read.worker].reads[read.project] += 1
        self._lots.append(len(read.began))
        needed = sum(self._draw(self._system.store) for _ in read.began)

        def stored(at: float) -> None:
            self._later(at + self._draw(self._system.apart), lambda then: self._come(then, read))

        if needed:
            self._on_core(now, needed, stored)
        else:
            stored(now)

    def _come(self, now: float, read: _Read) -> None:
        """The rows are there: the worker makes the answers when its earlier work is done."""
        needed = self._system.read + sum(self._draw(self._system.call) for _ in read.began)
        worker = self._workers[read.worker]

        def run(at: float) -> None:
            self._waits.append(at - now)

            def done(end: float) -> None:
                self._answered(end, read)
                worker.busy = False
                if worker.tasks:
                    worker.busy = True
                    worker.tasks.popleft()[1](end)

            self._on_core(at, needed, done)

        if worker.busy:
            worker.tasks.append((now, run))
        else:
            worker.busy = True
            run(now)

    def _answered(self, now: float, read: _Read) -> None:
        worker, project = self._workers[read.worker], read.project
        self._times += [(began, now - began) for began in read.began]
        worker.under_way -= len(read.began)
        worker.reads[project] -= 1
        if worker.waiting[project] and not worker.reads[project]:
            self._begin(now, read.worker, project)

    def _on_core(self, now: float, needed: float, then: Callable[[float], None]) -> None:
        """Run for `needed` seconds on a core, first come first served; at once where cores are not shared."""
        if self._free is None:
            self._later(now + needed, then)
        elif self._free:
            self._free -= 1
            self._later(now + needed, lambda at: self._core_is_free(at, then))
        else:
            self._runnable.append((needed, then))

    def _core_is_free(self, now: float, then: Callable[[float], None]) -> None:
        if self._runnable:
            needed, following = self._runnable.popleft()
            self._later(now + needed, lambda at: self._core_is_free(at, following))
        else:
            self._free = (self._free or 0) + 1
        then(now)
