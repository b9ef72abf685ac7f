"""How a stream is doing, query by query: read from Spark's own progress and from what the topic holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyspark.sql.streaming.query import StreamingQuery

from anabranch.values.times import SECOND, to_micros


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One query at one moment. `lag`: messages not read yet, by partition; `seconds`: of its last micro-batch.

    `source` and `events` of queries that answer score requests or learn are their own name, and requests or labels.
    `failure`: why the query was given up, None while it is not.
    """

    project: str
    source: str
    running: bool = True
    failure: str | None = None
    events: int = 0
    events_per_second: float = 0.0
    lag: Mapping[int, int] = field(default_factory=dict)
    state_rows: int = 0
    state_bytes: int = 0
    open_slots: int = 0
    seconds: float = 0.0
    restarts: int = 0
    unit: str = "events"

    @property
    def failed(self) -> bool:
        """Was the query given up?"""
        return self.failure is not None

    def line(self) -> str:
        """For people."""
        lag = (
            " ".join(f"{partition}:{behind:,}" for partition, behind in sorted(self.lag.items())) or "unknown"
        )
        held = (
            f"  state {self.state_rows:,} rows {self.state_bytes / 2**20:,.1f} MiB  open slots {self.open_slots}"
            if self.unit == "events"
            else ""
        )
        still = (
            f"  FAILED: {self.failure}" if self.failed else "" if self.running else "  WAITING for a server"
        )
        return (
            f"{self.project}.{self.source}  {self.events:,} {self.unit}, {self.events_per_second:,.0f}/s  lag {lag}"
            f"{held}  micro-batch {self.seconds:.2f} s{still}"
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
        """The same, known too of a query that has found nothing new since it started."""
        self.latest: dict[str, Any] = {}

    def read(self, query: StreamingQuery) -> None:
        """Take what the query has done since the last call."""
        for progress in query.recentProgress:
            found: dict[str, Any] = json.loads(progress.json)
            run, number = found["runId"], int(found["batchId"])
            if (run, number) == self._seen or (run == self._seen[0] and number < self._seen[1]):
                continue
            source = next((each for each in found["sources"] if "Kafka" in each["description"]), None)
            ends = {} if source is None else _ends(source)
            if "addBatch" in found["durationMs"]:
                self._seen = (run, number)
                if source is not None:
                    self.latest = found
                    self.events += int(source["numInputRows"])
                    self.offsets.update(ends)
            self.position.update(ends)

    @property
    def seconds(self) -> float:
        """How long the last micro-batch took."""
        return float(self.latest.get("durationMs", {}).get("triggerExecution", 0)) / 1000

    @property
    def state(self) -> tuple[int, int]:
        """Rows and bytes that the query remembers."""
        operators = self.latest.get("stateOperators", [])
        return sum(int(each["numRowsTotal"]) for each in operators), sum(
            int(each["memoryUsedBytes"]) for each in operators
        )

    @property
    def open_slots(self) -> int:
        """Slots of arrival between the watermark and the newest event."""
        times = self.latest.get("eventTime", {})
        if "max" not in times or "watermark" not in times:
            return 0
        newest, oldest = (
            to_micros(datetime.fromisoformat(times[name])) // self._slot for name in ("max", "watermark")
        )
        return max(1, newest - max(oldest, 0) + 1) if oldest > 0 else 1


def _ends(source: Mapping[str, Any]) -> dict[int, int]:
    """By partition where a source was read to."""
    ends = source["endOffset"]
    topics = json.loads(ends) if isinstance(ends, str) else ends or {}
    return {int(partition): offset for offsets in topics.values() for partition, offset in offsets.items()}
