"""Delta tables as files: number and sizes, compaction, removal of old files, and the history of changes.

Knows nothing of projects; the caller decides which versions must stay readable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.stores.files.filesystems import hadoop, hadoop_child
from anabranch.stores.lake.staging import snapshot

REMOVED_FILES, LOG = "delta.deletedFileRetentionDuration", "delta.logRetentionDuration"
"""How long Delta keeps removed files and old versions; VACUUM deletes files that no kept version has."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The files of a table now, and all files in its folder, those of older versions and the log included."""

    files: int
    bytes: int
    files_on_disk: int
    bytes_on_disk: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """One version of a table: `job` names the append; `rows`, `files` and `bytes` are what it added."""

    version: int
    at: datetime
    operation: str
    job: str | None
    rows: int | None
    files: int | None
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class SmallFiles:
    """A partition (None: the whole table) of many small files."""

    partition: str | None
    files: int
    bytes: int


@dataclass(frozen=True)
class Table:
    """An existing Delta table."""

    spark: SparkSession = field(repr=False)
    path: str

    def figures(self) -> Figures:
        """Its size, from the log and one listing of the folder."""
        row = (
            self._files()
            .agg(F.count(F.lit(1)).alias("files"), F.coalesce(F.sum("size"), F.lit(0)).alias("bytes"))
            .collect()[0]
        )
        system, place = hadoop(self.spark, self.path)
        found = system.getContentSummary(place)
        return Figures(
            files=row["files"],
            bytes=row["bytes"],
            files_on_disk=int(found.getFileCount()),
            bytes_on_disk=int(found.getLength()),
        )

    def small_files(self, partition: str | None, below: int, at_least: int) -> list[SmallFiles]:
        """Partitions that have `at_least` files of fewer than `below` bytes each."""
        value = F.col("partitionValues")[partition] if partition else F.lit(None).cast("string")
        small = self._files().where(F.col("size") < below).groupBy(value.alias("value"))
        counted = small.agg(F.count(F.lit(1)).alias("files"), F.sum("size").alias("bytes")).where(
            F.col("files") >= at_least
        )
        rows = counted.where("value IS NOT NULL" if partition else "TRUE").orderBy("value").collect()
        return [SmallFiles(partition=row["value"], files=row["files"], bytes=row["bytes"]) for row in rows]

    def compact(self, condition: str | None, size: int) -> None:
        """Rewrite small files as files of up to `size` bytes, without disturbing readers or appends."""
        for name in ("minFileSize", "maxFileSize"):
            self.spark.conf.set(f"spark.databricks.delta.optimize.{name}", str(size))
        table = DeltaTable.forPath(self.spark, self.path).optimize()
        (table.where(condition) if condition else table).executeCompaction()

    def remembers(self) -> dict[str, str]:
        """The properties that say how long it keeps removed files and versions."""
        found = snapshot(self.spark, self.path).metadata().configuration()
        return {name: str(found.apply(name)) for name in (REMOVED_FILES, LOG) if found.contains(name)}

    def remember(self, seconds: int) -> None:
        """Make it keep removed files and versions for so long; no change when it does already."""
        wanted = memory(seconds)
        if self.remembers() != wanted:
            pairs = ", ".join(f"'{name}' = '{value}'" for name, value in wanted.items())
            self.spark.sql(f"ALTER TABLE delta.`{self.path}` SET TBLPROPERTIES ({pairs})")

    def vacuum(self, seconds: int, *, dry_run: bool = False) -> int:
        """Remove files that no version of the last `seconds` has; returns how many.

        A dry run removes nothing and returns how many files would go, at most 1,000.
        """
        # The check compares with the table's own retention, which may be longer for tables nobody reads back.
        self.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
        before = 0 if dry_run else self._data_files()
        found = self.spark.sql(
            f"VACUUM delta.`{self.path}` RETAIN {seconds / 3600:.6f} HOURS{' DRY RUN' if dry_run else ''}"
        ).collect()
        return len(found) if dry_run else before - self._data_files()

    def delete(self, condition: str) -> int:
        """Delete rows; returns how many."""
        found = self.spark.sql(f"DELETE FROM delta.`{self.path}` WHERE {condition}").collect()
        return int(found[0]["num_affected_rows"]) if found else 0

    def note(self, name: str, value: object) -> None:
        """Set a property of the table."""
        self.spark.sql(f"ALTER TABLE delta.`{self.path}` SET TBLPROPERTIES ('{name}' = '{value}')")

    def count(self, condition: str) -> int:
        """The number of rows that meet the condition."""
        return int(self.spark.read.format("delta").load(self.path).where(condition).count())

    def replaced_at(self, versions: Sequence[int]) -> Mapping[int, datetime | None]:
        """When each version was followed by the next; None for the latest.

        A version whose successor is no longer known is left out.
        """
        rows = DeltaTable.forPath(self.spark, self.path).history().select("version", "timestamp").collect()
        times = {int(row["version"]): row["timestamp"] for row in rows}
        latest = max(times)
        return {
            version: times.get(version + 1)
            for version in versions
            if version == latest or version + 1 in times
        }

    def history(self, most: int) -> list[Change]:
        """The latest changes, newest first."""
        rows = (
            DeltaTable.forPath(self.spark, self.path)
            .history(most)
            .select("version", "timestamp", "operation", "operationMetrics")
            .collect()
        )
        jobs = self._jobs([int(row["version"]) for row in rows])
        return [_change(row, jobs) for row in rows]

    def _jobs(self, versions: Sequence[int]) -> dict[int, str]:
        """The names of appends, from the commits themselves: Delta's history leaves them out."""
        if not versions:
            return {}
        commits = [f"{self.path}/_delta_log/{version:020d}.json" for version in versions]
        lines = (
            self.spark.read.schema("txn STRUCT<appId: STRING, version: BIGINT>")
            .json(commits)
            .where("txn IS NOT NULL")
        )
        found = lines.select(
            F.regexp_extract(F.col("_metadata.file_name"), r"(\d+)\.json", 1).cast("bigint").alias("version"),
            "txn",
        ).collect()
        return {int(row["version"]): f"{row['txn']['appId']} #{row['txn']['version']}" for row in found}

    def _data_files(self) -> int:
        """Files on disk without those of the log, to which VACUUM itself adds."""
        system, place = hadoop(self.spark, self.path)
        return int(
            system.getContentSummary(place).getFileCount()
            - system.getContentSummary(hadoop_child(self.spark, place, "_delta_log")).getFileCount()
        )

    def _files(self) -> DataFrame:
        return DataFrame(snapshot(self.spark, self.path).allFiles().toDF(), self.spark)


def memory(seconds: int) -> dict[str, str]:
    """Delta's table properties for a retention of so many seconds."""
    return dict.fromkeys((REMOVED_FILES, LOG), f"interval {seconds} seconds")


def _change(row: Any, jobs: Mapping[int, str]) -> Change:
    metrics = row["operationMetrics"] or {}

    def number(*names: str) -> int | None:
        return next((int(metrics[name]) for name in names if name in metrics), None)

    return Change(
        version=int(row["version"]),
        at=row["timestamp"],
        operation=str(row["operation"]),
        job=jobs.get(int(row["version"])),
        rows=number("numOutputRows"),
        files=number("numFiles", "numAddedFiles"),
        bytes=number("numOutputBytes", "numAddedBytes"),
    )
