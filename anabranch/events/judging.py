"""From raw text to typed events, by one rule for files and topics, batch and stream. DataFrame in, DataFrame out.

Beside the columns of its source an event carries the lake's own:

    _arrival TIMESTAMP   when it came: the broker's time of a message, or the moment a file was loaded
    _date DATE           of the arrival; the lake is partitioned by it
    _file STRING         where it came from: a file, or ...
    _topic STRING        ... a topic
    _partition INT       of the topic
    _offset BIGINT       in the partition, or (rising, with gaps) in the file

Nothing here knows where events are stored. An event that is bad keeps its text in `_raw` and has a `_reason`.
"""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.cells import cell, complaint, is_wrong, named
from anabranch.events.conditions import reasons
from anabranch.events.expectations import Suite
from anabranch.settings import TimeSettings
from anabranch.values.keys import LONGEST_KEY, SEPARATOR
from anabranch.values.times import SECOND
from anabranch.values.types import Column as SourceColumn

LAKE_COLUMNS = {
    "_arrival": "TIMESTAMP",
    "_date": "DATE",
    "_file": "STRING",
    "_topic": "STRING",
    "_partition": "INT",
    "_offset": "BIGINT",
}
LONGEST_EVENT = 1_048_576
"""Bytes of one event's text; what is longer goes to quarantine."""
_STRICT = {"allowSingleQuotes": "false"}
_BROKEN = "_broken"
_RFC_4180 = {
    "quote": '"',
    "escape": '"',
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": _BROKEN,
    "maxCharsPerColumn": "-1",
    "maxColumns": "100000",
}


def from_topic(messages: DataFrame) -> DataFrame:
    """Messages as Spark's Kafka source gives them, as raw events for `parse_json`."""
    return messages.select(
        F.col("value").cast("string").alias("value"),
        F.col("timestamp").alias("_arrival"),
        F.lit(None).cast("string").alias("_file"),
        F.col("topic").alias("_topic"),
        F.col("partition").alias("_partition"),
        F.col("offset").alias("_offset"),
    )


def good_events(
    project: Project, source: Source, messages: DataFrame, times: TimeSettings, suite: Suite | None = None
) -> DataFrame:
    """The events among Kafka messages that landing would not put in quarantine, by the same rules."""
    judged = judge(
        source,
        project.key_sets(source),
        parse_json(source, from_topic(messages)),
        times.future_skew_seconds,
        suite,
    )
    return good(source, judged)


def parse_json(source: Source, raw: DataFrame) -> DataFrame:
    """Typed events of raw JSON texts: `raw` has `value` STRING and the lake columns (`_date` is made here).

    One JSON object an event; fields that are not declared are ignored, those that are missing are NULL.
    """
    return parse_text(source, json_texts(source, raw))


def json_texts(source: Source, raw: DataFrame) -> DataFrame:
    """The cells of raw JSON texts as texts, for `parse_text`."""
    fields = ", ".join(f"`{column.name}`: STRING" for column in source.columns)
    short = F.when(F.octet_length("value") <= LONGEST_EVENT, F.col("value"))
    # As an array, so that a second object or an array of events in one text is seen and not silently dropped.
    objects = F.from_json(F.concat(F.lit("["), short, F.lit("]")), f"ARRAY<STRUCT<{fields}>>", _STRICT)
    exact = [column for column in source.columns if column.type.decimal]
    decimals = (
        F.from_json(short, ", ".join(f"`{c.name}` {c.type.spark}" for c in exact), _STRICT)
        if exact
        else F.lit(None)
    )
    parsed = _sealed(raw, *map(named, raw.columns), objects.alias("_objects"), decimals.alias("_decimals"))
    texts = [_json_text(column).alias(column.name) for column in source.columns]
    return _sealed(parsed, *_lake(), F.col("value").alias("_raw"), _json_fault().alias("_fault"), *texts)


def _json_text(column: SourceColumn) -> Column:
    text = F.get("_objects", F.lit(0))[column.name]
    if column.type.decimal:
        # Spark hands numbers on as text by way of a double; read as DECIMAL they keep all their digits.
        return F.coalesce(
            F.when(text.rlike("^[-+0-9.eE]+$"), F.col("_decimals")[column.name].cast("string")), text
        )
    if column.type.floating:
        return F.when(text.isin('"NaN"', '"Infinity"', '"-Infinity"'), F.trim(text, F.lit('"'))).otherwise(
            text
        )
    return text


def _json_fault() -> Column:
    value, first = F.col("value"), F.get("_objects", F.lit(0))
    one_object = (
        (F.size("_objects") == 1)
        & first.isNotNull()
        & F.endswith(F.rtrim(value, F.lit(" \t\r\n")), F.lit("}"))
    )
    return (
        F.when(value.isNull(), "no value: a message without one (a tombstone) is no event")
        .when(F.octet_length(value) > LONGEST_EVENT, _too_large(value))
        .when(~F.is_valid_utf8(value), "the text is not UTF-8")
        .when(~F.coalesce(one_object, F.lit(False)), "malformed JSON: one JSON object is expected")
    )


def parse_csv(source: Source, lines: DataFrame, header: Sequence[str]) -> DataFrame:
    """Typed events of lines of a CSV with these columns: `lines` has `value` STRING and the lake columns."""
    return parse_text(source, csv_texts(lines, header))


def csv_texts(lines: DataFrame, header: Sequence[str]) -> DataFrame:
    """The cells of such lines as texts, for `parse_text`."""
    value, short = F.col("value"), F.octet_length("value") <= LONGEST_EVENT
    quoted = F.contains(value, F.lit('"'))
    columns = ", ".join(f"`{name}` STRING" for name in header)
    # A line without quotes needs no parser, which costs three times as much.
    cells = F.when(short & ~quoted, F.split(value, ",", -1))
    fields = F.when(short & quoted, F.from_csv(value, f"{columns}, {_BROKEN} STRING", _RFC_4180))
    split = _sealed(lines, value, *map(named, LAKE_COLUMNS), cells.alias("_cells"), fields.alias("_fields"))
    texts = [
        F.coalesce(F.nullif(F.get("_cells", F.lit(n)), F.lit("")), F.col("_fields")[name]).alias(name)
        for n, name in enumerate(header)
    ]
    return split.select(*LAKE_COLUMNS, value.alias("_raw"), _csv_fault(len(header)).alias("_fault"), *texts)


def _csv_fault(cells: int) -> Column:
    value, plain = F.col("value"), F.col("_cells").isNotNull()
    quotes = F.length(value) - F.length(F.replace(value, F.lit('"'), F.lit("")))
    count = f"the row has not {cells} cells: as many as the header are expected"
    return (
        F.when(~F.is_valid_utf8(value), "the text is not UTF-8")
        .when(plain, F.when(F.size("_cells") != cells, count))
        .when(F.octet_length(value) > LONGEST_EVENT, _too_large(value))
        .when(quotes % 2 != 0, "a quote is not closed: a row must stand on one line, quotes in it doubled")
        .when(F.col(f"_fields.{_BROKEN}").isNotNull(), count)
    )


def _too_large(value: Column) -> Column:
    return F.concat(
        F.lit("too large: "), F.octet_length(value), F.lit(f" bytes, an event may have {LONGEST_EVENT}")
    )


def parse_text(source: Source, raw: DataFrame) -> DataFrame:
    """Typed events of rows whose columns are text: all source columns, lake columns, `_raw` and, for rows that are
    broken as a whole, `_fault`. A column that has the declared type already is taken as it is.

    Gives source columns typed, lake columns, `_raw`, and `_reason`: NULL where every cell could be read.
    """  # fmt: skip
    types = {field.name: field.dataType.simpleString() for field in raw.schema.fields}
    texts = [column for column in source.columns if types[column.name] != column.type.spark.lower()]
    cells = {column.name: f"_cell_{position}" for position, column in enumerate(texts)}
    read = _sealed(
        raw,
        *map(named, raw.columns),
        *[cell(column.name, column.type).alias(cells[column.name]) for column in texts],
    )
    wrong = [
        F.when(is_wrong(named(c.name), F.col(cells[c.name])), complaint(c.name, named(c.name), c.type))
        for c in texts
        if c.type.name != "STRING"
    ]
    fault = F.col("_fault") if "_fault" in types else F.lit(None).cast("string")
    reason = F.coalesce(fault, _all_of(wrong))
    typed = [F.col(cells[c.name]).alias(c.name) if c.name in cells else named(c.name) for c in source.columns]
    # Not sealed: `judge` reads the reason once, and all the rest are columns.
    return read.select(*typed, *_lake(), F.col("_raw"), reason.alias("_reason"))


def judge(
    source: Source,
    key_sets: tuple[tuple[str, ...], ...],
    events: DataFrame,
    future_skew_seconds: int,
    suite: Suite | None = None,
) -> DataFrame:
    """The events of `parse_*` with a `_reason` also for those without id, time or key, from the future, or against a rule of `suite`.

    An event needs its key for one view at least; a key of empty text is none and becomes NULL.
    """
    names = dict.fromkeys(name for keys in key_sets for name in keys)
    empty = {
        name: F.when(named(name) != "", named(name)) for name in names if source.column(name, "key").type.text
    }
    event_time = named(source.time).cast("timestamp")
    late = F.unix_micros(event_time) > F.unix_micros("_arrival") + future_skew_seconds * SECOND
    rules = [
        F.when(
            F.coalesce(named(source.id).cast("string"), F.lit("")) == "", f"no id: {source.id} is missing"
        ),
        F.when(event_time.isNull(), f"no event time: {source.time} is missing"),
        F.when(
            late,
            F.concat(
                F.lit(f"from the future: {source.time} "),
                event_time.cast("string"),
                F.lit(" is after its arrival"),
            ),
        ),
        *_key_rules(key_sets, tuple(names)),
        *([] if suite is None else reasons(suite)),
    ]
    reason = F.coalesce("_reason", _all_of(rules))
    kept = [name for name in events.columns if name != "_reason"]
    return _sealed(events.withColumns(empty), *[named(name) for name in kept], reason.alias("_reason"))


def _all_of(reasons: list[Column]) -> Column:
    """Those reasons that a row has, NULL without any: nothing is put together for a good row."""
    return (
        F.when(F.coalesce(*reasons).isNotNull(), F.concat_ws("; ", *reasons))
        if reasons
        else F.lit(None).cast("string")
    )


def _key_rules(key_sets: tuple[tuple[str, ...], ...], names: tuple[str, ...]) -> list[Column]:
    rules = []
    if key_sets:
        whole = [F.concat(*[named(name).cast("string") for name in keys]) for keys in key_sets]
        wanted = " or ".join(" and ".join(keys) for keys in key_sets)
        rules.append(F.when(F.coalesce(*whole).isNull(), f"no key: {wanted} is missing"))
    for name in names:
        text = named(name).cast("string")
        wrong = F.contains(text, F.lit(SEPARATOR)) | (F.octet_length(text) > LONGEST_KEY)
        rules.append(
            F.when(wrong, f"{name}: a key may have {LONGEST_KEY} bytes and not the control character U+001F")
        )
    return rules


def good(source: Source, judged: DataFrame) -> DataFrame:
    """The events without a reason against them: source columns and lake columns."""
    return judged.where("_reason IS NULL").select(
        *[named(column.name) for column in source.columns], *LAKE_COLUMNS
    )


def _lake() -> list[Column]:
    """The lake columns of raw events; the date is always that of the arrival."""
    return [
        (F.to_date("_arrival") if name == "_date" else F.col(name)).cast(kind).alias(name)
        for name, kind in LAKE_COLUMNS.items()
    ]


def _sealed(frame: DataFrame, *columns: Column) -> DataFrame:
    """`frame.select(columns)`, each computed once.

    Spark copies an expression into every later one that reads it; over the cells of a wide source that makes plans
    beyond any heap. It does not look through a generator, so this is one: a row of one row. What a generator computes
    itself is interpreted, not compiled: so the row is put together before it.
    """
    return (
        frame.select(F.struct(*columns).alias("_row"))
        .select(F.explode(F.array("_row")).alias("_row"))
        .select("_row.*")
    )
