"""Frames of pandas, Arrow and Polars, taken as Arrow tables and given back as what they were.

Their rows become questions, and get what was predicted for them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from anabranch.client.calls import CallError, RemotePrediction
from anabranch.errors import AnabranchError, MisuseError

Back = Callable[[pa.Table], Any]


def as_table(frame: Any) -> tuple[pa.Table, Back]:
    """A frame as a table of Arrow, and what makes a frame of its kind of a table.

    Takes an Arrow table, a frame of pandas or Polars, or a list of dicts; raises MisuseError for others.
    """
    library = type(frame).__module__.partition(".")[0]
    if isinstance(frame, pa.Table):
        return frame, lambda table: table
    if library == "pandas":
        table = pa.Table.from_pandas(frame, preserve_index=False)
        return table, lambda found: _to_pandas(found, frame.index)
    if library == "polars":
        return frame.to_arrow(), sys.modules["polars"].from_arrow
    if isinstance(frame, list) and all(isinstance(row, dict) for row in frame):
        return pa.Table.from_pylist(frame), lambda table: table.to_pylist()
    kind = f"{type(frame).__module__}.{type(frame).__qualname__}"
    raise MisuseError(
        f"rows are a {kind}: give a frame of pandas or Polars, an Arrow table or a list of dicts"
    )


def _to_pandas(table: pa.Table, index: Any) -> Any:
    found = table.to_pandas()
    return found.set_index(index) if len(found) == len(index) else found


def rows_as_questions(table: pa.Table, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question for each row: its columns of the key, its features and its columns of the request."""
    keys: list[str] = entry["keys"]
    there = set(table.column_names)
    features = [one["name"] for one in entry["features"] if one["name"] in there and one["name"] not in keys]
    request = [one["name"] for one in entry["request"] if one["name"] in there]
    missing = [name for name in keys if name not in there]
    if missing and not features:
        raise MisuseError(f"the rows have no column {missing[0]!r} of the key, nor any feature: give one")
    questions = []
    for row in table.to_pylist():
        question: dict[str, Any] = {}
        if not missing:
            question["key"] = row[keys[0]] if len(keys) == 1 else {name: row[name] for name in keys}
        if features:
            question["features"] = {name: row[name] for name in features}
        if request:
            question["request"] = {name: row[name] for name in request}
        questions.append(question)
    return questions


def with_predictions(table: pa.Table, found: Sequence[RemotePrediction | CallError]) -> pa.Table:
    """The rows with what was predicted for them."""
    good = [one if isinstance(one, RemotePrediction) else None for one in found]
    columns: dict[str, pa.Array] = {
        "score": pa.array([one and one.score for one in good], pa.float64()),
        "label": pa.array([one and one.label for one in good]),
        "model_version": pa.array([one and one.model_version for one in good], pa.string()),
        "degraded": pa.array([one and one.degraded for one in good], pa.bool_()),
        "error": pa.array(
            [str(one) if isinstance(one, AnabranchError) else None for one in found], pa.string()
        ),
    }
    for name, column in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, column)
    return table
