"""A device computes derived features as answers do, with the program and its modules from the bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from anabranch.answers.predict import predict
from anabranch.answers.requests import Asked
from anabranch.stores.models.versions import ModelVersion
from batch.release.exporting import RUNNER, evaluator, features
from tests.support import edge
from tests.support.fraud import fraud
from tests.support.serving_fakes import NOW
from tests.unit.answers.test_derived_answers import STORED, Recorder

NUMBERS = tuple(name for name in fraud.model_features if name != "channel")
KINDS = {"by_web": "boolean", "odd_card": "boolean"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose model gives the sum of its inputs."""
    folder = tmp_path_factory.mktemp("bundle")
    shape = [None, len(NUMBERS)]
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["rows"], ["score"], keepdims=1, axes=[1])],
        "sum",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    described = {
        "task": "class",
        "threshold": 0.5,
        "output": "score",
        "inputs": [{"name": name, "kind": KINDS.get(name, "number")} for name in NUMBERS],
    }
    entry = ModelVersion(
        version="3", aliases=(), created="", run="", metrics={}, fingerprint="", lake_versions={}
    )
    (folder / "features.json").write_text(json.dumps(features(fraud, entry, described)))
    for name, content in {"run.py": RUNNER.read_bytes(), **evaluator()}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return edge.device(tmp_path_factory.mktemp("device"))


def test_a_device_computes_derived_features_as_answers_do(bundle: Path, device: dict[str, str]) -> None:
    stored: dict[str, Any] = {name: STORED[name] for name in ("spent_1h", "spent_7d", "last_paid")}
    rows: list[dict[str, Any]] = [
        {"card": "7", **stored, "last_paid": "2024-05-01T03:00:00Z", "amount": 2.0},
        {"card": "8", **stored, "last_paid": NOW, "amount": 5.0, "channel": "app", "ratio": 3.0},
    ]
    found = [one["score"] for one in edge.scored(bundle, device, rows)]
    asked = [
        Asked(
            {"card": row["card"]},
            {name: row[name] for name in ("spent_1h", "spent_7d", "last_paid", "ratio") if name in row},
            request={"amount": row["amount"], "channel": row.get("channel", "web")},
        )
        for row in rows
    ]
    used = [one.used for one in predict(fraud, Recorder(NUMBERS), asked, [None, None], NOW)]
    assert used[0]["by_web"] == 1.0
    assert found == pytest.approx([float(np.sum(list(one.values()))) for one in used], rel=1e-6)


def test_a_row_without_a_required_column_is_named(bundle: Path, device: dict[str, str]) -> None:
    ran = edge.run(bundle, device, '[{"card": "7", "amount": null}, {"card": "7"}]')
    assert ran.returncode == 1
    assert "row 2: column 'amount' of the request is missing" in ran.stderr
