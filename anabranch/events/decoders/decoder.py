"""The seam of wire formats: what a decoder is, and which one reads a source.

A new format is one class, registered by `register_format` (anabranch/declare/wire_formats.py). It extends
`Decoder` when Spark has columns that parse it, or `MessageDecoder` when Python reads one message at a time.
"""

import datetime
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from anabranch.declare.sources import Source
from anabranch.declare.wire_formats import decoder_class
from anabranch.errors import EventError, MisuseError
from anabranch.events.cells import named
from anabranch.events.messages import values_of
from anabranch.events.rows import LONGEST_EVENT, lake_columns, sealed
from anabranch.values.names import quoted
from anabranch.values.texts import json_text
from anabranch.values.types import Column as SourceColumn
from anabranch.values.types import DataType


class Decoder(ABC):
    """One wire format. A decoder has no state beyond its own options and is made anew for each use."""

    @abstractmethod
    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """The cells of raw events, for `read_cells` (anabranch/events/judging.py).

        `raw` has `value` STRING, the bytes of a message unchanged, and the lake's columns. The result has
        every column of the source, as text or of its declared type, the lake's columns, `_raw` STRING (what
        quarantine keeps and a replay reads again) and `_fault` STRING, the reason for which a whole event is
        broken, or NULL.
        """

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        """One message for an event that came as JSON. Raises MisuseError unless the format overrides this.

        A source of JSON never needs it: its events are published as they came (json_values.py).
        """
        raise MisuseError(
            f"source {source.name!r} has the format {source.format!r}, which Anabranch only reads: "
            f"publish its events to the topic {source.topic!r} with a producer of your own"
        )


class MessageDecoder(Decoder):
    """A wire format that Python reads message by message on Spark's workers."""

    @abstractmethod
    def decode(self, value: bytes) -> Mapping[str, object]:
        """The values of one message by field; a missing field is NULL. Raises EventError with the reason.

        Any other error is reported as a malformed message. Values may be texts, numbers, booleans, dates,
        times, bytes, or lists and mappings. The columns are taken from them by the source's paths.
        """

    def text(self, value: object, kind: DataType) -> str | None:
        """A decoded value as the text of a cell of type `kind`; objects and arrays are their JSON text."""
        return _text(value)

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """Decode each message on a worker; one that is too large is not handed to Python at all."""

        kinds = [
            f"{quoted(column.name)} {'BINARY' if _is_binary(column) else 'STRING'}"
            for column in source.columns
        ]

        @arrow_udf(", ".join([*kinds, "_fault STRING"]))  # type: ignore[call-overload, untyped-decorator]
        def read(values: pa.Array) -> pa.Array:
            return self._cells(source, values)

        short = F.when(message_fault(F.col("value")).isNull(), F.col("value").cast("binary"))
        read_once = sealed(raw, F.col("value"), *lake_columns(), read(short).alias("_cells"))
        fault = F.coalesce(message_fault(F.col("value")), F.col("_cells._fault"))
        columns = [F.col("_cells")[column.name].alias(column.name) for column in source.columns]
        return read_once.select(
            *columns, *lake_columns(), F.col("value").alias("_raw"), fault.alias("_fault")
        )

    def _cells(self, source: Source, values: Any) -> Any:
        rows = [self._row(source, value.as_py()) for value in values]
        names = [*(column.name for column in source.columns), "_fault"]
        kinds = [
            *(pa.binary() if _is_binary(column) else pa.string() for column in source.columns),
            pa.string(),
        ]
        arrays = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
        return pa.StructArray.from_arrays(arrays, names=names)

    def _row(self, source: Source, value: bytes | None) -> list[object]:
        """The cells of one message in the order of the source's columns, and its fault last."""
        nothing: list[object] = [None] * len(source.columns)
        if value is None:
            return [*nothing, None]
        try:
            found = values_of(self.decode(value), source.nesting)
            cells = [
                _binary(found[column.name])
                if _is_binary(column)
                else self.text(found[column.name], column.type)
                for column in source.columns
            ]
        except EventError as error:
            return [*nothing, str(error)]
        except Exception as error:  # noqa: BLE001 - of a decoder's library; one message must not stop a load
            return [*nothing, f"malformed {source.format}: {type(error).__name__}: {error}"[:200]]
        return [*cells, None]


def decoder_of(source: Source) -> Decoder:
    """The decoder of the source's messages."""
    module, _, name = decoder_class(source.format).partition(":")
    return cast("Decoder", getattr(import_module(module), name)())


def message_fault(value: Column) -> Column:
    """The reason for which no format can read a message: it has no value, or is too large; NULL otherwise."""
    size = F.octet_length(value)
    large = F.concat(F.lit("too large: "), size, F.lit(f" bytes, an event may have {LONGEST_EVENT}"))
    return F.when(value.isNull(), "no value: a message without one (a tombstone) is no event").when(
        size > LONGEST_EVENT, large
    )


def short(value: Column) -> Column:
    """The value where it may be parsed, NULL where it is too large."""
    return F.when(F.octet_length(value) <= LONGEST_EVENT, value)


def table_cells(source: Source, rows: DataFrame) -> DataFrame:
    """The cells of rows that have columns already, as Parquet files and tables do.

    Raises EventError when a column of the source is nested.
    """
    found = {field.name: field.dataType.simpleString() for field in rows.schema.fields}
    cells = []
    for column in source.columns:
        kind = found[column.name]
        if kind.startswith(("struct", "array", "map")):
            raise EventError(
                f"column {column.name!r} is {kind}, which is no single value: "
                f"nothing was landed; write it as {column.type}"
            )
        typed = named(column.name)
        cells.append(typed if kind == column.type.spark.lower() else typed.cast("string").alias(column.name))
    text = F.to_json(F.struct(*[named(column.name) for column in source.columns])).alias("_raw")
    return rows.select(*cells, *lake_columns(), text)


def _is_binary(column: SourceColumn) -> bool:
    return bool(column.type.arrow == pa.binary())


def _text(value: object) -> str | None:
    """A decoded value as a cell of text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, datetime.date) else json_text(value)


def _binary(value: object) -> bytes | None:
    """A decoded value as a cell of a BINARY column."""
    text = value if isinstance(value, bytes) else _text(value)
    return text.encode() if isinstance(text, str) else text
