"""Quarantine: rows that could not be used, and their replay once declaration, suite or time allow it.

A replayed row becomes an event like that of a file that arrives at the moment of the replay, since whoever
owed it by its first arrival has run already: the batch takes it with its next build. Where it came from first
stays in its `_file`:

    quarantine:<identity of the row>?topic=exams&partition=0&offset=17&first=<arrival in microseconds>
    quarantine:<identity of the row>?file=%2Fdata%2Fa.csv&offset=3&first=<arrival in microseconds>&set=age

That event is also the record that the row is resolved: both are one commit, so there is no state between
them, and the quarantine itself is never changed.
"""

import csv
import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.names import IDENTITY
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.tables import KINDS
from anabranch.declare.wire_formats import is_text
from anabranch.errors import AnabranchError
from anabranch.events.decoders.csv_lines import CsvDecoder
from anabranch.events.decoders.decoder import Decoder, decoder_of
from anabranch.events.decoders.json_objects import JsonDecoder
from anabranch.events.decoders.schemas import Schemas
from anabranch.events.judging import judge, read_cells
from anabranch.events.messages import POSITION
from anabranch.events.rows import LAKE_COLUMNS, kept_value, message_identity
from anabranch.progress import Progress
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import stage
from anabranch.stores.lake.schemas import prepare_events
from anabranch.stores.opened import Stores
from anabranch.values.sql.expressions import compiled
from anabranch.values.times import from_micros
from anabranch.values.types import BINARY, STRING
from anabranch.values.types import Column as SourceColumn
from batch.quality.gate import QualityGate
from batch.quality.reasons import replayable

log = logging.getLogger(__name__)
PREFIX = "quarantine:"
_IDENTITY = 32  # hexadecimal digits of SHA-256
_MOST_HEADERS = 100  # of CSV files, in one replay
_MESSAGE, _ITEM, _ROW, _LINE = "message", "item", "row", "line"
"""How a row is kept: a topic's message, one item of a message, a row of Parquet as JSON, a line of a file."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """How many of a source's replayed rows landed, and how many are as bad as before."""

    landed: int = 0
    bad: int = 0


@dataclass(frozen=True, kw_only=True)
class ReplayChoice:
    """Which rows are replayed, and with what changes.

    `reason`: only rows with this text in their reason. `changes`: SQL expressions by column, over the row's
    cells as texts, that replace what the row says.
    """

    reason: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)


def pending(stores: Stores, project: Project, source: Source) -> DataFrame:
    """The source's rows in quarantine that no replay has landed yet.

    The columns are those of QUARANTINE (anabranch/stores/lake/lake.py) and `id`. Rows of a table that stays
    where it lies are those of its present series of readings, which judged every row again when it began.
    """
    rows = stores.lake.quarantine(stores.spark, project).where(F.col("source") == source.name)
    reading = stores.lake.readings(stores.spark, project, source).at()
    since = F.lit(from_micros(0 if reading is None else reading.arrival))
    rows = rows.where(~_of_table() | ((F.col("arrival") >= since) & F.lit(reading is not None)))
    landed = _landed(stores.spark, stores.lake, project, source)
    return rows.withColumn("id", _identity()).join(landed, "id", "left_anti")


def replay(
    stores: Stores,
    project: Project,
    source: Source,
    progress: Progress,
    gate: QualityGate | None = None,
    choice: ReplayChoice | None = None,
) -> Replayed:
    """Judge quarantined rows again by today's rules and land each good one once; the others stay.

    A replay that was stopped at any moment goes on with what is left when it is run again.
    """
    choice = choice or ReplayChoice()
    texts = tuple(SourceColumn(column.name, STRING) for column in source.columns if not column.type.nested)
    changes = {}
    for name, expression in choice.changes.items():
        source.column(name, "--set")
        changes[name] = compiled(expression, texts, f"--set {name}").sql
    spark, lake = stores.spark, stores.lake
    app_id, arrival = f"replay/{project.name}/{source.name}", time.time_ns() // 1000
    number = lake.last(spark, project, source, app_id) + 1
    progress.step(f"replaying {project.name}.{source.name}")
    prepare_events(spark, lake, project, source)
    matching = pending(stores, project, source).where(F.contains("reason", F.lit(choice.reason)))
    chosen = matching.persist()  # is read a few times
    try:
        kept = ~_lost_bytes(source) & ~_of_table()
        fit = chosen.where(replayable(F.col("reason"), F.col("raw")) & kept)
        parsed = _parsed(_as_raw(fit, source, arrival, changes), source, changes, stores.schemas)
        suite = None if gate is None else gate.suite(source)
        skew = stores.settings.times.future_skew_seconds
        judged = judge(source, project.key_sets(source), parsed, skew, suite)
        load, total = stage(lake, judged.where("_reason IS NULL"), project, source), chosen.count()
    finally:
        chosen.unpersist()
    if not load.rows:
        load.drop()
    elif not load.commit({app_id: number}):
        raise AnabranchError(
            f"another replay of {project.name}.{source.name} ran at the same time, "
            "and this one landed nothing: run it again"
        )
    bad = total - load.rows
    log.info("replayed project=%s source=%s landed=%d bad=%d", project.name, source.name, load.rows, bad)
    return Replayed(landed=load.rows, bad=bad)


def _landed(spark: SparkSession, lake: Lake, project: Project, source: Source) -> DataFrame:
    """Identities of the rows that replays have landed. Delta's statistics of `_file` skip all other files."""
    events = lake.events(spark, project, source).where(F.col("_file").startswith(PREFIX))
    return events.select(F.substring("_file", len(PREFIX) + 1, _IDENTITY).alias("id"))


def _identity() -> Column:
    parts = [
        F.coalesce(F.col(name).cast("string"), F.lit(""))
        for name in ("source", "file", "topic", "partition", "offset", "raw")
    ]
    return F.left(
        F.sha2(F.concat_ws("\x1f", *parts, F.unix_micros("arrival").cast("string")), 256), F.lit(_IDENTITY)
    )


def _as_raw(rows: DataFrame, source: Source, arrival: int, changes: Mapping[str, str]) -> DataFrame:
    """Quarantined rows as raw events: `value`, `_header`, `_form` and the lake's columns."""
    place = [
        F.concat(F.lit(f"{name}="), F.url_encode(F.col(name).cast("string")))
        for name in ("file", "topic", "partition", "offset")
    ]
    first = F.concat(F.lit("first="), F.unix_micros("arrival").cast("string"))
    changed = [F.lit(f"set={','.join(changes)}")] if changes else []
    address = F.concat(F.lit(PREFIX), F.col("id"), F.lit("?"), F.concat_ws("&", *place, first, *changed))
    message = message_identity(F.col("topic"), F.col("partition"), F.col("offset"), F.unix_millis("arrival"))
    known = {
        "_arrival": F.lit(from_micros(arrival)),
        "_file": address,
        "_offset": F.col("offset"),
        IDENTITY: message,  # NULL for rows of files, which are identified by their values
    }
    lake = [known.get(name, F.lit(None)).cast(kind).alias(name) for name, kind in LAKE_COLUMNS.items()]
    is_item = F.lit(source.explode is not None) & F.startswith("raw", F.lit(f'{{"{POSITION}":'))
    is_row = F.coalesce(F.endswith("file", F.lit(".parquet")), F.lit(False))
    is_message = F.col("topic").isNotNull()
    form = F.when(is_item, _ITEM).when(is_message, _MESSAGE).when(is_row, _ROW)
    of_csv = F.col("topic").isNull() & ~is_item
    header = F.when(of_csv, F.coalesce("header", _declared_header(source))).alias("_header")
    value = F.col("raw")
    if not is_text(source.format):
        value = F.when(is_message & ~is_item, kept_value(value)).otherwise(value)
    return rows.select(value.alias("value"), header, form.otherwise(_LINE).alias("_form"), *lake)


def _declared_header(source: Source) -> Column:
    """The header of CSV rows that were kept before headers were; NULL for JSON."""
    declared = F.lit(",".join(f'"{column.name}"' for column in source.columns))
    return F.when(~F.startswith(F.ltrim("raw"), F.lit("{")), declared)


def _parsed(raw: DataFrame, source: Source, changes: Mapping[str, str], schemas: Schemas) -> DataFrame:
    """Typed events of quarantined rows.

    Messages are read in the source's format, rows of CSV files by their headers, other rows as JSON.
    """
    kinds = raw.select("_form", "_header").distinct().limit(_MOST_HEADERS + 1).collect()
    if len(kinds) > _MOST_HEADERS:
        raise AnabranchError(
            f"rows of more than {_MOST_HEADERS} different CSV headers are to be replayed: "
            "choose fewer with --reason"
        )
    parsed = []
    for form, header in [tuple(kind) for kind in kinds] or [(_MESSAGE, None)]:  # no rows are an empty frame
        of_message = form == _MESSAGE
        decoder: Decoder = decoder_of(source, schemas) if of_message else JsonDecoder(items=form == _ITEM)
        if header is not None:
            decoder = CsvDecoder(tuple(next(csv.reader([header]))))
        # A row of a file of columns is kept as one object of its columns.
        written = dataclasses.replace(source, fields={}, explode=None) if form == _ROW else source
        alike = (F.col("_form") == F.lit(form)) & F.col("_header").eqNullSafe(F.lit(header))
        cells = decoder.cells(written, raw.where(alike).drop("_form", "_header"))
        parsed.append(read_cells(source, _changed(cells, changes)))
    return reduce(DataFrame.unionByName, parsed)


def _changed(texts: DataFrame, changes: Mapping[str, str]) -> DataFrame:
    return texts.withColumns(
        {name: F.expr(expression).cast("string") for name, expression in changes.items()}
    )


def _of_table() -> Column:
    """Rows of tables that stay where they lie: the next reading judges them again, when its rules or the rows
    have changed.
    """
    return F.coalesce(F.col("file").rlike(f"^(?:{'|'.join(KINDS)}):"), F.lit(False))


def _lost_bytes(source: Source) -> Column:
    """Rows of Parquet files are kept as JSON, where the bytes of a BINARY column stand in another form."""
    binary = any(column.type == BINARY for column in source.columns)
    return F.coalesce(F.endswith("file", F.lit(".parquet")), F.lit(False)) if binary else F.lit(False)
