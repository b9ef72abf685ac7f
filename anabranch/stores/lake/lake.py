"""The lake: every event as it came, append-only, in Delta tables below one root.

    <root>/<project>/events/<source>                good events: source columns (`stored_name`) and lake
                                                    columns, partitioned by `_date`
    <root>/<project>/quarantine/<source>            bad rows: their text and the reason
    <root>/<project>/checkpoints/<source>/<topic>   how far the source's topic has been landed
    <root>/<project>/quality/<source>/              reports of the quality gate, a page a load
    <root>/<project>/states/<name>                  what builds keep, see increments.py
    <root>/<project>/tables/<source>/               which version of a user's table was read, see readings.py

Predictions that serving published are events of a source of their own, see predictions.py.

An append is named by (app id, version): the same name again changes nothing, so whoever was cut off just
repeats.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.declare.names import IDENTITY
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.events.copies import distinct, distinct_of_many
from anabranch.events.predictions import landed_sources, predictions_source
from anabranch.events.rows import LAKE_COLUMNS, LONGEST_KEPT, message_identity, row_identity
from anabranch.settings import LakeSettings
from anabranch.stores.lake.kept_readings import KeptReadings
from anabranch.stores.lake.light import lake_place, stored_name
from anabranch.stores.lake.readings import table_events, user_table
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.lake.user_tables import ChangedTableError
from anabranch.values.keys import SEPARATOR
from anabranch.values.names import folded, quoted
from anabranch.values.times import parse_time

QUARANTINE = {
    "source": "STRING", "reason": "STRING", "raw": "STRING", "arrival": "TIMESTAMP",
    "file": "STRING", "topic": "STRING", "partition": "INT", "offset": "BIGINT", "header": "STRING",
}  # fmt: skip

MANY_FILES = 10_000
"""Files of a table whose statistics are no longer looked through one by one."""
LARGE = 2**26
"""Bytes of a table from which on finding copies first is faster than sorting everything."""
CHANGE_FEED = "delta.enableChangeDataFeed"
READABLE_FROM = "anabranch.readableFrom"
"""Property of a table of events: its first version whose files an erasure has not removed."""


class FeedError(AnabranchError):
    """The rows appended to a table since a version are not known."""


class Lake:
    """Tables of all projects below `settings.root`."""

    def __init__(self, settings: LakeSettings) -> None:
        self.settings = settings

    def path(self, project: Project, source: Source) -> str:
        """The path of the source's events."""
        return self._below(project, "events", source)

    def checkpoint(self, project: Project, source: Source) -> str:
        """The path of the checkpoint that says how far the source's topic was landed."""
        return f"{self._below(project, 'checkpoints', source)}/{source.topic}"

    def reports(self, project: Project, source: Source) -> str:
        """The folder of the quality gate's reports."""
        return self._below(project, "quality", source)

    def quarantine_path(self, project: Project, source: Source) -> str:
        """The path of the source's bad rows."""
        return self._below(project, "quarantine", source)

    def state_path(self, project: str, name: str) -> str:
        """The path of a state that builds keep."""
        return f"{self.settings.root.rstrip('/')}/{project}/states/{name}"

    def events(
        self, spark: SparkSession, project: Project, source: Source, *, version: int | None = None
    ) -> DataFrame:
        """All landed events, and those of the source's own table, duplicates included, typed as declared.

        A column that was not declared when a row landed is NULL in it. Without a table there are no events;
        `version` reads the tables as they were.
        """
        landed = self._landed(spark, project, source, version)
        readings = self.readings(spark, project, source)
        reading = readings.at(version)
        if reading is None:
            return landed
        rows = user_table(spark, reading.table, self.settings.tables).rows(reading.pin)
        return landed.unionByName(table_events(source, rows, reading, readings.ids_of(reading)))

    def readings(self, spark: SparkSession, project: Project, source: Source) -> KeptReadings:
        """What is kept of the source's own table, whose rows are read where they lie."""
        folder = self._below(project, "tables", source)
        return KeptReadings(spark, source, self.path(project, source), folder)

    def appended(
        self, spark: SparkSession, project: Project, source: Source, after: int, version: int
    ) -> DataFrame:
        """The events appended after one version of the table up to another, typed as declared.

        Raises FeedError, with the reason alone as its text, when that cannot be told or when rows went or
        changed.
        """
        if after == version:
            return _nothing(spark, _declared(source))
        own = self._appended_to_own_table(spark, project, source, after, version)
        options = {"readChangeFeed": "true", "startingVersion": str(after + 1), "endingVersion": str(version)}
        try:
            feed = spark.read.format("delta").options(**options).load(self.path(project, source))
            if not feed.where("_change_type <> 'insert'").isEmpty():
                raise FeedError(f"events of {source.name!r} were removed or changed")
            landed = as_declared(feed, source)
            return landed if own is None else landed.unionByName(own)
        except PySparkException as error:
            raise FeedError(f"what was appended to {source.name!r} is no longer known") from error

    def ensure_feeds(self, spark: SparkSession, project: Project) -> None:
        """Turn on the change feed of tables that earlier versions of Anabranch made without one."""
        for source in project.sources.values():
            found = snapshot(spark, self.path(project, source))
            if found is not None and not found.metadata().configuration().contains(CHANGE_FEED):
                table = self.path(project, source)
                spark.sql(f"ALTER TABLE delta.`{table}` SET TBLPROPERTIES ({CHANGE_FEED} = true)")

    def distinct_events(
        self, spark: SparkSession, project: Project, versions: Mapping[str, int] | None = None
    ) -> dict[str, DataFrame]:
        """The distinct events of every source by its name, of the table's version where `versions` has one.

        Those of shared views are read from the tables of the views' owners, and named ``owner.source``. Looks
        through the ids of large tables at once.
        """
        return {
            name: self.distinct_events_of(spark, owner, source, (versions or {}).get(name))
            for name, owner, source in _read_sources(project)
        }

    def distinct_events_of(
        self, spark: SparkSession, project: Project, source: Source, version: int | None
    ) -> DataFrame:
        """The distinct events of one source, of the table's `version` where it is given."""
        table = snapshot(spark, self.path(project, source))
        reading = self.readings(spark, project, source).at(version)
        if table is None or table.sizeInBytes() + (reading.bytes if reading else 0) < LARGE:
            return distinct(source, self.events(spark, project, source, version=version))
        # All of its reads must see the same events, whatever is appended meanwhile.
        return distinct_of_many(
            source,
            self.events(spark, project, source, version=int(table.version()) if version is None else version),
        )

    def predictions(
        self,
        spark: SparkSession,
        project: Project,
        since: datetime | None = None,
        *,
        version: int | None = None,
    ) -> DataFrame:
        """The landed predictions of the project, each once, made at or after `since`.

        Columns: `prediction_id`, `at`, `key` (stored text; NULL without one), `score` DOUBLE, `label`,
        `model_version`, `batch_version`, `as_of`, `degraded`, and `asked` and `used` as JSON. Of several
        classes `label` is STRING, and `scores` MAP<STRING, DOUBLE> follows `degraded`. `version` reads the
        table as it was.
        """
        source = predictions_source(project.name)
        events = self.events(spark, project, source, version=version)
        if since is not None:
            # Published within moments; a buffer that waited for a broker arrives later, never earlier.
            events = events.where(
                (F.col("at") >= F.lit(since)) & (F.col("_date") >= F.lit((since - timedelta(days=1)).date()))
            )
        classes = project.task == "classes"
        label, scores = ("STRING", ", scores MAP<STRING, DOUBLE>") if classes else ("DOUBLE", "")
        answered = F.from_json(
            "answered",
            f"score DOUBLE, label {label}, model_version STRING, batch_version BIGINT, as_of TIMESTAMP, "
            f"degraded BOOLEAN{scores}",
        )
        key = _asked_key(project.keys).alias("key")
        read = distinct(source, events).select(
            "prediction_id", "at", key, answered.alias("_a"), "asked", "used"
        )
        return read.select("prediction_id", "at", "key", "_a.*", "asked", "used")

    def file_ids(
        self, spark: SparkSession, project: Project, source: Source, days: int | None = None
    ) -> DataFrame | None:
        """`_file_id` and `_file_arrival` of the events that were loaded from files; None when there are none.

        Of a large table those of the last `days` alone, counted whenever the frame is read: a stream reads it
        with every micro-batch.
        """
        loaded = self._landed(spark, project, source, None).where("_file IS NOT NULL")
        path, arrival = self.path(project, source), F.col("_arrival")
        parts = []
        if not loaded.isEmpty():
            recent = _recent(loaded, snapshot(spark, path), days, F.col("_date"))
            parts.append(
                recent.select(named(source.identity).alias("_file_id"), arrival.alias("_file_arrival"))
            )
        readings = self.readings(spark, project, source)
        ids = readings.ids_now()
        if ids is not None:
            recent = _recent(ids, snapshot(spark, readings.ids), days, F.to_date("arrival"))
            parts.append(recent.toDF("_file_id", "_file_arrival"))
        return reduce(DataFrame.unionByName, parts) if parts else None

    def quarantine(self, spark: SparkSession, project: Project) -> DataFrame:
        """All bad rows, with the columns of QUARANTINE; `header` is the first line of a row's CSV file."""
        tables = [
            _load(spark, self.quarantine_path(project, source), None)
            for source in landed_sources(project).values()
        ]
        there = [table for table in tables if table is not None]
        # A table made by an earlier version has no header.
        return reduce(
            lambda one, other: one.unionByName(other, allowMissingColumns=True),
            there,
            _nothing(spark, QUARANTINE),
        )

    def last(self, spark: SparkSession, project: Project, source: Source, app_id: str) -> int:
        """The version of the last append under that name; -1 without one."""
        table = snapshot(spark, self.path(project, source))
        found = None if table is None else table.transactions().get(app_id)
        return int(found.get()) if found is not None and found.isDefined() else -1

    def versions(self, spark: SparkSession, project: Project) -> dict[str, int]:
        """Delta's version by source; a source without a table is left out."""
        found = {
            name: snapshot(spark, self.path(project, source)) for name, source in project.sources.items()
        }
        return {name: int(table.version()) for name, table in found.items() if table is not None}

    def versions_read(self, spark: SparkSession, project: Project) -> dict[str, int]:
        """Delta's versions as `versions` gives them, and those of the tables of shared views' owners."""
        found = {
            name: snapshot(spark, self.path(owner, source)) for name, owner, source in _read_sources(project)
        }
        return {name: int(table.version()) for name, table in found.items() if table is not None}

    def version(self, spark: SparkSession, project: Project, source: Source) -> int | None:
        """Delta's version of the table of one source; None without a table."""
        found = snapshot(spark, self.path(project, source))
        return None if found is None else int(found.version())

    def last_arrival(self, spark: SparkSession, project: Project, source: Source) -> int | None:
        """A moment (microseconds) by which every event of the table had arrived, by its files' statistics.

        0 without a table, None when a file has no statistics or there are too many files.
        """
        found = snapshot(spark, self.path(project, source))
        if found is None:
            return 0
        if int(found.numOfFiles()) > MANY_FILES:
            return None
        # Not aggregated by Spark: the files of a small table are at hand without a job.
        files = DataFrame(found.allFiles().toDF(), spark).select("stats").collect()
        arrivals = [json.loads(row["stats"] or "{}").get("maxValues", {}).get("_arrival") for row in files]
        if None in arrivals:
            return None
        reading = self.readings(spark, project, source).at()
        # Delta keeps milliseconds, rounded down.
        return max([reading.latest if reading else 0, *[parse_time(text) + 1000 for text in arrivals]])

    def identities(self, spark: SparkSession, project: Project) -> dict[str, str]:
        """Delta's identity of each source's table, which changes when the table is created anew."""
        found = {
            name: snapshot(spark, self.path(project, source)) for name, source in project.sources.items()
        }
        return {name: str(table.metadata().id()) for name, table in found.items() if table is not None}

    def _landed(
        self, spark: SparkSession, project: Project, source: Source, version: int | None
    ) -> DataFrame:
        """The events that are in the lake itself."""
        table = _load(spark, self.path(project, source), version)
        return _nothing(spark, _declared(source)) if table is None else as_declared(table, source)

    def _appended_to_own_table(
        self, spark: SparkSession, project: Project, source: Source, after: int, version: int
    ) -> DataFrame | None:
        """The events that the source's own table had more at one version than at another; None for none."""
        readings = self.readings(spark, project, source)
        was, now = readings.at(after), readings.at(version)
        if was is None and now is None:
            return None
        if was is None or now is None:
            raise FeedError(f"the table of {source.name!r} was declared anew")
        if was.series != now.series:
            raise FeedError(f"table {now.table_name}: {now.why}")
        try:
            table = user_table(spark, now.table, self.settings.tables)
            rows = table.appended(was.pin, now.pin)
        except ChangedTableError as error:
            raise FeedError(f"table {now.table_name}: {error}") from error
        return None if rows is None else table_events(source, rows, now, readings.ids_of(now))

    def _below(self, project: Project, kind: str, source: Source) -> str:
        return lake_place(self.settings.root, project, kind, source)


def _read_sources(project: Project) -> Iterator[tuple[str, Project, Source]]:
    """The sources that features and labels are computed from: their names, whose they are, and they."""
    for name, source in project.sources.items():
        yield name, project, source
    for owner, lender in project.lenders.items():
        for name, source in lender.sources.items():
            yield f"{owner}.{name}", lender, source


def _recent(rows: DataFrame, table: Any, days: int | None, date: Column) -> DataFrame:
    """The rows of the last `days`, if their table is large."""
    if days is None or table.sizeInBytes() < LARGE:
        return rows
    return rows.where(date >= F.date_sub(F.current_date(), days))


def _asked_key(names: tuple[str, ...]) -> Column:
    """The key of a request as stored text; in the request it is a value, or an object of several columns."""
    if len(names) == 1:
        return F.from_json("asked", "key STRING")["key"]
    key = F.from_json("asked", f"key STRUCT<{', '.join(f'{quoted(name)}: STRING' for name in names)}>")["key"]
    return F.when(key.isNotNull(), F.concat_ws(SEPARATOR, *[key[name] for name in names]))


def as_stored(rows: DataFrame) -> DataFrame:
    """The rows with their columns named as in a Delta table."""
    return rows.toDF(*map(stored_name, rows.columns))


def _declared(source: Source) -> dict[str, str]:
    return {column.name: column.type.spark for column in source.columns} | LAKE_COLUMNS


def as_declared(table: DataFrame, source: Source) -> DataFrame:
    """The rows of a source's table, typed as declared; a column that the table lacks is NULL."""
    there = {folded(name) for name in table.columns}
    names = {name: stored_name(name) for name in _declared(source)}
    columns = {
        name: named(stored) if folded(stored) in there else F.lit(None) for name, stored in names.items()
    }
    typed = {name: columns[name].try_cast(kind) for name, kind in _declared(source).items()}
    if source.id is None:
        # Rows that landed while the source had an id were not given an identity.
        stamp = F.unix_millis("_arrival")
        place = message_identity(F.col("_topic"), F.col("_partition"), F.col("_offset"), stamp)
        typed[IDENTITY] = F.coalesce(typed[IDENTITY], place, row_identity(source, typed))
    return table.select(*[value.alias(name) for name, value in typed.items()])


def _nothing(spark: SparkSession, columns: Mapping[str, str]) -> DataFrame:
    return spark.range(0).select(*[F.lit(None).cast(kind).alias(name) for name, kind in columns.items()])


def _load(spark: SparkSession, path: str, version: int | None) -> DataFrame | None:
    options = {} if version is None else {"versionAsOf": str(version)}
    if version is not None and (table := snapshot(spark, path)) is not None:
        kept = table.metadata().configuration()
        if kept.contains(READABLE_FROM) and version < int(kept.apply(READABLE_FROM)):
            raise AnabranchError(
                f"version {version} of {path} ended when a key was erased: "
                "what was made of it cannot be made again, train or build anew"
            )
    try:
        return spark.read.format("delta").options(**options).load(path)
    except AnalysisException as error:
        if error.getCondition() in ("PATH_NOT_FOUND", "DELTA_PATH_DOES_NOT_EXIST"):
            return None
        if error.getCondition() in (
            "DELTA_TABLE_NOT_FOUND",
            "DELTA_MISSING_DELTA_TABLE",
            "DELTA_SCHEMA_NOT_SET",
        ):
            raise AnabranchError(
                f"{path} is no Delta table: if a first load was cut off repeat it, else move the folder away"
            ) from error
        if error.getCondition() == "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION":
            raise AnabranchError(
                f"version {version} of {path} is older than upkeep keeps ([upkeep] history): "
                "ask for a later one"
            ) from error
        raise AnabranchError(f"the lake at {path} cannot be read: {_first_line(error)}") from error


def quarantined(bad: DataFrame, source: Source) -> DataFrame:
    """Bad rows, as `judge` gives them and with `_header` where they have one, as quarantine keeps them."""
    origin = [F.col(f"_{name}").alias(name) for name in ("arrival", "file", "topic", "partition", "offset")]
    raw = F.left(F.make_valid_utf8("_raw"), F.lit(LONGEST_KEPT))
    header = F.col("_header") if "_header" in bad.columns else F.lit(None).cast("string")
    return bad.select(
        F.lit(source.name).alias("source"),
        F.col("_reason").alias("reason"),
        raw.alias("raw"),
        *origin,
        header.alias("header"),
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
