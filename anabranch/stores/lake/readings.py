"""Readings: which version of a user's table a source's events are, and how its rows become events.

Rows of a table are never copied. What is kept in the lake is a **reading**: the pin of the version
(user_tables.py) and the rules by which its rows are judged.

    <root>/<project>/tables/<source>/<name>.json     a reading
    property `anabranch.reading` of the source's table of events: the name of the reading in force

So one version of the lake's table, which builds, training sets and models keep, also says which version of
the user's table they read. Readings of a **series** only ever add rows; a change of other rows, or of the
rules, begins a new series, and then builds read every event again.

All events of a series have the arrival of its beginning, and the hash of their columns as `_offset`: so the
order of copies depends on the rows alone, whatever files they lie in. A source that also has a topic keeps
the ids of the table's rows with the time at which each was first read, since the stream must know them too:

    <root>/<project>/tables/<source>/ids             a Delta table: `id`, `arrival`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.declare.tables import read_address
from anabranch.events.cells import named
from anabranch.events.decoders.decoder import table_cells
from anabranch.events.expectations import Suite, read_suite, suite_text
from anabranch.events.judging import accepted, read_cells
from anabranch.events.rows import LAKE_COLUMNS, row_identity
from anabranch.settings import TableSettings
from anabranch.stores.lake.database_tables import DatabaseTable
from anabranch.stores.lake.delta_tables import DeltaUserTable
from anabranch.stores.lake.parquet_folders import ParquetFolder
from anabranch.stores.lake.user_tables import Pin, UserTable
from anabranch.values.names import folded
from anabranch.values.times import from_micros

_KINDS: Mapping[str, type[UserTable]] = {
    "delta": DeltaUserTable,
    "parquet": ParquetFolder,
    "jdbc": DatabaseTable,
}


@dataclass(frozen=True, kw_only=True)
class TableReading:
    """One version of a user's table, as the events of a source.

    `arrival` is that of the series' beginning and `latest` when rows were last added (microseconds). `rules`
    judge its rows (`reading_rules`), `ahead` are the `_offset`s of rows that were from the future when they
    were read. `why` the series began; `ids` is the version of the kept ids, None without a topic.
    """

    series: str
    table: str
    pin: Pin
    rules: Mapping[str, Any]
    arrival: int
    latest: int
    why: str
    bytes: int = 0
    ahead: Sequence[int] = ()
    ids: int | None = None

    @property
    def table_name(self) -> str:
        """The table for people."""
        return str(read_address(self.table))

    def text(self) -> str:
        """The reading as JSON."""
        return json.dumps(asdict(self))


def reading_of(text: str) -> TableReading:
    """The reading that `TableReading.text` wrote."""
    return TableReading(**json.loads(text))


def user_table(spark: SparkSession, table: str, settings: TableSettings) -> UserTable:
    """The table at an address, as `Source(table=)` has it."""
    address = read_address(table)
    return _KINDS[address.kind](spark, address, settings)


def reading_rules(source: Source, keys: Sequence[Sequence[str]], suite: Suite | None) -> dict[str, Any]:
    """What decides which rows of a table are events, as JSON. Another value begins a new series."""
    rules = None if suite is None else suite_text(source.name, replace(suite, expectations=suite.rules))
    return {
        "table": source.table,
        "schema": source.schema,
        "id": source.id,
        "time": source.time,
        "topic": source.topic is not None,
        "keys": [list(names) for names in keys],
        "suite": rules,
    }


def typed_rows(source: Source, rows: DataFrame, reading: TableReading) -> DataFrame:
    """Rows of the table, typed as declared, with the lake's columns, `_raw` and `_reason` as `read_cells` has
    them; a column that the table lacks is NULL.
    """
    there = {folded(name): name for name in rows.columns}
    columns = [
        named(there[folded(each.name)]).alias(each.name)
        if folded(each.name) in there
        else F.lit(None).cast(each.type.spark).alias(each.name)
        for each in source.columns
    ]
    known = {"_arrival": F.lit(from_micros(reading.arrival)), "_file": F.lit(reading.table_name)}
    place = [
        (F.to_date("_arrival") if name == "_date" else known.get(name, F.lit(None))).cast(kind).alias(name)
        for name, kind in LAKE_COLUMNS.items()
    ]
    raw = rows.select(*columns, known["_arrival"].alias("_arrival")).select(
        *[named(each.name) for each in source.columns], *place
    )
    kinds = dict(raw.dtypes)
    if all(kinds[each.name] == each.type.stored for each in source.columns):
        # Nothing is parsed: Spark then reads only the columns that are used.
        text = F.to_json(F.struct(*[named(each.name) for each in source.columns]))
        typed = raw.withColumns({"_raw": text, "_reason": F.lit(None).cast("string")})
        if source.id is None:
            values = {each.name: named(each.name) for each in source.columns}
            typed = typed.withColumn(source.identity, row_identity(source, values))
    else:
        typed = read_cells(source, table_cells(source, raw))
    return typed.withColumn("_offset", F.xxhash64(*[_hashed(typed, each.name) for each in source.columns]))


def table_events(
    source: Source, rows: DataFrame, reading: TableReading, ids: DataFrame | None = None
) -> DataFrame:
    """The events among rows of the table: source columns typed as declared, and the lake's columns.

    `ids` are the kept ids of the reading; a row arrived when its id was first read.
    """
    typed, rules = typed_rows(source, rows, reading), reading.rules
    if reading.ahead:
        typed = typed.where(~F.col("_offset").isin(list(reading.ahead)))
    suite = None if rules["suite"] is None else read_suite(rules["suite"], source, f"suite of {source.name}")
    events = accepted(source, tuple(map(tuple, rules["keys"])), typed, suite)
    if ids is None:
        return events
    first = ids.groupBy(F.col("id").alias("_id")).agg(F.min("arrival").alias("_first"))
    joined = events.join(first, named(source.identity) == F.col("_id"), "left")
    arrival = F.coalesce("_first", "_arrival")
    dated = joined.withColumns({"_arrival": arrival, "_date": F.to_date(arrival)})
    return dated.select(*[named(name) for name in events.columns])


def _hashed(rows: DataFrame, name: str) -> Any:
    """The column as Spark can hash it, which takes no map."""
    return F.to_json(named(name)) if "map<" in rows.schema[name].dataType.simpleString() else named(name)
