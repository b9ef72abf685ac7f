"""The progress of a stream, query by query: figures, delay behind arrival, and gauges for Prometheus."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.delays import Delay
from anabranch.stores.kafka.relays import RelayState
from anabranch.values.times import SECOND, to_micros

_MOST_WAITING = 1000
AHEAD = "ahead"
"""The name of what a query observes of messages that it leaves to batches: `until`, their last stamp."""
_LOOPBACK = "127.0.0.1"
_GAUGES = {
    "running": "1 while the query runs, 0 while it waits for a server or was given up.",
    "failed": "1 when the query was given up: it failed again and again while every server was up.",
    "events": "Events read since the process started.",
    "events_per_second": "Rate of the last seconds.",
    "state_rows": "Rows of state: remembered ids and open tiles.",
    "state_bytes": "Memory of the state.",
    "open_slots": "Slots of arrival that still take events.",
    "seconds": "Length of the last micro-batch.",
    "restarts": "Restarts of the query.",
    "behind": "Seconds since a relay was last at the end of its topic.",
    "lost": "Messages that retention removed before a relay copied them.",
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One query at one moment. `lag`: unread messages by partition; `seconds`: the length of its last
    micro-batch.

    A query of score requests or labels has its own name as `source`, and counts them as `events` of that
    `unit`. `behind` (seconds) and `lost` (messages) are a relay's. `failure` says why the query was given up;
    None while it was not. `waiting` says why it waits.
    """

    project: str
    source: str
    running: bool = True
    failure: str | None = None
    waiting: str | None = None
    events: int = 0
    events_per_second: float = 0.0
    lag: Mapping[int, int] = field(default_factory=dict)
    state_rows: int = 0
    state_bytes: int = 0
    open_slots: int = 0
    seconds: float = 0.0
    restarts: int = 0
    unit: str = "events"
    behind: float = 0.0
    lost: int = 0

    @property
    def failed(self) -> bool:
        """Was the query given up?"""
        return self.failure is not None

    def line(self) -> str:
        """The snapshot as a line for people."""
        lag = " ".join(f"{partition}:{behind:,}" for partition, behind in sorted(self.lag.items()))
        read = f"{self.events:,} {self.unit}, {self.events_per_second:,.0f}/s  lag {lag or 'unknown'}"
        if self.unit == "messages":
            text = f"{self.project}: {self.source}  {self.events:,} copied  lag {lag or 'unknown'}"
            lost = f"  LOST {self.lost:,}" if self.lost else ""
            failed = f"  FAILED: {self.failure}" if self.failed else ""
            return f"{text}, {self.behind:.1f} s behind{lost}{failed}"
        size = f"{self.state_bytes / 2**20:,.1f} MiB"
        state = f"  state {self.state_rows:,} rows {size}  open slots {self.open_slots}"
        waits = f"  WAITING for a server{f': {self.waiting}' if self.waiting else ''}"
        end = f"  FAILED: {self.failure}" if self.failed else "" if self.running else waits
        return (
            f"{self.project}.{self.source}  {read}{state if self.unit == 'events' else ''}"
            f"  micro-batch {self.seconds:.2f} s{end}"
        )


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The messages of a finished micro-batch, as offsets [start, end) by partition.

    `earliest` is the first arrival of their events. Of these `dropped` came behind the watermark. `ahead` is
    the last stamp of messages that were left to batches, as the broker's clock was ahead.
    """

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    earliest: int | None = None
    dropped: int = 0
    ahead: int | None = None


def of_relay(project: str, state: RelayState) -> Snapshot:
    """A relay as a snapshot: its `source` is ``relay of <topic>``, and it counts messages that it copies."""
    return Snapshot(
        project=project,
        source=f"relay of {state.topic}",
        running=state.failure is None,
        failure=state.failure,
        events=state.copied,
        lag=state.lag,
        restarts=state.restarts,
        unit="messages",
        behind=state.seconds,
        lost=state.lost,
    )


class Meter:
    """Adds up the progress of one query over its restarts."""

    def __init__(self, slot_seconds: int) -> None:
        self._slot = slot_seconds * SECOND
        self._seen: tuple[str, int] = ("", -1)
        self.events = 0
        self.offsets: dict[int, int] = {}
        """By partition the offset after the last event whose tiles are written."""
        self.position: dict[int, int] = {}
        """By partition the offset up to which the query has read, known before it finds anything new."""
        self.latest: dict[str, Any] = {}
        self.unseen: deque[Stretch] = deque()
        """Stretches that nobody has looked at for events which neither tiles nor a batch hold."""

    def read(self, query: StreamingQuery) -> None:
        """Add the micro-batches that the query finished since the last call."""
        for progress in query.recentProgress:
            found: dict[str, Any] = json.loads(progress.json)
            run, number = found["runId"], int(found["batchId"])
            if (run, number) == self._seen or (run == self._seen[0] and number < self._seen[1]):
                continue
            source = next((each for each in found["sources"] if "Kafka" in each["description"]), None)
            ends = {} if source is None else _ends(source, "endOffset")
            if "addBatch" in found["durationMs"]:
                self._seen = (run, number)
                if source is not None:
                    self.latest = found
                    self.events += int(source["numInputRows"])
                    self.offsets.update(ends)
                    self._note(found, _ends(source, "startOffset"), ends)
            self.position.update(ends)

    def _note(self, found: Mapping[str, Any], starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        first = found.get("eventTime", {}).get("min")
        stretch = Stretch(
            starts=starts,
            ends=ends,
            earliest=None if first is None else to_micros(datetime.fromisoformat(first)),
            dropped=sum(int(each["numRowsDroppedByWatermark"]) for each in found.get("stateOperators", [])),
            ahead=found.get("observedMetrics", {}).get(AHEAD, {}).get("until"),
        )
        if stretch.earliest is not None or stretch.ahead is not None:
            self.unseen.append(stretch)

    @property
    def seconds(self) -> float:
        """Length of the last micro-batch."""
        return float(self.latest.get("durationMs", {}).get("triggerExecution", 0)) / 1000

    @property
    def state(self) -> tuple[int, int]:
        """Rows and bytes of the query's state."""
        operators = self.latest.get("stateOperators", [])
        rows = sum(int(each["numRowsTotal"]) for each in operators)
        return rows, sum(int(each["memoryUsedBytes"]) for each in operators)

    @property
    def open_slots(self) -> int:
        """Slots of arrival between the watermark and the newest event."""
        times = self.latest.get("eventTime", {})
        if "max" not in times or "watermark" not in times:
            return 0
        moments = [to_micros(datetime.fromisoformat(times[name])) for name in ("max", "watermark")]
        newest, oldest = (moment // self._slot for moment in moments)
        return max(1, newest - max(oldest, 0) + 1) if oldest > 0 else 1


def _ends(source: Mapping[str, Any], name: str) -> dict[int, int]:
    """By partition the offset from which, or up to which, a source was read."""
    ends = source[name]
    topics = json.loads(ends) if isinstance(ends, str) else ends or {}
    return {int(partition): offset for offsets in topics.values() for partition, offset in offsets.items()}


class Delays:
    """How far a source's current rows are behind arrival, without a look at any event. Times in microseconds.

    Compares the offsets at which the topic ended at known times with those that the query has reached.
    `promised` is the longest delay that the project promises.
    """

    def __init__(self, source: str, promised: int | None) -> None:
        self._source, self._promised = source, promised
        self._waiting: deque[tuple[int, Mapping[int, int]]] = deque()
        self._longest = 0
        self._known = False
        self._kept_since: int | None = None

    def topic_ended(self, at: int, ends: Mapping[int, int]) -> None:
        """Note that the topic's partitions ended at these offsets at that time."""
        # While a query is far behind, the oldest ends are enough: newer ones are noted when it has got there.
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((at, ends))

    def query_reached(self, now: int, offsets: Mapping[int, int]) -> None:
        """Note that tiles and current rows of all messages before these offsets are written."""
        while self._waiting and _reached(offsets, self._waiting[0][1]):
            at, _ = self._waiting.popleft()
            self._longest, self._known = max(self._longest, now - at), True

    def report(self, now: int, before: int = 0) -> Delay | None:
        """The longest delay since the last report, waiting messages included; None while it is unknown.

        `before` is how far what the query reads is behind already: the relay of its topic.
        """
        behind = before + max(self._longest, now - self._waiting[0][0] if self._waiting else 0)
        # Until the query has reached the first noted end, older events may wait.
        if not self._known and (self._promised is None or behind <= self._promised):
            return None
        self._longest = 0
        if self._promised is not None and behind > self._promised:
            self._kept_since = None
        elif self._kept_since is None and self._known:
            self._kept_since = now - behind
        return Delay(source=self._source, at=now, behind=behind, kept_since=self._kept_since)


def _reached(offsets: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    return all(offsets.get(partition, 0) >= end for partition, end in ends.items())


class StreamMetrics:
    """Gauges of one process for Prometheus, on a loopback port of its own; 0: one that is free, None: none.

    `place` is where they are (``host:port``), None without a port.
    """

    def __init__(self, port: int | None) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("project", "source")
        self._gauges = {
            name: Gauge(f"anabranch_stream_{name}", text, labels, registry=registry)
            for name, text in _GAUGES.items()
        }
        self._lag = Gauge(
            "anabranch_stream_lag", "Unread messages.", (*labels, "partition"), registry=registry
        )
        self._server = None if port is None else start_http_server(port, addr=_LOOPBACK, registry=registry)[0]
        self.place = None if self._server is None else f"{_LOOPBACK}:{self._server.server_port}"

    def show(self, snapshots: Sequence[Snapshot]) -> None:
        """Set the gauges."""
        for each in snapshots:
            for name, gauge in self._gauges.items():
                gauge.labels(each.project, each.source).set(float(getattr(each, name)))
            for partition, behind in each.lag.items():
                self._lag.labels(each.project, each.source, str(partition)).set(behind)

    def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
