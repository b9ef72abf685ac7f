"""JSON: one object a message or line. Undeclared fields are ignored, missing ones are NULL.

Flat messages are parsed by Spark's own columns, nested ones by Python on Spark's workers: their paths, and
what they find, are then judged by the functions that REST calls (docs/adr/0044).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.errors import EventError
from anabranch.events.cells import named
from anabranch.events.decoders.decoder import Decoder, MessageDecoder, message_fault, short
from anabranch.events.messages import (
    EXACT,
    MOST_LEVELS,
    TOO_DEEP,
    MessageEvent,
    check_levels,
    event_alone,
)
from anabranch.events.rows import lake_columns, sealed
from anabranch.values.names import quoted
from anabranch.values.types import Column as SourceColumn
from anabranch.values.types import DataType

_STRICT = {"allowSingleQuotes": "false"}
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = rf"(?<!\\)(?:\\\\)*+(?:{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW})"
"""The escape of half a character; Spark would read it as a question mark."""


_NO_OBJECT, _NO_UNICODE = "malformed JSON: one JSON object is expected", "the text is not Unicode"
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class JsonDecoder(Decoder):
    """JSON objects, parsed by Spark's own columns if they are flat.

    With `items` the values are single items of messages, as quarantine keeps them, of whatever wire format.
    """

    items: bool = False

    def cells(self, source: Source, raw: DataFrame) -> DataFrame:
        """Objects and arrays become JSON text; a number is the text that was sent.

        Spark hands numbers with a fraction or an exponent on as text by way of a double. That costs digits,
        and JDK 17 writes some doubles longer than others do. So those of columns that are no doubles are
        quoted first.
        """
        if source.nested:
            decoder = _ItemDecoder if self.items else _NestedJsonDecoder
            return decoder().cells(source, raw)
        value = F.col("value")
        fields = ", ".join(f"{quoted(column.name)}: STRING" for column in source.columns)
        # Parsed as an array, so that a second object or an array of events is not silently dropped.
        array = F.concat(F.lit("["), short(value), F.lit("]"))
        objects = F.from_json(array, f"ARRAY<STRUCT<{fields}>>", _STRICT)
        exact = [column.name for column in source.columns if not column.type.floating]
        schema = ", ".join(f"{quoted(name)} STRING" for name in exact)
        sent = F.from_json(_with_quotes(short(value), exact), schema, _STRICT)
        parsed = sealed(raw, *map(named, raw.columns), objects.alias("_objects"), sent.alias("_sent"))
        texts = [_text(column).alias(column.name) for column in source.columns]
        return sealed(parsed, *lake_columns(), value.alias("_raw"), _fault(value).alias("_fault"), *texts)


@dataclass(frozen=True)
class _NestedJsonDecoder(MessageDecoder):
    """JSON objects whose columns lie anywhere."""

    def decode(self, value: bytes) -> Mapping[str, object]:
        message = self._decoded(value)
        if value.count(b"{") + value.count(b"[") > MOST_LEVELS:
            check_levels(message)
        return message

    def _decoded(self, value: bytes) -> Mapping[str, object]:
        try:
            message = EXACT.decode(value)
        except RecursionError as error:
            raise EventError(TOO_DEEP) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EventError(_why(value)) from error
        if not isinstance(message, dict):
            raise EventError(_NO_OBJECT)
        return message

    def given(self, value: object, kind: DataType) -> object:
        return kind.given(value)


class _ItemDecoder(_NestedJsonDecoder):
    """Single items of messages, as quarantine keeps them."""

    def events(self, source: Source, value: bytes) -> Iterator[tuple[MessageEvent, str | None]]:
        yield event_alone(self._decoded(value), source.nesting), None


def _why(value: bytes) -> str:
    """Why a message is no JSON."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "the text is not UTF-8"
    try:
        half = _HALF.search(json.dumps(json.loads(text), ensure_ascii=False))
    except (ValueError, RecursionError):
        return _NO_OBJECT
    return _NO_UNICODE if half else _NO_OBJECT


def _with_quotes(value: Column, names: Sequence[str]) -> Column:
    """The message with those numbers of these fields as texts that Spark takes for doubles; NULL without any.

    Quotes within a text have a backslash before.
    """
    plain, escaped = (
        "|".join("".join(_written(letter, escapes) for letter in name) for name in names)
        for escapes in (False, True)
    )
    escapes = F.contains(value, F.lit("\\u"))
    return F.when(escapes, _quoted_numbers(value, escaped)).otherwise(_quoted_numbers(value, plain))


def _quoted_numbers(value: Column, fields: str) -> Column:
    number = rf'("(?:{fields})"\s*:\s*)(-?[0-9]+[.eE][0-9.eE+-]*)'
    return F.when(value.rlike(number), F.regexp_replace(value, number, '$1"$2"'))


def _written(letter: str, escapes: bool) -> str:
    """A regular expression of the ways in which JSON may write a letter; `escapes` with \\uXXXX."""
    shown = re.escape(json.dumps(letter, ensure_ascii=False)[1:-1])
    ways = [shown, r"\\/"] if letter == "/" else [shown]
    if escapes:
        units = letter.encode("utf-16-be").hex()
        ways.append("".join(rf"\\u(?i:{units[start : start + 4]})" for start in range(0, len(units), 4)))
    return f"(?:{'|'.join(ways)})" if len(ways) > 1 else shown


def _text(column: SourceColumn) -> Column:
    text = F.get("_objects", F.lit(0))[column.name]
    if not column.type.floating:
        # In an object or array the numbers of fields with such names are quoted, too.
        single = F.col("_sent").isNotNull() & ~F.left(text, F.lit(1)).isin("{", "[")
        return F.when(single, F.coalesce(F.col("_sent")[column.name], text)).otherwise(text)
    # Spark writes them in quotes; a number that became one, such as 1e999, is beyond all doubles.
    written = F.col("value").rlike("NaN|INF|Infinity")
    endless = F.when(written, F.trim(text, F.lit('"'))).otherwise("1e999")
    return F.when(text.isin('"NaN"', '"Infinity"', '"-Infinity"'), endless).otherwise(text)


def _fault(value: Column) -> Column:
    first, end = F.get("_objects", F.lit(0)), F.endswith(F.rtrim(value, F.lit(" \t\r\n")), F.lit("}"))
    one_object = (F.size("_objects") == 1) & first.isNotNull() & end
    malformed = F.when(~F.coalesce(one_object, F.lit(False)), _NO_OBJECT)
    lone = F.contains(value, F.lit("\\u")) & value.rlike(_LONE)
    text = F.when(~F.is_valid_utf8(value), "the text is not UTF-8").when(lone, _NO_UNICODE)
    return F.coalesce(message_fault(value), text, malformed)
