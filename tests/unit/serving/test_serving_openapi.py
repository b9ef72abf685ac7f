import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from markupsafe import escape

from anabranch.declare.loading import load_project
from anabranch.values.types import type_names
from serving.api import openapi
from serving.routes import ROUTES
from serving.site import docs_page
from tests.support.serving_fakes import PROJECTS, Bench, bench

HEART = "/v1/projects/heart_disease"
BARE = """
from anabranch import Count, FeatureView, Project, Source

visits = Source(name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP")
seen = FeatureView(name="seen", source=visits, key="who", features={"n": Count()})
project = Project(name="bare", views=(seen,))
"""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document([load_project("heart_disease", (PROJECTS,))], ROUTES)


@pytest.fixture(scope="module")
def heart() -> Bench:
    return bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features)


def test_document_is_served_and_typed_from_the_declaration(document: dict[str, Any], heart: Bench) -> None:
    assert heart.ask("GET", "/openapi.json") == (200, document)
    asked = document["paths"][f"{HEART}/predict"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    one, keys, instances = asked["oneOf"]
    features = one["properties"]["features"]["properties"]
    assert features["age"] == {
        "type": ["integer", "null"],
        "minimum": -(2**63),
        "maximum": 2**63 - 1,
        "description": "Last('age') of exams",
    }
    assert (keys["properties"]["keys"]["maxItems"], instances["properties"]["instances"]["items"]) == (
        1000,
        one,
    )
    assert features["bpm_mean_1h"] == {
        "type": ["number", "null"],
        "description": "Mean('heart_rate') of bracelet over 1h",
    }
    event = document["paths"][f"{HEART}/events/bracelet"]["post"]["requestBody"]["content"][
        "application/json"
    ]["schema"]["oneOf"][0]
    assert event["required"] == ["reading_id", "patient_id", "measured_at"]


def test_every_operation_has_its_own_id_and_every_schema_is_valid(document: dict[str, Any]) -> None:
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        for content in _contents(operation):
            jsonschema.Draft202012Validator.check_schema(content["schema"])
            for shown in _shown(content):
                jsonschema.validate(shown, content["schema"])


def _contents(operation: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [operation.get("requestBody", {}), *operation["responses"].values()]
    return [content for part in parts for content in part.get("content", {}).values()]


def _shown(content: dict[str, Any]) -> list[Any]:
    """Every example of a content."""
    several = [shown["value"] for shown in content.get("examples", {}).values()]
    return [content["example"]] if "example" in content else several


@pytest.mark.parametrize("known", [True, False])
def test_examples_can_be_sent_and_their_answers_fit_the_schema(
    document: dict[str, Any], heart: Bench, known: bool
) -> None:
    """A known key is answered; an unknown one gets the problem that the document describes."""
    key = document["paths"][f"{HEART}/scores/{{key}}"]["get"]["parameters"][0]["example"]
    heart.store.stored, heart.store.rows = (
        ({(key,): {"age": 60}}, {key: {"score": 0.5}}) if known else ({}, {})
    )
    refused = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sent = _shown(operation.get("requestBody", {}).get("content", {}).get("application/json", {}))
            address = path
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    address = address.replace(f"{{{parameter['name']}}}", parameter["example"])
            assert bool(sent) == ("requestBody" in operation), path
            for body in sent or [None]:
                response = heart.raw(method.upper(), address, body)
                if response.status == 404:
                    refused.append((path, body))
                else:
                    assert str(response.status).startswith("2"), (path, response.body)
                content = operation["responses"][str(response.status)]["content"]
                kind = dict(response.headers)["content-type"]
                if "json" in kind:
                    jsonschema.validate(json.loads(response.body), content[kind]["schema"])
    unknown = [
        (f"{HEART}/predict", {"key": key}),
        *((f"{HEART}/{name}/{{key}}", None) for name in ("scores", "why")),
    ]
    assert refused == ([] if known else unknown)


def test_every_field_of_the_catalogue_is_typed(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE, encoding="utf-8")
    shop = bench(tmp_path, ("n",))
    shop.store.served = None
    shop.app.live.refresh()
    trained = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features)
    for asked, path in (
        (trained, "/v1/projects"),
        (trained, HEART),
        (shop, "/v1/projects"),
        (shop, "/v1/projects/bare"),
    ):
        shown = asked.ask("GET", path)[1]
        schema = document["paths"][path if path in document["paths"] else HEART]["get"]["responses"]["200"][
            "content"
        ]["application/json"]["schema"]
        jsonschema.validate(shown, schema)
        assert list(_untyped(shown, schema)) == []


def _untyped(shown: Any, schema: dict[str, Any], place: str = "$") -> Iterator[str]:
    """Where an answer has something that its schema says nothing of."""
    if isinstance(shown, list):
        for one in shown:
            yield from _untyped(one, schema["items"], f"{place}[]")
    elif isinstance(shown, dict):
        for name, one in shown.items():
            member = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if member is None:
                yield f"{place}.{name}"
            else:
                yield from _untyped(one, member, f"{place}.{name}")
    elif "type" not in schema:
        yield place


def test_page_shows_every_way_to_ask_with_an_example_of_each(document: dict[str, Any]) -> None:
    content = document["paths"][f"{HEART}/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert [set(shown) for shown in _shown(content)] == [
        {"features"},
        {"key"},
        {"features", "explain"},
        {"keys"},
        {"instances"},
    ]
    page = docs_page.docs({**document, "paths": {f"{HEART}/predict": document["paths"][f"{HEART}/predict"]}})
    asked = page.partition("<h4>Request</h4>")[2].partition("<h4>Answer")[0]
    assert asked.count("<b>or</b>") == 2
    for name, kind in (
        ("keys", "array of string or number or boolean, up to 1,000"),
        ("instances", "array of object, up to 1,000</span> <p>as above</p>"),
    ):
        assert f'<code>{name}</code> <span class="soft">{kind}' in asked, name
    for shown in _shown(content):
        text = str(escape(json.dumps(shown, indent=2)))
        assert f"<pre>{text}</pre>" in asked
        assert f'<option value="{text}">' in page
    assert "array of these" not in page


def test_page_says_that_events_come_alone_or_as_an_array(document: dict[str, Any]) -> None:
    path = f"{HEART}/events/bracelet"
    page = docs_page.docs({**document, "paths": {path: document["paths"][path]}})
    assert page.count("<code>reading_id</code>") == 1
    assert re.search(r"<p><b>or</b></p><p>array of object</p><p>as above</p>", page)


def test_page_lists_every_endpoint_and_needs_nothing_from_elsewhere(
    document: dict[str, Any], heart: Bench
) -> None:
    response = heart.raw("GET", "/docs")
    page = response.body.decode()
    assert response.status == 200
    assert page == docs_page.docs(document)
    assert all(f"<code>{path}</code>" in page for path in document["paths"])
    assert not re.search(r"(src|href)=['\"](https?:)?//", page)
    assert b"/docs" in heart.raw("GET", "/").body


TYPED = """
from anabranch import Count, FeatureView, Label, Last, LastK, Model, Project, Source

sales = Source(name="sales", topic="sales", id="id", time="at",
               schema="id STRING, shop STRING, at TIMESTAMP, value {type}")
seen = FeatureView(name="seen", source=sales, key="shop",
                   features={{"n": Count(), "few": LastK("value", k=2), "value": Last("value")}})
project = Project(name="typed", views=(seen,), model=Model(features=["n"]),
                  label=Label(source=sales, key="shop", target="id = 'x'"))
"""


@pytest.mark.parametrize("kind", [*type_names(), "DECIMAL(9,2)", "DECIMAL(36,18)", "NUMERIC(4)"])
def test_a_column_of_any_type_is_described_by_every_document(kind: str, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED.format(type=kind))
    typed = bench(tmp_path, ())
    assert typed.app.live.broken == {}
    for path in ("/openapi.json", "/docs", "/v1/projects", "/projects/typed"):
        assert typed.raw("GET", path).status == 200, path
