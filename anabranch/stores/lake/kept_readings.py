"""The readings of one source's own table as the lake keeps them, and the ids of its rows (readings.py)."""

import uuid
from dataclasses import dataclass, field

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import read_text, write_text
from anabranch.stores.lake.readings import TableReading, reading_of
from anabranch.stores.lake.staging import create_table, snapshot, snapshot_at

READING = "anabranch.reading"
"""Property of a source's table of events that names the reading in force; once set it is never unset."""
NO_READING = "none"
"""Its value where the source has no table of its own any more."""


@dataclass(frozen=True)
class KeptReadings:
    """The readings of a source, whose events lie at the path `events`, below `folder`."""

    spark: SparkSession = field(repr=False)
    source: Source
    events: str
    folder: str

    def at(self, version: int | None = None) -> TableReading | None:
        """Which version of the table was read last, or when the events' table had that `version`."""
        found = snapshot(self.spark, self.events)
        if found is None or not found.metadata().configuration().contains(READING):
            return None
        if version is not None and int(found.version()) != version:
            try:
                found = snapshot_at(self.spark, self.events, version)
            except (PySparkException, Py4JError) as error:
                raise AnabranchError(
                    f"version {version} of {self.events} is no longer known: ask for a later one"
                ) from error
        kept = found.metadata().configuration()
        name = str(kept.apply(READING)) if kept.contains(READING) else NO_READING
        return None if name == NO_READING else reading_of(read_text(self.spark, f"{self.folder}/{name}.json"))

    def keep(self, reading: TableReading | None) -> None:
        """Make a reading the one in force; None: the source has no table of its own any more."""
        name = NO_READING
        if reading is not None:
            name = f"{reading.latest}-{uuid.uuid4().hex[:12]}"
            write_text(self.spark, f"{self.folder}/{name}.json", reading.text())
        self.spark.sql(f"ALTER TABLE delta.`{self.events}` SET TBLPROPERTIES ('{READING}' = '{name}')")

    @property
    def ids(self) -> str:
        """The path of the ids of the table's rows, which are kept where the source also has a topic."""
        return f"{self.folder}/ids"

    def prepare_ids(self) -> None:
        """Make the table of the ids unless it is there."""
        kind = self.source.column(self.source.identity, "id").type.spark
        create_table(self.spark, self.ids, {"id": kind, "arrival": "TIMESTAMP"}, None, {})

    def ids_version(self) -> int:
        """Delta's version of the ids."""
        return int(snapshot(self.spark, self.ids).version())

    def ids_of(self, reading: TableReading) -> DataFrame | None:
        """The ids that were kept for a reading: `id`, `arrival`; None for a source without a topic."""
        if reading.ids is None:
            return None
        try:
            return self.spark.read.format("delta").option("versionAsOf", reading.ids).load(self.ids)
        except AnalysisException as error:
            raise AnabranchError(
                f"the ids of {reading.table_name} as of version {reading.ids} of {self.ids} are older than "
                "upkeep keeps ([upkeep] history): ask for a later version"
            ) from error

    def ids_now(self) -> DataFrame | None:
        """The ids as they are whenever the frame is read; None unless the source has a table and a topic."""
        if self.source.table is None or self.source.topic is None:
            return None
        self.prepare_ids()  # so that a stream that starts first sees the first reading
        return self.spark.read.format("delta").load(self.ids)
