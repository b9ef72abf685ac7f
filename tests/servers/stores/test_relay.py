"""A relay between real topics: what it copies, where it goes on, and what it says of what it cannot copy."""

import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from anabranch.errors import AnabranchError
from anabranch.events.origins import HEADER, Origin, copy_of
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.relay import Relay
from jobs.servers.processes import wait_until
from jobs.wiring.settings import ROOT
from tests.support.drill import SEED, recovery
from tests.support.topics import delete, transaction

OF_PRODUCERS = {"message.timestamp.type": "CreateTime"}
_STAMP = 1_700_000_000_000


@pytest.fixture
def topic(bus: Bus) -> str:
    """A topic of its own, which its producers stamp, with two partitions."""
    name = f"theirs-{uuid.uuid4().hex[:8]}"
    # Stamps of years ago would let the default retention remove messages at any moment.
    bus.ensure_topics([name], partitions=2, configs={**OF_PRODUCERS, "retention.ms": "-1"})
    return name


def send(bus: Bus, topic: str, values: Sequence[bytes | None], partition: int = 0, **options: Any) -> None:
    producer = KafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers, **options)
    for value in values:
        producer.send(topic, key=b"k", value=value, partition=partition, timestamp_ms=_STAMP)
    producer.close()


def read(bus: Bus, topic: str) -> list[Any]:
    """Every committed record, by partition and offset."""
    with bus.consumer(consumer_timeout_ms=5_000) as consumer:
        places = [TopicPartition(topic, number) for number in bus.ends(topic)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = bus.ends(topic)
        found = []
        while any(consumer.position(place) < ends[place.partition] for place in places):
            found += [one for batch in consumer.poll(timeout_ms=200).values() for one in batch]
    return sorted(found, key=lambda one: (one.partition, one.offset))


def copy(bus: Bus, topic: str) -> Relay:
    """Copy all that the topic holds now."""
    relay = Relay(bus.settings, topic)
    relay.run(threading.Event(), bus.ends(topic))
    return relay


def copied(bus: Bus, topic: str) -> list[bytes | None]:
    return [one.value for one in read(bus, copy_of(topic))]


@contextmanager
def running(relay: Relay) -> Iterator[threading.Event]:
    """The relay in a thread; ends with the block."""
    stopping = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stopping,))
    thread.start()
    try:
        yield stopping
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_copy_has_keys_values_headers_partitions_and_the_origin_and_is_stamped_by_the_broker(
    bus: Bus, topic: str
) -> None:
    producer = KafkaProducer(
        bootstrap_servers=bus.settings.bootstrap_servers, compression_type="gzip", max_request_size=4_000_000
    )
    for number in range(6):
        headers = [("trace", b"t"), ("trace", str(number).encode())]
        value = None if number == 4 else b"x" * 1_500_000 if number == 5 else str(number).encode()
        producer.send(
            topic, value, f"k{number}".encode(), headers, partition=number % 2, timestamp_ms=_STAMP + number
        )
    producer.close()
    began = time.time_ns() // 1_000_000
    relay = copy(bus, topic)
    assert relay.copied == 6
    there, here = read(bus, topic), read(bus, copy_of(topic))
    for before, after in zip(there, here, strict=True):
        assert (after.key, after.value, after.partition) == (before.key, before.value, before.partition)
        assert after.headers[:2] == before.headers
        origin = Origin.of(after.headers)
        assert origin is not None
        assert (origin.topic, origin.partition, origin.offset) == (topic, before.partition, before.offset)
        assert origin.stamp == before.timestamp
        assert (after.timestamp_type, after.timestamp >= began - 1_000) == (1, True)
    assert bus.relayed([topic]) == [topic]
    assert bus.read_as(topic) == copy_of(topic)
    assert HEADER == "anabranch.origin"


def test_a_topic_that_the_broker_stamps_is_read_as_it_is(bus: Bus) -> None:
    name = f"ours-{uuid.uuid4().hex[:8]}"
    bus.ensure_topics([name])
    assert bus.relayed([name]) == []
    assert bus.read_as(name) == name


def test_a_relay_goes_on_where_the_copy_ends_whatever_became_of_its_marks(bus: Bus, topic: str) -> None:
    send(bus, topic, [b"1", b"2"])
    copy(bus, topic)
    admin = KafkaAdminClient(bootstrap_servers=bus.settings.bootstrap_servers)
    admin.delete_group_offsets("anabranch.relay", [TopicPartition(topic, 0), TopicPartition(topic, 1)])
    send(bus, topic, [b"3"])
    assert copy(bus, topic).copied == 1
    admin.delete_records({TopicPartition(copy_of(topic), 0): 3})  # its retention removed all of it
    send(bus, topic, [b"4"])
    assert copy(bus, topic).copied == 1
    assert copied(bus, topic) == [b"4"]
    admin.close()


def test_aborted_transactions_are_not_copied_and_committed_ones_once(bus: Bus, topic: str) -> None:
    with transaction(bus, topic, [b"never"] * 3, commit=False):
        pass
    with transaction(bus, topic, [b"once"], commit=True):
        assert copy(bus, topic).copied == 0  # it is open: nothing behind it can be read
    relay = copy(bus, topic)
    assert copied(bus, topic) == [b"once"]
    assert relay.position == bus.ends(topic)
    assert copy(bus, topic).copied == 0


def test_partitions_that_are_added_are_followed(bus: Bus, topic: str) -> None:
    send(bus, topic, [b"1"])
    relay = Relay(bus.settings, topic)
    with running(relay):
        assert wait_until(lambda: relay.copied == 1, 20)
        with bus._admin() as admin:
            admin.create_partitions({topic: 3})
        send(bus, topic, [b"2"], partition=2)
        assert wait_until(lambda: relay.copied == 2, 20)
    assert [(one.partition, one.value) for one in read(bus, copy_of(topic))] == [(0, b"1"), (2, b"2")]


def test_messages_that_retention_removed_unread_are_told_and_counted(bus: Bus, topic: str) -> None:
    send(bus, topic, [b"1", b"2"])
    copy(bus, topic)
    send(bus, topic, [b"3", b"4", b"5", b"6"])
    with bus._admin() as admin:
        admin.delete_records({TopicPartition(topic, 0): 5})
    said: list[str] = []
    relay = Relay(bus.settings, topic, said.append)
    relay.run(threading.Event(), bus.ends(topic))
    assert copied(bus, topic) == [b"1", b"2", b"6"]
    assert relay.lost == 3
    assert said == [
        f"topic {topic} lost 3 messages of partition 0: its retention removed them before they were copied; "
        "keep the relay running, or raise retention.ms"
    ]
    assert copy(bus, topic).lost == 3  # known from the marks


def test_a_topic_that_was_deleted_and_made_again_is_copied_from_its_beginning(bus: Bus, topic: str) -> None:
    send(bus, topic, [b"1", b"2"])
    said: list[str] = []
    relay = Relay(bus.settings, topic, said.append)
    with running(relay):
        assert wait_until(lambda: relay.copied == 2, 20)
    delete(bus, topic)
    bus.ensure_topics([topic], partitions=1, configs=OF_PRODUCERS)
    send(bus, topic, [b"a", b"b", b"c"])
    relay.run(threading.Event(), bus.ends(topic))
    assert [value for value in copied(bus, topic) if value is not None] == [b"1", b"2", b"a", b"b", b"c"]
    assert "was deleted and made again" in "".join(said)


def test_compacted_topics_are_copied_and_what_that_means_is_said(bus: Bus) -> None:
    name = f"compacted-{uuid.uuid4().hex[:8]}"
    bus.ensure_topics([name], configs={**OF_PRODUCERS, "cleanup.policy": "compact"})
    send(bus, name, [b"1", None])
    said: list[str] = []
    Relay(bus.settings, name, said.append).run(threading.Event(), bus.ends(name))
    assert copied(bus, name) == [b"1", None]
    assert "is compacted" in said[0]


def test_one_of_several_relays_works_and_another_takes_over(bus: Bus, topic: str) -> None:
    first, second = Relay(bus.settings, topic), Relay(bus.settings, topic)
    with running(first):
        assert wait_until(lambda: first.active, 20)
        with running(second):
            send(bus, topic, [b"1", b"2", b"3"])
            assert wait_until(lambda: first.copied == 3, 20)
            once = Relay(bus.settings, topic)
            once.run(threading.Event(), bus.ends(topic))  # waits for the one that works
            assert (once.copied, second.copied, second.active) == (0, 0, False)
            assert wait_until(lambda: sum(second.position.values()) == 3, 20)
    send(bus, topic, [b"4"])
    with running(second):
        assert wait_until(lambda: second.copied == 1, 20)
    assert copied(bus, topic) == [b"1", b"2", b"3", b"4"]


def test_two_relays_that_began_at_once_lose_nothing_and_one_gives_way(bus: Bus, topic: str) -> None:
    relays = [Relay(bus.settings, topic) for _ in range(2)]
    values = [str(number).encode() for number in range(300)]
    with running(relays[0]), running(relays[1]):
        for number in range(0, 300, 50):
            send(bus, topic, values[number : number + 50], partition=number % 2)
        assert wait_until(lambda: sum(relay.active for relay in relays) == 1, 20)
        assert wait_until(lambda: set(copied(bus, topic)) == set(values), 20)
    origins = {}
    for one in read(bus, copy_of(topic)):
        origin = Origin.of(one.headers)
        assert origin is not None
        origins[origin.partition, origin.offset] = one.value
    assert origins == {(one.partition, one.offset): one.value for one in read(bus, topic)}


def killed_again_and_again(bus: Bus, topic: str, kills: int, sent: int) -> None:
    """Publish `sent` messages to each of two partitions while processes that relay them are killed."""
    code = (
        "import sys, threading\n"
        "from anabranch.settings import BusSettings\n"
        "from anabranch.stores.kafka.relay import Relay\n"
        "Relay(BusSettings(bootstrap_servers=sys.argv[1]), sys.argv[2]).run(threading.Event())\n"
    )
    command = [sys.executable, "-c", code, bus.settings.bootstrap_servers, topic]
    chance = random.Random(SEED)
    producer = KafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers)
    batches = [range(first, first + sent // (kills + 1)) for first in range(0, sent, sent // (kills + 1))]
    copied = partial(_count, bus, copy_of(topic))
    for numbers in batches:
        before, process = copied(), subprocess.Popen(command, cwd=ROOT)
        for number in numbers:
            for part in (0, 1):
                producer.send(topic, str(number).encode(), partition=part, timestamp_ms=_STAMP)
        producer.flush()
        try:
            assert wait_until(lambda seen=before: copied() > seen, 30)  # type: ignore[misc]
            time.sleep(chance.random() / 5)
        finally:
            process.kill()
            process.wait()
    producer.close()


def _count(bus: Bus, topic: str) -> int:
    """How many messages a topic has; none while it is not there."""
    try:
        return sum(bus.ends(topic).values())
    except AnabranchError:
        return 0


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.drill)])
def test_a_relay_that_is_killed_loses_nothing_and_keeps_the_order(bus: Bus, topic: str, kills: int) -> None:
    with recovery("kill of a relay", f"{kills} times while 2 partitions are written") as found:
        killed_again_and_again(bus, topic, kills, 400 * (kills + 1))
        copy(bus, topic)
        reached = {0: -1, 1: -1}
        for one in read(bus, copy_of(topic)):
            origin = Origin.of(one.headers)
            assert origin is not None
            assert origin.partition == one.partition
            # What came before in the original came before in the copy: no gap, though some come again.
            assert origin.offset <= reached[one.partition] + 1
            reached[one.partition] = max(reached[one.partition], origin.offset)
            found.compared += 1
        assert {part: last + 1 for part, last in reached.items()} == bus.ends(topic)


@pytest.mark.parametrize(
    ("kind", "operation", "what"),
    [("TOPIC", "READ", "theirs"), ("TOPIC", "WRITE", "copy"), ("GROUP", "READ", "group")],
)
def test_a_right_that_is_missing_is_named(
    bus: Bus, topic: str, kind: str, operation: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.stores.kafka.relay_topics.SECONDS", 3.0)
    name = {"theirs": topic, "copy": copy_of(topic), "group": "anabranch.relay"}[what]
    send(bus, topic, [b"1"])
    denied = ACL(
        principal="User:ANONYMOUS",
        host="*",
        operation=ACLOperation[operation],
        permission_type=ACLPermissionType.DENY,
        resource_pattern=ResourcePattern(ResourceType[kind], name),
    )
    with bus._admin() as admin:
        admin.create_acls([denied])
    try:
        with pytest.raises(
            AnabranchError, match=r"needs Read and DescribeConfigs|not allow to describe topic"
        ):
            copy(bus, topic)
    finally:
        with bus._admin() as admin:
            admin.delete_acls([denied])
    assert copy(bus, topic).copied == 1
