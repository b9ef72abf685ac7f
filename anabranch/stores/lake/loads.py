"""A load on its way into the lake: written in one pass where no reader sees it, then committed or dropped.

Good and bad rows are written by one job as data files of the events' table: bad ones below the partition
NULL, which is never committed. From there, few as they are, they go to quarantine, first; then the good files
become visible at once. Both commits carry the names of the load, so whoever was cut off between them repeats
the whole and changes nothing twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.wire_formats import is_text
from anabranch.events.cells import named
from anabranch.events.rows import LAKE_COLUMNS, kept_text
from anabranch.stores.lake.lake import Lake, as_stored, quarantined
from anabranch.stores.lake.schemas import prepare_quarantine
from anabranch.stores.lake.staging import (
    DataFile,
    commit_files,
    drop_files,
    read_files,
    transactions,
    write_files,
)


@dataclass(frozen=True, kw_only=True)
class StagedLoad:
    """Rows of one source that were written and are not visible yet.

    `header` is the first line of the CSV files they came from.
    """

    spark: SparkSession = field(repr=False)
    lake: Lake
    project: Project
    source: Source
    schema: StructType = field(repr=False)
    files: tuple[DataFile, ...] = field(repr=False)
    header: str | None

    @property
    def rows(self) -> int:
        """The number of good rows."""
        return sum(file.rows for file in self.files if not file.null_partition)

    @property
    def bad_rows(self) -> int:
        """The number of rows for quarantine."""
        return sum(file.rows for file in self.files if file.null_partition)

    def bad(self) -> DataFrame | None:
        """The rows for quarantine, as `judge` gives them and their text bounded; None when there are none."""
        files = [file for file in self.files if file.null_partition]
        if not files:
            return None
        columns = StructType([field for field in self.schema.fields if field.name != "_date"])
        return read_files(self.spark, files, columns).withColumn("_header", F.lit(self.header).cast("string"))

    def commit(
        self, names: Mapping[str, int], files: Mapping[str, str] | None = None, notes: Iterable[str] = ()
    ) -> bool:
        """Make the load visible under its names; False when one of them is taken, and then nothing changes.

        `files`: by `_file` the name of what came from it, where a load is of several: rows of those that are
        in quarantine already, from a load that was cut off, are not put there again. `notes`: see staging.py.
        """
        self._commit_bad(names, files)
        path = self.lake.path(self.project, self.source)
        done = commit_files(
            self.spark, path, [file for file in self.files if not file.null_partition], names, notes
        )
        drop_files(self.spark, [file for file in self.files if file.null_partition or not done])
        return done

    def drop(self) -> None:
        """Delete what was written."""
        drop_files(self.spark, self.files)

    def _commit_bad(self, names: Mapping[str, int], files: Mapping[str, str] | None) -> None:
        bad, path = self.bad(), self.lake.quarantine_path(self.project, self.source)
        if bad is None:
            return
        prepare_quarantine(self.spark, self.lake, self.project, self.source)
        if files is not None:
            there = transactions(self.spark, path)
            done = [file for file, name in files.items() if there.contains(name)]
            names = {name: 0 for file, name in files.items() if file not in done}
            bad = bad.where(~F.col("_file").isin(done)) if done else bad
        if names:
            written = write_files(quarantined(bad, self.source), path)
            if not commit_files(self.spark, path, written, names):
                drop_files(self.spark, written)


def stage(
    lake: Lake, judged: DataFrame, project: Project, source: Source, header: str | None = None
) -> StagedLoad:
    """Write judged rows beside the source's table, which `prepare_events` has made (schemas.py)."""
    bad = F.col("_reason").isNotNull()
    kept = [
        F.when(~bad, F.col(name)).alias(name) if name == "_date" else F.col(name) for name in LAKE_COLUMNS
    ]
    text = F.when(bad, kept_text(F.col("_raw"), binary=not is_text(source.format))).alias("_raw")
    columns = [named(column.name) for column in source.columns]
    rows = as_stored(judged.select(*columns, *kept, text, "_reason"))
    files = write_files(rows, lake.path(project, source))
    return StagedLoad(
        spark=judged.sparkSession,
        lake=lake,
        project=project,
        source=source,
        schema=rows.schema,
        files=tuple(files),
        header=header,
    )
