"""The Open Inference Protocol, version 2: a project's model as KServe, Triton and Seldon serve theirs.

https://github.com/kserve/open-inference-protocol defines it. Of its extension for binary tensors inputs are
understood; outputs are always JSON, which clients of the extension read as well.
"""

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version as installed
from typing import Any

import msgspec
import numpy as np

from anabranch.answers.predict import Prediction
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import decode_with_nan
from anabranch.answers.service import Outcome
from anabranch.declare.projects import Project
from anabranch.stores.models.versions import Scorer
from anabranch.values.datatype import DataType, show
from serving.api.about import readiness
from serving.api.endpoints import answered, serving_scorer
from serving.api.openapi import Declared
from serving.api.routing import Call, ErrorForm, read_as
from serving.api.server_parts import ServerParts
from serving.doors.bodies import (
    Datatype,
    InferenceBody,
    InferenceProblemBody,
    InferenceRequestBody,
    ModelMetadataBody,
    ModelReadyBody,
    OutputTensorBody,
    ServerLiveBody,
    ServerMetadataBody,
    ServerReadyBody,
    TensorBody,
    TensorMetadataBody,
)
from serving.doors.rows import columns_of, error_text, first_problem, questions, status_of
from serving.http.messages import JSON, HttpRequest, Response, json_response

_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NARROW = ("FP16", "FP32")
_LENGTH = "inference-header-content-length"


def _respond(problem: ProblemError) -> Response:
    body = InferenceProblemBody(error=error_text(problem))
    return Response(status_of(problem), msgspec.json.encode(body), (*JSON, *problem.headers))


ERRORS = ErrorForm(
    name="InferenceProblem", body=InferenceProblemBody, media="application/json", respond=_respond
)


async def server(_: ServerParts, __: Call) -> ServerMetadataBody:
    """What this server is."""
    return ServerMetadataBody(name="anabranch", version=installed("anabranch"), extensions=[])


async def live(_: ServerParts, __: Call) -> ServerLiveBody:
    """The process answers."""
    return ServerLiveBody()


async def ready(parts: ServerParts, call: Call) -> ServerReadyBody:
    """As `/readyz`."""
    checked = await readiness(parts, call.caller)
    if checked.status != "ready":
        checks = {"store": checked.store, "bus": checked.bus, "model": checked.model}
        down = "; ".join(f"{name}: {check}" for name, check in checks.items() if check != "ok")
        raise ProblemError(503, "not-ready", down)
    return ServerReadyBody()


async def model_ready(parts: ServerParts, call: Call) -> ModelReadyBody:
    """Whether the project's model can score."""
    _scorer(parts, call)
    return ModelReadyBody(name=call.served.project.name)


async def model(parts: ServerParts, call: Call) -> ModelMetadataBody:
    """The tensors that a project's model takes and gives."""
    project, scorer = call.served.project, _scorer(parts, call)
    columns = columns_of(project)
    request = [column.name for column in project.request_columns]
    read = dict.fromkeys((*project.keys, *scorer.features, *request))
    return ModelMetadataBody(
        name=project.name,
        versions=[scorer.version],
        platform="anabranch",
        inputs=[
            TensorMetadataBody(name=name, datatype=_datatype(columns[name]), shape=[-1])
            for name in read
            if columns[name].model_kind != "list"
        ],
        outputs=[
            TensorMetadataBody(name=name, datatype=kind, shape=[-1, *rest])
            for name, (kind, rest, _) in _outputs(scorer, project).items()
        ],
    )


async def infer(parts: ServerParts, call: Call) -> Response:
    """The scores of rows. A row without a score has an `error`, unless no row has one: that is a problem."""
    project, scorer = call.served.project, _scorer(parts, call)
    body, tail = _read(call.request)
    explain = body.parameters.get("explain", False) if body.parameters else False
    if not isinstance(explain, bool):
        raise unprocessable("parameters.explain", f"explain is {show(explain)}: send true or false")
    outputs = _outputs(scorer, project, explained=explain)
    wanted = [one.name for one in body.outputs] if body.outputs else list(outputs)
    for name in wanted:
        if name not in outputs:
            raise unprocessable("outputs", f"{name[:100]!r} is no output: there are {', '.join(outputs)}")
    names, rows = _rows(body.inputs, tail, project)
    asked = questions(project, scorer, names, rows, explain=explain)
    outcomes = await answered(parts, call, asked, champion="version" in call.parameters)
    problem = first_problem(outcomes)
    if problem is not None:
        raise problem
    return json_response(
        InferenceBody(
            model_name=project.name,
            model_version=scorer.version,
            id=body.id,
            outputs=[_output(name, outputs[name], outcomes) for name in wanted],
        )
    )


def _scorer(parts: ServerParts, call: Call) -> Scorer:
    """The champion; raises a 404 problem where the path names another version."""
    scorer, named = serving_scorer(parts, call.served), call.parameters.get("version")
    if named not in (None, scorer.version):
        raise ProblemError(
            404,
            "unknown-version",
            f"version {str(named)[:100]!r} does not serve: {scorer.version!r} does",
        )
    return scorer


def _read(request: HttpRequest) -> tuple[InferenceRequestBody, bytes]:
    """The request, and the bytes of binary tensors after its JSON."""
    kind, length = request.content_type.partition(";")[0].strip().lower(), request.headers.get(_LENGTH)
    # Clients of the protocol send their JSON under these, or under no type at all.
    if kind not in ("application/json", "application/octet-stream", ""):
        raise ProblemError(415, "wrong-content-type", f"content type {kind[:100]!r}: send application/json")
    text, tail = request.body, b""
    if length is not None:
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else -1
        if not 0 <= size <= len(request.body):
            raise ProblemError(
                400, "bad-length", f"{_LENGTH} is {length[:100]!r}: the body has {len(request.body)} bytes"
            )
        text, tail = request.body[:size], request.body[size:]
    return read_as(decode_with_nan(text), InferenceRequestBody), tail


def _rows(
    tensors: Sequence[TensorBody], tail: bytes, project: Project
) -> tuple[list[str] | None, list[Sequence[object]]]:
    """Names of columns (None: the features of the model) and rows."""
    columns: dict[str, list[object]] = {}
    for place, tensor in enumerate(tensors):
        values, tail = _values(tensor, tail, f"inputs[{place}]")
        rows, width = tensor.shape[0], math.prod(tensor.shape[1:])
        if len(values) != math.prod(tensor.shape):
            raise unprocessable(
                f"inputs[{place}]", f"{tensor.name!r} has {len(values)} values for shape {tensor.shape}"
            )
        if len(tensors) == 1 and not tail and width > 1 and tensor.name not in columns_of(project):
            return None, [values[row * width : (row + 1) * width] for row in range(rows)]
        if width != 1:
            raise unprocessable(
                f"inputs[{place}].shape", f"{tensor.name!r} has shape {tensor.shape}: send one value a row"
            )
        if tensor.name in columns:
            raise unprocessable(f"inputs[{place}].name", f"there are two inputs {tensor.name!r}: send one")
        columns[tensor.name] = values
    if tail:
        raise ProblemError(400, "bad-length", f"{len(tail)} bytes after the binary tensors belong to none")
    first, *others = columns
    for name in others:
        if len(columns[name]) != len(columns[first]):
            raise unprocessable(
                name[:100], f"{name!r} has {len(columns[name])} rows, {first!r} has {len(columns[first])}"
            )
    return list(columns), list(zip(*columns.values(), strict=True))


def _values(tensor: TensorBody, tail: bytes, place: str) -> tuple[list[object], bytes]:
    """The values of a tensor in rows, and what follows of the binary ones; what is not a number is None."""
    parameters = tensor.parameters or {}
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if not isinstance(size, int) or not 0 <= size <= len(tail) or tensor.data is not msgspec.UNSET:
            raise unprocessable(
                f"{place}.parameters",
                f"binary_data_size is {show(size)}: {len(tail)} bytes are left, and no data",
            )
        return _unpacked(tensor.datatype, tail[:size], place), tail[size:]
    if tensor.data is msgspec.UNSET:
        raise unprocessable(f"{place}.data", f"{tensor.name!r} has no data: send an array", "missing-field")
    flat = [one for value in tensor.data for one in (value if isinstance(value, list) else (value,))]
    allowed = _ALLOWED[tensor.datatype[:2]]
    for position, value in enumerate(flat):
        if value is not None and type(value) not in allowed:
            raise unprocessable(
                f"{place}.data", f"value {position} of {tensor.name!r} is {show(value)}: no {tensor.datatype}"
            )
    if tensor.datatype in _NARROW:
        kind: Any = np.dtype(_NUMPY[tensor.datatype]).type
        try:
            with np.errstate(over="ignore"):  # refused below
                flat = [None if value is None else float(kind(value)) for value in flat]
        except OverflowError:  # a whole number beyond every float
            flat = [math.inf]
    return _finite(flat, place), tail


_ALLOWED: dict[str, tuple[type, ...]] = {
    "BO": (bool,), "BY": (str,), "FP": (int, float), "IN": (int,), "UI": (int,)
}  # fmt: skip
"""Python types of the JSON values of a datatype, by its first letters."""


def _unpacked(datatype: str, data: bytes, place: str) -> list[object]:
    """Values of a binary tensor: little endian, each text after its length in four bytes."""
    if datatype != "BYTES":
        kind = np.dtype(_NUMPY[datatype])
        if len(data) % kind.itemsize:
            raise unprocessable(place, f"{len(data)} bytes are no {datatype}s of {kind.itemsize} bytes")
        return _finite(np.frombuffer(data, kind).tolist(), place)
    texts: list[object] = []
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        try:
            texts.append(data[start + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise unprocessable(place, f"text {len(texts)} is not UTF-8: {error}") from error
        start = end
    if start > len(data):
        raise unprocessable(place, f"text {len(texts) - 1} ends after the tensor")
    return texts


def _finite(values: list[object], place: str) -> list[object]:
    """Values in which NaN is None; raises a 422 problem for infinities."""
    if any(isinstance(value, float) and math.isinf(value) for value in values):
        raise unprocessable(place, "infinities are not values: send NaN or null for what is missing")
    return [None if value != value else value for value in values]  # noqa: PLR0124 - NaN is not itself


def _datatype(kind: DataType) -> Datatype:
    """The datatype that a column has as a tensor."""
    if kind.integral:
        return "INT64"
    if kind.floating:
        return "FP64"
    return "BOOL" if kind.model_kind == "boolean" else "BYTES"


_Output = tuple[Datatype, list[int], Callable[[Outcome], Any]]
"""Datatype, shape of a row, and the value of a row."""


def _outputs(scorer: Scorer, project: Project, *, explained: bool = False) -> dict[str, _Output]:
    """The outputs of a project's model by name."""
    outputs: dict[str, _Output] = {"score": ("FP64", [], _member("score"))}
    if project.task != "number":
        texts = any(isinstance(one, str) for one in scorer.classes)
        outputs["label"] = ("BYTES" if texts else "INT64", [], _member("label"))
    names = [str(one) for one in scorer.classes]
    if names:
        width = [len(names)]
        outputs["scores"] = ("FP64", width, lambda one: _each(_member("scores")(one), names))
        outputs["classes"] = ("BYTES", width, lambda _: names)
    if scorer.interval is not None:
        outputs["interval"] = ("FP64", [2], lambda one: _member("interval")(one) or [None, None])
    outputs["model_version"] = ("BYTES", [], _member("model_version", ""))
    outputs["batch_version"] = ("INT64", [], lambda one: _member("batch_version")(one) or 0)
    outputs["as_of"] = ("BYTES", [], _member("as_of", ""))
    outputs["degraded"] = ("BOOL", [], _member("degraded", missing=False))
    outputs["degraded_reason"] = ("BYTES", [], _member("degraded_reason", ""))
    outputs["error"] = ("BYTES", [], lambda one: "" if isinstance(one, Prediction) else error_text(one))
    if explained:
        outputs["explanation"] = ("BYTES", [], lambda one: _as_text(_member("explanation")(one)))
    return outputs


def _member(name: str, missing: object = None) -> Callable[[Outcome], Any]:
    return lambda one: one.answer.get(name, missing) if isinstance(one, Prediction) else missing


def _each(scores: dict[str, float] | None, names: Sequence[str]) -> list[float | None]:
    return [None if scores is None else scores[name] for name in names]


def _as_text(explanation: object) -> str:
    return "" if explanation is None else msgspec.json.encode(explanation).decode()


def _output(name: str, output: _Output, outcomes: Sequence[Outcome]) -> OutputTensorBody:
    datatype, width, value = output
    found = [value(one) for one in outcomes]
    data = [each for one in found for each in one] if width else found
    return OutputTensorBody(name=name, shape=[len(outcomes), *width], datatype=datatype, data=data)


def examples(declared: Declared) -> dict[str, Any]:
    """A row of features, which can be sent as it is."""
    columns = columns_of(declared.project)
    inputs = [
        {"name": name, "shape": [1], "datatype": _datatype(columns[name]), "data": [value]}
        for name, value in declared.row_example.items()
    ]
    return {
        "features": {"summary": "One row of features", "value": {"id": "1", "inputs": inputs}},
        "outputs": {
            "summary": "The score alone",
            "value": {"inputs": inputs, "outputs": [{"name": "score"}]},
        },
    }
