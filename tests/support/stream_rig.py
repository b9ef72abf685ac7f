"""A real `anabranch stream` in a process of its own, and the plain fold of what was published to it."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.values.keys import LONGEST_KEY, SEPARATOR
from anabranch.values.times import MINUTE, format_time, now_micros, parse_time
from jobs.flows.verifying import verify_settled
from jobs.servers.processes import tail, wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from speed.query import checkpoint
from tests.support.commands import environment_of

DECLARATION = '''
"""Readings that are counted."""
from anabranch import Count, Derived, FeatureView, Max, Project, Request, Source, Sum

SCHEMA = "id STRING, thing STRING, at TIMESTAMP, x BIGINT"
readings = Source(name="readings", topic="{name}", id="id", time="at", schema=SCHEMA)
features = {{"n": Count(), "top": Max("x")}}
recent = FeatureView(name="recent", source=readings, key="thing", windows=("6h", "1d"), features=features)
ever = FeatureView(name="ever", source=readings, key="thing", features={{"total": Sum("x")}})
project = Project(
    name="{name}",
    views=(recent, ever),
    request=Request(schema="y DOUBLE DEFAULT 1"),
    derived={{
        "share": Derived("n_6h / nullif(n_1d, 0)"),
        "spread": Derived("total - top_1d"),
        "asked": Derived("y * total"),
    }},
)
'''
PATIENCE = 300.0  # seconds: a machine may be busy with other things


@dataclass
class Rig:
    """One project of its own name and topic."""

    settings: Settings
    folder: Path
    name: str = field(default_factory=lambda: f"rig_{uuid.uuid4().hex[:8]}")
    process: "subprocess.Popen[bytes] | None" = None
    count: int = 0
    also: tuple[str, ...] = ()  # projects that the same process streams
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / f"{self.name}.py").write_text(DECLARATION.format(name=self.name), encoding="utf-8")
        self.project: Project = load_project(self.name, (self.folder,))
        self.context = Context(self.settings)
        self.log = self.folder / f"{self.name}.log"

    def command(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start `anabranch` with `words`, with the settings of this run."""
        environment = {
            **os.environ,
            **environment_of(self.settings),
            "ANABRANCH_PROJECTS": str(self.folder),
            "ANABRANCH__SPARK__DRIVER_MEMORY": "512m",
            "ANABRANCH__SPARK__CONF": "",  # a stream runs as code, as it does for users
            **self.environment,
        }
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *words],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Start the stream, unless it runs."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.command("stream", *self.also, self.name)

    def stop(self, patience: float = PATIENCE) -> int:
        """Stop it as an operator does; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(patience)

    def kill(self) -> None:
        """Kill the driver, its JVM and its workers as a power cut would."""
        assert self.process is not None
        children = children_of(self.process.pid)
        self.process.kill()
        for child in children:
            with suppress(ProcessLookupError):  # it saw the others go
                os.kill(child, 9)
        self.process.wait(PATIENCE)

    @property
    def unfinished(self) -> bool:
        """Does the checkpoint hold a micro-batch that was begun and not ended?"""
        folder = Path(
            checkpoint(self.context.speed_layer(once=False), self.project, self.project.sources["readings"])
        )
        begun, ended = (
            max((int(path.name) for path in (folder / name).glob("[0-9]*")), default=-1)
            for name in ("offsets", "commits")
        )
        return begun > ended

    def state(self, lines: int = 20) -> str:
        """For a failing test: whether the stream runs, where its threads are, and the end of its log."""
        assert self.process is not None
        before, said = self.process.poll(), tail(self.log, lines)
        if before is None:
            self.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: "most recent call first" in tail(self.log, 100), 5.0)
        return (
            f"exit code {before}, where None is none\n{said}\n{tail(self.log, 100) if before is None else ''}"
        )

    def said(self) -> str:
        """All that the stream has said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def events(self, count: int, things: int = 5, ago: int = 0) -> list[dict[str, Any]]:
        """New events of `things` keys, that happened `ago` microseconds before now."""
        first, self.count = self.count, self.count + count
        return [
            {
                "id": f"e{i}",
                "thing": f"t{i % things}",
                "at": format_time(now_micros() - ago - i % 1000),
                "x": i,
            }
            for i in range(first, first + count)
        ]

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.context.bus.ensure_topics([self.name])
        self.context.bus.publish(self.name, [(None, json.dumps(event).encode()) for event in events])

    def send(self, partition: int | None, *values: bytes | None) -> None:
        """Raw messages, compressed, as somebody else's producer may send them; None is a tombstone."""
        self.context.bus.ensure_topics([self.name])
        producer = KafkaProducer(
            bootstrap_servers=self.settings.bus.bootstrap_servers,
            compression_type="gzip",
            max_request_size=4_000_000,
        )
        for value in values:
            # Without a value it is a tombstone, and a tombstone has a key.
            producer.send(
                self.name, key=b"gone" if value is None else None, value=value, partition=partition
            ).get(30)
        producer.close()

    def grow(self, partitions: int) -> None:
        """Give the topic more partitions."""
        admin = KafkaAdminClient(bootstrap_servers=self.settings.bus.bootstrap_servers)
        admin.create_partitions({self.name: partitions})
        admin.close()

    def expected(self) -> dict[str, dict[str, Any]]:
        """By key what the topic's good events fold to: first arrivals, read as plainly as can be."""
        first: dict[str, tuple[Any, dict[str, Any]]] = {}
        for record in self._records():
            event = _good(record.value, record.timestamp * 1000)
            if event is not None:
                rank = (record.timestamp, record.partition, record.offset)
                if event["id"] not in first or rank < first[event["id"]][0]:
                    first[event["id"]] = (rank, event)
        things: dict[str, list[int]] = {}
        for _, event in first.values():
            things.setdefault(event["thing"], []).append(event["x"])
        return {
            thing: {
                "n_6h": len(xs),
                "n_1d": len(xs),
                "top_6h": max(xs),
                "top_1d": max(xs),
                "total": sum(xs),
                "share": 1.0,
                "spread": sum(xs) - max(xs),
                "asked": None,
            }
            for thing, xs in things.items()
        }

    def _records(self) -> list[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.bus.bootstrap_servers, consumer_timeout_ms=30_000
        )
        try:
            places = [
                TopicPartition(self.name, partition)
                for partition in consumer.partitions_for_topic(self.name) or ()
            ]
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            left = sum(consumer.end_offsets(places).values())
            return [next(consumer) for _ in range(left)]
        finally:
            consumer.close(autocommit=False)

    def differences(self, expected: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
        """Keys that are answered otherwise, with what is answered."""
        keys = sorted(expected)
        found = self.context.answers.features(self.project, [{"thing": key} for key in keys])
        return {
            key: dict(answer.values)
            for key, answer in zip(keys, found, strict=True)
            if answer.degraded or dict(answer.values) != expected[key]
        }

    def assert_exact(self) -> int:
        """Wait until every key is answered as the fold says; returns how many keys there are."""
        expected = self.expected()
        assert expected
        assert wait_until(lambda: not self.differences(expected), PATIENCE), (
            f"{self.differences(expected)} but {expected}\n{self.state()}"
        )
        return len(expected)

    def assert_verified(self) -> int:
        """Verify as `anabranch verify` does: no value differs. Returns how many keys were compared."""
        found = verify_settled(self.context, self.project, None, Steps())
        assert found.keys
        assert (found.mismatches, found.degraded) == (0, 0), found
        return found.keys


def _good(value: bytes | None, arrival: int) -> dict[str, Any] | None:
    if value is None or len(value) > 1_048_576:
        return None
    try:
        event = json.loads(value, parse_float=str)  # a number in a text column is what was sent
    except ValueError:
        return None
    if not isinstance(event, dict) or not all(
        isinstance(event.get(name), str) and event[name] for name in ("id", "thing", "at")
    ):
        return None
    try:
        at, key = parse_time(event["at"]), event["thing"].encode()
    except (MisuseError, UnicodeEncodeError):
        return None
    if SEPARATOR.encode() in key or len(key) > LONGEST_KEY:
        return None
    return event if isinstance(event.get("x"), int) and at <= arrival + 5 * MINUTE else None


def children_of(pid: int) -> list[int]:
    """Processes that `pid` started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *children_of(child)]
    return found
