"""The bus: Kafka topics whose messages carry the time the broker took them (`LogAppendTime`), which is their arrival."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError

from anabranch.errors import AnabranchError, UnavailableError
from anabranch.settings import BusSettings

ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
_PATIENCE_MS = 10_000
_FLUSH_EVERY = 20_000  # messages: the client's buffer has no bound of its own
_LARGEST_REQUEST = 8 * 1024 * 1024
_SPELLINGS = {
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
}


class Bus:
    """Topics of one Kafka cluster. Connects when first used; one bus may be shared by threads."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._producer: Any = None

    def ensure_topics(
        self, names: Sequence[str], partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Create the topics that are not there, stamped by arrival and with further `configs`; those that are there stay as they are."""
        with self._admin() as admin:
            there = set(admin.list_topics())
            for name in dict.fromkeys(names):
                if name not in there:
                    _create(admin, name, partitions, {**ARRIVAL, **(configs or {})})

    def require_arrival(self, names: Sequence[str]) -> None:
        """Raise AnabranchError when an existing topic is stamped by its producers and not by the broker."""
        with self._admin() as admin:
            resources = [
                ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(ARRIVAL)) for name in names
            ]
            found = admin.describe_configs(resources, config_filter=ConfigFilterType.ALL)["topic"]
        for name, configs in found.items():
            for key, wanted in ARRIVAL.items():
                if configs[key]["value"] != wanted:
                    raise AnabranchError(
                        f"topic {name!r} has {key}={configs[key]['value']}, but arrival must be the broker's own time: "
                        f"set it with kafka-configs --alter --entity-type topics --entity-name {name} --add-config {key}={wanted}"
                    )

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        """Publish (key, value) messages and wait until the cluster keeps them all; returns how many."""
        return self._publish(((topic, *message) for message in messages), f"topic {topic!r}")

    def publish_together(self, messages: Mapping[str, Sequence[tuple[bytes | None, bytes]]]) -> int:
        """The same for messages by topic, waiting once for all topics."""
        spread = ((topic, *message) for topic, each in messages.items() for message in each)
        return self._publish(spread, f"topics {', '.join(messages)}")

    def _publish(self, messages: Iterable[tuple[str, bytes | None, bytes]], where: str) -> int:
        failures: list[BaseException] = []
        count = 0
        with self._answering():
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
        """A consumer of its own for who asks, who closes it; `options` are those of the client."""
        with self._answering():
            return self._client(KafkaConsumer, **options)

    def is_there(self, seconds: float = 1.0) -> bool:
        """Whether some broker takes connections: asked where nobody wants to wait for a Kafka that is away."""
        for address in self.settings.bootstrap_servers.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            except (OSError, ValueError):
                continue
            return True
        return False

    def offsets_at(self, topic: str, micros: int) -> dict[int, int]:
        """By partition the first offset that arrived at or after `micros`; the end where nothing did."""
        # The broker counts whole milliseconds: one is at or after the time when it is at or after the time rounded up.
        found = self._offsets(topic, -(-micros // 1000))
        ends = self.ends(topic)
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}

    def ends(self, topic: str) -> dict[int, int]:
        """By partition the offset that the next message will get."""
        return self._offsets(topic, OffsetSpec.LATEST)

    def spark_options(self, topics: Sequence[str]) -> dict[str, str]:
        """Options of Spark's Kafka source reading `topics`, or with none those of its sink."""
        options = {f"kafka.{key}": value for key, value in _java_security(self.settings.security).items()}
        options["kafka.bootstrap.servers"] = self.settings.bootstrap_servers
        if topics:
            options |= {
                "subscribe": ",".join(topics),
                "startingOffsets": "earliest",
                "failOnDataLoss": "true",
            }
        return options

    def close(self) -> None:
        """End the connection of `publish`; the bus may be used again."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offsets(self, topic: str, spec: object) -> dict[int, int]:
        with self._admin() as admin:
            described = admin.describe_topics([topic])[0]
            if described["error_code"]:
                raise AnabranchError(
                    f"topic {topic!r} is not on the bus at {self.settings.bootstrap_servers}: publish to it or land the project first"
                )
            asked = {TopicPartition(topic, each["partition_index"]): spec for each in described["partitions"]}
            return {
                part.partition: found.offset
                for part, found in sorted(admin.list_partition_offsets(asked).items())
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
        with self._answering():
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

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            raise UnavailableError(
                f"Kafka at {self.settings.bootstrap_servers} does not answer ({error}): start it with 'anabranch up', or set its address in [bus]"
            ) from error


def _create(admin: Any, name: str, partitions: int, configs: Mapping[str, str]) -> None:
    try:
        admin.create_topics(
            {name: {"num_partitions": partitions, "configs": dict(configs)}}, wait_for_metadata=True
        )
    except TopicAlreadyExistsError:
        return  # somebody else was faster, which is as good


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
