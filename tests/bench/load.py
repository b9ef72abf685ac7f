"""A load generator as a process of its own: ``python -m tests.bench.load PLAN.json`` prints one JSON object.

With a rate the load is open: calls are due at constant intervals whether or not earlier ones are answered,
and latency
counts from the time a call was due, so that a server that stalls cannot hide it. Without a rate every
connection sends
its next call when it has its answer, which finds the most that a server does.
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

TICK_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send: `calls` are (path, JSON body) taken in turn; `rate` calls a second, 0 for as many as
    are answered.
    """

    port: int
    calls: list[tuple[str, str]]
    rate: float
    seconds: float
    connections: int = 64
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it; latencies in milliseconds, of answered calls alone.

    `refused` calls were told to come again (503). `late`: the longest that the generator itself was behind
    its plan.
    """

    sent: int
    answered: int
    refused: int
    errors: int
    degraded: int
    rate: float
    p50: float
    p99: float
    p999: float
    longest: float
    late: float


@dataclass
class Totals:
    """What is counted while calls run."""

    plan: Plan
    requests: list[bytes]
    idle: "deque[Caller]" = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    errors: int = 0
    refused: int = 0
    degraded: int = 0
    open: bool = True

    def next_request(self) -> bytes:
        """The request whose turn it is."""
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]


class Caller(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, totals: Totals) -> None:
        self._totals, self._received, self._needed, self._due = totals, b"", 0, 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._free()

    def call(self, due: float) -> None:
        """Send the next request, which was due at `due`."""
        assert self._transport is not None
        self._due = due
        self._transport.write(self._totals.next_request())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._needed:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = self._received.lower().index(b"content-length:") + 15
            self._needed = head + 4 + int(self._received[length : self._received.index(b"\r", length)])
        if len(self._received) < self._needed:
            return
        totals = self._totals
        if self._received[9:12] == b"503" and b"retry-after" in self._received[:500].lower():
            totals.refused += 1
        else:
            totals.latencies.append(time.perf_counter() - self._due)
        if self._received[9:12] not in (b"200", b"503"):
            totals.errors += 1
        elif b'"degraded":true' in self._received:
            totals.degraded += 1
        self._received, self._needed, self._due = b"", 0, 0.0
        self._free()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due:
            self._totals.errors += 1

    def _free(self) -> None:
        totals = self._totals
        if totals.due:
            self.call(totals.due.popleft())
        elif totals.plan.rate or not totals.open:
            totals.idle.append(self)
        else:
            self.call(time.perf_counter())


async def run(plan: Plan) -> Outcome:
    """Send for the time of the plan, wait for what is under way, and count."""
    totals = Totals(plan, [_request(plan, path, body) for path, body in plan.calls])
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(plan.connections):
        await loop.create_connection(lambda: Caller(totals), "127.0.0.1", plan.port)
    if plan.rate:
        started = time.perf_counter()
        late = await _keep_rate(plan, totals, started)
    else:
        await asyncio.sleep(plan.seconds)
        late = 0.0
    totals.open = False
    elapsed = time.perf_counter() - started
    deadline = time.perf_counter() + 10
    while len(totals.latencies) + totals.refused < totals.sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    found = np.array(totals.latencies or [float("nan")]) * 1000
    p50, p99, p999 = (float(np.percentile(found, part)) for part in (50, 99, 99.9))
    lost = totals.sent + len(totals.due) - len(totals.latencies) - totals.refused
    return Outcome(
        sent=totals.sent, answered=len(totals.latencies), refused=totals.refused, errors=totals.errors + lost,
        degraded=totals.degraded,
        rate=len(totals.latencies) / elapsed, p50=p50, p99=p99, p999=p999, longest=float(found.max()),
        late=late * 1000,
    )  # fmt: skip


async def _keep_rate(plan: Plan, totals: Totals, started: float) -> float:
    count, late, before = 0, 0.0, started
    while (now := time.perf_counter()) - started < plan.seconds:
        late, before = max(late, now - before - TICK_SECONDS), now
        while started + count / plan.rate <= now:
            due = started + count / plan.rate
            count += 1
            if totals.idle:
                totals.idle.popleft().call(due)
            else:
                totals.due.append(due)
        await asyncio.sleep(TICK_SECONDS)
    return late


def _request(plan: Plan, path: str, body: str) -> bytes:
    token = f"authorization: Bearer {plan.token}\r\n" if plan.token else ""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{token}"
    head += f"content-length: {len(body.encode())}\r\n\r\n"
    return (head + body).encode()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(asdict(asyncio.run(run(Plan(**given))))))
