"""Requests for training and their answers on the bus. Requests are read in order, committed once answered.

    training-requests  {"request_id", "project", "reason"?, "rows"?: {source: [row, ...]}} training-results
    {"request_id", "project", "status", "at", ...}, keyed by the id; status accepted, then done, failed or
    refused

The results are the only record of what was answered. Trainers of one name share the requests as one consumer
group. A trainer of all projects and one of a few read every request each, so a project is trained only by
the member that holds the partition in the project's own group.
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
"""Statuses that end a request."""
_LONGEST_TRAINING_MS = 86_400_000  # for so long a trainer that does not poll counts as alive
_MOST = 500  # requests in one batch
_SHORT_MS = 100  # requests that arrive within this time form one batch
_PATIENCE = 30.0  # seconds to be assigned the topic's partitions, or to read the results


@dataclass(frozen=True)
class Message:
    """One request as it was received; `place` (topic/partition/offset) names it for people."""

    place: str
    value: bytes


class TrainingTopics:
    """Both topics, read by trainers of one group. Raises UnavailableError when Kafka does not answer."""

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
        # A client that joins before it knows the topic's partitions joins twice, and loses its share for good
        # when a poll ends during the second time.
        consumer.partitions_for_topic(REQUESTS)
        return consumer

    def requests(self, seconds: float) -> list[Message]:
        """The requests that wait, possibly none; waits at most `seconds` for the first."""
        waiting, self._pending = self._pending, []
        with self.bus.answering():
            while len(waiting) < _MOST:
                patience = _SHORT_MS if waiting else int(seconds * 1000)
                polled = _messages(self._consumer.poll(timeout_ms=patience))
                if not polled:
                    break
                waiting += polled
        return waiting

    def wait_until_ready(self) -> None:
        """Wait for a share of the requests; raises UnavailableError when another trainer holds them all."""
        deadline = time.monotonic() + _PATIENCE
        with self.bus.answering():
            while not self._consumer.assignment():
                self._pending += _messages(self._consumer.poll(timeout_ms=100))
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"another trainer reads {REQUESTS}: stop it, or leave the requests to it"
                    )

    def drained(self) -> bool:
        """Whether every request on the topic has been returned by `requests`."""
        with self.bus.answering():
            assigned = list(self._consumer.assignment())
            if not assigned or self._pending:
                return False
            ends = self._consumer.end_offsets(assigned)
            return all(self._consumer.position(part) >= end for part, end in ends.items())

    @contextmanager
    def alone(self, project: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the project's training in the block; waits for another holder, after calling `waiting`.

        A trainer that is killed gives up its hold when its session expires.
        """
        place = TopicPartition(REQUESTS, 0)
        with self.bus.answering():
            holder = self._member(f"anabranch-training-{project}")
        patience = time.monotonic() + _PATIENCE / 10
        try:
            with self.bus.answering():
                while place not in holder.assignment():
                    holder.poll(timeout_ms=100, max_records=1)
                    if time.monotonic() > patience:
                        waiting()
                        patience = float("inf")
            yield
        finally:
            holder.close()

    def answer(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Publish answers and wait until the cluster has stored them."""
        self.bus.publish(
            RESULTS, [(str(one["request_id"]).encode(), json.dumps(one).encode()) for one in answers]
        )

    def commit(self) -> None:
        """Commit every request that `requests` has returned: they are answered."""
        with self.bus.answering():
            self._consumer.commit()

    def answered(self) -> dict[str, dict[str, Any]]:
        """The last final answer of each request, by its id, among the answers since the previous call."""
        ends = self.bus.ends(RESULTS)
        parts = [TopicPartition(RESULTS, partition) for partition in ends]
        if all(self._read.get(part, 0) >= ends[part.partition] for part in parts):
            return {}
        with self.bus.answering():
            return self._results({part: ends[part.partition] for part in parts})

    def _results(self, ends: Mapping[TopicPartition, int]) -> dict[str, dict[str, Any]]:
        """Read the answers from where the previous call ended to `ends`."""
        results: dict[str, dict[str, Any]] = {}
        parts = list(ends)
        consumer = self.bus.consumer(auto_offset_reset="earliest", enable_auto_commit=False)
        deadline = time.monotonic() + _PATIENCE
        try:
            consumer.assign(parts)
            consumer.seek_to_beginning(*[part for part in parts if part not in self._read])
            for part, position in self._read.items():
                consumer.seek(part, position)
            while any(consumer.position(part) < ends[part] for part in parts):
                if time.monotonic() > deadline:
                    raise UnavailableError(f"the answers on {RESULTS} cannot be read: see 'anabranch status'")
                polled = consumer.poll(timeout_ms=500)
                for record in (record for records in polled.values() for record in records):
                    deadline = time.monotonic() + _PATIENCE
                    _note(results, record.value)
            self._read = {part: consumer.position(part) for part in parts}
        finally:
            consumer.close()
        return results

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def _messages(polled: Mapping[Any, Iterable[Any]]) -> list[Message]:
    records = [record for records in polled.values() for record in records]
    return [
        Message(f"{record.topic}/{record.partition}/{record.offset}", record.value or b"")
        for record in records
    ]


def _note(results: dict[str, dict[str, Any]], value: bytes | None) -> None:
    try:
        answer = json.loads(value or b"")
    except ValueError:
        return  # not an answer of ours
    if (
        isinstance(answer, dict)
        and answer.get("status") in FINAL
        and isinstance(answer.get("request_id"), str)
    ):
        results[answer["request_id"]] = answer
