"""MLflow's scoring protocol and the Open Inference Protocol, as their clients speak them."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anabranch.declare.loading import load_project
from anabranch.stores.files.api_keys import ApiKeys
from anabranch.stores.models.connection import mlflow_module
from anabranch.stores.models.roles import CANARY, SHADOW, VersionTrial
from serving.http.access import Access, Issuer
from serving.http.messages import HttpRequest
from serving.settings import ServingSettings
from tests.support.serving_fakes import NOW, PROJECTS, Bench, SumScorer, bench
from tests.unit.serving.test_serving_many import DECLARATION

PREDICT = "/v1/projects/heart_disease/predict"
MODEL = "/v2/models/heart_disease"
FEATURES = load_project("heart_disease", (PROJECTS,)).model_features
AWKWARD = (0.1 + 0.2, 1 / 3, 5e-324, 123456789.12345679, -0.0)
"""Numbers whose last bits a careless conversion loses."""


@pytest.fixture
def heart() -> Bench:
    found = bench(PROJECTS, FEATURES)
    found.store.stored = {("p1",): {"age": 60, "bpm_mean_1h": 1 / 3}, ("p2",): {"age": 40}}
    return found


def invoked(heart: Bench, body: Any, content_type: str = "application/json") -> Any:
    status, answer = heart.ask("POST", "/invocations", body, content_type)
    assert status == 200, answer
    return answer["predictions"]


def inferred(heart: Bench, *inputs: dict[str, Any], **rest: Any) -> Any:
    status, answer = heart.ask("POST", f"{MODEL}/infer", {"inputs": list(inputs), **rest})
    assert status == 200, answer
    return {one["name"]: one for one in answer["outputs"]}


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def predicted(heart: Bench, *questions: dict[str, Any]) -> list[Any]:
    return list(heart.ask("POST", PREDICT, {"instances": list(questions)})[1]["predictions"])


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs", "csv"])
def test_rows_of_every_form_of_mlflow_are_scored_as_predict_does_to_the_bit(heart: Bench, form: str) -> None:
    frame = pd.DataFrame({"age": [60.0, None, 41.0, 7.0, 3.0], "bpm_mean_1h": AWKWARD})
    frame.loc[3, "bpm_mean_1h"] = None
    records = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    if form == "csv":
        answers = invoked(heart, frame.to_csv(index=False).encode(), "text/csv; charset=utf-8")
    else:
        columns = {name: list(frame[name]) for name in frame}  # with NaN, as MLflow's clients write it
        bodies: dict[str, Any] = {
            "dataframe_split": frame.to_dict("split"),
            "dataframe_records": records,
            "instances": records,
            "inputs": columns,
        }
        answers = invoked(heart, json.dumps({form: bodies[form]}).encode())
    expected = predicted(heart, *({"features": one} for one in records))
    assert [one["score"] for one in answers] == [one["score"] for one in expected]
    assert len({one["score"] for one in answers}) == 5
    for got, wanted in zip(answers, expected, strict=True):
        assert {**got, "key": None} == wanted


def test_mlflows_own_client_code_writes_the_request_and_reads_the_answer(heart: Bench) -> None:
    mlflow_module()
    from mlflow.deployments import PredictionsResponse
    from mlflow.utils.proto_json_utils import dataframe_from_parsed_json, dump_input_data

    frame = pd.DataFrame({"patient_id": ["p1", "p2", "nobody"], "bpm_mean_1h": [0.1 + 0.2, np.nan, np.nan]})
    body = dump_input_data(frame)
    assert "NaN" in body
    found = PredictionsResponse.from_json(  # type: ignore[no-untyped-call]
        heart.raw("POST", "/invocations", body.encode()).body.decode()
    )
    scores = found.get_predictions("dataframe")
    assert scores["score"].tolist() == pytest.approx([0.0603, 0.04, np.nan], nan_ok=True)
    assert "nothing is known of key" in scores["error"][2]
    sent = json.loads(body.replace("NaN", "null"))
    # And MLflow's own server reads the same rows of it.
    assert dataframe_from_parsed_json(sent["dataframe_split"], "split").equals(frame)  # type: ignore[no-untyped-call]


def test_columns_of_the_key_bring_stored_features_and_given_ones_win(heart: Bench) -> None:
    rows: list[list[Any]] = [["p1", 1.5], ["p1", None], [None, 2.5], ["p2", 0.5]]
    split = {"columns": ["patient_id", "bpm_mean_1h"], "data": rows}
    answers = invoked(heart, {"dataframe_split": split})
    expected = predicted(
        heart,
        {"key": "p1", "features": {"bpm_mean_1h": 1.5}},
        {"key": "p1", "features": {"bpm_mean_1h": None}},
        {"features": {"bpm_mean_1h": 2.5}},
        {"key": "p2", "features": {"bpm_mean_1h": 0.5}},
    )
    assert [one["score"] for one in answers] == [one["score"] for one in expected]
    assert [one["batch_version"] for one in answers] == [7, 7, None, 7]
    reads = heart.store.reads
    outputs = inferred(
        heart,
        tensor("patient_id", "BYTES", [row[0] for row in rows]),
        tensor("bpm_mean_1h", "FP64", [row[1] for row in rows], [4, 1]),
    )
    assert outputs["score"]["data"] == [one["score"] for one in expected]
    assert outputs["batch_version"]["data"] == [7, 7, 0, 7]
    assert heart.store.reads == reads + 1  # all rows are read together


def test_rows_without_names_have_the_features_that_the_model_reads(heart: Bench) -> None:
    values = [float(place) for place in range(len(FEATURES))]
    expected = predicted(heart, {"features": dict(zip(FEATURES, values, strict=True))})[0]["score"]
    for body in ({"instances": [values]}, {"inputs": [values]}, {"dataframe_split": {"data": [values]}}):
        assert [one["score"] for one in invoked(heart, body)] == [expected]
    outputs = inferred(heart, tensor("input-0", "FP64", [values, values], [2, len(values)]))
    assert outputs["score"]["data"] == [expected] * 2
    status, problem = heart.ask("POST", "/invocations", {"instances": [values[1:]]})
    assert (status, problem["error_code"]) == (400, "BAD_REQUEST")
    assert f"{len(values) - 1} values for {len(values)} columns" in problem["message"]


def test_tensors_are_scored_as_predict_does_to_the_bit_in_json_and_in_binary(heart: Bench) -> None:
    ages = [60, 7, 41, 3, 2]
    rows: list[dict[str, Any]] = [
        {"age": age, "bpm_mean_1h": value} for age, value in zip(ages, AWKWARD, strict=True)
    ]
    rows[4]["bpm_mean_1h"] = None
    expected = [one["score"] for one in predicted(heart, *({"features": row} for row in rows))]
    given = [row["bpm_mean_1h"] for row in rows]
    for missing in (None, float("nan")):
        sent = [missing if value is None else value for value in given]
        outputs = inferred(heart, tensor("age", "INT64", ages), tensor("bpm_mean_1h", "FP64", sent))
        assert outputs["score"]["data"] == expected
    raw = struct.pack("<5q", *ages) + struct.pack("<5d", *given[:4], float("nan"))
    inputs = [
        {"name": name, "datatype": kind, "shape": [5], "parameters": {"binary_data_size": 40}}
        for name, kind in (("age", "INT64"), ("bpm_mean_1h", "FP64"))
    ]
    status, answer = binary(heart, inputs, raw)
    assert (status, answer["outputs"][0]["data"]) == (200, expected)
    status, answer = binary(heart, inputs, raw + b"x")
    assert (status, "1 bytes after the binary tensors" in answer["error"]) == (400, True)
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"p1", b"p2"))
    key = {"name": "patient_id", "datatype": "BYTES", "shape": [2]}
    status, answer = binary(heart, [{**key, "parameters": {"binary_data_size": len(texts)}}], texts)
    assert answer["outputs"][0]["data"] == [
        one["score"] for one in predicted(heart, {"key": "p1"}, {"key": "p2"})
    ]
    status, answer = binary(heart, [{**key, "parameters": {"binary_data_size": 5}}], texts[:5])
    assert status == 400


def binary(heart: Bench, inputs: list[dict[str, Any]], tail: bytes) -> tuple[int, Any]:
    head = json.dumps({"inputs": inputs}).encode()
    request = HttpRequest(
        "POST",
        f"{MODEL}/infer",
        head + tail,
        "application/octet-stream",
        headers={"inference-header-content-length": str(len(head))},
    )
    response = asyncio.run(heart.app.handle(request))
    return response.status, json.loads(response.body)


def test_narrow_numbers_are_those_of_their_type(heart: Bench) -> None:
    narrow = inferred(heart, tensor("bpm_mean_1h", "FP32", [0.1]))["score"]["data"]
    wide = inferred(heart, tensor("bpm_mean_1h", "FP64", [float(np.float32(0.1))]))["score"]["data"]
    assert narrow == wide != inferred(heart, tensor("bpm_mean_1h", "FP64", [0.1]))["score"]["data"]


def test_answer_of_a_model_echoes_the_id_and_has_the_outputs_that_are_named(heart: Bench) -> None:
    row = tensor("age", "INT64", [60])
    status, answer = heart.ask(
        "POST",
        f"{MODEL}/infer",
        {"id": "42", "inputs": [row], "outputs": [{"name": "label"}, {"name": "score"}]},
    )
    assert (status, answer["id"], answer["model_name"], answer["model_version"]) == (
        200,
        "42",
        "heart_disease",
        "3",
    )
    assert answer["outputs"] == [
        {"name": "label", "shape": [1], "datatype": "INT64", "data": [0]},
        {"name": "score", "shape": [1], "datatype": "FP64", "data": [0.06]},
    ]
    assert "id" not in heart.ask("POST", f"{MODEL}/infer", {"inputs": [row]})[1]
    explained = inferred(heart, row, parameters={"explain": True, "sequence_id": 3})["explanation"]
    assert json.loads(explained["data"][0])["contributions"]["age"] == pytest.approx(0.06)
    status, answer = heart.ask("POST", f"{MODEL}/infer", {"inputs": [row], "outputs": [{"name": "sore"}]})
    assert (status, "'sore' is no output: there are score, label" in answer["error"]) == (400, True)


def test_model_and_server_describe_themselves(heart: Bench) -> None:
    status, about = heart.ask("GET", MODEL)
    assert (status, about["versions"]) == (200, ["3"])
    inputs = {one["name"]: (one["datatype"], one["shape"]) for one in about["inputs"]}
    assert inputs["patient_id"] == ("BYTES", [-1])
    assert (inputs["age"], inputs["bpm_mean_1h"]) == (("INT64", [-1]), ("FP64", [-1]))
    assert set(FEATURES) <= set(inputs)
    row = tensor("age", "INT64", [60])
    outputs = {one["name"]: one["datatype"] for one in about["outputs"]}
    assert outputs == {name: one["datatype"] for name, one in inferred(heart, row).items()}
    for path in (MODEL, f"{MODEL}/ready", f"{MODEL}/infer"):
        method, body = ("POST", {"inputs": [row]}) if path.endswith("infer") else ("GET", None)
        named = path.replace(MODEL, f"{MODEL}/versions/3")
        assert heart.ask(method, named, body) == heart.ask(method, path, body)
        status, problem = heart.ask(method, named.replace("/3", "/9"), body)
        assert (status, "version '9' does not serve: '3'" in problem["error"]) == (404, True)
    for path in ("/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/ping", "/health", "/version"):
        assert heart.raw("GET", path).status == 200, path
    assert heart.ask("GET", "/v2")[1]["name"] == "anabranch"
    heart.store.away = True
    status, problem = heart.ask("GET", "/v2/health/ready")
    assert (status, "Cassandra" in problem["error"]) == (503, True)
    assert heart.raw("GET", "/ping").status == heart.raw("GET", f"{MODEL}/ready").status == 200


def test_without_a_model_neither_is_ready(heart: Bench) -> None:
    heart.registry.version = None
    heart.app.live.refresh()
    none = bench(PROJECTS, FEATURES)
    none.registry.version = None
    none = none.changed()
    assert none.ask("GET", "/ping")[0] == 503
    status, problem = none.ask("GET", f"{MODEL}/ready")
    assert (status, "anabranch train heart_disease" in problem["error"]) == (503, True)
    status, problem = none.ask("POST", "/invocations", {"instances": [[1]]})
    assert (status, problem["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([1], "send an object with one of dataframe_split"),
        ({"columns": [], "data": []}, "send an object with one of"),
        ({"instances": [[1]], "inputs": [[1]]}, "the body has instances, inputs"),
        ({"instances": []}, "there are no rows"),
        ({"instances": [{"age": 1}], "more": 1}, "'more' does not go with instances"),
        ({"instances": [{"agee": 1}]}, "'agee' is no column of heart_disease: it has"),
        ({"instances": [{"age": "x"}]}, "rows[0].features.age: age: 'x' is not a whole number"),
        ({"dataframe_records": [{"age": 1}, 3]}, "send an array of objects"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1], [1, 2]]}}, "rows[1]: the row has 2 values"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1]], "index": 3}}, "index is 3: send an array"),
        ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, "two columns 'age'"),
        ({"inputs": {"age": [1, 2], "bpm_mean_1h": [1]}}, "'bpm_mean_1h' has 1 values, 'age' has 2"),
        ({"instances": [{"age": 1}] * 1001}, "1001 rows: send at most 1000"),
        ({"instances": [{"age": 1}], "params": {"explai": True}}, "the one parameter is explain"),
        (b'{"inputs": {"bpm_mean_1h": [Infinity]}}', "NaN and infinities are not values"),
        (b"{", "not JSON"),
    ],
)
def test_what_mlflows_protocol_cannot_mean_is_refused_by_name(heart: Bench, body: Any, said: str) -> None:
    status, problem = heart.ask("POST", "/invocations", body)
    assert (status, problem["error_code"]) == (400, "BAD_REQUEST")
    assert said in problem["message"]
    assert heart.store.reads == 0


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "inputs: Expected `array` of length >= 1"),
        ([tensor("age", "INT64", [1], [2])], "'age' has 1 values for shape [2]"),
        ([tensor("age", "INT64", [1, 2], [1, 2])], "'age' has shape [1, 2]: send one value a row"),
        ([tensor("age", "INT64", [1.5])], "value 0 of 'age' is 1.5: no INT64"),
        ([tensor("age", "BOOL", [True])], "rows[0].features.age: age: true is not a whole number"),
        ([tensor("age", "INT65", [1])], "inputs[0].datatype: Invalid enum value 'INT65'"),
        ([tensor("age", "INT64", [1]), tensor("age", "INT64", [1])], "two inputs 'age'"),
        ([tensor("age", "INT64", [1]), tensor("bpm_mean_1h", "FP64", [1, 2])], "has 2 rows, 'age' has 1"),
        ([tensor("agee", "INT64", [1]), tensor("age", "INT64", [1])], "'agee' is no column"),
        ([{"name": "age", "shape": [1], "datatype": "INT64"}], "'age' has no data"),
        ([tensor("bpm_mean_1h", "FP32", [1e39])], "infinities are not values"),
        ([tensor("bpm_mean_1h", "FP32", [10**400])], "infinities are not values"),
    ],
)
def test_what_tensors_cannot_mean_is_refused_by_name(heart: Bench, inputs: Any, said: str) -> None:
    status, problem = heart.ask("POST", f"{MODEL}/infer", {"inputs": inputs})
    assert (status, list(problem)) == (400, ["error"])
    assert said in problem["error"]
    assert heart.store.reads == 0


def test_rows_that_cannot_be_scored_say_why_unless_none_can(heart: Bench) -> None:
    rows = {"inputs": {"patient_id": ["p1", "nobody"]}}
    good, bad = invoked(heart, rows)
    assert (good["score"], bad["score"], "nothing is known" in bad["error"]) == (
        pytest.approx(0.0603333),
        None,
        True,
    )
    status, problem = heart.ask("POST", "/invocations", {"inputs": {"patient_id": ["nobody"]}})
    assert (status, problem["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    outputs = inferred(heart, tensor("patient_id", "BYTES", ["nobody", "p1"]))
    assert (outputs["score"]["data"][0], outputs["label"]["data"]) == (None, [None, 0])
    assert "nothing is known" in outputs["error"]["data"][0]
    status, problem = heart.ask(
        "POST", f"{MODEL}/infer", {"inputs": [tensor("patient_id", "BYTES", ["nobody"])]}
    )
    assert (status, "nothing is known" in problem["error"]) == (404, True)


def test_degraded_answers_say_so_and_are_counted_and_all_are_recorded(heart: Bench) -> None:
    heart.store.degraded = "the stream is behind"
    (one,) = invoked(heart, {"instances": [{"patient_id": "p1"}]})
    assert (one["degraded"], one["degraded_reason"]) == (True, "the stream is behind")
    outputs = inferred(heart, tensor("patient_id", "BYTES", ["p1"]))
    assert (outputs["degraded"]["data"], outputs["degraded_reason"]["data"]) == (
        [True],
        ["the stream is behind"],
    )
    metrics = heart.raw("GET", "/metrics").body.decode()
    assert 'anabranch_degraded_answers_total{project="heart_disease"} 2.0' in metrics
    assert "anabranch_predictions_buffered 2.0" in metrics


def test_trials_take_part_in_what_comes_by_other_protocols(heart: Bench) -> None:
    heart.registry.others = {"4": SumScorer("4", FEATURES[:1])}
    heart.registry.trial = VersionTrial(version="4", kind=CANARY, share=1.0)
    heart.app.live.refresh()
    rows = tensor("patient_id", "BYTES", ["p1"])
    assert inferred(heart, rows)["model_version"]["data"] == ["4"]
    _, pinned = heart.ask("POST", f"{MODEL}/versions/3/infer", {"inputs": [rows]})
    assert {one["name"]: one["data"] for one in pinned["outputs"]}["model_version"] == ["3"]
    heart.registry.trial = VersionTrial(version="4", kind=SHADOW, share=1.0)
    heart.app.live.refresh()
    invoked(heart, {"instances": [{"patient_id": "p1"}]})
    heart.app.parts.shadow.compare()
    assert 'anabranch_trial_compared_total{kind="shadow"' in heart.raw(
        "GET", "/metrics"
    ).body.decode().replace('label="same",', "")


def test_calls_beyond_the_limit_are_shed_in_each_protocols_form() -> None:
    heart = bench(PROJECTS, FEATURES, ServingSettings(answers_at_once=1))
    with heart.app._places.taken():
        for path, member in (("/invocations", "message"), (f"{MODEL}/infer", "error")):
            response = heart.raw("POST", path, {})
            assert (response.status, dict(response.headers)["retry-after"]) == (503, "1")
            assert "try again in a second" in json.loads(response.body)[member]


def test_bare_path_is_of_the_only_project_that_the_caller_may_ask(tmp_path: Path) -> None:
    for name in ("ward", "shop"):
        (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name))
    two = bench(tmp_path, ("seen",))
    status, problem = two.ask("POST", "/invocations", {"instances": [{"seen": 3}]})
    assert (status, problem["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert "you may ask shop, ward: POST /v1/projects/{project}/invocations" in problem["message"]
    assert two.ask("POST", "/v1/projects/ward/invocations", {"instances": [{"seen": 3}]})[0] == 200
    paths = two.ask("GET", "/openapi.json")[1]["paths"]
    assert "/invocations" not in paths
    assert {"/v1/projects/ward/invocations", "/v2/models/shop/infer"} <= set(paths)
    keys = ApiKeys(tmp_path / "keys.json")
    key = keys.add("shop", NOW, rights=("predict",))[1]
    none = keys.add("shop", NOW, rights=("features",))[1]
    secured = two.changed(access=Access(keys.read, Issuer(), lambda: NOW))

    def sent(path: str, key: str, method: str = "POST") -> tuple[int, Any]:
        request = HttpRequest(method, path, b'{"instances": [{"seen": 3}]}', api_key=key)
        response = asyncio.run(secured.app.handle(request))
        return response.status, json.loads(response.body)

    assert sent("/invocations", key)[0] == 200
    assert (sent("/invocations", none)[0], sent("/invocations", none)[1]["error_code"]) == (
        403,
        "PERMISSION_DENIED",
    )
    assert (sent("/invocations", "")[0], sent("/invocations", "")[1]["error_code"]) == (
        401,
        "UNAUTHENTICATED",
    )
    assert sent("/v2/models/ward/infer", key)[0] == sent("/v2/models/ward", key, "GET")[0] == 403
    assert sent("/v2/models/shop/infer", "")[0] == sent("/v2", "", "GET")[0] == 401
    assert sent("/v2/health/live", "", "GET")[0] == 200
