"""Requests for training and their answers on the bus: read in order, committed when they are answered, answered again when they come again.

    training-requests  {"request_id", "project", "reason"?, "rows"?: {source: [row, ...]}}
    training-results   {"request_id", "project", "status", "at", ...}, keyed by the id; status accepted, then done, failed or refused

The results are the record of what was answered: nothing else is kept. Trainers of one name share the requests as one consumer group; a
trainer of all projects and one of some each read them all, so a project is trained by who holds the place in the project's own group.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition

from anabranch.errors import UnavailableError
from anabranch.stores.kafka.bus import Bus

REQUESTS, RESULTS = "training-requests", "training-results"
FINAL = ("done", "failed", "refused")
"""Answers after which nothing more is said of a request."""
_LONGEST_TRAINING_MS = 86_400_000  # until then a trainer that does not ask for more is not taken for dead
_MOST = 500  # requests looked at together
_SHORT_MS = 100  # what comes within that belongs together
_PATIENCE = 30.0  # seconds: to be given the topic's partitions, or to read the results


@dataclass(frozen=True)
class Message:
    """One request as it came; `place` names it for people."""

    place: str
    value: bytes


class TrainingTopics:
    """Both topics, for trainers that share the requests as one consumer group."""

    def __init__(self, bus: Bus, group: str) -> None:
        self.bus = bus
        bus.ensure_topics([REQUESTS, RESULTS])
        self._consumer = self._member(group)
        self._pending: list[Message] = []
        self._read: dict[TopicPartition, int] = {}

    def _member(self, group: str) -> Any:
        options = {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "max_poll_interval_ms": _LONGEST_TRAINING_MS,
        }
        consumer = self.bus.consumer(max_poll_records=_MOST, **options)
        consumer.subscribe([REQUESTS])
        # A client that joins before it knows the topic's partitions joins twice, and loses its share for good when a poll ends during the second time.
        consumer.partitions_for_topic(REQUESTS)
        return consumer

    def requests(self, seconds: float) -> list[Message]:
        """Those that wait, the first after at most `seconds`; none when there is none."""
        found, self._pending = self._pending, []
        while len(found) < _MOST:
            polled = _messages(self._consumer.poll(timeout_ms=_SHORT_MS if found else int(seconds * 1000)))
            if not polled:
                break
            found += polled
        return found

    def wait_until_ready(self) -> None:
        """Raises UnavailableError when another trainer holds the requests."""
        deadline = time.monotonic() + _PATIENCE
        while not self._consumer.assignment():
            self._pending += _messages(self._consumer.poll(timeout_ms=100))
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"another trainer reads {REQUESTS}: stop it, or leave the requests to it"
                )

    def drained(self) -> bool:
        """Has everything that was there been given out?"""
        assigned = list(self._consumer.assignment())
        return (
            bool(assigned)
            and not self._pending
            and all(
                self._consumer.position(part) >= end
                for part, end in self._consumer.end_offsets(assigned).items()
            )
        )

    @contextmanager
    def alone(self, project: str, waiting: Callable[[], None]) -> Iterator[None]:
        """While this lasts no other trainer trains the project; `waiting` is called when one does, which is then waited for.

        One that is killed loses its place when its session ends.
        """
        place = TopicPartition(REQUESTS, 0)
        holder = self._member(f"anabranch-training-{project}")
        patience = time.monotonic() + _PATIENCE / 10
        try:
            while place not in holder.assignment():
                holder.poll(timeout_ms=100, max_records=1)
                if time.monotonic() > patience:
                    waiting()
                    patience = float("inf")
            yield
        finally:
            holder.close()

    def answer(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Publish answers and wait until the cluster keeps them."""
        self.bus.publish(
            RESULTS, [(str(one["request_id"]).encode(), json.dumps(one).encode()) for one in answers]
        )

    def commit(self) -> None:
        """What was given out so far is answered."""
        self._consumer.commit()

    def answered(self) -> dict[str, dict[str, Any]]:
        """The last final answer of every request, by its id, among those that came since this was last asked."""
        ends = self.bus.ends(RESULTS)
        found: dict[str, dict[str, Any]] = {}
        parts = [TopicPartition(RESULTS, partition) for partition in ends]
        if all(self._read.get(part, 0) >= ends[part.partition] for part in parts):
            return found
        consumer = self.bus.consumer(auto_offset_reset="earliest", enable_auto_commit=False)
        deadline = time.monotonic() + _PATIENCE
        try:
            consumer.assign(parts)
            consumer.seek_to_beginning(*[part for part in parts if part not in self._read])
            for part, position in self._read.items():
                consumer.seek(part, position)
            while any(consumer.position(part) < ends[part.partition] for part in parts):
                if time.monotonic() > deadline:
                    raise UnavailableError(f"the answers on {RESULTS} cannot be read: see 'anabranch status'")
                polled = consumer.poll(timeout_ms=500)
                for record in (record for records in polled.values() for record in records):
                    deadline = time.monotonic() + _PATIENCE
                    _note(found, record.value)
            self._read = {part: consumer.position(part) for part in parts}
        finally:
            consumer.close()
        return found

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def _messages(polled: Mapping[Any, Iterable[Any]]) -> list[Message]:
    records = [record for records in polled.values() for record in records]
    return [
        Message(f"{record.topic}/{record.partition}/{record.offset}", record.value or b"")
        for record in records
    ]


def _note(found: dict[str, dict[str, Any]], value: bytes | None) -> None:
    try:
        said = json.loads(value or b"")
    except ValueError:
        return  # somebody else's
    if isinstance(said, dict) and said.get("status") in FINAL and isinstance(said.get("request_id"), str):
        found[said["request_id"]] = said
