"""Spans of answers, as a collector receives them: OTLP in Protocol Buffers over HTTP."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from anabranch.answers import spans
from anabranch.answers.coalescing import Coalescer
from anabranch.client.clients import _headers
from anabranch.declare.loading import load_project
from anabranch.errors import MisuseError
from serving.http.messages import HttpRequest
from serving.settings import ServingSettings
from serving.tracing import check, open_provider
from tests.support.serving_fakes import PROJECTS, Bench, bench

PREDICT = "/v1/projects/heart_disease/predict"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """A receiver of spans; `provider` sends to it."""

    address: str = ""
    received: list[Any] = field(default_factory=list)
    providers: list[Any] = field(default_factory=list)

    def spans(self, provider: Any) -> list[Any]:
        """What was received, in the order of its end."""
        provider.force_flush()
        return sorted(self.received, key=lambda one: one.end_time_unix_nano)


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                assert {"service.name": "anabranch"}.items() <= attributes(resource.resource).items()
                found.received += [one for scope in resource.scope_spans for one in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    found.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    spans.use(None)
    for provider in found.providers:
        provider.shutdown()
    server.shutdown()
    server.server_close()
    thread.join()


def attributes(holder: Any) -> dict[str, Any]:
    values = {}
    for one in holder.attributes:
        kind = one.value.WhichOneof("value")
        values[one.key] = getattr(one.value, kind)
    return values


def traced(collector: Collector, **more: Any) -> tuple[Bench, Any]:
    settings = ServingSettings(tracing=collector.address, store_timeout_seconds=1, **more)
    found = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features, settings)
    found.store.stored = {("p1",): {"age": 60}}
    provider = open_provider(settings)
    collector.providers.append(provider)
    spans.use(provider.get_tracer("anabranch"), values=settings.tracing_values)
    return found, provider


def test_an_answer_is_a_trace_below_that_of_its_caller_and_names_no_values(collector: Collector) -> None:
    heart, provider = traced(collector)
    body = b'{"key": "p1", "features": {"bpm_mean_1h": 77.125}}'
    request = HttpRequest("POST", PREDICT, body, headers={"traceparent": CALLER})
    assert asyncio.run(heart.app.handle(request)).status == 200
    found = {one.name: one for one in collector.spans(provider)}
    assert list(found) == ["features", "predict", "score together", "log", "POST predict"]
    whole = found["POST predict"]
    assert {one.trace_id.hex() for one in found.values()} == {CALLER[3:35]}
    assert whole.parent_span_id.hex() == CALLER[36:52]
    assert found["predict"].parent_span_id == found["score together"].span_id
    for name in ("features", "score together", "log"):
        assert found[name].parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= found[name].start_time_unix_nano
    assert attributes(whole) == {
        "http.request.method": "POST",
        "http.route": "predict",
        "http.response.status_code": 200,
        "anabranch.project": "heart_disease",
    }
    assert attributes(found["predict"]) == {"anabranch.rows": 1, "anabranch.model_version": "3"}
    assert not [
        one
        for one in collector.received
        if b"p1" in one.SerializeToString() or b"77.1" in one.SerializeToString()
    ]
    # The record of the prediction leads to the trace.
    (_, _, record), *_ = heart.app.parts.predictions._waiting
    assert f'"traceparent":"00-{CALLER[3:35]}-{found["log"].span_id.hex()}-01"'.encode() in record


def test_values_are_shown_when_they_are_asked_for(collector: Collector) -> None:
    heart, provider = traced(collector, tracing_values=True)
    assert heart.ask("POST", PREDICT, {"key": "p1", "features": {"age": 5}})[0] == 200
    shown = attributes(collector.spans(provider)[-1])["anabranch.questions"]
    assert shown == '[{"key":{"patient_id":"p1"},"features":{"age":5}}]'


def test_failures_are_noted_by_status_and_class_and_not_by_their_text(collector: Collector) -> None:
    heart, provider = traced(collector)
    assert heart.ask("POST", PREDICT, {"key": "nobody"})[0] == 404
    heart.store.away = True
    assert heart.ask("POST", PREDICT, {"key": "p1"})[0] == 503
    *_, of_404, of_features, of_503 = collector.spans(provider)
    assert (of_404.status.code, attributes(of_404)["http.response.status_code"]) == (0, 404)
    assert (of_features.status.code, attributes(of_features)["error.type"]) == (2, "UnavailableError")
    assert (of_503.status.code, attributes(of_503)["error.type"]) == (2, "503")
    assert not any(one.status.message or one.events for one in collector.received)
    assert not any(b"nobody" in one.SerializeToString() for one in collector.received)


def test_callers_decide_and_of_the_others_a_share_is_traced(collector: Collector) -> None:
    heart, provider = traced(collector, tracing_share=0.0)
    for flag in ("00", "01"):
        sent = {"traceparent": f"{CALLER[:-2]}{flag}"}
        asyncio.run(heart.app.handle(HttpRequest("POST", PREDICT, b'{"key": "p1"}', headers=sent)))
    heart.ask("POST", PREDICT, {"key": "p1"})
    assert [one.name for one in collector.spans(provider)].count("POST predict") == 1
    assert len(heart.app.parts.predictions._waiting) == 3
    assert sum(b"traceparent" in record for _, _, record in heart.app.parts.predictions._waiting) == 1


def test_work_for_several_callers_is_one_span_with_links_to_the_others(collector: Collector) -> None:
    _, provider = traced(collector, tracing_share=0.0)

    async def work(_: object, items: Any) -> Any:
        with spans.span("step"):
            return items

    async def call(together: Any, number: int, sampled: bool) -> None:
        parent = {"traceparent": f"00-{number:032x}-{number:016x}-0{int(sampled)}"}
        with spans.request("POST", parent):
            await together.ask((provider,), [number])

    async def run(*sampled: bool) -> None:
        together: Any = Coalescer(work, most=10)
        await asyncio.gather(*(call(together, place, one) for place, one in enumerate(sampled, 1)))

    asyncio.run(run(False, True, False, True))
    found = collector.spans(provider)
    (shared,) = [one for one in found if one.name == "together"]
    (step,) = [one for one in found if one.name == "step"]
    assert (int(shared.trace_id.hex(), 16), [int(one.trace_id.hex(), 16) for one in shared.links]) == (2, [4])
    assert step.parent_span_id == shared.span_id
    assert attributes(shared) == {"anabranch.callers": 4, "anabranch.items": 4}
    collector.received.clear()
    asyncio.run(run(False, False))
    assert collector.spans(provider) == []


def test_the_client_hands_on_the_trace_of_its_caller(collector: Collector) -> None:
    assert list(_headers()) == ["Content-Type"]
    _, provider = traced(collector)
    with provider.get_tracer("caller").start_as_current_span("work") as own:
        named = f"00-{own.context.trace_id:032x}-{own.context.span_id:016x}-"
        assert _headers()["traceparent"].startswith(named)


def test_spans_go_to_a_file_as_lines_of_json(tmp_path: Path) -> None:
    provider = open_provider(ServingSettings(tracing=f"file:{tmp_path / 'spans'}"))
    with provider.get_tracer("test").start_as_current_span("step"):
        pass
    provider.shutdown()
    (line,) = (tmp_path / "spans").read_text().splitlines()
    assert '"name": "step"' in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tracing": "on"}, "write off, console, file:PATH, or the address"),
        ({"tracing": "file:/nonexistent/spans"}, "there is no folder /nonexistent"),
    ],
)
def test_a_wrong_setting_is_told_before_the_server_starts(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        check(ServingSettings(**settings))
    check(ServingSettings())


def test_nothing_is_made_while_tracing_is_off_and_a_step_costs_under_a_microsecond() -> None:
    assert open_provider(ServingSettings()) is None
    assert (spans.tracing(), spans.current(), spans.traceparent()) == (False, None, None)
    assert spans.span("a") is spans.together("b", [None]) is spans.NOTHING
    count, costs = 20_000, []
    for _ in range(5):
        started = time.process_time()
        for _ in range(count):
            with spans.span("step", rows=1):
                pass
        costs.append((time.process_time() - started) / count)
    assert min(costs) < 2e-6  # about 0.3 us on an idle core; an answer takes hundreds, and has seven steps
