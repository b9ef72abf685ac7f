"""What publishes to topics: one connection that threads share, made anew after an error it does not survive.

kafka-python's idempotent producer takes every error but a passing one for fatal: it fails all that waits and
refuses every message after that. Messages of one topic must not end the publishing of another.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from cachetools import TTLCache
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError

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
_SHORT_SECONDS = 5.0
"""Messages that have not been stored by then may be for a topic that was deleted."""
_RECENT_SECONDS = 15.0


class Publisher:
    """Publishes messages over one producer.

    `connect` makes a producer, `sizes` gives `max.message.bytes` by topic, and `restore` creates those of the
    topics that are missing and were created by this process before. All three raise KafkaError.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        sizes: Callable[[Sequence[str]], Mapping[str, int]],
        restore: Callable[[Iterable[str]], object],
    ) -> None:
        self._connect, self._sizes, self._restore = connect, sizes, restore
        self._lock = threading.Lock()
        self._producer: Any = None
        self._known_sizes: TTLCache[str, int] = TTLCache(1024, _SIZES_SECONDS)
        self._trouble: tuple[str, float] | None = None

    @property
    def trouble(self) -> str | None:
        """Why messages could not be published some seconds ago; None after the next that could."""
        why = self._trouble
        return None if why is None or time.monotonic() - why[1] > _RECENT_SECONDS else why[0]

    def send(self, messages: Sequence[Message], stored: list[Any] | None = None) -> list[Failure]:
        """Publish messages, wait until the cluster has stored them, and return those that it has not.

        The client's metadata of those that it has (partition, offset, timestamp) is added to `stored`.
        Messages that fail are sent once more, topic by topic: what one topic does not take fails others.
        """
        failed = self._attempt(messages, stored)
        if failed:
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
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _attempt(self, messages: Sequence[Message], stored: list[Any] | None = None) -> list[Failure]:
        producer = self._connected()
        failed: list[Failure] = []
        for position, message in enumerate(messages):
            topic, key, value = message
            try:
                sent = producer.send(topic, key=key, value=value)
            except KafkaError as error:  # such as a topic that is not there, or a producer closed meanwhile
                failed += [(other, error) for other in messages[position:]]
                self._restored(messages)
                break
            sent.add_errback(partial(_note, failed, message))
            if stored is not None:
                sent.add_callback(stored.append)
        try:
            producer.flush(_SHORT_SECONDS)
        except KafkaTimeoutError:
            self._restored(messages)
            producer.flush()
        if any(not isinstance(error, RetriableError) for _, error in failed):
            self._renew(producer)
        return failed

    def _restored(self, messages: Sequence[Message]) -> None:
        with suppress(KafkaError):
            self._restore({topic for topic, _, _ in messages})

    def _connected(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._producer = self._connect()
            return self._producer

    def _renew(self, producer: Any) -> None:
        """Let the next message open another connection than `producer`."""
        with self._lock:
            if self._producer is not producer:
                return
            self._producer = None
        with suppress(KafkaError):
            producer.close(timeout=1)

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


def _note(failed: list[Failure], message: Message, error: BaseException) -> None:
    failed.append((message, error))
