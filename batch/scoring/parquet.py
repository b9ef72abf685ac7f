"""Parquet scored by Spark's workers directly: row groups in, a file out; no row passes through the JVM.

Spark only assigns parts to workers. A part is finished when its file has its final name; a killed worker
leaves a temporary name, which is ignored.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anabranch.declare.names import INTERVAL
from anabranch.stores.models.scoring import Scores
from anabranch.stores.models.shipping import BulkScorer, ShippedModel

SCORED_SCHEMA = "part LONG"
_AT_ONCE = 65_536  # rows: a matrix of that many fits the processor's cache
_WIDTHS = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}
_FITTING: Mapping[str, Callable[[pa.DataType], bool]] = {
    "number": lambda kind: (
        pa.types.is_signed_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    ),
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date32,
    "timestamp": pa.types.is_timestamp,
    "text": pa.types.is_string,
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Row groups by file that are scored and finished together, with `rows` rows in all."""

    number: int
    rows: int
    pieces: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def name(self) -> str:
        """The name of the file of its scored rows."""
        return f"part-{self.number:06d}.parquet"


@dataclass(frozen=True, kw_only=True)
class FileScoring:
    """Scores parts of local Parquet files.

    `inputs` are name and kind of the features in the model's order, `kept` the columns carried over. The
    scores of several `classes` are kept by class too, and so are the `ends` of intervals, which are added to
    a score; None for columns of which this version has none.
    """

    model: ShippedModel
    inputs: tuple[tuple[str, str], ...]
    kept: tuple[str, ...]
    version: str
    threshold: float | None
    folder: str
    classes: tuple[str | int, ...] = ()
    ends: tuple[float | None, ...] = ()

    def __call__(
        self, parts: Sequence[Part]
    ) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """A function for `DataFrame.mapInArrow` over places in `parts`: scores each, returns its place."""

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for place in batch.column(0).to_pylist():
                    self._score(self.model.opened(), parts[place])
                    yield pa.RecordBatch.from_pydict({"part": [place]})

        return run

    def _score(self, model: BulkScorer, part: Part) -> None:
        target = Path(self.folder) / part.name
        columns = list(dict.fromkeys([*self.kept, *(name for name, _ in self.inputs)]))
        unfinished = target.with_name(f".{part.name}.{uuid.uuid4().hex[:8]}")
        schema = scored_schema(rows_schema(part.pieces[0][0]), self.kept, self.classes, self.ends)
        named = [*repetitive(part.pieces[0], self.kept), "label", "model_version", "scores.key_value.key"]
        try:
            with pq.ParquetWriter(unfinished, schema, store_schema=False, use_dictionary=named) as writer:
                for path, groups in part.pieces:
                    with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
                        for batch in file.iter_batches(
                            _AT_ONCE, row_groups=list(groups), columns=columns, use_threads=False
                        ):
                            writer.write_batch(self._scored(model, batch, schema))
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _scored(self, model: BulkScorer, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        scores = model.scores([coded(batch.column(name), kind) for name, kind in self.inputs])
        if self.classes:
            results = _of_classes(scores, self.classes)
        elif self.threshold is None:
            results = [pa.array(scores), pa.nulls(len(scores), pa.int32())]
        else:
            results = [pa.array(scores), pa.array((scores >= self.threshold).astype("int32"))]
        version = pa.DictionaryArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), len(scores)), [self.version]
        )
        kept = [batch.column(name).cast(schema.field(name).type) for name in self.kept]
        score, label, *more = results
        more += [
            pa.nulls(len(scores), pa.float64()) if end is None else pa.array(scores + end)
            for end in self.ends
        ]
        return pa.RecordBatch.from_arrays([*kept, score, label, version, *more], schema=schema)


def _of_classes(scores: Scores, classes: Sequence[str | int]) -> list[pa.Array]:
    """Score, label and the scores by class of rows with scores (n, classes)."""
    rows, width = scores.shape
    best = scores.argmax(axis=1)
    names = pa.array([str(name) for name in classes]).take(pa.array(np.tile(np.arange(width), rows)))
    ends = pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32))
    by_class = pa.MapArray.from_arrays(ends, names, pa.array(scores.ravel()))
    return [pa.array(scores.max(axis=1)), pa.array(classes).take(pa.array(best)), by_class]


def scored_schema(
    rows: pa.Schema,
    kept: Sequence[str],
    classes: Sequence[str | int] = (),
    ends: Sequence[float | None] = (),
) -> pa.Schema:
    """The schema of a scored part, without the metadata of Spark, which does not describe the new columns."""
    results = [
        pa.field("score", pa.float64()),
        pa.field("label", pa.array(classes).type if classes else pa.int32()),
        pa.field("model_version", pa.dictionary(pa.int32(), pa.string())),
    ]
    results += [pa.field("scores", pa.map_(pa.string(), pa.float64()))] if classes else []
    results += [pa.field(name, pa.float64()) for name in INTERVAL[: len(ends)]]
    return pa.schema([*(rows.field(name).remove_metadata() for name in kept), *results])


def rows_schema(path: str) -> pa.Schema:
    """The schema of a Parquet file; INT96 times, which Spark writes, become timestamps in UTC."""
    with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
        schema: pa.Schema = file.schema_arrow.remove_metadata()
        old = {
            file.schema.column(i).path
            for i in range(len(file.schema))
            if file.schema.column(i).physical_type == "INT96"
        }
    moments = {name: pa.field(name, pa.timestamp("us", "UTC")) for name in old}
    return pa.schema([moments.get(field.name, field) for field in schema])


def repetitive(piece: tuple[str, tuple[int, ...]], names: Sequence[str]) -> list[str]:
    """Columns to write with a dictionary: all but numbers that take their full width in the input.

    To look for repeated values in a column without repetition takes as long as to score it with a fast model.
    """
    path, groups = piece
    if not groups:
        return list(names)
    group = pq.read_metadata(path).row_group(groups[0])
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}

    def is_full(name: str) -> bool:
        width, column = _WIDTHS.get(columns[name].physical_type), columns[name]
        return width is not None and column.total_uncompressed_size > width * column.num_values / 2

    return [name for name in names if not is_full(name)]


def coded(column: pa.Array, kind: str) -> pa.Array:
    """A feature's column as models read it: text as STRING, the rest as DOUBLE, as `input_column` does."""
    if kind == "text":
        return column
    if kind == "date":
        column = column.cast(pa.int32())
    if kind == "timestamp":
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return column.cast(pa.float64(), safe=False)  # whole numbers above 2**53 are rounded, as Spark does


def plan_parts(paths: Sequence[str], part_rows: int) -> tuple[Part, ...]:
    """Parts of whole row groups in order, of about `part_rows` rows; at least one part."""
    parts: list[Part] = []
    pieces: dict[str, list[int]] = {}
    rows = 0

    def close() -> None:
        nonlocal rows
        parts.append(
            Part(
                number=len(parts),
                rows=rows,
                pieces=tuple((path, tuple(groups)) for path, groups in pieces.items()),
            )
        )
        pieces.clear()
        rows = 0

    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            more = metadata.row_group(group).num_rows
            if rows and rows + more > part_rows:
                close()
            pieces.setdefault(path, []).append(group)
            rows += more
    if not (pieces or parts):
        pieces[paths[0]] = []
    if pieces:
        close()
    return tuple(parts)


def fits(paths: Sequence[str], inputs: Sequence[tuple[str, str]]) -> bool:
    """Whether workers can read the files: schemas agree, and hold no type that Spark reads differently."""
    schemas = [rows_schema(path) for path in paths]
    if not schemas or any(not schema.equals(schemas[0]) for schema in schemas[1:]):
        return False
    first = schemas[0]
    names = first.names
    if len({name.lower() for name in names}) != len(names) or any("/" in name for name in names):
        return False
    return all(_plain(field.type) for field in first) and all(
        name in names and _FITTING[kind](first.field(name).type) for name, kind in inputs
    )


def _plain(kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind):
        return str(kind.unit) in ("us", "ms")
    simple = (
        pa.types.is_signed_integer,
        pa.types.is_float32,
        pa.types.is_float64,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_binary,
    )
    return any(is_kind(kind) for is_kind in (*simple, pa.types.is_date32, pa.types.is_decimal128))
