"""What a relay adds: from published in the original to readable in the copy; how fast it copies a backlog.

An outside process publishes, `anabranch relay` (or the thread of it in `anabranch stream`) copies, and this
process reads both topics.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from anabranch.events.origins import copy_of
from anabranch.stores.kafka.relay import Relay
from anabranch.values.times import SECOND, now_micros
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from tests.bench.freshness import outcome, published
from tests.bench.report import Row, alone, save, seconds_of
from tests.bench.river import River, river
from tests.bench.speed import KEYS, NAME, TOPIC


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rates: tuple[int, ...] = (500, 2_000)
    warm: float = 20.0
    seconds: float = 40.0
    backlog: int = 1_000_000


QUICK = Sizes(warm=5.0, seconds=5.0, backlog=100_000)


class Reader(threading.Thread):
    """Reads topics from their ends on: microseconds from sent to read, by topic and time of reading."""

    def __init__(self, servers: str, topics: list[str]) -> None:
        super().__init__(daemon=True)
        self._consumer: Any = Consumer(
            {"bootstrap.servers": servers, "group.id": "bench", "fetch.wait.max.ms": 100}
        )
        self._consumer.assign([TopicPartition(topic, 0, self._end(topic)) for topic in topics])
        self.found: dict[str, list[tuple[int, int]]] = {topic: [] for topic in topics}
        self.stopping = threading.Event()

    def _end(self, topic: str) -> int:
        return int(self._consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1])

    def run(self) -> None:
        while not self.stopping.is_set():
            first = self._consumer.poll(0.1)
            for one in [] if first is None else [first, *self._consumer.consume(1_000, 0)]:
                if one.error() is None:
                    now = now_micros()
                    self.found[one.topic()].append((now, now - json.loads(one.value())["sent"]))
        self._consumer.close()


def lags(found: River, rate: int, sizes: Sizes, run: str) -> dict[str, NDArray[np.float64]]:
    """Milliseconds from sent to readable, by topic, of the messages after `sizes.warm` seconds."""
    reader = Reader(found.settings.bus.bootstrap_servers, [TOPIC, copy_of(TOPIC)])
    reader.start()
    since = now_micros() + sizes.warm * SECOND
    publisher = published(found, TOPIC, rate, sizes.warm + sizes.seconds, KEYS, run)
    outcome(publisher, rate)
    there = reader.found
    wait_until(lambda: len(there[TOPIC]) == len(there[copy_of(TOPIC)]), 30)
    reader.stopping.set()
    reader.join()
    assert len(there[TOPIC]) == len(there[copy_of(TOPIC)]) > 0
    return {
        topic: np.array([lag / 1000 for at, lag in read if at - lag >= since])
        for topic, read in there.items()
    }


@contextmanager
def relaying(found: River, verb: str) -> Iterator[None]:
    """`anabranch relay` or `anabranch stream`, once it copies."""
    log = Path(found.settings.data) / f"{verb}.log"
    process = found.verb(verb, NAME, log=log)
    try:
        context = Context(found.settings)
        probe = b'{"sent": 0}'
        with closing(context):
            before = sum(context.bus.ends(copy_of(TOPIC)).values())
            context.bus.publish(TOPIC, [(None, probe)])
            wait_until(lambda: sum(context.bus.ends(copy_of(TOPIC)).values()) > before, 120)
        yield
    finally:
        process.terminate()
        process.wait(120)


def backlog_row(found: River, sizes: Sizes) -> Row:
    """How fast a relay copies messages that wait."""
    context, topic = Context(found.settings), "waiting"
    context.bus.ensure_topics([topic], configs={"message.timestamp.type": "CreateTime"})
    producer: Any = Producer({"bootstrap.servers": found.settings.bus.bootstrap_servers, "linger.ms": 20})
    for number in range(sizes.backlog):
        producer.produce(topic, b"x" * 200 + str(number).encode(), str(number % 1000).encode())
        if number % 1000 == 0:
            producer.poll(0)
            while len(producer) > 50_000:
                producer.poll(0.01)
    producer.flush()
    relay = Relay(found.settings.bus, topic)
    ends = context.bus.ends(topic)
    seconds = seconds_of(lambda: relay.run(threading.Event(), ends))
    same = context.bus.ends(copy_of(topic)) == ends and relay.copied == sizes.backlog
    context.close()
    work = f"copying {sizes.backlog:,} messages of 200 bytes that wait"
    return alone(work, sizes.backlog / seconds, "messages/s", equal=same)


def rows_of(found: River, verb: str, sizes: Sizes, steps: Steps) -> Iterator[Row]:
    """The percentiles at each rate, of the original and of the copy."""
    place = {"relay": "a relay alone", "stream": "the relay of a running stream"}[verb]
    with relaying(found, verb):
        for rate in sizes.rates:
            read = lags(found, rate, sizes, f"{verb}-{rate}")
            for name, share in (("p50", 50), ("p99", 99)):
                before, after = (
                    float(np.percentile(read[topic], share)) for topic in (TOPIC, copy_of(TOPIC))
                )
                steps.step(f"{place}, {rate:,}/s, {name}: {before:.1f} ms original, {after:.1f} ms copy")
                yield alone(
                    f"published to readable in the original, {place}, {rate:,}/s, {name}", before, "ms"
                )
                yield alone(f"published to readable in the copy, {place}, {rate:,}/s, {name}", after, "ms")


def main(arguments: list[str]) -> None:
    """Measure, show and save."""
    quick = "--quick" in arguments
    sizes, steps = (QUICK if quick else Sizes()), Steps()
    with river() as found:
        context = Context(found.settings)
        context.bus.ensure_topics([TOPIC], configs={"message.timestamp.type": "CreateTime"})
        Relay(found.settings.bus, TOPIC).run(threading.Event(), context.bus.ends(TOPIC))
        context.close()
        rows = [backlog_row(found, sizes)]
        for verb in ("relay", "stream"):
            rows += rows_of(found, verb, sizes, steps)
    notes = [
        "Publisher, broker, relay, stream and reader share the cores; the reader reads both topics.",
        f"Each rate: {sizes.warm:.0f} s to warm up, then {sizes.seconds:.0f} s that count. One partition.",
    ]
    save("relay", "What a relay adds", rows, ["confluent-kafka", "pyspark"], notes, dry=quick)


if __name__ == "__main__":
    main(sys.argv[1:])
