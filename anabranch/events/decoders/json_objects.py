"""JSON: one object a message or line. Undeclared fields are ignored, missing ones are NULL."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.decoders.decoder import Decoder, message_fault, short
from anabranch.events.rows import lake_columns, sealed
from anabranch.values.names import quoted
from anabranch.values.types import Column as SourceColumn

_STRICT = {"allowSingleQuotes": "false"}
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = rf"(?<!\\)(?:\\\\)*+(?:{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW})"
"""The escape of half a character; Spark would read it as a question mark."""


class JsonDecoder(Decoder):
    """JSON objects, parsed by Spark's own columns."""

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """Numbers, objects and arrays become JSON text; numbers of DECIMAL columns keep all their digits.

        Spark hands numbers on as text by way of a double, so those of DECIMAL columns are quoted first.
        """
        value = F.col("value")
        fields = ", ".join(f"{quoted(column.name)}: STRING" for column in source.columns)
        # Parsed as an array, so that a second object or an array of events is not silently dropped.
        array = F.concat(F.lit("["), short(value), F.lit("]"))
        objects = F.from_json(array, f"ARRAY<STRUCT<{fields}>>", _STRICT)
        exact = [column.name for column in source.columns if column.type.decimal]
        schema = ", ".join(f"{quoted(name)} STRING" for name in exact)
        decimals = F.from_json(_with_quotes(short(value), exact), schema, _STRICT) if exact else F.lit(None)
        parsed = sealed(raw, *map(named, raw.columns), objects.alias("_objects"), decimals.alias("_decimals"))
        texts = [_text(column).alias(column.name) for column in source.columns]
        return sealed(parsed, *lake_columns(), value.alias("_raw"), _fault(value).alias("_fault"), *texts)


def _with_quotes(value: Column, names: Sequence[str]) -> Column:
    """The message with the numbers of these fields as texts. Quotes within a text have a backslash before."""
    fields = "|".join(f"\\Q{name}\\E" for name in names)
    return F.regexp_replace(value, rf'("(?:{fields})"\s*:\s*)(-?[0-9][0-9.eE+-]*)', '$1"$2"')


def _text(column: SourceColumn) -> Column:
    text = F.get("_objects", F.lit(0))[column.name]
    if column.type.decimal:
        return F.coalesce(F.col("_decimals")[column.name], text)
    if column.type.floating:
        # Spark writes them in quotes; a number that became one, such as 1e999, is beyond all doubles.
        written = F.col("value").rlike("NaN|INF|Infinity")
        endless = F.when(written, F.trim(text, F.lit('"'))).otherwise("1e999")
        return F.when(text.isin('"NaN"', '"Infinity"', '"-Infinity"'), endless).otherwise(text)
    return text


def _fault(value: Column) -> Column:
    first, end = F.get("_objects", F.lit(0)), F.endswith(F.rtrim(value, F.lit(" \t\r\n")), F.lit("}"))
    one_object = (F.size("_objects") == 1) & first.isNotNull() & end
    malformed = F.when(~F.coalesce(one_object, F.lit(False)), "malformed JSON: one JSON object is expected")
    lone = F.contains(value, F.lit("\\u")) & value.rlike(_LONE)
    text = F.when(~F.is_valid_utf8(value), "the text is not UTF-8").when(lone, "the text is not Unicode")
    return F.coalesce(message_fault(value), text, malformed)
