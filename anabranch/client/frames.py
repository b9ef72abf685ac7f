"""Frames of pandas, Arrow and Polars, taken as Arrow tables and given back as what they were."""

import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from anabranch.errors import MisuseError

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
