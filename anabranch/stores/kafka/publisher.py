"""What publishes to topics: one connection that threads share, made anew after an error it does not survive.

librdkafka publishes (native.py), or kafka-python where the setting `bus.producer` says so. The idempotent
producer of kafka-python takes every error but a passing one for fatal: it fails all that waits and refuses
every message after that. Messages of one topic must not end the publishing of another.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from cachetools import TTLCache
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    RetriableError,
    UnknownError,
    UnknownTopicOrPartitionError,
)

from anabranch.errors import TooLargeError

Message = tuple[str, bytes | None, bytes]
"""Topic, key and value."""
Failure = tuple[Message, BaseException]
_OVERHEAD = 100
"""Bytes of a batch of one record, besides its key and value."""
_SMALL = 8192
"""Bytes that every topic takes: the size that a topic takes is not asked for smaller messages."""
_USUAL_SIZE = 1_048_588
"""Kafka's own `max.message.bytes`, where a topic's cannot be read."""
_SIZES_SECONDS = 60
SHORT_SECONDS = 5.0
"""Messages that have not been stored by then may be for a topic that was deleted."""
LINGER_MS = 5
"""How long a message waits for others of its partition."""
LARGEST_REQUEST = 8 * 1024 * 1024
"""Bytes of a request, and so of a message, that may be sent at all."""
_RECENT_SECONDS = 15.0
_MOST_SPLITS = 32


class Placement(NamedTuple):
    """Where a message was stored, and when (milliseconds since 1970, by the broker's clock)."""

    partition: int
    offset: int
    timestamp: int


class Connection(Protocol):
    """A client that publishes, for several threads. Raises KafkaError."""

    def send(
        self, messages: Sequence[Message], stored: list[Placement] | None, overdue: Callable[[], object]
    ) -> tuple[list[Failure], bool]:
        """Publish messages and wait; returns those that were not stored, and whether the client is spent.

        Where each was stored is added to `stored`. Calls `overdue` once when it takes SHORT_SECONDS.
        """

    def close(self, seconds: float | None = None) -> None:
        """Close it, within `seconds` if given."""


class PythonConnection:
    """A producer of kafka-python, which `make` gives."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._producer = make()

    def send(
        self, messages: Sequence[Message], stored: list[Placement] | None, overdue: Callable[[], object]
    ) -> tuple[list[Failure], bool]:
        """As `Connection.send`."""
        failed: list[Failure] = []
        for position, message in enumerate(messages):
            topic, key, value = message
            try:
                sent = self._producer.send(topic, key=key, value=value)
            except KafkaError as error:  # such as a topic that is not there, or a producer closed meanwhile
                failed += [(other, error) for other in messages[position:]]
                overdue()
                break
            sent.add_errback(partial(_note, failed, message))
            if stored is not None:
                sent.add_callback(partial(_store, stored))
        try:
            self._flush(SHORT_SECONDS)
        except KafkaTimeoutError:
            overdue()
            self._flush()
        return failed, any(not isinstance(error, RetriableError) for _, error in failed)

    def _flush(self, seconds: float | None = None) -> None:
        for _ in range(_MOST_SPLITS):
            try:
                self._producer.flush(seconds)
            except UnknownError:  # said of a batch that is sent again in halves, as it was too large
                continue
            return

    def close(self, seconds: float | None = None) -> None:
        """Close it; what waits is published before, within `seconds` if given."""
        self._producer.close(timeout=seconds)


class Publisher:
    """Publishes messages over one connection of this process.

    `connect` makes it, `sizes` gives `max.message.bytes` by topic, and `restore` creates those of the
    topics that are missing and were created by this process before. All three raise KafkaError.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        sizes: Callable[[Sequence[str]], Mapping[str, int]],
        restore: Callable[[Iterable[str]], object],
    ) -> None:
        self._connect, self._sizes, self._restore = connect, sizes, restore
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process = 0
        self._known_sizes: TTLCache[str, int] = TTLCache(1024, _SIZES_SECONDS)
        self._trouble: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """Why messages could not be published some seconds ago; None after the next that could."""
        why = self._trouble
        return None if why is None or time.monotonic() - why[1] > _RECENT_SECONDS else why[0]

    def send(self, messages: Sequence[Message], stored: list[Placement] | None = None) -> list[Failure]:
        """Publish messages, wait until the cluster has stored them, and return those that it has not.

        Where the others were stored is added to `stored`.
        Messages that fail are sent once more, topic by topic: what one topic does not take fails others.
        """
        failed = self._attempt(messages, stored)
        for pause in (0.0, 0.5, 1.5):
            if not failed or (pause and not _lacks_topics(failed)):
                break
            time.sleep(pause)  # a topic that is being deleted is still listed
            by_topic: dict[str, list[Message]] = {}
            for message, _ in failed:
                by_topic.setdefault(message[0], []).append(message)
            failed = [failure for each in by_topic.values() for failure in self._attempt(each, stored)]
        self._trouble = (str(failed[0][1]), time.monotonic()) if failed else None
        return failed

    def too_large(self, messages: Sequence[Message]) -> dict[int, TooLargeError]:
        """By position the messages that are larger than their topics take."""
        large = {place: size for place, message in enumerate(messages) if (size := _size(message)) > _SMALL}
        sizes = self._sizes_of(sorted({messages[place][0] for place in large}))
        return {
            place: TooLargeError(
                f"message {place + 1} has {size} bytes, and topic {topic!r} takes {sizes[topic]}: "
                "send less in one message, or raise the topic's max.message.bytes"
            )
            for place, size in large.items()
            if size > sizes[topic := messages[place][0]]
        }

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None and self._process == os.getpid():
            connection.close()

    def _attempt(self, messages: Sequence[Message], stored: list[Placement] | None = None) -> list[Failure]:
        connection = self._connected()
        failed, spent = connection.send(messages, stored, partial(self._restored, messages))
        if _lacks_topics(failed):
            self._restored(messages)
        if spent:
            self._renew(connection)
        return failed

    def _restored(self, messages: Sequence[Message]) -> None:
        with suppress(KafkaError):
            self._restore({topic for topic, _, _ in messages})

    def _connected(self) -> Connection:
        with self._lock:
            if self._connection is None or self._process != os.getpid():
                # A client of the process that this one was forked from has none of its threads here.
                self._connection, self._process = self._connect(), os.getpid()
            return self._connection

    def _renew(self, connection: Connection) -> None:
        """Let the next message open another connection than `connection`."""
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
        with suppress(KafkaError):
            connection.close(1)

    def _sizes_of(self, topics: Sequence[str]) -> Mapping[str, int]:
        with self._lock:
            known = {topic: self._known_sizes[topic] for topic in topics if topic in self._known_sizes}
        new = [topic for topic in topics if topic not in known]
        found: Mapping[str, int] = {}
        if new:
            with suppress(KafkaError):  # the caller may publish, but not describe
                found = self._sizes(new)
            with self._lock:
                self._known_sizes.update(found)
        return {topic: known.get(topic, found.get(topic, _USUAL_SIZE)) for topic in topics}


def _size(message: Message) -> int:
    """Bytes of a batch that holds one message, which is what a broker compares."""
    _, key, value = message
    return len(key or b"") + len(value or b"") + _OVERHEAD


def _lacks_topics(failed: Sequence[Failure]) -> bool:
    return any(isinstance(error, UnknownTopicOrPartitionError) for _, error in failed)


def _note(failed: list[Failure], message: Message, error: BaseException) -> None:
    failed.append((message, error))


def _store(stored: list[Placement], metadata: Any) -> None:
    stored.append(Placement(metadata.partition, metadata.offset, metadata.timestamp))
