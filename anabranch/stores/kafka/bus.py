"""The bus: Kafka topics whose messages carry the broker's append time, which is their arrival."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError

from anabranch.errors import AnabranchError, UnavailableError
from anabranch.settings import BusSettings

ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
_COMMITTED = "read_committed"  # what a transaction took back never happened
_PATIENCE_MS = 10_000
_FLUSH_EVERY = 20_000  # messages: the client's buffer has no bound of its own
_LARGEST_REQUEST = 8 * 1024 * 1024
_SPELLINGS = {
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
}


@contextmanager
def answering(address: str) -> Iterator[None]:
    """The one edge of the client: translates the errors it raises in a block to UnavailableError."""
    try:
        yield
    except KafkaError as error:
        raise UnavailableError(
            f"Kafka at {address} does not answer ({error}): "
            "start it with 'anabranch up', or set its address in [bus]"
        ) from error


def is_answering(address: str) -> bool:
    """Whether a broker at host:port answers a request for its topics, within seconds."""
    try:
        with answering(address):
            consumer = KafkaConsumer(
                bootstrap_servers=address, bootstrap_timeout_ms=1000, request_timeout_ms=5000
            )
            try:
                consumer.topics()
            finally:
                consumer.close(autocommit=False)
    except UnavailableError:
        return False
    return True


class Bus:
    """Topics of one Kafka cluster. Connects on first use and may be shared by threads."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._producer: Any = None

    def ensure_topics(
        self, names: Sequence[str], partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Create missing topics, stamped by arrival and with further `configs`; others stay unchanged."""
        with self._admin() as admin:
            existing = set(admin.list_topics())
            for name in dict.fromkeys(names):
                if name not in existing:
                    _create(admin, name, partitions, {**ARRIVAL, **(configs or {})})

    def require_arrival(self, names: Sequence[str]) -> None:
        """Raise AnabranchError when an existing topic is stamped by its producers instead of the broker."""
        with self._admin() as admin:
            resources = [
                ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(ARRIVAL)) for name in names
            ]
            found = admin.describe_configs(resources, config_filter=ConfigFilterType.ALL)["topic"]
        for name, configs in found.items():
            for key, wanted in ARRIVAL.items():
                if configs[key]["value"] != wanted:
                    raise AnabranchError(
                        f"topic {name!r} has {key}={configs[key]['value']}, but arrival must be the "
                        "broker's own time: set it with kafka-configs --alter --entity-type topics "
                        f"--entity-name {name} --add-config {key}={wanted}"
                    )

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        """Publish (key, value) messages, wait until the cluster has stored them, and return their number."""
        return self._publish(((topic, *message) for message in messages), f"topic {topic!r}")

    def publish_together(self, messages: Mapping[str, Sequence[tuple[bytes | None, bytes]]]) -> int:
        """Publish (key, value) messages of several topics, waiting once for all, and return their number."""
        spread = ((topic, *message) for topic, each in messages.items() for message in each)
        return self._publish(spread, f"topics {', '.join(messages)}")

    def _publish(self, messages: Iterable[tuple[str, bytes | None, bytes]], where: str) -> int:
        failures: list[BaseException] = []
        count = 0
        with self.answering():
            producer = self._connected_producer()
            for topic, key, value in messages:
                producer.send(topic, key=key, value=value).add_errback(failures.append)
                count += 1
                if count % _FLUSH_EVERY == 0:
                    producer.flush()
                    _check(failures, where)
            producer.flush()
            _check(failures, where)
        return count

    def consumer(self, **options: object) -> Any:
        """A new consumer of committed messages, which the caller closes; `options` are the client's."""
        with self.answering():
            return self._client(KafkaConsumer, isolation_level=_COMMITTED, **options)

    def is_reachable(self, seconds: float = 1.0) -> bool:
        """Whether a broker accepts connections; does not wait for one that is down, as a request would."""
        for address in self.settings.bootstrap_servers.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            except (OSError, ValueError):
                continue
            return True
        return False

    def offsets_at(self, topic: str, micros: int) -> dict[int, int]:
        """By partition the first offset that arrived at or after `micros`; the end where nothing did.

        Messages of open transactions count: they have arrived, and a commit makes them visible later.
        """
        # The broker counts whole milliseconds, so the time is rounded up to one.
        found = self._offsets(topic, -(-micros // 1000))
        ends = self._offsets(topic, OffsetSpec.LATEST)
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}

    def ends(self, topic: str) -> dict[int, int]:
        """By partition the offset up to which messages can be read: at most the first open transaction.

        Commits and aborts take an offset each, so offsets do not count messages.
        """
        return self._offsets(topic, OffsetSpec.LATEST, _COMMITTED)

    def spark_options(self, topics: Sequence[str]) -> dict[str, str]:
        """Options of Spark's Kafka source for `topics`; without any, those of its sink."""
        options = {f"kafka.{key}": value for key, value in _java_security(self.settings.security).items()}
        options["kafka.bootstrap.servers"] = self.settings.bootstrap_servers
        options["kafka.isolation.level"] = _COMMITTED  # a sink's client ignores it
        if topics:
            options |= {
                "subscribe": ",".join(topics),
                "startingOffsets": "earliest",
                "failOnDataLoss": "true",
            }
        return options

    def close(self) -> None:
        """Close the connection that publishes; the bus may be used again."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offsets(self, topic: str, spec: object, isolation: str = "read_uncommitted") -> dict[int, int]:
        with self._admin() as admin:
            described = admin.describe_topics([topic])[0]
            if described["error_code"]:
                raise AnabranchError(
                    f"topic {topic!r} is not on the bus at {self.settings.bootstrap_servers}: "
                    "publish to it or land the project first"
                )
            asked = {TopicPartition(topic, each["partition_index"]): spec for each in described["partitions"]}
            return {
                part.partition: found.offset
                for part, found in sorted(admin.list_partition_offsets(asked, isolation).items())
            }

    def _connected_producer(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._producer = self._client(
                    KafkaProducer,
                    acks="all",
                    linger_ms=5,
                    batch_size=131_072,
                    max_request_size=_LARGEST_REQUEST,
                )
            return self._producer

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        with self.answering():
            admin = self._client(KafkaAdminClient)
            try:
                yield admin
            finally:
                admin.close()

    def _client(self, make: Callable[..., Any], **options: object) -> Any:
        spelled = {
            _SPELLINGS.get(key, key.replace(".", "_")): value for key, value in self.settings.security.items()
        }
        known = {key: value for key, value in spelled.items() if key in KafkaProducer.DEFAULT_CONFIG}
        return make(
            bootstrap_servers=self.settings.bootstrap_servers,
            bootstrap_timeout_ms=_PATIENCE_MS,
            **known,
            **options,
        )

    def answering(self) -> AbstractContextManager[None]:
        """Translate what the client raises in a block: UnavailableError names this bus."""
        return answering(self.settings.bootstrap_servers)


def _create(admin: Any, name: str, partitions: int, configs: Mapping[str, str]) -> None:
    try:
        admin.create_topics(
            {name: {"num_partitions": partitions, "configs": dict(configs)}}, wait_for_metadata=True
        )
    except TopicAlreadyExistsError:
        return  # created concurrently


def _check(failures: list[BaseException], where: str) -> None:
    if failures:
        raise UnavailableError(
            f"{len(failures)} messages could not be published to {where} ({failures[0]}): publish them again"
        ) from failures[0]


def _java_security(security: Mapping[str, str]) -> dict[str, str]:
    """The security settings in Java's spelling: user and password become a JAAS line."""
    found = {key: value for key, value in security.items() if key not in _SPELLINGS}
    if "sasl.username" in security and "sasl.jaas.config" not in found:
        module = (
            "scram.ScramLoginModule"
            if "SCRAM" in security.get("sasl.mechanism", "")
            else "plain.PlainLoginModule"
        )
        user, password = security["sasl.username"], security.get("sasl.password", "")
        found["sasl.jaas.config"] = (
            f'org.apache.kafka.common.security.{module} required username="{user}" password="{password}";'
        )
    return found
