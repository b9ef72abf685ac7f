"""What others do with topics: transactions, and topics that are deleted and made again."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaProducer

from anabranch.stores.kafka.bus import Bus


@contextmanager
def transaction(bus: Bus, topic: str, messages: Sequence[bytes], *, commit: bool) -> Iterator[None]:
    """Publish messages in a transaction that is open in the block, and commits or aborts at its end."""
    producer = KafkaProducer(
        bootstrap_servers=bus.settings.bootstrap_servers, transactional_id=f"of-{topic}", acks="all"
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for message in messages:
            producer.send(topic, value=message)
        producer.flush()
        yield
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    finally:
        producer.close()


def delete(bus: Bus, topic: str) -> None:
    """Delete a topic, and wait until it is gone."""
    admin = KafkaAdminClient(bootstrap_servers=bus.settings.bootstrap_servers)
    try:
        admin.delete_topics([topic])
        deadline = time.monotonic() + 20
        while topic in admin.list_topics():
            assert time.monotonic() < deadline, f"{topic} is still there"
    finally:
        admin.close()
