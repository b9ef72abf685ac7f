"""A relay: copies a topic that its producers stamp into one of ours, whose stamps are arrivals.

Partition i goes to partition i, in order, with keys, values, headers and tombstones; committed messages only.
Each message is copied at least once: a relay that is killed goes on after the last message of the copy, and
two relays at once write messages twice, which ids make one event. One of them works, the others stand by.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from anabranch.errors import UnavailableError
from anabranch.events.origins import HEADER, Origin
from anabranch.settings import BusSettings
from anabranch.stores.kafka.native import SECONDS, client
from anabranch.stores.kafka.relay_topics import (
    AT_END,
    GROUP,
    LARGEST,
    OUT_OF_RANGE,
    Mark,
    Pair,
    RelayAdmin,
    ends_of_copy,
    marks,
    name_of,
    places,
    relaying,
    watermarks,
)

log = logging.getLogger(__name__)
_TICK = 1.0  # seconds between marks
_LOOK = 5.0  # seconds between looks at the topics themselves
_SILENT = 5.0  # seconds without a new mark after which a relay counts as dead
_OLD_MS = 60_000  # age of a mark that no relay alive could have left, by clocks that nearly agree
_PATIENCE = 30.0  # seconds without a message for one that is to end
_MOST = 1_000  # messages taken from the client at once
_ENDED = "-"
_SOURCE = {
    "group.id": GROUP,
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 100,
    "fetch.max.bytes": 16 * 2**20,
    "queued.max.messages.kbytes": 32 * 1024,
    "fetch.queue.backoff.ms": 50,
}
_SINK = {
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,  # else the last message of the copy would not speak for those before
    "delivery.report.only.error": True,
    "linger.ms": 2,
    "message.timeout.ms": 0,  # that guarantee does not cover messages that are given up for their age
    "message.max.bytes": LARGEST,
    "queue.buffering.max.kbytes": 128 * 1024,
}


def _silently(_text: str) -> None:
    pass


@dataclass
class Relay:
    """Copies one topic: `run`, in any thread. What it says of itself may be read from others.

    `position`: by partition the first offset that is not copied. `copied`: messages since the start. `lost`:
    messages, and marks of transactions, that retention removed before they were copied; ever, as far as is
    known. `told` receives what people should know.
    """

    settings: BusSettings
    topic: str
    told: Callable[[str], None] = _silently
    position: dict[int, int] = field(default_factory=dict)
    copied: int = 0
    lost: int = 0
    active: bool = False
    _name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _since: dict[int, float] = field(default_factory=dict)
    _gives_way: bool = False
    _failed: KafkaError | None = None
    _said: set[str] = field(default_factory=set)
    _counted: dict[tuple[str, int], int] = field(default_factory=dict)

    def run(self, stopping: threading.Event, until: Mapping[int, int] | None = None) -> None:
        """Copy until `stopping` is set, or all that lies before the offsets `until` by partition is copied.

        Raises UnavailableError where it may be run again, AnabranchError where something must be done first.
        """
        with relaying(self.settings.bootstrap_servers, self.topic):
            admin = RelayAdmin(self.settings, self.topic)
            consumer = client(Consumer, self.settings, **_SOURCE)
            try:
                while not stopping.is_set():
                    pair = admin.pair()
                    self._find(consumer, pair)
                    if self._stands_by(consumer, pair, stopping, until) or stopping.is_set():
                        return
                    self._find(consumer, pair)
                    if self._copy(admin, consumer, pair, stopping, until):
                        return
            finally:
                self.active = False
                consumer.close()

    def behind(self, now: float | None = None) -> float:
        """Seconds since the relay was last at the end of every partition; 0 where it is there."""
        since = list(self._since.values())
        return max(0.0, (time.monotonic() if now is None else now) - min(since)) if since else 0.0

    def _find(self, consumer: Any, pair: Pair) -> None:
        """Bring `position` up to date from the copy and the marks, within what the original still holds."""
        if pair.compacted:
            self._tell("is compacted: a message that compaction removes before it is copied is no event")
        marked = marks(consumer, pair)
        self.lost = max([self.lost, *(mark.lost for _, mark in marked.values())])
        known = {number: offset for number, (offset, _) in marked.items()}
        for number, origin in ends_of_copy(consumer, pair).items():
            if origin is not None and origin.topic_id == pair.topic_id:
                known[number] = max(known.get(number, 0), origin.offset + 1)
            elif origin is not None and number not in known:
                self._tell("was deleted and made again: messages that were not copied before are lost")
        self.position = {
            place.partition: self._within(
                pair, place.partition, known.get(place.partition), *watermarks(consumer, place)
            )
            for place in places(pair)
        }

    def _within(self, pair: Pair, partition: int, offset: int | None, low: int, high: int) -> int:
        if offset is None:
            if low:
                self._tell(f"no longer holds the first {low:,} messages of partition {partition}")
            return low
        if offset < low:
            # A look that follows before the first mark finds the same ones missing again.
            self.lost += max(0, low - max(offset, self._counted.get((pair.topic_id, partition), 0)))
            self._counted[pair.topic_id, partition] = low
            self._tell(
                f"lost {low - offset:,} messages of partition {partition}: its retention removed them before "
                "they were copied; keep the relay running, or raise retention.ms"
            )
            return low
        if offset > high:
            self._tell(f"ends at offset {high} of partition {partition}, of which {offset} were copied")
        return min(offset, high)

    def _tell(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("topic %s %s", self.topic, text)
            self.told(f"topic {self.topic} {text}")

    def _stands_by(
        self,
        consumer: Any,
        pair: Pair,
        stopping: threading.Event,
        until: Mapping[int, int] | None,
    ) -> bool:
        """Wait as long as another relay works; returns whether everything before `until` is copied."""
        seen, changed = _latest(marks(consumer, pair)), time.monotonic()
        while not stopping.is_set():
            if self._reached(until):
                return True
            if seen is None or self._has_ended(seen) or time.monotonic() - changed > _SILENT:
                self._gives_way = False
                return False
            stopping.wait(_TICK / 2)
            known = marks(consumer, pair)
            for number, (offset, _) in known.items():
                self.position[number] = max(offset, self.position.get(number, 0))
            if _latest(known) != seen:
                seen, changed = _latest(known), time.monotonic()
        return False

    def _has_ended(self, mark: Mark) -> bool:
        """Whether the relay that left a mark works no more: it said so, is this one, or left it long ago."""
        mine = mark.by == self._name and not self._gives_way
        return mine or mark.by == _ENDED or time.time_ns() // 1_000_000 - mark.at > _OLD_MS

    def _reached(self, until: Mapping[int, int] | None) -> bool:
        return until is not None and all(self.position.get(part, 0) >= end for part, end in until.items())

    def _copy(
        self,
        admin: RelayAdmin,
        consumer: Any,
        pair: Pair,
        stopping: threading.Event,
        until: Mapping[int, int] | None,
    ) -> bool:
        """Copy; returns True when `until` is reached or it was stopped, False when to look at the topics."""
        self._failed, self.active = None, True
        producer = client(Producer, self.settings, on_delivery=self._note, **_SINK)
        consumer.assign([TopicPartition(pair.topic, part, at) for part, at in self.position.items()])
        self._since = dict.fromkeys(self.position, time.monotonic())
        ticked = looked = moved = time.monotonic()
        rival: Mark | None = None
        try:
            self._mark(consumer, pair)
            while True:
                try:
                    moved = time.monotonic() if self._forward(consumer, producer, pair) else moved
                except KafkaException as error:
                    if name_of(error) != OUT_OF_RANGE:
                        raise
                    self._flush(producer)
                    return False  # retention went on, or the topic is another one
                if self._reached(until) or stopping.is_set():
                    self._flush(producer)
                    self._mark(consumer, pair, ended=True)
                    return True
                now = time.monotonic()
                if until is not None and now - moved > _PATIENCE:
                    raise UnavailableError(
                        f"messages of {self.topic!r} cannot be read: see 'anabranch status'"
                    )
                if now - ticked > _TICK:
                    ticked = now
                    self._flush(producer)
                    latest = _latest(marks(consumer, pair))
                    if latest is not None and latest.by != _ENDED and latest.by < self._name:
                        if rival not in (None, latest):
                            self._gives_way = True  # another relay works, and its name comes first
                            return False
                        rival = latest
                    self._mark(consumer, pair)
                if now - looked > _LOOK:
                    looked = now
                    if admin.changed(pair):
                        self._flush(producer)
                        return False
        finally:
            self.active = False
            self._since = {}
            producer.purge()
            consumer.unassign()

    def _forward(self, consumer: Any, producer: Any, pair: Pair) -> bool:
        """Hand the messages that are there to the producer; returns whether there were any."""
        first = consumer.poll(0.1)
        messages = [] if first is None else [first, *consumer.consume(_MOST, 0)]
        touched = set()
        for message in messages:
            error, part = message.error(), message.partition()
            if error is None:
                self._produce(producer, message, pair)
                self.position[part] = message.offset() + 1
                self.copied += 1
                self._since.setdefault(part, time.monotonic())
                touched.add(part)
            elif error.name() == AT_END:
                self.position[part] = max(self.position.get(part, 0), message.offset())
                self._since.pop(part, None)
            else:
                raise KafkaException(error)
        producer.poll(0)
        if self._failed is not None:
            raise KafkaException(self._failed)
        for part in touched:
            _, high = consumer.get_watermark_offsets(TopicPartition(pair.topic, part), cached=True)
            if self.position[part] >= high:
                self._since.pop(part, None)
        return bool(messages)

    def _produce(self, producer: Any, message: Any, pair: Pair) -> None:
        part, offset = message.partition(), message.offset()
        origin = Origin(self.topic, part, offset, message.timestamp()[1], pair.topic_id)
        headers: list[Any] = [*(message.headers() or ()), (HEADER, origin.header())]
        while True:
            try:
                producer.produce(pair.copy, message.value(), message.key(), part, headers=headers)
                return
            except BufferError:
                producer.poll(0.1)
                if self._failed is not None:
                    raise KafkaException(self._failed) from None

    def _note(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._failed = self._failed or error

    def _flush(self, producer: Any) -> None:
        """Wait until everything is stored in the copy."""
        left = producer.flush(SECONDS)
        if self._failed is not None:
            raise KafkaException(self._failed)
        if left:
            raise UnavailableError(f"{left:,} messages of {self.topic!r} cannot be written to its copy now")

    def _mark(self, consumer: Any, pair: Pair, *, ended: bool = False) -> None:
        """Commit how far the copy holds everything; only after `_flush`."""
        mark = Mark(_ENDED if ended else self._name, time.time_ns() // 1_000_000, self.lost)
        offsets = [
            TopicPartition(pair.topic, part, offset, mark.text(pair))
            for part, offset in self.position.items()
        ]
        for each in consumer.commit(offsets=offsets, asynchronous=False) or ():
            if each.error is not None:
                raise KafkaException(each.error)


def _latest(known: Mapping[int, tuple[int, Mark]]) -> Mark | None:
    return max((mark for _, mark in known.values()), key=lambda mark: mark.at, default=None)
