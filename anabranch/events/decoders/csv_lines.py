"""CSV as RFC 4180 describes it: commas, double quotes, one row a message; a text in quotes may have lines."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.decoders.decoder import Decoder, message_fault, short
from anabranch.events.rows import lake_columns, sealed
from anabranch.values.names import quoted

_BROKEN, _END = "_broken", "_end"
_MARK = "$"
"""A last cell added to each row: it is read as a cell of its own only where all quotes are closed."""
_OPEN = "a quote is not closed, or one within a text is not doubled"
_COUNT = "the row has not"
_RFC_4180 = {
    "quote": '"',
    "escape": '"',
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": _BROKEN,
    "maxCharsPerColumn": "-1",
    "maxColumns": "100000",
    "multiLine": "true",  # a line break within quotes stays as it is
}


@dataclass(frozen=True)
class CsvDecoder(Decoder):
    """Lines of CSV, parsed by Spark's own columns. `header` names the columns, by default the source's."""

    header: tuple[str, ...] = ()

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """A cell of no text is NULL, as is a column that the header lacks."""
        value, header = F.col("value"), self._columns(source)
        has_quotes = F.contains(value, F.lit('"'))
        schema = ", ".join(f"{quoted(name)} STRING" for name in header)
        # A line without quotes needs no parser, which costs three times as much.
        cells = F.when(~has_quotes, F.split(short(value), ",", -1))
        marked = F.concat(short(value), F.lit(f",{_MARK}"))
        read = f"{schema}, {_END} STRING, {_BROKEN} STRING"
        fields = F.when(has_quotes, F.from_csv(marked, read, _RFC_4180))
        split = sealed(raw, value, *lake_columns(), cells.alias("_cells"), fields.alias("_fields"))
        texts_of = {
            name: F.coalesce(F.nullif(F.get("_cells", F.lit(place)), F.lit("")), F.col("_fields")[name])
            for place, name in enumerate(header)
        }
        texts = [
            texts_of.get(column.name, F.lit(None).cast("string")).alias(column.name)
            for column in source.columns
        ]
        fault = _fault(value, len(header))
        return split.select(*lake_columns(), value.alias("_raw"), fault.alias("_fault"), *texts)

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        """The event as one line, its columns in the order of the header."""
        line = io.StringIO()
        values = [event.get(name) for name in self._columns(source)]
        texts = [str(value).lower() if isinstance(value, bool) else value for value in values]
        csv.writer(line, lineterminator="").writerow(texts)
        return line.getvalue().encode()

    def _columns(self, source: Source) -> tuple[str, ...]:
        return self.header or tuple(column.name for column in source.columns)


def may_be_cut(raw: str, reason: str) -> Column:
    """Whether a bad row may be one line of a row that stands on several."""
    said = F.startswith(named(reason), F.lit(_OPEN)) | F.startswith(named(reason), F.lit(_COUNT))
    return said & F.contains(named(raw), F.lit('"'))


def _fault(value: Column, cells: int) -> Column:
    quotes = F.length(value) - F.length(F.replace(value, F.lit('"'), F.lit("")))
    count = f"{_COUNT} {cells} cells: as many as the header are expected"
    whole = F.coalesce(F.col(f"_fields.{_END}") == _MARK, F.lit(False)) & F.col(f"_fields.{_BROKEN}").isNull()
    return (
        F.when(~F.is_valid_utf8(value), "the text is not UTF-8")
        .when(F.col("_cells").isNotNull(), F.when(F.size("_cells") != cells, count))
        .when(message_fault(value).isNotNull(), message_fault(value))
        .when(~whole, F.when(quotes % 2 != 0, _OPEN).otherwise(count))
    )
