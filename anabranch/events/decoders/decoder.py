"""The seam of wire formats: what a decoder is, and which one reads a source.

A new format is one class, registered by `register_format` (anabranch/declare/wire_formats.py). It
extends `Decoder` when Spark has columns that parse it, or `MessageDecoder` when Python reads one message at a
time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import accumulate, chain
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from anabranch.declare.sources import Source
from anabranch.declare.wire_formats import decoder_class
from anabranch.errors import AnabranchError, EventError, MisuseError
from anabranch.events.cells import named, text_sql
from anabranch.events.decoders.schemas import NoSchemas, Schemas
from anabranch.events.messages import MessageEvent, identity, kept_events
from anabranch.events.rows import LONGEST_EVENT, lake_columns, sealed
from anabranch.values.names import quoted
from anabranch.values.types import DataType


class Decoder(ABC):
    """One wire format. A decoder has no state beyond its own options and is made anew for each use."""

    @classmethod
    def opened(cls, source: Source, schemas: Schemas) -> "Decoder":  # noqa: ARG003 - most formats need neither
        """The decoder of a source. A format with schemas overrides this."""
        return cls()

    def messages(self, raw: DataFrame) -> DataFrame:
        """The raw messages that are events, good ones or bad: all, unless the format has others."""
        return raw

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

        Any other AnabranchError ends the load, any other error is reported as a malformed message. Values may
        be texts, numbers, booleans, dates, times, bytes, or lists and mappings. The columns are taken from
        them by the source's paths.
        """

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """Decode each message on a worker; one that is too large is not handed to Python at all."""
        kinds = [f"{quoted(column.name)} {column.type.cell_spark}" for column in source.columns]
        event = ", ".join([*kinds, "_fault STRING"])
        explode = source.explode is not None
        events = f"ARRAY<STRUCT<{event}, _item STRING>>" if explode else event

        @arrow_udf(events)  # type: ignore[call-overload, untyped-decorator]
        def read(values: pa.Array) -> pa.Array:
            return self._items(source, values) if explode else self._cells(source, values)

        short = F.when(message_fault(F.col("value")).isNull(), F.col("value").cast("binary"))
        read_once = sealed(raw, F.col("value"), *lake_columns(), read(short).alias("_cells"))
        if explode:
            read_once = read_once.withColumn("_cells", F.explode("_cells"))
        fault = F.coalesce(message_fault(F.col("value")), F.col("_cells._fault"))
        kept = F.coalesce(F.col("_cells._item"), F.col("value")) if explode else F.col("value")
        columns = [F.col("_cells")[column.name].alias(column.name) for column in source.columns]
        return read_once.select(*columns, *lake_columns(), kept.alias("_raw"), fault.alias("_fault"))

    def events(self, source: Source, value: bytes) -> Iterator[tuple[MessageEvent, str | None]]:
        """The events of a message, and how quarantine keeps each: None stands for the whole message.

        Raises as `decode` and `kept_events` do.
        """
        return kept_events(self.decode(value), source.nesting)

    def _cells(self, source: Source, values: Any) -> Any:
        return self._table(source, [self._rows(source, value.as_py())[0] for value in values])

    def _items(self, source: Source, values: Any) -> Any:
        """Lists (one a message) of the cells of its events."""
        messages = [self._rows(source, value.as_py()) for value in values]
        rows = self._table(source, list(chain.from_iterable(messages)), "_item")
        ends = accumulate((len(each) for each in messages), initial=0)
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows)

    def _table(self, source: Source, rows: list[list[object]], *more: str) -> Any:
        names = [*(column.name for column in source.columns), "_fault", *more]
        kinds = [
            *(column.type.cell_arrow for column in source.columns),
            *[pa.string()] * (1 + len(more)),
        ]
        arrays = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
        return pa.StructArray.from_arrays(arrays, names=names)

    def _rows(self, source: Source, value: bytes | None) -> list[list[object]]:
        """By event: cells in the order of the source's columns, the fault, and how quarantine keeps it."""
        nothing: list[object] = [None] * len(source.columns)
        if value is None:
            return [[*nothing, None, None]]
        try:
            return [[*self._event_cells(source, event), kept] for event, kept in self.events(source, value)]
        except EventError as error:
            return [[*nothing, str(error), None]]
        except AnabranchError:
            raise  # not of this message: a schema registry that is away, for one
        except Exception as error:  # noqa: BLE001 - of a decoder's library; one message must not stop a load
            return [[*nothing, f"malformed {source.format}: {type(error).__name__}: {error}"[:200], None]]

    def _event_cells(self, source: Source, event: MessageEvent) -> list[object]:
        """The event's cells and, last, its fault."""
        cells, fault = list[object](), event.fault
        for column in source.columns:
            value = event.values.get(column.name)
            value = value if value is None else self.given(value, column.type)
            if value is not None and column.type.nested:
                wrong = column.type.fault(value)
                fault = fault or (wrong and f"{column.name}: {wrong}")
                value = value if wrong is None else None
            cell = None if value is None else column.type.cell(value)
            if event.position is not None and column.name == source.id:
                cell = identity(cell, event.position)
            cells.append(cell)
        return [*cells, fault]

    def given(self, value: object, kind: DataType) -> object:
        """A decoded value as the lake would hold it; None where it is unknown."""
        return kind.given(value) if kind.nested else value


def decoder_of(source: Source, schemas: Schemas | None = None) -> Decoder:
    """The decoder of the source's messages; `schemas` is the schema registry (`Stores.schemas`), if any.

    Raises MisuseError when the format needs a schema that is not there.
    """
    module, _, name = decoder_class(source.format).partition(":")
    kind = cast("type[Decoder]", getattr(import_module(module), name))
    return kind.opened(source, schemas or NoSchemas())


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

    Raises EventError when a column is nested that the source declares as a single value.
    """
    found = {field.name: field.dataType.simpleString() for field in rows.schema.fields}
    cells = []
    for column in source.columns:
        kind = found[column.name]
        typed, nested = named(column.name), kind.startswith(("struct", "array", "map"))
        if nested and not column.type.nested:
            raise EventError(
                f"column {column.name!r} is {kind}, which is no single value: "
                f"nothing was landed; write it as {column.type}"
            )
        if kind != column.type.stored:
            text = F.to_json(typed) if nested else F.expr(text_sql(column.name, kind, column.type))
            typed = text.alias(column.name)
        cells.append(typed)
    text = F.to_json(F.struct(*[named(column.name) for column in source.columns])).alias("_raw")
    return rows.select(*cells, *lake_columns(), text)
