"""Clients by librdkafka: what publishes takes a twelfth of the processor time of kafka-python's producer.

Its errors become those of kafka-python, which the rest of this package knows.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError as NativeError
from confluent_kafka import KafkaException, Producer
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from anabranch.settings import BusSettings
from anabranch.stores.kafka.publisher import (
    LARGEST_REQUEST,
    LINGER_MS,
    SHORT_SECONDS,
    Failure,
    Message,
    Placement,
)

_CLIENT_LOG = logging.getLogger("librdkafka")
_UNKNOWN_SETTING = re.compile(r'No such configuration property: "([^"]+)"')
SECONDS = 10.0
"""How long a request may take."""
_AS_PYTHON = {
    "ssl.cafile": "ssl.ca.location",
    "ssl.certfile": "ssl.certificate.location",
    "ssl.keyfile": "ssl.key.location",
    "ssl.password": "ssl.key.password",
    "ssl.crlfile": "ssl.crl.location",
}
"""Settings as kafka-python spells them."""
_JAVA = ("ssl.truststore.", "sasl.jaas.config")
"""What settings of Java's clients begin with that librdkafka knows, and refuses."""
_LASTING = ("_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART", "_FATAL", "_PURGE_QUEUE", "_PURGE_INFLIGHT")
"""Names of errors that a client remembers: for a while after the topic is there, or as it takes no more."""
_SAID_AS = {
    "_AUTHENTICATION": SaslAuthenticationFailedError,
    "_UNKNOWN_TOPIC": UnknownTopicOrPartitionError,
    "_UNKNOWN_PARTITION": UnknownTopicOrPartitionError,
    "_MSG_TIMED_OUT": KafkaTimeoutError,
    "_TIMED_OUT": KafkaTimeoutError,
}
_WAIT_SECONDS = 0.02  # another thread may have taken the report that one waits for
_SETTINGS = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",  # as Java's clients and kafka-python: a key keeps its partition
    "linger.ms": LINGER_MS,
    "batch.size": 131_072,
    "message.max.bytes": LARGEST_REQUEST,
    "message.timeout.ms": 120_000,
    "queue.buffering.max.kbytes": 64 * 1024,
    "topic.metadata.propagation.max.ms": int(SHORT_SECONDS * 1000),
}


def client(make: Callable[..., Any], settings: BusSettings, **options: object) -> Any:
    """A client of librdkafka with the bus's security; settings that only Java's clients know are left out."""
    security = {
        _AS_PYTHON.get(name, name): value
        for name, value in settings.security.items()
        if not name.startswith(_JAVA)
    }
    while True:
        wanted = {
            "bootstrap.servers": settings.bootstrap_servers,
            "log.connection.close": False,
            "socket.timeout.ms": int(SECONDS * 1000),
            **security,
            **options,
        }
        try:
            return make(wanted, logger=_CLIENT_LOG)
        except KafkaException as error:
            unknown = _UNKNOWN_SETTING.search(str(error))
            if unknown is None or unknown[1] not in security:
                raise
            del security[unknown[1]]


@dataclass
class _Sent:
    """What has become of messages that were sent together."""

    stored: list[Placement] | None
    failed: list[Failure] = field(default_factory=list)
    left: list[None] = field(default_factory=list)
    spent: bool = False

    def note(self, message: Message, error: NativeError | None, report: Any) -> None:
        """Take the report of one message; called by the thread that polls."""
        if error is not None:
            self.spent = self.spent or error.name() in _LASTING
            self.failed.append((message, translated(error)))
        elif self.stored is not None:
            self.stored.append(Placement(report.partition(), report.offset(), report.timestamp()[1]))
        self.left.pop()  # atomic: several threads may take reports


class NativeConnection:
    """A producer of librdkafka; its memory is bounded, and what does not fit waits for room."""

    def __init__(self, settings: BusSettings, seconds: float) -> None:
        self._fatal = threading.Event()
        try:
            self._producer = client(
                Producer, settings, error_cb=partial(_note_fatal, self._fatal), **_SETTINGS
            )
            self._producer.list_topics(timeout=seconds)  # the client itself connects in the background
        except KafkaException as error:
            raise translated(error.args[0]) from error

    def send(
        self, messages: Sequence[Message], stored: list[Placement] | None, overdue: Callable[[], object]
    ) -> tuple[list[Failure], bool]:
        """As `Connection.send`."""
        sent = _Sent(stored)
        self._send(sent, messages, overdue)
        large = [message for message, error in sent.failed if isinstance(error, MessageSizeTooLargeError)]
        if len(messages) > 1 and large:
            # They may be too large only together: the client does not split what it sends at once.
            sent.failed = [failure for failure in sent.failed if failure[0] not in large]
            for message in large:
                self._send(sent, [message], overdue)
        return sent.failed, sent.spent or self._fatal.is_set()

    def _send(self, sent: _Sent, messages: Sequence[Message], overdue: Callable[[], object]) -> None:
        producer, sent.left = self._producer, [None] * len(messages)
        late = time.monotonic() + SHORT_SECONDS
        for message in messages:
            topic, key, value = message
            report = partial(sent.note, message)
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=report)
                except BufferError:
                    producer.poll(_WAIT_SECONDS)
                    continue
                except KafkaException as error:  # such as a topic that is known not to be there
                    sent.note(message, error.args[0], None)
                break
        while sent.left:
            producer.poll(_WAIT_SECONDS)
            if sent.left and time.monotonic() > late:
                late = float("inf")
                overdue()

    def close(self, seconds: float | None = None) -> None:
        """Close it; nothing waits, since `send` does."""
        self._producer.flush(0 if seconds is None else seconds)


def _note_fatal(fatal: threading.Event, error: NativeError) -> None:
    """Take an error of a client. Reports of the messages that it fails do not say that it is fatal."""
    if error.fatal():
        fatal.set()
    _CLIENT_LOG.error("%s", error)


def translated(error: NativeError) -> KafkaError:
    """The error of kafka-python for one of librdkafka: the broker's by its number, else one of `_SAID_AS`.

    What else the client alone knows may pass, as a connection that is lost.
    """
    code = error.code()
    kind = for_code(code) if code > 0 else _SAID_AS.get(error.name(), KafkaConnectionError)
    found: KafkaError = kind(error.str())
    return found
