"""From raw events to judged ones, by one rule for files and topics, batch and stream.

DataFrame in, DataFrame out; nothing here knows where events are stored. A bad event keeps its text in `_raw`
and has a `_reason`.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from anabranch.declare.names import IDENTITY
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.cells import cell, complaint, is_wrong, named
from anabranch.events.conditions import reasons
from anabranch.events.decoders.decoder import Decoder, decoder_of
from anabranch.events.decoders.schemas import Schemas
from anabranch.events.expectations import Suite
from anabranch.events.nested_cells import read_nested
from anabranch.events.origins import HEADER
from anabranch.events.rows import LAKE_COLUMNS, lake_columns, message_identity, row_identity, sealed
from anabranch.settings import TimeSettings
from anabranch.values.keys import KEY_RULE, LONGEST_KEY, SEPARATOR
from anabranch.values.times import SECOND
from anabranch.values.types import STRING

FUTURE = "from the future: "
"""Begins the reason against an event whose time is too far after its arrival."""
_BROKERS = 1
"""Kafka's `timestampType` of a time that the broker gave."""


def is_ahead(times: TimeSettings) -> Column:
    """Whether the broker stamped a message ahead of now, because its clock was wrong."""
    ahead = F.unix_micros("timestamp") - F.unix_micros(F.current_timestamp()) > times.ahead_seconds * SECOND
    return ahead & (F.col("timestampType") == _BROKERS)


def from_topic(messages: DataFrame, times: TimeSettings) -> DataFrame:
    """Raw events, for `parse`, of messages as Spark's Kafka source gives them.

    A message whose time is its producer's, or lies ahead because the broker's clock was wrong, has no arrival
    that batch and stream could share, and would move the stream's watermark past all others. So it belongs
    to batches alone, as a row of a file does: `_file` is ``topic:<name>``, and it arrived no later than now.
    The place of a message that a relay copied is that in the original topic.
    """
    now, foreign = F.current_timestamp(), (F.col("timestampType") != _BROKERS) | is_ahead(times)
    topic, partition, offset, stamp = _place(messages)
    return messages.select(
        F.col("value").cast("string").alias("value"),
        F.when(foreign, F.least("timestamp", now)).otherwise(F.col("timestamp")).alias("_arrival"),
        F.when(foreign, F.concat(F.lit("topic:"), topic)).alias("_file"),
        topic.alias("_topic"),
        partition.alias("_partition"),
        offset.alias("_offset"),
        message_identity(topic, partition, offset, stamp).alias(IDENTITY),
    )


def _place(messages: DataFrame) -> tuple[Column, Column, Column, Column]:
    """Topic, partition, offset and stamp: those of the original where headers, which copies have, say so."""
    own = (F.col("topic"), F.col("partition"), F.col("offset"), F.unix_millis("timestamp"))
    if "headers" not in messages.columns:
        return own
    header = F.expr(f"try_element_at(filter(headers, each -> each.key = '{HEADER}'), -1).value")
    parts = F.split(header.cast("string"), "/")
    topic, partition, offset, stamp = (F.try_element_at(parts, F.lit(number)) for number in (1, 2, 3, 4))
    return (
        F.coalesce(topic, own[0]),
        F.coalesce(partition.try_cast("int"), own[1]),
        F.coalesce(offset.try_cast("bigint"), own[2]),
        F.coalesce(stamp.try_cast("bigint"), own[3]),
    )


def good_events(
    project: Project,
    source: Source,
    messages: DataFrame,
    times: TimeSettings,
    suite: Suite | None = None,
    schemas: Schemas | None = None,
) -> DataFrame:
    """The stream's events: those of Kafka messages that landing, by the same rules, would not quarantine.

    Messages that belong to batches alone are left out.
    """
    raw = from_topic(messages, times).where("_file IS NULL")
    events = parse(source, raw, decoder_of(source, schemas))
    return good(source, judge(source, project.key_sets(source), events, times.future_skew_seconds, suite))


def parse(source: Source, raw: DataFrame, decoder: Decoder | None = None) -> DataFrame:
    """Typed events of raw ones: `raw` has `value` STRING and the lake's columns (`_date` is made here).

    `decoder` reads the values, by default that of the source's format. The result is that of `read_cells`.
    """
    decoder = decoder or decoder_of(source)
    return read_cells(source, decoder.cells(source, decoder.messages(_with_identity(raw))))


def _with_identity(raw: DataFrame) -> DataFrame:
    """The rows with the lake's column of identities, which only messages have by themselves."""
    return raw if IDENTITY in raw.columns else raw.withColumn(IDENTITY, F.lit(None).cast("string"))


def read_cells(source: Source, raw: DataFrame) -> DataFrame:
    """Typed events of cells, as a decoder gives them; `_fault` may be absent.

    A column that has its declared type already is taken as it is. The result has the source's columns typed,
    the lake's columns, `_raw`, and `_reason`, which is NULL where every cell could be read.
    """
    raw, faults = read_nested(source, _with_identity(raw))
    types = {field.name: field.dataType.simpleString() for field in raw.schema.fields}
    texts = [column for column in source.columns if types[column.name] != column.type.stored]
    cells = {column.name: f"_cell_{position}" for position, column in enumerate(texts)}
    read = sealed(
        raw,
        *map(named, raw.columns),
        *[cell(column.name, column.type).alias(cells[column.name]) for column in texts],
    )
    wrong = [
        F.when(is_wrong(named(c.name), F.col(cells[c.name])), complaint(c.name, named(c.name), c.type))
        for c in texts
        if c.type != STRING and not c.type.nested
    ]
    wrong += [F.col(fault) for fault in faults]
    fault = F.col("_fault") if "_fault" in types else F.lit(None).cast("string")
    reason = F.coalesce(fault, _all_of(wrong))
    typed = {c.name: F.col(cells[c.name]) if c.name in cells else named(c.name) for c in source.columns}
    identity = F.lit(None) if source.id is not None else F.coalesce(IDENTITY, row_identity(source, typed))
    # Not sealed: `judge` reads the reason once, and all the rest are columns.
    return read.select(
        *[value.alias(name) for name, value in typed.items()],
        *lake_columns(**{IDENTITY: identity}),
        F.col("_raw"),
        reason.alias("_reason"),
    )


def judge(
    source: Source,
    key_sets: tuple[tuple[str, ...], ...],
    events: DataFrame,
    future_skew_seconds: int,
    suite: Suite | None = None,
) -> DataFrame:
    """Add a `_reason` to typed events without id, time or key, from the future, or against `suite`.

    An event needs the key of at least one view; a key of empty text is none and becomes NULL.
    """
    event_time = named(source.time).cast("timestamp")
    late = F.unix_micros(event_time) > F.unix_micros("_arrival") + future_skew_seconds * SECOND
    future = F.when(
        late,
        F.concat(F.lit(f"{FUTURE}{source.time} "), event_time.cast("string"), F.lit(" is after its arrival")),
    )
    reason = F.coalesce("_reason", _all_of(_rules(source, key_sets, suite, future)))
    kept = [name for name in events.columns if name != "_reason"]
    emptied = _without_empty_keys(source, key_sets, events)
    return sealed(emptied, *[named(name) for name in kept], reason.alias("_reason"))


def accepted(
    source: Source, key_sets: tuple[tuple[str, ...], ...], events: DataFrame, suite: Suite | None = None
) -> DataFrame:
    """The typed events that `judge` has nothing against, but that they may be from the future.

    Unlike `judge` it is a plain filter, so that Spark reads no column that is not needed.
    """
    reason = F.coalesce("_reason", *_rules(source, key_sets, suite))
    good_ones = _without_empty_keys(source, key_sets, events).where(reason.isNull())
    return good_ones.select(*[named(column.name) for column in source.columns], *LAKE_COLUMNS)


def _without_empty_keys(
    source: Source, key_sets: tuple[tuple[str, ...], ...], events: DataFrame
) -> DataFrame:
    """The events with NULL for each key column of empty text."""
    names = dict.fromkeys(name for keys in key_sets for name in keys)
    texts = [name for name in names if source.column(name, "key").type.text]
    return events.withColumns({name: F.when(named(name) != "", named(name)) for name in texts})


def _rules(
    source: Source, key_sets: tuple[tuple[str, ...], ...], suite: Suite | None, *more: Column
) -> list[Column]:
    """The reasons against a typed event, each NULL where it does not hold."""
    names = tuple(dict.fromkeys(name for keys in key_sets for name in keys))
    no_id = F.coalesce(named(source.identity).cast("string"), F.lit("")) == ""
    return [
        *([] if source.id is None else [F.when(no_id, f"no id: {source.id} is missing")]),
        F.when(named(source.time).cast("timestamp").isNull(), f"no event time: {source.time} is missing"),
        *more,
        *_key_rules(key_sets, names),
        *([] if suite is None else reasons(suite)),
    ]


def _all_of(reasons: list[Column]) -> Column:
    """The reasons that a row has, joined; NULL without any. Nothing is joined for a good row."""
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
        rules.append(F.when(wrong, f"{name}: {KEY_RULE}"))
    return rules


def good(source: Source, judged: DataFrame) -> DataFrame:
    """The events without a reason against them: source columns and lake columns."""
    return judged.where("_reason IS NULL").select(
        *[named(column.name) for column in source.columns], *LAKE_COLUMNS
    )
