"""Readings of tables that stay where they lie: what is new passes the gate, and only then is it in force.

Rows are read, never copied; of bad ones quarantine has a reference: the table and its version in `file`, and
in `raw` the whole row when it is small, else its id. A load that is refused leaves the last reading in force.
"""

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.tables import TableAddress, read_address
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.events.judging import FUTURE, judge
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Gap
from anabranch.stores.files.filesystems import is_local
from anabranch.stores.lake.kept_readings import KeptReadings
from anabranch.stores.lake.lake import quarantined
from anabranch.stores.lake.readings import TableReading, reading_rules, table_events, typed_rows, user_table
from anabranch.stores.lake.schemas import check_tables, prepare_events, prepare_quarantine
from anabranch.stores.lake.staging import DataFile, commit_files, drop_files, read_files, write_files
from anabranch.stores.lake.user_tables import ChangedTableError, Pin, UserTable, check_columns
from anabranch.stores.opened import Stores
from anabranch.values.times import SECOND, from_micros
from batch.landing.loader import LoadSummary
from batch.quality.gate import QualityGate

log = logging.getLogger(__name__)
_SMALL = 1_024  # bytes of a bad row's text that quarantine keeps whole
_MOST_AHEAD = 10_000  # rows from the future, which every later read leaves out one by one


def read_tables(
    stores: Stores, project: Project, progress: Progress, gate: QualityGate | None = None
) -> dict[str, LoadSummary]:
    """Bring the readings of the project's tables up to what the tables are now; the summaries by source.

    Raises AnabranchError, before Spark starts where that is possible, for a table that is not there, lacks
    declared columns, or has new rows that the gate refuses; the reading before then stays in force.
    """
    tables = {name: source for name, source in project.sources.items() if source.table is not None}
    for source in tables.values():
        _look_locally(source, read_address(source.table))
    if tables:
        check_tables(stores.spark, stores.lake, project)
    for source in project.sources.values():
        if source.table is None and stores.lake.readings(stores.spark, project, source).at() is not None:
            progress.step(f"source {source.name} has no table any more: its rows count no longer")
            stores.lake.readings(stores.spark, project, source).keep(None)
    return {
        name: _TableReader(stores, project, source, gate, progress).read() for name, source in tables.items()
    }


def _look_locally(source: Source, address: TableAddress) -> None:
    """Raise AnabranchError for a table on this machine that is not there: that needs no Spark."""
    if address.kind in ("delta", "parquet") and is_local(address.place):
        place = address.place.removeprefix("file://")
        if not Path(place).is_dir():
            raise AnabranchError(
                f"source {source.name!r}: there is no folder {place}: "
                f"check the path of table={source.table!r}"
            )


@dataclass(frozen=True)
class _TableReader:
    """The reading of one source's table."""

    stores: Stores
    project: Project
    source: Source
    gate: QualityGate | None
    progress: Progress

    @property
    def readings(self) -> KeptReadings:
        """What the lake keeps of the table."""
        return self.stores.lake.readings(self.stores.spark, self.project, self.source)

    def read(self) -> LoadSummary:
        """Find out what is new, judge it, and put the reading in force."""
        spark, lake, source = self.stores.spark, self.stores.lake, self.source
        table = user_table(spark, str(source.table), lake.settings.tables)
        pin = table.look()
        before = self.readings.at()
        rows, why = self._new(table, pin, before)
        now = time.time_ns() // 1000
        place = f"{self.project.name}.{source.name}: table {table.address}"
        if why is None and before is not None:
            reading = replace(before, pin=pin, bytes=table.size(pin))
            if rows is None:
                if pin != before.pin:  # the same rows in other files: the old ones may be cleaned up
                    self.readings.keep(reading)
                self.progress.step(f"{place} has nothing new at {table.version(pin)}")
                return LoadSummary()
            since = table.version(before.pin)
            self.progress.step(f"{place}: what was appended since {since}, up to {table.version(pin)}")
            reading = replace(reading, latest=now)
        else:
            rows = table.rows(pin)
            self.progress.step(f"{place}: every row of {table.version(pin)} ({why})")
            reading = TableReading(
                series=uuid.uuid4().hex,
                table=str(source.table),
                pin=pin,
                rules=self._rules(),
                arrival=now,
                latest=now,
                why=str(why),
                bytes=table.size(pin),
            )
        check_columns(table.address, source, rows)
        prepare_events(spark, lake, self.project, source)
        summary, ahead = self._judged(table, rows, reading, now)
        reading = replace(reading, ahead=[*reading.ahead, *ahead])
        if source.topic is not None:
            if before is not None and reading.series != before.series:
                self._note_gap(reading)
            ids = self._keep_ids(rows, reading, now, anew=before is None or reading.series != before.series)
            reading = replace(reading, ids=ids)
        self.readings.keep(reading)
        log.info(
            "read project=%s source=%s table=%s %s", self.project.name, source.name, table.address, summary
        )
        return summary

    def _new(
        self, table: UserTable, pin: Pin, before: TableReading | None
    ) -> tuple[DataFrame | None, str | None]:
        """The rows that were appended since, or why every row is read: the reason for a new series."""
        if before is None:
            return None, "the first reading"
        changed = [name for name, value in self._rules().items() if before.rules.get(name) != value]
        if changed:
            return None, f"the declaration or the suite of {self.source.name!r} changed: {', '.join(changed)}"
        try:
            return table.appended(before.pin, pin), None
        except ChangedTableError as error:
            return None, str(error)

    def _rules(self) -> dict[str, Any]:
        suite = None if self.gate is None else self.gate.suite(self.source)
        return reading_rules(self.source, self.project.key_sets(self.source), suite)

    def _judged(
        self, table: UserTable, rows: DataFrame, reading: TableReading, now: int
    ) -> tuple[LoadSummary, list[int]]:
        """Judge rows in one pass, which writes bad ones to quarantine; returns the `_offset`s of those ahead.

        Raises RefusedLoadError, with nothing written, when the gate does not let them pass.
        """
        spark, lake, source = self.stores.spark, self.stores.lake, self.source
        prepare_quarantine(spark, lake, self.project, source)
        arrived = F.lit(from_micros(now))
        origin = F.lit(f"{table.address} {table.version(reading.pin)}")
        typed = typed_rows(source, rows, reading).withColumns(
            {"_arrival": arrived, "_date": F.to_date(arrived), "_file": origin}
        )
        suite = None if self.gate is None else self.gate.suite(source)
        skew = self.stores.settings.times.future_skew_seconds
        judged = judge(source, self.project.key_sets(source), typed, skew, suite)
        measures = Observation()
        counts = [F.count(F.lit(1)).alias("rows"), F.count("_reason").alias("bad")]
        judged = judged.observe(measures, *(self.gate.check(source).measures if self.gate else counts))
        path = lake.quarantine_path(self.project, source)
        written = write_files(quarantined(_referenced(judged, source), source), path)
        try:
            found: Mapping[str, Any] = measures.get
            summary = LoadSummary(rows=found["rows"] - found["bad"], quarantined=found["bad"])
            bad = self._bad(written)
            if self.gate is not None and found["rows"]:
                verdict = self.gate.check(source).close(spark, lake, found, bad)
                summary = replace(summary, reports=(verdict.report,), unmet=verdict.unmet)
            ahead = self._ahead(bad, table)
        except BaseException:
            drop_files(spark, written)
            raise
        name = f"table/{self.project.name}/{source.name}/{reading.series}/{now}"
        if written:
            commit_files(spark, path, written, {name: 0})
        return summary, ahead

    def _bad(self, written: list[DataFile]) -> DataFrame | None:
        """The rows for quarantine as `judge` names their columns."""
        if not written:
            return None
        path = self.stores.lake.quarantine_path(self.project, self.source)
        schema = self.stores.spark.read.format("delta").load(path).schema
        rows = read_files(self.stores.spark, written, schema)
        return rows.toDF(*[f"_{name}" for name in rows.columns])

    def _ahead(self, bad: DataFrame | None, table: UserTable) -> list[int]:
        if bad is None:
            return []
        rows = bad.where(F.contains("_reason", F.lit(FUTURE))).select("_offset").distinct()
        found = [row["_offset"] for row in rows.limit(_MOST_AHEAD + 1).collect()]
        if len(found) > _MOST_AHEAD:
            raise AnabranchError(
                f"source {self.source.name!r}: more than {_MOST_AHEAD:,} rows of table {table.address} are "
                f"from the future: nothing of it counts; look at its column {self.source.time!r} and its zone"
            )
        return found

    def _keep_ids(self, rows: DataFrame, reading: TableReading, now: int, *, anew: bool) -> int:
        """Keep the ids of the new rows for the stream; returns the version of their table."""
        spark, source = self.stores.spark, self.source
        path = self.readings.ids
        self.readings.prepare_ids()
        events = table_events(source, rows, reading)
        ids = events.select(named(source.identity).alias("id")).distinct()
        if not anew:
            ids = ids.join(spark.read.format("delta").load(path).select("id"), "id", "left_anti")
        writer = ids.withColumn("arrival", F.lit(from_micros(now))).write.format("delta")
        writer.mode("overwrite" if anew else "append").option("overwriteSchema", str(anew).lower()).save(path)
        return self.readings.ids_version()

    def _note_gap(self, reading: TableReading) -> None:
        """Mark answers until the next cut: the stream left out messages whose ids the table may have lost."""
        until = reading.latest + self.stores.settings.times.ahead_seconds * SECOND
        why = f"rows of table {reading.table_name} changed ({reading.why})"
        self.stores.views.note_gap(self.project.name, Gap(self.source.name, until, why))


def _referenced(judged: DataFrame, source: Source) -> DataFrame:
    """The bad rows, of which only small ones keep their whole text."""
    reference = F.to_json(F.struct(named(source.identity)))
    text = F.when(F.octet_length("_raw") <= _SMALL, F.col("_raw")).otherwise(reference)
    return judged.where("_reason IS NOT NULL").select(*LAKE_COLUMNS, text.alias("_raw"), "_reason")
