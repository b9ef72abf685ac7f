"""The client of a schema registry: what it keeps, what it says of a registry that fails, and its secrets."""

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from anabranch.errors import EventError, UnavailableError
from anabranch.settings import BusSettings
from anabranch.stores.schema_registry import client
from anabranch.stores.schema_registry.client import SchemaRegistry, SchemaRegistryError
from tests.conftest import free_ports

TEXT = '{"type": "record", "name": "R", "fields": []}'


@dataclass
class Answers:
    """What a registry answers by path, and what it was asked."""

    port: int
    by_path: dict[str, tuple[int, object]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)

    def settings(self, **more: Any) -> BusSettings:
        return BusSettings(schema_registry=f"http://127.0.0.1:{self.port}", **more)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setattr(client, "_PAUSES", (0.0, 0.0))
    client.forget()
    found = Answers(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            found.authorization.append(self.headers.get("Authorization"))
            status, body = found.by_path.get(self.path, (404, {"error_code": 40403}))
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        server.shutdown()


def test_a_schema_is_asked_for_once(registry: Answers) -> None:
    registry.by_path["/schemas/ids/7"] = (200, {"schema": TEXT})
    schemas = SchemaRegistry(registry.settings())
    assert {schemas.by_id(7).text for _ in range(3)} == {TEXT}
    assert SchemaRegistry(registry.settings()).by_id(7).kind == "AVRO"
    assert registry.asked == ["/schemas/ids/7"]


def test_an_unknown_id_is_of_the_message_and_is_asked_for_again_later(
    registry: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemas = SchemaRegistry(registry.settings())
    for _ in range(3):
        with pytest.raises(EventError, match="unknown schema: the schema registry has none with the id 9"):
            schemas.by_id(9)
    assert registry.asked == ["/schemas/ids/9"]
    registry.by_path["/schemas/ids/9"] = (200, {"schema": TEXT, "schemaType": "PROTOBUF"})
    client._unknown.clear()
    assert schemas.by_id(9).kind == "PROTOBUF"


def test_schemas_that_one_refers_to_come_with_it_used_ones_first(registry: Answers) -> None:
    def refers(*names: str) -> list[dict[str, object]]:
        return [{"name": name, "subject": f"of {name}", "version": 2} for name in names]

    registry.by_path["/schemas/ids/1"] = (200, {"schema": TEXT, "references": refers("b", "a")})
    registry.by_path["/subjects/of%20b/versions/2"] = (200, {"schema": "B", "references": refers("a")})
    registry.by_path["/subjects/of%20a/versions/2"] = (200, {"schema": "A", "references": refers("b")})
    assert SchemaRegistry(registry.settings()).by_id(1).references == ("A", "B")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_registry_that_fails_is_away(registry: Answers, status: int) -> None:
    registry.by_path["/schemas/ids/1"] = (status, {})
    with pytest.raises(
        UnavailableError, match=f"the schema registry at .* does not answer .HTTP status {status}"
    ):
        SchemaRegistry(registry.settings()).by_id(1)
    registry.by_path["/schemas/ids/1"] = (200, {"schema": TEXT})
    assert SchemaRegistry(registry.settings()).by_id(1).text == TEXT


def test_several_addresses_are_tried_in_turn(registry: Answers) -> None:
    registry.by_path["/schemas/ids/1"] = (200, {"schema": TEXT})
    both = BusSettings(
        schema_registry=f"http://127.0.0.1:{free_ports(1)[0]},http://127.0.0.1:{registry.port}/"
    )
    assert SchemaRegistry(both).by_id(1).text == TEXT
    with pytest.raises(UnavailableError, match="refused"):
        SchemaRegistry(BusSettings(schema_registry=f"http://127.0.0.1:{free_ports(1)[0]}")).by_id(1)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>Welcome</html>", "answered no JSON"),
        (200, [], "answered no JSON object"),
        (200, {"schema": None}, "answered an answer without a schema"),
        (
            200,
            {"schema": TEXT, "references": [{"name": "x"}]},
            "a reference without name, subject and version",
        ),
        (200, b"[" * 100_000, "answered no JSON"),
        (200, b" " * (8 * 2**20 + 1), "more than 8388608 bytes"),
        (404, b"<html>Not Found</html>", "HTTP status 404"),
        (404, {"error_code": 0}, "HTTP status 404"),
        (302, b"", "HTTP status 302"),
    ],
)
def test_nonsense_is_no_answer_and_no_fault_of_a_message(
    registry: Answers, status: int, body: object, said: str
) -> None:
    registry.by_path["/schemas/ids/1"] = (status, body)
    with pytest.raises(SchemaRegistryError, match=f"{said}.*correct bus.schema_registry"):
        SchemaRegistry(registry.settings()).by_id(1)


def test_a_refusal_says_what_to_set_and_no_secret_is_told(
    registry: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    registry.by_path["/schemas/ids/1"] = (401, {})
    for more in (
        {"schema_registry_user": "ann", "schema_registry_password": "hush-hush"},
        {"schema_registry_token": "hush-hush"},
    ):
        settings = registry.settings(**more)
        with pytest.raises(
            SchemaRegistryError, match=r"HTTP status 401.*bus.schema_registry_token"
        ) as raised:
            SchemaRegistry(settings).by_id(1)
        assert "hush" not in repr(settings) + repr(SchemaRegistry(settings)) + str(raised.value) + caplog.text
    basic = "Basic " + base64.b64encode(b"ann:hush-hush").decode()
    assert registry.authorization == [basic, "Bearer hush-hush"]
    within = BusSettings(schema_registry=f"http://ann:hush-hush@127.0.0.1:{registry.port}")
    with pytest.raises(SchemaRegistryError) as refused:
        SchemaRegistry(within).by_id(1)
    assert registry.authorization[-1] == basic
    assert "hush" not in repr(within) + str(refused.value)


def test_the_latest_schema_of_an_unknown_subject_is_none(registry: Answers) -> None:
    schemas = SchemaRegistry(registry.settings())
    registry.by_path["/subjects/t-value/versions/latest"] = (200, {"id": 4, "schema": TEXT})
    latest = schemas.latest("t-value")
    assert latest is not None
    assert (latest.id, latest.text) == (4, TEXT)
    registry.by_path["/subjects/u-value/versions/latest"] = (404, {"error_code": 40401})
    assert schemas.latest("u-value") is None
