"""The route table: an endpoint that is added from outside, and what follows from a row."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from msgspec import Meta, Struct

from anabranch.stores.files.api_keys import ApiKeys
from serving.api.routing import PROJECT, Call, Route, Router
from serving.api.server_parts import ServerParts
from serving.app import ROUTES, create_app
from serving.http.access import Access, Issuer
from serving.http.messages import HttpRequest
from tests.support.serving_fakes import NOW, PROJECTS, bench


class EchoRequest(Struct, forbid_unknown_fields=True):
    times: Annotated[int, Meta(ge=1, le=3)]


class EchoResponse(Struct):
    said: list[str]
    project: str


async def echo(parts: ServerParts, call: Call) -> EchoResponse:
    times = call.read(EchoRequest).times * int(call.query.get("twice", "1"))
    assert parts.live.get(call.served.project.name) is call.served
    return EchoResponse(said=[call.parameters["word"]] * times, project=call.served.project.name)


ECHO = Route(
    name="echo",
    method="POST",
    path=f"{PROJECT}/echo/{{word}}",
    right="features",
    handler=echo,
    summary="Say a word again",
    query={"twice": "How often to say all of it"},
    request=(EchoRequest,),
    response=EchoResponse,
    status=201,
    problems=(400, 415, 422),
)
HEART = "/v1/projects/heart_disease"


class EchoServer:
    """A server with the further endpoint, which asks for credentials."""

    def __init__(self, folder: Path) -> None:
        self.keys = ApiKeys(folder / "keys.json")
        access = Access(self.keys.read, Issuer(), lambda: NOW)
        self.app = create_app(bench(PROJECTS, ("age",), access=access).app.parts.context, (*ROUTES, ECHO))
        self.app.live.refresh()

    def key(self, *rights: str) -> str:
        text = self.keys.add("heart_disease", NOW, rights=rights)[1]
        self.app.live.refresh()
        return text

    def ask(
        self, method: str, path: str, key: str, body: Any = None, query: str = ""
    ) -> tuple[int, Any, dict[str, str]]:
        sent = b"" if body is None else json.dumps(body).encode()
        response = asyncio.run(self.app.handle(HttpRequest(method, path, sent, api_key=key, query=query)))
        return response.status, json.loads(response.body), dict(response.headers)


@pytest.fixture
def server(tmp_path: Path) -> EchoServer:
    return EchoServer(tmp_path)


def test_endpoint_added_from_outside_answers_for_callers_with_its_right(server: EchoServer) -> None:
    key = server.key("features", "catalogue")
    assert server.ask("POST", f"{HEART}/echo/ho", key, {"times": 2})[:2] == (
        201,
        {"said": ["ho", "ho"], "project": "heart_disease"},
    )
    assert server.ask("POST", f"{HEART}/echo/ho", key, {"times": 2}, "twice=2")[1]["said"] == ["ho"] * 4
    assert server.ask("POST", f"{HEART}/echo/ho", key, {"times": 2}, "thrice=2")[1]["field"] == "thrice"
    assert server.ask("POST", f"{HEART}/echo/ho", server.key("predict"), {"times": 2}, "x")[0] == 403
    assert server.ask("POST", f"{HEART}/echo/ho", "", {"times": 2})[0] == 401
    status, _, headers = server.ask("GET", f"{HEART}/echo/ho", key)
    assert (status, headers["allow"]) == (405, "POST")
    assert server.ask("POST", f"{HEART}/echo/ho/ho", key, {"times": 2})[0] == 404
    assert server.ask("GET", HEART, key)[1]["addresses"]["echo"] == f"{HEART}/echo/{{word}}"


@pytest.mark.parametrize(
    ("body", "field"),
    [({"times": 4}, "times"), ({"times": "2"}, "times"), ({"times": 1, "loud": True}, "body"), ([], "body")],
)
def test_request_that_does_not_fit_its_type_is_a_problem_that_names_the_field(
    server: EchoServer, body: Any, field: str
) -> None:
    status, problem, _ = server.ask("POST", f"{HEART}/echo/ho", server.key("features"), body)
    assert (status, problem["field"]) == (422, field), problem


def test_endpoint_added_from_outside_is_described_with_its_types(server: EchoServer) -> None:
    document = server.ask("GET", "/openapi.json", server.key("catalogue"))[1]
    operation = document["paths"][f"{HEART}/echo/{{word}}"]["post"]
    assert operation["summary"] == "Say a word again"
    assert [each["name"] for each in operation["parameters"]] == ["word", "twice"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate({"times": 3}, body)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"times": 4}, body)
    assert set(operation["responses"]) == {"201", "400", "401", "403", "415", "422"}
    answer = operation["responses"]["201"]["content"]["application/json"]["schema"]
    jsonschema.validate({"said": ["ho"], "project": "heart_disease"}, answer)
    assert operation["security"] == [{"bearer": []}, {"key": []}]
    entry = document["paths"][HEART]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "echo" in entry["properties"]["addresses"]["required"]


def test_router_takes_the_rest_of_a_path_where_the_template_says_so() -> None:
    router = Router(ROUTES)
    found = router.find("/v1/projects/shop/features/a/b\n")
    assert found is not None
    assert found[1] == {"project": "shop", "key": "a/b\n"}
    assert router.find("/v1/projects/shop/predict/x") is None
    assert router.find("/v1/projects/shop/features/") is None
    assert router.find("/v1/projects/shop/") is not None
    with pytest.raises(ValueError, match="two routes for POST"):
        Router((*ROUTES, *ROUTES))
