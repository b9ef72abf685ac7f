"""The topics of a relay: the original as it is, the copy as it must be, and how far the one is in the other.

Two places say how far a partition has been copied. The last message of the copy names its origin, and a relay
commits marks for the group `anabranch.relay`, by which relays also notice one another:

    offset     the first offset of the original's partition that is not copied yet
    metadata   <original's id> <copy's id> <relay, or - when it ended> <ms since 1970> <messages lost>

Both are written after the copies, so the larger of them is true. Only marks of the very same topics count.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs export only the first
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from anabranch.errors import AnabranchError, UnavailableError
from anabranch.events.origins import Origin, can_be_copied, copy_of
from anabranch.settings import BusSettings
from anabranch.stores.kafka.native import SECONDS, client

GROUP = "anabranch.relay"
LARGEST = 100 * 2**20
"""Bytes of a message that a copy takes: messages that arrived compressed are larger in it."""
_STAMPS, _ARRIVAL = "message.timestamp.type", "LogAppendTime"
_KEPT = ("retention.ms", "retention.bytes")
_RIGHTS = (
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "SASL_AUTHENTICATION_FAILED",
    "_AUTHENTICATION",
)
_NEW = (
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "UNKNOWN_TOPIC_OR_PART",
    "_UNKNOWN_PARTITION",
    "_UNKNOWN_TOPIC",
)
"""What is said of a partition that was just made."""
_NO_COORDINATOR = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS")
"""What is said of a group whose coordinator is being chosen."""
AT_END, OUT_OF_RANGE = "_PARTITION_EOF", "_AUTO_OFFSET_RESET"
"""Names of the client's errors: the end of a partition, and an offset that it does not hold."""


@contextmanager
def relaying(address: str, topic: str) -> Iterator[None]:
    """The edge of the relay's client: translates what it raises to AnabranchError or UnavailableError."""
    try:
        yield
    except KafkaException as error:
        found = error.args[0]
        code = name_of(error)
        text = found.str() if isinstance(found, KafkaError) else str(found)
        if code in _RIGHTS:
            raise AnabranchError(
                f"topic {topic!r} cannot be copied ({text}): the user of [bus] security needs Read and "
                f"DescribeConfigs on {topic}, Create, Alter, Read and Write on {copy_of(topic)}, and Read on "
                f"group {GROUP}"
            ) from error
        if code in ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE"):
            raise AnabranchError(
                f"a message of {topic!r} is larger than its copy {copy_of(topic)!r} takes ({text}): raise "
                "max.message.bytes of the copy"
            ) from error
        raise UnavailableError(
            f"topic {topic!r} cannot be copied now (Kafka at {address}: {text}): see 'anabranch status'"
        ) from error


def name_of(error: KafkaException) -> str:
    """The name of an error in Kafka's or librdkafka's list; empty where it has none."""
    found = error.args[0] if error.args else None
    return found.name() if isinstance(found, KafkaError) else ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A topic and its copy as they are now: identities, and partitions of the original."""

    topic: str
    topic_id: str
    copy_id: str
    partitions: int
    compacted: bool = False

    @property
    def copy(self) -> str:
        """The copy's name."""
        return copy_of(self.topic)


@dataclass(frozen=True)
class Mark:
    """What a relay commits: who it is (``-`` once it has ended), when, and how many messages were lost."""

    by: str
    at: int
    lost: int

    def text(self, pair: Pair) -> str:
        """The metadata of a commit."""
        return f"{pair.topic_id} {pair.copy_id} {self.by} {self.at} {self.lost}"

    @staticmethod
    def of(text: str | None, pair: Pair) -> "Mark | None":
        """The mark in the metadata of a commit; None for one of other topics."""
        words = (text or "").split(" ")
        if len(words) != 5 or words[:2] != [pair.topic_id, pair.copy_id]:
            return None
        return Mark(words[2], int(words[3]), int(words[4]))


class RelayAdmin:
    """Requests about the two topics, over one connection."""

    def __init__(self, settings: BusSettings, topic: str) -> None:
        if not can_be_copied(topic):
            raise AnabranchError(
                f"topic {topic!r} is stamped by its producers and its name is too long for a copy: set "
                "message.timestamp.type=LogAppendTime, or copy it to a topic of a shorter name"
            )
        self._admin = client(AdminClient, settings)
        self._topic = topic

    def pair(self) -> Pair:
        """Both topics; creates the copy where it is missing, and its partitions."""
        original, copy = self._described(self._topic), self._described(copy_of(self._topic))
        if original is None:
            raise UnavailableError(f"topic {self._topic!r} is not on the bus: it was deleted")
        configs = self._configs(self._topic)
        partitions = len(original.partitions)
        if copy is None:
            copy = self._created(partitions, configs)
        elif self._configs(copy_of(self._topic)).get(_STAMPS) != _ARRIVAL:
            raise AnabranchError(
                f"topic {copy_of(self._topic)!r} has not {_STAMPS}={_ARRIVAL}, so it is no copy of ours: "
                "delete it, and the relay makes it anew"
            )
        elif len(copy.partitions) < partitions:
            name = copy_of(self._topic)
            _done(self._admin.create_partitions([NewPartitions(name, partitions)]))
            self._until(lambda: len(getattr(self._described(name), "partitions", ())) >= partitions)
        return Pair(
            topic=self._topic,
            topic_id=str(original.topic_id),
            copy_id=str(copy.topic_id),
            partitions=partitions,
            compacted="compact" in configs.get("cleanup.policy", ""),
        )

    def changed(self, pair: Pair) -> bool:
        """Whether a topic was deleted since, or made again, or given partitions."""
        original, copy = self._described(self._topic), self._described(pair.copy)
        return (
            original is None
            or copy is None
            or (str(original.topic_id), str(copy.topic_id), len(original.partitions))
            != (pair.topic_id, pair.copy_id, pair.partitions)
        )

    def _created(self, partitions: int, configs: Mapping[str, str]) -> Any:
        name = copy_of(self._topic)
        wanted = {
            _STAMPS: _ARRIVAL,
            "cleanup.policy": "delete",  # in a compacted copy events would be lost
            "max.message.bytes": str(LARGEST),
            **{key: configs[key] for key in _KEPT if key in configs},
        }
        try:
            _done(self._admin.create_topics([NewTopic(name, num_partitions=partitions, config=wanted)]))
        except KafkaException as error:
            if name_of(error) != "TOPIC_ALREADY_EXISTS":
                raise
        self._until(lambda: self._described(name) is not None)
        return self._described(name)

    def _configs(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        (found,) = _done(self._admin.describe_configs([resource], request_timeout=SECONDS))
        return {name: entry.value for name, entry in found.items()}

    def _described(self, topic: str) -> Any | None:
        try:
            (found,) = _done(self._admin.describe_topics(TopicCollection([topic]), request_timeout=SECONDS))
        except KafkaException as error:
            if name_of(error) == "UNKNOWN_TOPIC_OR_PART":
                return None
            raise
        return found

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true() and time.monotonic() < deadline:
            time.sleep(0.05)


def _done(futures: Mapping[Any, Any]) -> list[Any]:
    return [future.result() for future in futures.values()]


def places(pair: Pair) -> list[TopicPartition]:
    """The original's partitions."""
    return [TopicPartition(pair.topic, number) for number in range(pair.partitions)]


def watermarks(consumer: Any, place: TopicPartition) -> tuple[int, int]:
    """The first offset that a partition holds and the one after its last; waits for a leader of a new one."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=SECONDS)
            return int(low), int(high)
        except KafkaException as error:
            if name_of(error) not in _NEW or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            consumer.list_topics(place.topic, timeout=SECONDS)  # a client that knew the topic looks again


def marks(consumer: Any, pair: Pair) -> dict[int, tuple[int, Mark]]:
    """By partition how far it was copied and the mark that says so, where there is one."""
    found = {}
    for each in _committed(consumer, pair):
        if each.error is not None:
            raise KafkaException(each.error)
        mark = Mark.of(each.metadata, pair)
        if mark is not None and each.offset >= 0:
            found[each.partition] = (each.offset, mark)
    return found


def _committed(consumer: Any, pair: Pair) -> list[TopicPartition]:
    """The group's offsets; waits for its coordinator, which a broker that just started has not got ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            committed: list[TopicPartition] = consumer.committed(places(pair), timeout=SECONDS)
            return committed
        except KafkaException as error:
            # The client keeps asking for the group's coordinator; why it gets none, it says in the queue.
            why = consumer.poll(0)
            if why is not None and why.error() is not None and why.error().name() in _RIGHTS:
                raise KafkaException(why.error()) from None
            if name_of(error) not in _NO_COORDINATOR or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ends_of_copy(consumer: Any, pair: Pair) -> dict[int, Origin | None]:
    """By partition of the copy the origin of its last message; nothing where it holds none.

    None for a message that no relay wrote.
    """
    starts = {}
    for number in range(pair.partitions):
        low, high = watermarks(consumer, TopicPartition(pair.copy, number))
        if high > low:
            starts[number] = high - 1
    found: dict[int, Origin | None] = {}
    consumer.assign([TopicPartition(pair.copy, number, offset) for number, offset in starts.items()])
    ended: set[int] = set()
    deadline = time.monotonic() + SECONDS
    while len(found.keys() | ended) < len(starts):
        message = consumer.poll(0.5)
        if message is None:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the last messages of {pair.copy!r} cannot be read")
        elif message.error() is None:
            found[message.partition()] = Origin.of(message.headers())
        elif message.error().name() == AT_END:
            ended.add(message.partition())
        else:
            raise KafkaException(message.error())
    consumer.unassign()
    return found
