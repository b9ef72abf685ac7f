"""MLflow's scoring protocol: what asks a server of `mlflow models serve` can ask this one.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally describes it. Its clients write what is
missing as NaN, which JSON does not know, and take a table of scores as a list of records.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version as installed
from typing import Any

import msgspec

from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import Asked, decode_with_nan
from anabranch.declare.projects import Project
from anabranch.stores.models.versions import Scorer
from anabranch.values.datatype import DataType, show
from serving.api.bodies import AliveBody, Explain
from serving.api.endpoints import answered, serving_scorer
from serving.api.openapi import Declared
from serving.api.routing import Call, ErrorForm
from serving.api.server_parts import ServerParts
from serving.doors.bodies import InvocationProblemBody
from serving.doors.rows import columns_of, error_text, first_problem, questions, scores_of, status_of
from serving.http.messages import JSON, Response, json_response

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_SPLIT = ("columns", "data", "index")
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "INVALID_STATE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
_Table = tuple[Sequence[str] | None, Sequence[Sequence[object]]]


def _respond(problem: ProblemError) -> Response:
    status = status_of(problem)
    body = InvocationProblemBody(error_code=_CODES.get(status, "BAD_REQUEST"), message=error_text(problem))
    return Response(status, msgspec.json.encode(body), (*JSON, *problem.headers))


ERRORS = ErrorForm(
    name="InvocationProblem", body=InvocationProblemBody, media="application/json", respond=_respond
)


async def invocations(parts: ServerParts, call: Call) -> Response:
    """The scores of rows, in their order. A row without a score says why, unless none has one."""
    scorer = serving_scorer(parts, call.served)
    outcomes = await answered(parts, call, read_rows(call, call.served.project, scorer))
    problem = first_problem(outcomes)
    if problem is not None:
        raise problem
    return json_response({"predictions": [scores_of(one) for one in outcomes]})


async def ping(parts: ServerParts, _: Call) -> AliveBody:
    """Healthy with a model to score with, as MLflow's server is."""
    if not any(served.scorer is not None for served in parts.live):
        raise ProblemError(503, "no-model", "no project has a model that serves: /readyz says more")
    return AliveBody()


async def version(_: ServerParts, __: Call) -> Response:
    """The release of MLflow whose protocol this is."""
    return Response(200, _release().encode(), (("content-type", "text/plain; charset=utf-8"),))


@cache
def _release() -> str:
    return installed("mlflow")


def read_rows(call: Call, project: Project, scorer: Scorer) -> list[Asked]:
    """A question for each row of a body in JSON or CSV; raises a 400, 415 or 422 problem."""
    kind, _, parameters = call.request.content_type.partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower() or "utf-8"
    if charset != "utf-8":
        raise ProblemError(415, "wrong-content-type", f"charset {charset[:100]!r}: send UTF-8")
    match kind.strip().lower():
        case "application/json":
            return _of_json(decode_with_nan(call.request.body), project, scorer)
        case "text/csv":
            names, rows = _of_csv(call.request.body, project)
            return questions(project, scorer, names, rows)
    sent = call.request.content_type[:100] or "none"
    raise ProblemError(415, "wrong-content-type", f"content type {sent!r}: send application/json or text/csv")


def _of_json(document: object, project: Project, scorer: Scorer) -> list[Asked]:
    given = [name for name in FORMS if isinstance(document, dict) and name in document]
    if not isinstance(document, dict) or len(given) != 1:
        sent = ", ".join(given) or show(document)
        raise unprocessable("body", f"the body has {sent}: send an object with one of {', '.join(FORMS)}")
    (form,) = given
    other = next((name for name in document if name not in (form, "params")), None)
    if other is not None:
        raise unprocessable(
            other[:100], f"{other[:100]!r} does not go with {form}: send {form}, and params", "unknown-field"
        )
    names, rows = _SHAPES[form](document[form], form)
    return questions(project, scorer, names, rows, explain=_explain(document.get("params")))


def _explain(params: object) -> bool:
    if params is None:
        return False
    if not isinstance(params, dict) or not set(params) <= {"explain"}:
        raise unprocessable(
            "params", f"params is {show(params)}: the one parameter is explain", "unknown-field"
        )
    try:
        return bool(msgspec.convert(params.get("explain"), Explain))
    except msgspec.ValidationError as error:
        raise unprocessable("params.explain", "explain: send true or false", "wrong-type") from error


def _split(given: object, form: str) -> _Table:
    if not isinstance(given, dict) or "data" not in given or not set(given) <= set(_SPLIT):
        raise unprocessable(
            form, f"{form} is {show(given)}: send an object with columns, data, and index or not"
        )
    names, index = given.get("columns"), given.get("index")
    if not isinstance(index, list | None):
        raise unprocessable(f"{form}.index", f"index is {show(index)}: send an array, or leave it out")
    if names is not None and not _are_names(names):
        raise unprocessable(f"{form}.columns", f"columns is {show(names)}: send an array of names")
    return names, _matrix(given["data"], f"{form}.data")


def _records(given: object, form: str) -> _Table:
    """Columns are all that any record has; what a record leaves out is null, as in a table."""
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise unprocessable(form, f"{form} is {show(given)}: send an array of objects, one a row")
    names = list(dict.fromkeys(name for row in given for name in row))
    return names, [[row.get(name) for name in names] for row in given]


def _rows(given: object, form: str) -> _Table:
    """By rows: records, or features in the model's order."""
    if isinstance(given, list) and given and all(isinstance(row, dict) for row in given):
        return _records(given, form)
    return None, _matrix(given, form)


def _by_column(given: object, form: str) -> _Table:
    """By columns, each an array of its values, or a value of a single row; or by rows."""
    if not isinstance(given, dict):
        return _rows(given, form)
    columns = [value if isinstance(value, list) else [value] for value in given.values()]
    for name, column in zip(given, columns, strict=True):
        if len(column) != len(columns[0]):
            first = next(iter(given))
            raise unprocessable(
                f"{form}.{name}", f"{name!r} has {len(column)} values, {first!r} has {len(columns[0])}"
            )
    return list(given), list(zip(*columns, strict=True))


_SHAPES = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _rows,
    "inputs": _by_column,
}


def _matrix(given: object, place: str) -> Sequence[Sequence[object]]:
    if not isinstance(given, list) or not all(isinstance(row, list) for row in given):
        raise unprocessable(
            place, f"{place} is {show(given)}: send an array of rows, each an array of values"
        )
    return given


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _of_csv(body: bytes, project: Project) -> _Table:
    """The rows below a first line of names; an empty cell is null, as pandas writes one."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProblemError(400, "bad-csv", f"the body is not CSV in UTF-8: {error}") from error
    names, *rows = [line for line in lines if line] or [[]]
    types = columns_of(project)
    return names, [
        [
            _cell(types.get(name), cell, f"rows[{place}].{name}")
            for name, cell in zip(names, row, strict=False)
        ]
        if len(row) == len(names)
        else row
        for place, row in enumerate(rows)
    ]


def _cell(kind: DataType | None, cell: str, place: str) -> Any:
    """The JSON value of a cell."""
    if cell == "" or (kind is not None and not kind.text and cell.lower() == "nan"):
        return None
    if kind is None or kind.text:
        return cell
    fault = kind.fault(cell)
    if fault is not None:
        raise unprocessable(place, fault, "wrong-type")
    return kind.to_json(kind.read(cell))


def examples(declared: Declared) -> Mapping[str, Any]:
    """One of each form, which can be sent as they are."""
    row = declared.row_example
    names, values = list(row), list(row.values())
    return {
        "dataframe_split": {
            "summary": "As pandas splits a frame",
            "value": {"dataframe_split": {"columns": names, "data": [values]}},
        },
        "dataframe_records": {"summary": "An object a row", "value": {"dataframe_records": [row]}},
        "inputs": {
            "summary": "By columns",
            "value": {"inputs": {name: [value] for name, value in row.items()}},
        },
    }
