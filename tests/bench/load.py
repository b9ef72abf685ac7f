"""A load generator as a process of its own: ``python -m tests.bench.load PLAN.json`` prints one JSON object.

With a rate the load is open: calls are due at constant intervals whether or not earlier ones are answered,
and latency counts from the time a call was due, so that a server that stalls cannot hide it. Without a rate
every connection sends its next call when it has its answer, which finds the most that a server does. It
shares the cores with what it measures, so it is one loop over sockets, without tasks.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

_LAST_SECONDS = 10.0  # how long the last answers are waited for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send: `calls` (path, JSON body) in turn, `rate` a second, 0 for as many as are answered.

    `after` seconds of calls are sent first and not counted.
    """

    port: int
    calls: list[tuple[str, str]]
    rate: float
    seconds: float
    connections: int = 64
    token: str = ""
    timeout_ms: int = 0
    after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it; latencies in milliseconds, of answered calls alone.

    `refused` calls were told to come again (503). `late`: the longest that the generator itself was behind
    its plan. `cpu`: microseconds of processor time of the generator a call.
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
    cpu: float


@dataclass
class Generator:
    """Sends over its connections until the time is over."""

    plan: Plan
    requests: list[bytes]
    poll: select.epoll = field(default_factory=select.epoll)
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    idle: deque[int] = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)
    pending: dict[int, float] = field(default_factory=dict)
    partial: dict[int, bytes] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    errors: int = 0
    refused: int = 0
    degraded: int = 0
    counted_from: float = 0.0
    late: float = 0.0

    def connect(self) -> None:
        """Open one connection, which is idle."""
        made = socket.create_connection(("127.0.0.1", self.plan.port), timeout=10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        self.sockets[made.fileno()] = made
        self.poll.register(made.fileno(), select.EPOLLIN)
        self.idle.append(made.fileno())

    def run(self) -> float:
        """Send for the time of the plan, and wait for what is under way; returns the seconds that count."""
        plan = self.plan
        started = time.perf_counter()
        self.counted_from = started + plan.after
        until, end = self.counted_from + plan.seconds, 0.0
        planned = 0
        while True:
            now = time.perf_counter()
            if now < until:
                planned = self._begin(now, started, planned)
            else:
                end = end or now + _LAST_SECONDS
                if (not self.pending and not self.due) or now > end:
                    return plan.seconds
            wait = 0.001 if plan.rate else 0.05
            if plan.rate and now < until and self.idle:
                wait = max(0.0, started + planned / plan.rate - now)
            for number, _ in self.poll.poll(wait):
                self._receive(number)

    def _begin(self, now: float, started: float, planned: int) -> int:
        rate = self.plan.rate
        if not rate:
            while self.idle:
                self._send(self.idle.popleft(), now)
            return 0
        while (moment := started + planned / rate) <= now:
            planned += 1
            if self.idle:
                self.late = max(self.late, now - moment)
                self._send(self.idle.popleft(), moment)
            else:
                self.due.append(moment)
        return planned

    def _send(self, number: int, due: float) -> None:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        self.pending[number] = due
        try:
            self.sockets[number].send(request)
        except OSError:
            self._lost(number)

    def _receive(self, number: int) -> None:
        try:
            data = self.sockets[number].recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(number)
            return
        if number in self.partial:
            data = self.partial.pop(number) + data
        if not _whole(data):
            self.partial[number] = data
            return
        self._answered(number, data)

    def _answered(self, number: int, data: bytes) -> None:
        due = self.pending.pop(number)
        if due >= self.counted_from:
            status = data[9:12]
            if status == b"503" and b"retry-after" in data[:500].lower():
                self.refused += 1
            elif status == b"200":
                self.latencies.append(time.perf_counter() - due)
                if b'"degraded":true' in data:
                    self.degraded += 1
            else:
                self.errors += 1
        if self.due:
            self._send(number, self.due.popleft())
        else:
            self.idle.append(number)

    def _lost(self, number: int) -> None:
        """A connection is closed: its call has failed, and another takes its place."""
        if self.pending.pop(number, -1.0) >= self.counted_from:
            self.errors += 1
        self.poll.unregister(number)
        self.sockets.pop(number).close()
        self.partial.pop(number, None)
        try:
            self.connect()
        except OSError:
            return
        if self.due:
            self._send(self.idle.pop(), self.due.popleft())


def _whole(data: bytes) -> bool:
    """Whether a response has come whole."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    place = data.find(b"content-length: ", 0, head)
    place = place if place >= 0 else data.lower().find(b"content-length: ", 0, head)
    return place < 0 or len(data) >= head + 4 + int(data[place + 16 : data.index(b"\r", place)])


def run(plan: Plan) -> Outcome:
    """Send as planned, and count."""
    generator = Generator(plan, [_request(plan, path, body) for path, body in plan.calls])
    for _ in range(plan.connections):
        generator.connect()
    spent = time.process_time()
    seconds = generator.run()
    spent = time.process_time() - spent
    found = np.array(generator.latencies or [float("nan")]) * 1000
    p50, p99, p999 = (float(np.percentile(found, part)) for part in (50, 99, 99.9))
    return Outcome(
        sent=generator.sent, answered=len(generator.latencies), refused=generator.refused,
        errors=generator.errors + len(generator.pending) + len(generator.due), degraded=generator.degraded,
        rate=len(generator.latencies) / seconds, p50=p50, p99=p99, p999=p999, longest=float(found.max()),
        late=generator.late * 1000, cpu=1e6 * spent / max(1, generator.sent),
    )  # fmt: skip


def _request(plan: Plan, path: str, body: str) -> bytes:
    token = f"authorization: Bearer {plan.token}\r\n" if plan.token else ""
    patience = f"request-timeout-ms: {plan.timeout_ms}\r\n" if plan.timeout_ms else ""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{token}{patience}"
    head += f"content-length: {len(body.encode())}\r\n\r\n"
    return (head + body).encode()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(asdict(run(Plan(**given)))))
