"""Several keys in one request, answers without the store, and the breaker before it."""

from pathlib import Path
from typing import Any

import pytest

from anabranch.declare.loading import load_project
from serving.settings import ServingSettings
from tests.support.serving_fakes import PROJECTS, Bench, bench

PREDICT = "/v1/projects/heart_disease/predict"
DECLARATION = """
from anabranch import Count, FeatureView, Label, Model, Project, Source

visits = Source(name="visits", topic="visits", id="visit_id", time="at",
                schema="visit_id STRING, person STRING, at TIMESTAMP, paid INT")
view = FeatureView(name="view", source=visits, key="person", features={{"seen": Count()}})
project = Project(name="{name}", views=(view,), model=Model(),
                  label=Label(source=visits, key="person", target="paid > 0"))
"""


@pytest.fixture
def heart() -> Bench:
    found = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features)
    found.store.stored = {("p1",): {"age": 60}, ("p2",): {"age": 40}}
    return found


def test_keys_are_answered_in_their_order_by_one_reading_and_one_score(heart: Bench) -> None:
    status, answer = heart.ask("POST", PREDICT, {"keys": ["p2", "p1", "p2"]})
    assert status == 200
    assert [each["key"] for each in answer["predictions"]] == ["p2", "p1", "p2"]
    assert [each["score"] for each in answer["predictions"]] == pytest.approx([0.04, 0.06, 0.04])
    assert heart.store.reads == 1
    one = heart.ask("POST", PREDICT, {"key": "p1"})[1]
    assert {name: value for name, value in answer["predictions"][1].items() if name != "key"} == one


def test_instances_mix_keys_and_features(heart: Bench) -> None:
    asked = [{"features": {"age": 10}}, {"key": "p1"}, {"key": "p1", "features": {"age": 20}}]
    answer = heart.ask("POST", PREDICT, {"instances": asked})[1]
    assert [(each["key"], each["score"]) for each in answer["predictions"]] == [
        (None, 0.01),
        ("p1", 0.06),
        ("p1", 0.02),
    ]
    assert [each["batch_version"] for each in answer["predictions"]] == [None, 7, 7]


def test_unknown_keys_among_others_are_errors_in_their_own_places(heart: Bench) -> None:
    status, answer = heart.ask("POST", PREDICT, {"keys": ["unseen", "p1", "other", "p2"]})
    assert (status, heart.store.reads) == (200, 1)
    assert [(each["key"], each.get("score")) for each in answer["predictions"]] == [
        ("unseen", None),
        ("p1", 0.06),
        ("other", None),
        ("p2", 0.04),
    ]
    for place in (0, 2):
        key, error = answer["predictions"][place].values()
        alone = heart.ask("POST", PREDICT, {"key": key})[1]
        assert error == {**alone, "field": f"keys[{place}]"}
        assert error["type"] == "urn:anabranch:problem:unknown-key"
    asked = [{"key": "unseen"}, {"key": "unseen", "features": {"age": 10}}, {"features": {"age": 20}}]
    found = heart.ask("POST", PREDICT, {"instances": asked})[1]["predictions"]
    assert (found[0]["error"]["field"], [each["score"] for each in found[1:]]) == (
        "instances[0].key",
        [0.01, 0.02],
    )


def test_a_request_for_unknown_keys_alone_has_only_errors(heart: Bench) -> None:
    status, answer = heart.ask("POST", PREDICT, {"keys": ["a", "b"]})
    assert status == 200
    assert [list(each) for each in answer["predictions"]] == [["key", "error"]] * 2
    assert "anabranch_predictions_buffered 0.0" in heart.raw("GET", "/metrics").body.decode()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"keys": []}, "keys"),
        ({"keys": "p1"}, "keys"),
        ({"keys": ["p1", None]}, "keys[1]"),
        ({"keys": ["p1", {"patient": 3}]}, "keys[1].patient"),
        ({"keys": ["p1"] * 1001}, "keys"),
        ({"keys": ["p1"], "key": "p1"}, "key"),
        ({"instances": [{"key": "p1"}, 3]}, "instances[1]"),
        ({"instances": [{"key": "p1"}, {"features": {"age": "x"}}]}, "instances[1].features.age"),
        ({"instances": [{}]}, "instances[0].key"),
        ({"instances": None}, "instances"),
    ],
)
def test_one_bad_entry_refuses_the_whole_request_and_is_named(heart: Bench, body: Any, field: str) -> None:
    status, problem = heart.ask("POST", PREDICT, body)
    assert (status, problem["field"]) == (422, field)
    assert heart.store.reads == 0


def test_without_the_store_the_last_known_batch_part_answers_and_says_so(heart: Bench) -> None:
    heart.store.away = True
    heart.store.parts[("p1",)] = {"age": 60}
    answer = heart.ask("POST", PREDICT, {"key": "p1"})[1]
    assert (answer["score"], answer["degraded"]) == (0.06, True)
    assert "Cassandra" in answer["degraded_reason"]
    assert heart.ask("POST", PREDICT, {"key": "p2"})[0] == 503
    assert heart.ask("POST", PREDICT, {"key": "never"})[0] == 503  # the stream may know the key
    assert (
        'anabranch_degraded_answers_total{project="heart_disease"} 1.0'
        in heart.raw("GET", "/metrics").body.decode()
    )


def test_store_that_keeps_failing_is_left_alone() -> None:
    found = bench(PROJECTS, ("age",), ServingSettings(breaker_failures=3, breaker_seconds=60))
    found.store.away = True
    for _ in range(3):
        assert found.ask("POST", PREDICT, {"key": "p1"})[0] == 503
    found.store.away = False
    status, problem = found.ask("POST", PREDICT, {"key": "p1"})
    assert (status, found.store.reads) == (503, 0)
    assert "failed 3 times in a row" in problem["detail"]
    assert 'anabranch_breaker_open{store="store"} 1.0' in found.raw("GET", "/metrics").body.decode()


def test_a_table_of_one_project_that_is_gone_leaves_the_others_their_answers(tmp_path: Path) -> None:
    for name in ("ward", "shop"):
        (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name))
    found = bench(tmp_path, ("seen",), ServingSettings(breaker_failures=3, breaker_seconds=60))
    found.store.gone.add("shop")
    for path in ("features/p1", "scores/p1") * 3:
        status, problem = found.ask("GET", f"/v1/projects/shop/{path}")
        assert (status, "'shop' is gone" in problem["detail"]) == (503, True)
    assert found.ask("GET", "/v1/projects/ward/features/p1")[0] == 200
    assert 'anabranch_breaker_open{store="store"} 0.0' in found.raw("GET", "/metrics").body.decode()
    found.store.parts[("p1",)] = {"seen": 4}
    answer = found.ask("GET", "/v1/projects/shop/features/p1")[1]
    assert (answer["features"]["seen"], answer["degraded"], "is gone" in answer["degraded_reason"]) == (
        4,
        True,
        True,
    )
