"""A transactional producer, as somebody else's program may publish with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka import KafkaProducer

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
