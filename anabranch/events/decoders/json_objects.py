"""JSON: one object a message or line. Undeclared fields are ignored, missing ones are NULL."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.decoders.decoder import Decoder, message_fault, short
from anabranch.events.rows import lake_columns, sealed
from anabranch.values.names import quoted
from anabranch.values.types import Column as SourceColumn

_STRICT = {"allowSingleQuotes": "false"}


class JsonDecoder(Decoder):
    """JSON objects, parsed by Spark's own columns."""

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """Numbers, objects and arrays become JSON text; numbers of DECIMAL columns keep all their digits."""
        value = F.col("value")
        fields = ", ".join(f"{quoted(column.name)}: STRING" for column in source.columns)
        # Parsed as an array, so that a second object or an array of events is not silently dropped.
        array = F.concat(F.lit("["), short(value), F.lit("]"))
        objects = F.from_json(array, f"ARRAY<STRUCT<{fields}>>", _STRICT)
        exact = [column for column in source.columns if column.type.decimal]
        schema = ", ".join(f"{quoted(column.name)} {column.type.spark}" for column in exact)
        decimals = F.from_json(short(value), schema, _STRICT) if exact else F.lit(None)
        parsed = sealed(raw, *map(named, raw.columns), objects.alias("_objects"), decimals.alias("_decimals"))
        texts = [_text(column).alias(column.name) for column in source.columns]
        return sealed(parsed, *lake_columns(), value.alias("_raw"), _fault(value).alias("_fault"), *texts)


def _text(column: SourceColumn) -> Column:
    text = F.get("_objects", F.lit(0))[column.name]
    if column.type.decimal:
        # Spark hands numbers on as text by way of a double; read as DECIMAL they keep all their digits.
        decimal = F.col("_decimals")[column.name].cast("string")
        return F.coalesce(F.when(text.rlike("^[-+0-9.eE]+$"), decimal), text)
    if column.type.floating:
        quoted = text.isin('"NaN"', '"Infinity"', '"-Infinity"')
        return F.when(quoted, F.trim(text, F.lit('"'))).otherwise(text)
    return text


def _fault(value: Column) -> Column:
    first, end = F.get("_objects", F.lit(0)), F.endswith(F.rtrim(value, F.lit(" \t\r\n")), F.lit("}"))
    one_object = (F.size("_objects") == 1) & first.isNotNull() & end
    malformed = F.when(~F.coalesce(one_object, F.lit(False)), "malformed JSON: one JSON object is expected")
    return F.coalesce(
        message_fault(value), F.when(~F.is_valid_utf8(value), "the text is not UTF-8").otherwise(malformed)
    )
