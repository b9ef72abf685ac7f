"""The bus: Kafka topics whose messages carry the broker's append time, which is their arrival."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RetriableError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)

from anabranch.errors import AnabranchError, TooLargeError, UnavailableError
from anabranch.events.origins import copy_of, is_copy
from anabranch.settings import BusSettings
from anabranch.stores.kafka.native import NativeConnection
from anabranch.stores.kafka.publisher import (
    LARGEST_REQUEST,
    LINGER_MS,
    Connection,
    Failure,
    Message,
    Placement,
    Publisher,
    PythonConnection,
)

log = logging.getLogger(__name__)
ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
_COMMITTED = "read_committed"  # what a transaction took back never happened
_LOG_APPEND = 1
_PATIENCE_MS = 10_000
_TOGETHER = 20_000  # messages: the client's buffer has no bound of its own
_METADATA_MS = 5_000
_SIZE = "max.message.bytes"
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_SPELLINGS = {
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.mechanisms": "sasl_mechanism",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
    "ssl.crl.location": "ssl_crlfile",
}


@contextmanager
def answering(address: str) -> Iterator[None]:
    """The one edge of the client: translates the errors it raises in a block to UnavailableError."""
    try:
        yield
    except AuthorizationError as error:
        raise _not_allowed(address, f"this ({error})") from error
    except KafkaError as error:
        raise UnavailableError(
            f"Kafka at {address} does not answer ({error}): "
            "start it with 'anabranch up', or set its address in [bus]"
        ) from error


def _not_allowed(address: str, what: str) -> AnabranchError:
    return AnabranchError(
        f"Kafka at {address} does not allow {what}: give the user of [bus] security the rights that "
        "docs/sources.md lists"
    )


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


class _Repeating:
    """An admin client of a cluster: a call that met a broker which was lost just now is made again.

    The client asks any broker it has heard of, and a lost one is among them until the cluster notices, which
    takes it some ten seconds. The calls that are made of it here may all be made twice.
    """

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._admin, name)

        def repeated(*given: object, **named: object) -> Any:
            deadline = time.monotonic() + _PATIENCE_MS / 1000
            while True:
                try:
                    return call(*given, **named)
                except KafkaConnectionError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.2)

        return repeated


class Bus:
    """Topics of one Kafka cluster. Connects on first use and may be shared by threads."""

    def __init__(self, settings: BusSettings) -> None:
        self.settings = settings
        self._publisher = Publisher(self._connection, self._sizes, self._restore)
        self._ensured: dict[str, tuple[int, Mapping[str, str]]] = {}
        self._read_as: dict[str, str] = {}

    def ensure_topics(
        self, names: Sequence[str], partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Create missing topics, stamped by arrival and with further `configs`; others stay unchanged."""
        self._ensured |= dict.fromkeys(names, (partitions, {**ARRIVAL, **(configs or {})}))
        with self._admin() as admin:
            existing = set(admin.list_topics())
            for name in dict.fromkeys(names):
                if name not in existing:
                    _create(admin, name, *self._ensured[name])

    def existing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are there."""
        with self._admin() as admin:
            there = set(admin.list_topics())
        return [name for name in dict.fromkeys(names) if name in there]

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics with all that they hold."""
        for name in names:
            self._ensured.pop(name, None)
        if names:
            with self._admin() as admin:
                admin.delete_topics(list(names))

    def relayed(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are read through a relay's copy, since their producers stamp them.

        A topic whose copy is there stays with it, also after the broker has come to stamp the topic.
        """
        names = list(dict.fromkeys(names))
        with self._admin() as admin:
            existing = set(admin.list_topics())
            there = [name for name in names if name in existing]
            resources = [
                ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(ARRIVAL)) for name in there
            ]
            found = admin.describe_configs(resources, config_filter=ConfigFilterType.ALL) if there else {}
        stamped = {
            name: all(configs[key]["value"] == wanted for key, wanted in ARRIVAL.items())
            for name, configs in found.get("topic", {}).items()
        }
        copied = [name for name in names if not stamped.get(name, True) or copy_of(name) in existing]
        self._read_as |= {name: copy_of(name) if name in copied else name for name in there}
        return copied

    def read_as(self, topic: str) -> str:
        """The topic that is read for `topic`: itself, or its copy where its producers stamp it.

        Asked for once; `relayed` asks again.
        """
        if topic not in self._read_as and self.relayed([topic]):
            return copy_of(topic)
        return self._read_as.get(topic, topic)

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        """Publish (key, value) messages, wait until the cluster has stored them, and return their number.

        Raises TooLargeError before anything is published when one of a sequence is larger than the topic
        takes, UnavailableError when messages were not stored.
        """
        count, whole = 0, isinstance(messages, Sequence)
        spread = ((topic, *message) for message in messages)
        with self.answering():
            while part := list(islice(spread, None if whole else _TOGETHER)):
                for error in self._publisher.too_large(part).values():
                    raise error
                _check(self._publisher.send(part), topic)
                count += len(part)
        return count

    def publish_one(self, topic: str, key: bytes | None, value: bytes) -> tuple[int, int, int]:
        """Publish one message; returns its partition, its offset and its arrival in microseconds.

        Raises as `publish` does.
        """
        message, stored = (topic, key, value), list[Placement]()
        with self.answering():
            for error in self._publisher.too_large([message]).values():
                raise error
            _check(self._publisher.send([message], stored), topic)
        return stored[-1].partition, stored[-1].offset, stored[-1].timestamp * 1000

    def offer(self, messages: Sequence[Message]) -> dict[int, AnabranchError]:
        """Publish messages of any topics as far as their topics take them.

        Returns by position why others were not: UnavailableError where they may be offered again.
        """
        with self.answering():
            refused: dict[int, AnabranchError] = {**self._publisher.too_large(messages)}
            places = [place for place in range(len(messages)) if place not in refused]
            failed = {
                id(message): error for message, error in self._publisher.send([messages[p] for p in places])
            }
        for place in places:
            error = failed.get(id(messages[place]))
            if error is not None:
                kind = UnavailableError if isinstance(error, RetriableError) else AnabranchError
                refused[place] = kind(f"topic {messages[place][0]!r} did not take a message ({error})")
        return refused

    @property
    def trouble(self) -> str | None:
        """Why messages could not be published some seconds ago; None when the last could."""
        return self._publisher.trouble

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

    def beginnings(self, topic: str) -> dict[int, int]:
        """By partition the first offset that is still there: what lay before it, retention has removed."""
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def count_before(self, topic: str, parts: Mapping[int, tuple[int, int]], micros: int) -> int:
        """How many messages of [start, end) by partition the broker stamped before `micros`."""
        count, patience = 0, time.monotonic() + _PATIENCE_MS / 1000
        with self._placed(topic, parts) as (consumer, ends):
            while any(consumer.position(place) < end for place, end in ends.items()):
                if time.monotonic() > patience:
                    raise UnavailableError(f"messages of {topic!r} cannot be read: see 'anabranch status'")
                for place, records in consumer.poll(timeout_ms=500).items():
                    patience = time.monotonic() + _PATIENCE_MS / 1000
                    count += sum(
                        record.offset < ends[place]
                        and record.timestamp_type == _LOG_APPEND
                        and record.timestamp * 1000 < micros
                        for record in records
                    )
        return count

    def records(
        self, topic: str, parts: Mapping[int, tuple[int, int]], most: int, seconds: float
    ) -> tuple[list[Any], bool]:
        """The records of [start, end) by partition, and whether these are all.

        Reading ends when there are `most`, or after so many `seconds`.
        """
        if not parts:
            return [], True
        found, patience = list[Any](), time.monotonic() + seconds
        with self._placed(topic, parts) as (consumer, ends):
            while any(consumer.position(place) < end for place, end in ends.items()):
                if time.monotonic() > patience or len(found) >= most:
                    return found, False
                for place, records in consumer.poll(timeout_ms=500).items():
                    found += [record for record in records if record.offset < ends[place]]
        return found, True

    @contextmanager
    def _placed(
        self, topic: str, parts: Mapping[int, tuple[int, int]]
    ) -> Iterator[tuple[KafkaConsumer, dict[TopicPartition, int]]]:
        """A consumer at the starts of [start, end) by partition, and these ends."""
        ends = {TopicPartition(topic, number): end for number, (_, end) in parts.items()}
        consumer = self.consumer()
        try:
            with self.answering():
                consumer.assign(list(ends))
                for place in ends:
                    consumer.seek(place, parts[place.partition][0])
                yield consumer, ends
        finally:
            consumer.close(autocommit=False)

    def topic_id(self, topic: str) -> str:
        """A topic's identity, which changes when it is deleted and made again; empty before Kafka 2.8."""
        with self._admin() as admin:
            found = self._described(admin, topic).get("topic_id")
        return str(found) if found else ""

    def topics_at(self, topics: Iterable[str]) -> dict[str, tuple[str, dict[int, int]]]:
        """`topic_id` and `ends` of each of `topics` that is there, all of them by one connection."""
        with self._admin() as admin:
            found = {each["name"]: each for each in admin.describe_topics(list(dict.fromkeys(topics)))}
            there = {name: each for name, each in found.items() if not each["error_code"]}
            ends = self._listed(admin, there.values(), OffsetSpec.LATEST, _COMMITTED)
        return {name: (str(each.get("topic_id") or ""), ends[name]) for name, each in there.items()}

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
            if any(map(is_copy, topics)):
                options["includeHeaders"] = "true"  # they name the original's places
        return options

    def span_options(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> dict[str, str]:
        """Options of Spark's Kafka source for the messages of [start, end) by partition that are there."""
        return {
            **{name: value for name, value in self.spark_options([topic]).items() if name != "subscribe"},
            "assign": json.dumps({topic: sorted(spans)}),
            "startingOffsets": json.dumps({topic: {part: start for part, (start, _) in spans.items()}}),
            "endingOffsets": json.dumps({topic: {part: end for part, (_, end) in spans.items()}}),
            "failOnDataLoss": "false",
        }

    def close(self) -> None:
        """Close the connection that publishes; the bus may be used again."""
        self._publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offsets(self, topic: str, spec: object, isolation: str = "read_uncommitted") -> dict[int, int]:
        with self._admin() as admin:
            return self._listed(admin, [self._described(admin, topic)], spec, isolation)[topic]

    @staticmethod
    def _listed(
        admin: Any, described: Iterable[Mapping[str, Any]], spec: object, isolation: str
    ) -> dict[str, dict[int, int]]:
        """Offsets by partition of each topic that was described, in the order of partitions."""
        asked = {
            TopicPartition(each["name"], part["partition_index"]): spec
            for each in described
            for part in each["partitions"]
        }
        listed: dict[str, dict[int, int]] = {place.topic: {} for place in asked}
        for place, found in sorted(admin.list_partition_offsets(asked, isolation).items()) if asked else ():
            listed[place.topic][place.partition] = found.offset
        return listed

    def _described(self, admin: Any, topic: str) -> dict[str, Any]:
        described: dict[str, Any] = admin.describe_topics([topic])[0]
        if described["error_code"] == TopicAuthorizationFailedError.errno:
            raise _not_allowed(self.settings.bootstrap_servers, f"to describe topic {topic!r}")
        if described["error_code"]:
            raise AnabranchError(
                f"topic {topic!r} is not on the bus at {self.settings.bootstrap_servers}: "
                "publish to it or land the project first"
            )
        return described

    def _connection(self) -> Connection:
        if self.settings.producer == "librdkafka":
            return NativeConnection(self.settings, _PATIENCE_MS / 1000)
        return PythonConnection(self._producer)

    def _producer(self) -> Any:
        return self._client(
            KafkaProducer,
            acks="all",
            linger_ms=LINGER_MS,
            batch_size=131_072,
            max_request_size=LARGEST_REQUEST,
            max_block_ms=_METADATA_MS,
        )

    def _sizes(self, topics: Sequence[str]) -> Mapping[str, int]:
        """`max.message.bytes` by topic."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, name, {_SIZE: None}) for name in topics]
        with self._admin_client() as admin:
            found = admin.describe_configs(resources, config_filter=ConfigFilterType.ALL)["topic"]
        return {name: int(configs[_SIZE]["value"]) for name, configs in found.items()}

    def _restore(self, topics: Iterable[str]) -> None:
        """Create again those of `topics` that this process ensured and somebody deleted."""
        with self._admin_client() as admin:
            existing = set(admin.list_topics())
            for name in set(topics) & self._ensured.keys() - existing:
                log.warning("topic %s was deleted: it is created again", name)
                _create(admin, name, *self._ensured[name])

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        with self.answering(), self._admin_client() as admin:
            yield admin

    @contextmanager
    def _admin_client(self) -> Iterator[Any]:
        admin = self._client(KafkaAdminClient)
        try:
            yield _Repeating(admin) if "," in self.settings.bootstrap_servers else admin
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


def _check(failures: Sequence[Failure], topic: str) -> None:
    if not failures:
        return
    _, error = failures[0]
    if isinstance(error, _TOO_LARGE):
        raise TooLargeError(
            f"topic {topic!r} did not take {len(failures)} messages, which are larger than its "
            "max.message.bytes: send less in one message, or raise it"
        ) from error
    raise UnavailableError(
        f"{len(failures)} messages could not be published to topic {topic!r} ({error}): publish them again"
    ) from error


def _java_security(security: Mapping[str, str]) -> dict[str, str]:
    """The security settings in Java's spelling: user and password become a JAAS line."""
    others = _SPELLINGS.keys() - {"ssl.key.password"}
    found = {key: value for key, value in security.items() if key not in others}
    if "sasl.mechanisms" in security:
        found.setdefault("sasl.mechanism", security["sasl.mechanisms"])
    if "sasl.username" in security and "sasl.jaas.config" not in found:
        module = (
            "scram.ScramLoginModule"
            if "SCRAM" in found.get("sasl.mechanism", "")
            else "plain.PlainLoginModule"
        )
        user, password = security["sasl.username"], security.get("sasl.password", "")
        found["sasl.jaas.config"] = (
            f'org.apache.kafka.common.security.{module} required username="{user}" password="{password}";'
        )
    return found
