"""The law through the decoders of binary messages: real Kafka, a real schema registry, stream and builds.

One history is lived through once, with two writers' schemas in a topic, and a registry that is away at first.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Last, Max, Project, Source, Sum
from anabranch.answers.features import Answer
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.decoders.protobuf_messages import ProtobufDecoder
from anabranch.events.decoders.schemas import framed
from anabranch.testing import oracle
from anabranch.values.times import format_time, now_micros
from batch.landing.topics import land
from jobs.flows.building import build_project
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import start
from tests.conftest import free_ports
from tests.support.law import SCHEMA, Event
from tests.support.law_river import records_of, some_events
from tests.support.schemas import BOOL, DOUBLE, INT64, STRING, TIMESTAMP, descriptor_set, encoded, record
from tests.unit.folds.test_law import assert_lawful

KEYS = ("a", "b", "never seen")
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
OLD = record(
    ("id", "string"), ("key", ["null", "string"]), ("time", MICROS), ("x", ["null", "double"]),
    ("n", ["null", "long"]), ("d", ["null", DECIMAL]), ("s", ["null", "string"]), ("b", ["null", "boolean"]),
    name="Thing",
)  # fmt: skip
NEW = record(
    *reversed([(one["name"], one["type"]) for one in OLD["fields"]]), ("more", ["null", "int"]), name="Thing"
)
PROTO = {
    "id": STRING, "key": STRING, "time": TIMESTAMP, "x": DOUBLE, "n": INT64, "d": STRING, "s": STRING,
    "b": BOOL,
}  # fmt: skip
FEATURES = {
    "seen": Count(), "total": Sum("d"), "last": Last("s"), "top": Max("n"), "sum": Sum("x"),
    "some": Count(where="n > 0"),
}  # fmt: skip


@dataclass
class River:
    """A project with a source of each format, and what was answered at moments of its history."""

    context: Context
    project: Project
    told: list[str]
    written: dict[bytes, Event] = field(default_factory=dict)
    moments: dict[str, tuple[int, dict[str, list[Event]], list[Answer]]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)

    def publish(self, events: list[Event], schema: str) -> None:
        for source in self.project.sources.values():
            sent = [(None, self.message(source, event, schema)) for event in events]
            self.written |= {value: event for (_, value), event in zip(sent, events, strict=True)}
            self.context.bus.ensure_topics([str(source.topic)])
            self.context.bus.publish(str(source.topic), sent)

    def message(self, source: Source, event: Event, schema: str) -> bytes:
        row = {name: getattr(event, name) for name in ("id", "key", "time", "x", "n", "d", "s", "b")}
        if source.format == "avro":
            value = {**row, "more": None}
            return framed(self.ids[schema], encoded(OLD if schema == "old" else NEW, value))
        text = {**row, "d": None if event.d is None else str(event.d)}
        if source.format == "debezium":
            after = {**text, "time": format_time(event.time)}
            return json.dumps({"op": "c", "after": after, "source": {"lsn": 1}}).encode()
        decoder = decoder_of(source)
        assert isinstance(decoder, ProtobufDecoder)
        given = {name: one for name, one in text.items() if one is not None and name != "time"}
        message: Any = decoder.type(**given)
        message.time.FromMicroseconds(event.time)
        return bytes(message.SerializeToString())

    def drain(self) -> None:
        for query in start(self.context.speed_layer(once=True), self.project):
            query.awaitTermination()

    def look(self, name: str) -> None:
        at = now_micros()
        arrived = {source.name: self.arrived(str(source.topic)) for source in self.project.sources.values()}
        keys = [{"key": key} for key in KEYS]
        self.moments[name] = at, arrived, self.context.answers.features(self.project, keys, at)

    def arrived(self, topic: str) -> list[Event]:
        return [
            replace(self.written[one.value], arrival=one.timestamp * 1000)
            for one in records_of(self.context.bus, topic)
            if one.value in self.written
        ]


def register(settings: Settings, subject: str, schema: dict[str, Any]) -> int:
    request = Request(
        f"http://127.0.0.1:{settings.servers.registry_port}/apis/ccompat/v7/subjects/{subject}/versions",
        json.dumps({"schema": json.dumps(schema)}).encode(),
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urlopen(request, timeout=20) as answer:
        return int(json.load(answer)["id"])


def forward(settings: Settings, port: int) -> ThreadingHTTPServer:
    """The registry at another port, which answers from now on."""
    real = f"http://127.0.0.1:{settings.servers.registry_port}/apis/ccompat/v7"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urlopen(f"{real}{self.path}", timeout=20) as answer:
                    status, body = answer.status, answer.read()
            except HTTPError as error:
                status, body = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class Told(Steps):
    """What landing says."""

    def __init__(self, said: list[str], on_waiting: Any) -> None:
        super().__init__()
        self.said, self.on_waiting = said, on_waiting

    def step(self, what: str) -> None:
        self.said.append(what)
        if what.startswith("waiting:"):
            self.on_waiting()


def make_project(folder: Path) -> Project:
    name = f"binary_{uuid.uuid4().hex[:8]}"
    descriptor = folder / "thing.desc"
    descriptor.write_bytes(descriptor_set("Thing", PROTO))
    more: dict[str, dict[str, Any]] = {
        "avro": {}, "protobuf": {"wire_schema": f"{descriptor}:shop.Thing"}, "debezium": {},
    }  # fmt: skip
    views = []
    for form, also in more.items():
        source = Source(
            name=f"by_{form}",
            topic=f"{name}.{form}",
            id="id",
            time="time",
            schema=SCHEMA,
            format=form,
            **also,
        )
        features = {f"{form}_{one}": aggregate for one, aggregate in FEATURES.items()}
        views.append(
            FeatureView(name=form, source=source, key="key", windows=("1h", "7d"), features=features)
        )
    return Project(name=name, views=tuple(views))


@pytest.fixture(scope="module")
def river(
    servers: Settings,
    schema_registry: Settings,
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[River]:
    port = free_ports(1)[0]
    bus = replace(servers.bus, schema_registry=f"http://127.0.0.1:{port}")
    found = River(Context(replace(servers, bus=bus)), make_project(tmp_path_factory.mktemp("schemas")), [])
    topic = f"{found.project.name}.avro"
    found.ids["old"] = register(schema_registry, f"{topic}-value", OLD)
    events = some_events(120)
    found.publish(events[:50], "old")
    answering: list[ThreadingHTTPServer] = []

    def come_back() -> None:
        if not answering:
            answering.append(forward(schema_registry, port))

    # The registry is away: landing waits, and goes on when it answers.
    land(found.context, found.project, Told(found.told, come_back))
    found.drain()
    found.look("by the stream")
    found.ids["new"] = register(schema_registry, f"{topic}-value", NEW)
    found.publish([*events[50:80], *events[10:20]], "new")
    found.context.bus.publish(topic, [(None, value) for value in (b"{}", b"\0\0\0\xff\xff\xff?", b"\0")])
    build_project(found.context, found.project, None, Steps())
    found.publish([*events[80:], *events[30:40], *events[55:65]], "old")
    found.drain()
    found.look("after a build")
    yield found
    for server in answering:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("form", ["avro", "protobuf", "debezium"])
@pytest.mark.parametrize("moment", ["by the stream", "after a build"])
def test_answers_equal_the_fold_of_the_distinct_events(river: River, form: str, moment: str) -> None:
    at, arrived, answers = river.moments[moment]
    view = next(one for one in river.project.views if one.name == form)
    events = arrived[view.source.name]
    assert len(events) > 40
    for key, answer in zip(KEYS, answers, strict=True):
        assert answer.degraded is None
        values = {name: one for name, one in answer.values.items() if name.startswith(f"{form}_")}
        assert_lawful(view, events, oracle.answer(view, events, key, at), values)


def test_a_registry_that_is_away_is_waited_for_and_nothing_is_quarantined_for_it(river: River) -> None:
    waiting = [one for one in river.told if one.startswith("waiting:")]
    assert len(waiting) == 1
    assert "the schema registry at http://127.0.0.1:" in waiting[0]
    bad = river.context.lake.quarantine(river.context.spark, river.project).collect()
    assert sorted(str(row["reason"]).partition(":")[0] for row in bad) == [
        "no schema", "truncated", "unknown schema",
    ]  # fmt: skip
