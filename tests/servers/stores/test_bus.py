"""The bus's contract, against a real Kafka."""

import multiprocessing
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from anabranch.errors import AnabranchError, TooLargeError, UnavailableError
from anabranch.settings import BusSettings
from anabranch.stores.kafka.bus import Bus
from jobs.wiring.settings import Settings

pytestmark = pytest.mark.usefixtures("servers")
BOTH = pytest.mark.parametrize("bus", ["librdkafka", "kafka-python"], indirect=True)
"""One contract for both clients that publish."""


@pytest.fixture
def bus(servers: Settings, request: pytest.FixtureRequest) -> Iterator[Bus]:
    """The gateway to the run's real broker; its parameter is what publishes."""
    producer = getattr(request, "param", servers.bus.producer)
    with Bus(replace(servers.bus, producer=producer)) as made:
        yield made


@pytest.fixture
def topic() -> str:
    return f"bus-{uuid.uuid4().hex[:12]}"


def read(bus: Bus, topic: str) -> list[tuple[int, int, bytes | None, bytes | None, int, int]]:
    """(partition, offset, key, value, timestamp, timestamp type) of every message, by offset."""
    ends = bus.ends(topic)
    consumer = KafkaConsumer(
        bootstrap_servers=bus.settings.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in ends])
        consumer.seek_to_beginning()
        found: list[tuple[int, int, bytes | None, bytes | None, int, int]] = []
        deadline = time.monotonic() + 20
        while len(found) < sum(ends.values()):
            assert time.monotonic() < deadline, "messages are missing"
            for messages in consumer.poll(timeout_ms=500).values():
                found += [
                    (each.partition, each.offset, each.key, each.value, each.timestamp, each.timestamp_type)
                    for each in messages
                ]
        return sorted(found)
    finally:
        consumer.close()


@BOTH
def test_messages_are_published_in_order_and_stamped_by_the_broker(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic])
    assert bus.ends(topic) == {0: 0}
    assert bus.publish(topic, [(b"a", b"1"), (None, b"2"), (b"a", b"3")]) == 3
    found = read(bus, topic)
    assert [each[1:4] for each in found] == [(0, b"a", b"1"), (1, None, b"2"), (2, b"a", b"3")]
    assert {each[5] for each in found} == {1}  # LogAppendTime
    assert bus.ends(topic) == {0: 3}
    assert bus.relayed([topic]) == []


def test_existing_topics_are_left_unchanged(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic, topic], partitions=3)
    bus.ensure_topics([topic], partitions=1)
    assert bus.ends(topic) == {0: 0, 1: 0, 2: 0}


def test_topics_that_are_there_are_told_with_their_ends_by_one_connection(bus: Bus, topic: str) -> None:
    other = f"{topic}-other"
    bus.ensure_topics([topic, other], partitions=2)
    bus.publish(other, [(None, b"1"), (None, b"2")])
    found = bus.topics_at([topic, f"{topic}-missing", other, topic])
    assert found == {name: (bus.topic_id(name), bus.ends(name)) for name in (topic, other)}
    assert found[topic][0] != found[other][0] != ""
    assert sum(found[other][1].values()) == 2


def test_messages_of_one_key_keep_to_one_partition_whatever_publishes(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic], partitions=3)
    messages = [(f"key {number % 5}".encode(), str(number).encode()) for number in range(50)]
    bus.publish(topic, messages)
    with Bus(replace(bus.settings, producer="kafka-python")) as other:
        other.publish(topic, messages[:5])
    places: dict[bytes | None, set[int]] = {}
    for partition, _, key, *_ in read(bus, topic):
        places.setdefault(key, set()).add(partition)
    assert len(places) == 5
    assert all(len(partitions) == 1 for partitions in places.values())


def test_offsets_at_a_time_are_those_of_the_first_later_arrival_or_the_end(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic], partitions=2)
    assert bus.offsets_at(topic, 0) == {0: 0, 1: 0}
    bus.publish(topic, [(b"a", b"1")])
    (partition, _, _, _, first, _) = read(bus, topic)[0]
    while time.time_ns() // 1_000_000 <= first:
        pass
    bus.publish(topic, [(b"a", b"2")])
    second = read(bus, topic)[1][4]
    assert second > first
    other = 1 - partition
    for micros, wanted in (
        (0, 0),
        (first * 1000, 0),
        (first * 1000 + 1, 1),
        (second * 1000, 1),
        (second * 1000 + 1, 2),
        (second * 1000 + 10**9, 2),
    ):
        assert bus.offsets_at(topic, micros) == {partition: wanted, other: 0}


def test_a_topic_stamped_by_its_producers_is_read_through_a_copy(bus: Bus, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bus.settings.bootstrap_servers)
    try:
        admin.create_topics(
            {topic: {"num_partitions": 1, "configs": {"message.timestamp.type": "CreateTime"}}}
        )
    finally:
        admin.close()
    assert bus.relayed([topic]) == [topic]
    assert bus.read_as(topic) == f"anabranch.{topic}"


def test_an_error_names_the_missing_topic(bus: Bus, topic: str) -> None:
    with pytest.raises(AnabranchError, match=f"topic '{topic}' is not on the bus"):
        bus.ends(topic)


@pytest.mark.parametrize("producer", ["librdkafka", "kafka-python"])
def test_a_broker_that_is_down_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, producer: Any) -> None:
    monkeypatch.setattr("anabranch.stores.kafka.bus._PATIENCE_MS", 300)
    down = Bus(BusSettings(bootstrap_servers="127.0.0.1:1", producer=producer))
    for ask in (
        lambda: down.ensure_topics(["a"]),
        lambda: down.publish("a", [(None, b"1")]),
        lambda: down.ends("a"),
    ):
        with pytest.raises(UnavailableError, match=r"Kafka at 127.0.0.1:1 does not answer.*anabranch up"):
            ask()


def test_sparks_options_spell_security_as_java_does() -> None:
    security = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "secret",
    }
    bus = Bus(BusSettings(bootstrap_servers="a:1,b:2", security=security))
    options = bus.spark_options(["x", "y"])
    assert options["kafka.bootstrap.servers"] == "a:1,b:2"
    assert options["kafka.isolation.level"] == "read_committed"
    assert (options["subscribe"], options["startingOffsets"], options["failOnDataLoss"]) == (
        "x,y",
        "earliest",
        "true",
    )
    assert options["kafka.security.protocol"] == "SASL_SSL"
    assert options["kafka.sasl.jaas.config"].endswith(
        'PlainLoginModule required username="me" password="secret";'
    )
    assert "subscribe" not in bus.spark_options([])


@BOTH
def test_a_message_larger_than_its_topic_takes_is_refused_and_the_next_are_published(
    bus: Bus, topic: str
) -> None:
    bus.ensure_topics([topic], configs={"max.message.bytes": "20000"})
    with pytest.raises(TooLargeError, match=f"message 2 has 20102 bytes, and topic '{topic}' takes 20000"):
        bus.publish(topic, [(b"a", b"1"), (b"b", b"x" * 20_001)])
    assert bus.ends(topic) == {0: 0}  # all of them or none
    assert bus.publish(topic, [(b"a", b"1")]) == 1
    assert bus.publish(topic, [(b"a", b"x" * 19_899)]) == 1  # to the byte
    assert bus.trouble is None


@BOTH
def test_what_one_topic_never_takes_ends_neither_the_connection_nor_other_topics(
    bus: Bus, topic: str
) -> None:
    tiny, keyed = f"{topic}-tiny", f"{topic}-keyed"
    bus.ensure_topics([topic])
    bus.ensure_topics([tiny], configs={"max.message.bytes": "200"})
    bus.ensure_topics([keyed], configs={"cleanup.policy": "compact"})
    refused = bus.offer(
        [(tiny, b"a", b"x" * 500), (topic, b"a", b"1"), (keyed, None, b"no key"), (topic, b"a", b"2")]
    )
    assert sorted(refused) == [0, 2]
    assert not any(isinstance(error, UnavailableError) for error in refused.values())
    assert bus.ends(topic)[0] >= 2  # a copy may be sent twice, none is missing
    assert bus.trouble is not None
    with pytest.raises(TooLargeError, match=r"larger than its max\.message\.bytes"):
        bus.publish(tiny, [(b"a", b"x" * 500)])
    assert bus.publish(topic, [(b"a", b"3")]) == 1
    assert bus.trouble is None


@BOTH
def test_messages_that_exceed_their_topic_only_together_are_published(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic], configs={"max.message.bytes": "20000"})
    assert bus.publish(topic, [(None, b"x" * 1_000)] * 50) == 50
    assert bus.ends(topic)[0] >= 50


@BOTH
def test_one_message_comes_with_its_place_and_arrival(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic])
    bus.publish(topic, [(b"a", b"1")])
    assert bus.publish_one(topic, b"b", b"") == (0, 1, read(bus, topic)[1][4] * 1000)


@BOTH
def test_threads_publish_side_by_side_and_a_fork_opens_a_connection_of_its_own(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic])
    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(lambda one: bus.publish(topic, [(None, b"%d" % one)] * 25), range(4))
    assert sum(counts) == 100
    forked = multiprocessing.get_context("fork").Process(target=bus.publish, args=(topic, [(None, b"fork")]))
    forked.start()
    forked.join(20)
    assert forked.exitcode == 0
    assert bus.publish(topic, [(None, b"parent")]) == 1
    assert bus.ends(topic) == {0: 102}


@BOTH
def test_a_topic_that_was_deleted_is_made_again_as_it_was(bus: Bus, topic: str) -> None:
    bus.ensure_topics([topic], partitions=2)
    assert bus.publish(topic, [(b"a", b"1")]) == 1
    admin = KafkaAdminClient(bootstrap_servers=bus.settings.bootstrap_servers)
    try:
        admin.delete_topics([topic])
    finally:
        admin.close()
    started = time.monotonic()
    assert bus.publish(topic, [(b"a", b"2")]) == 1
    assert time.monotonic() - started < 12
    assert [each[3] for each in read(bus, topic)] == [b"2"]
    assert set(bus.ends(topic)) == {0, 1}
    assert bus.relayed([topic]) == []
