"""An outside publisher: events at a steady rate, each with the publisher's clock in it, and among them
probes.

    python -m tests.bench.publisher SERVERS TOPIC RATE SECONDS KEYS RUN

Events have the keys `RUN-kN`. A probe has a key of its own, `RUN-probe-N`, so that whoever reads that key
knows when this very event became
readable. In the end it says the rate that was reached and how many events that were, probes aside.
"""

import json
import sys
import time

import numpy as np
from kafka import KafkaProducer

from anabranch.values.times import format_time

PROBES = 20
"""Probes a second."""
_STEP = 0.01  # seconds between bursts


def message(number: str, key: str, x: float, sent: int) -> bytes:
    """One event as JSON; it happened when it was sent."""
    return json.dumps({"id": number, "thing": key, "at": format_time(sent), "x": x, "sent": sent}).encode()


def publish(servers: str, topic: str, rate: int, seconds: float, keys: int, run: str) -> tuple[float, int]:
    """Publish; the rate that was reached, events a second, and how many they were."""
    random = np.random.default_rng(1)
    chosen, values = (
        random.integers(0, keys, 100_000).tolist(),
        np.round(random.normal(50, 10, 100_000), 2).tolist(),
    )
    producer = KafkaProducer(bootstrap_servers=servers, acks=1, linger_ms=2, batch_size=65_536)
    started, sent, probes = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - started) < seconds:
        while sent < rate * passed:
            producer.send(
                topic,
                message(
                    f"{run}-{sent}",
                    f"{run}-k{chosen[sent % 100_000]}",
                    values[sent % 100_000],
                    time.time_ns() // 1000,
                ),
            )
            sent += 1
        while probes < PROBES * passed:
            producer.send(
                topic, message(f"{run}-probe-{probes}", f"{run}-probe-{probes}", 1.0, time.time_ns() // 1000)
            )
            probes += 1
        time.sleep(_STEP)
    for number in range(probes, int(PROBES * seconds)):  # those that fell into the last burst's pause
        producer.send(
            topic, message(f"{run}-probe-{number}", f"{run}-probe-{number}", 1.0, time.time_ns() // 1000)
        )
    producer.flush()
    passed = time.perf_counter() - started
    producer.close()
    return sent / passed, sent


if __name__ == "__main__":
    servers, topic, rate, seconds, keys, run = sys.argv[1:]
    reached, count = publish(servers, topic, int(rate), float(seconds), int(keys), run)
    sys.stdout.write(f"{reached:.0f} {count}\n")
