"""An archive of the classes that jobs load, which a JVM maps instead of reading and verifying 20,000 classes.

Java calls this application class-data sharing; docs/adr/0037 has what it saves. `make setup` makes the
archive (`python -m jobs.wiring.class_archive`). A JVM of another version, or with other jars, ignores it.
"""

import subprocess
import tempfile
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.errors import AnabranchError
from anabranch.stores.jvm import end_jvm
from jobs.wiring.settings import Settings, java_program, load_settings
from jobs.wiring.spark_session import QUIET_ARCHIVE, class_archive, spark_session

_LIMIT = 300  # seconds: the JVM writes the archive as it ends


class ArchiveError(AnabranchError):
    """This Java cannot make the archive."""


def make(settings: Settings) -> Path:
    """Make the archive for the jars of these settings anew; raises ArchiveError if that fails."""
    archive = class_archive(settings)
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="anabranch-classes-") as folder:
        draft = archive.with_suffix(".new")
        java = f"-XX:ArchiveClassesAtExit={draft} {QUIET_ARCHIVE}"
        ours = load_settings({}, {"paths.data": folder, "paths.jars": str(settings.jars)})
        session = spark_session(ours, "class-archive", **{"spark.driver.extraJavaOptions": java})
        try:
            _work(session, Path(folder))
        finally:
            session.stop()
            end_jvm(_LIMIT)
    try_out(draft)
    return draft.replace(archive)


def try_out(archive: Path) -> None:
    """Delete an archive with which Java does not start; raises ArchiveError for it, and for a missing one."""
    # A truncated archive crashes Java, which would leave a report in the current folder.
    command = [
        java_program(),
        f"-XX:SharedArchiveFile={archive}",
        "-XX:ErrorFile=/dev/null",
        "-XX:-CreateCoredumpOnCrash",
        "-version",
    ]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
    if tried.returncode != 0 or not archive.exists():
        archive.unlink(missing_ok=True)
        raise ArchiveError(
            f"this Java made no archive that it can read: {(tried.stdout + tried.stderr).strip()[:300]}"
        )


def _work(session: SparkSession, folder: Path) -> None:
    """A little of everything that jobs do: the classes that it loads are in the archive."""
    table = str(folder / "table")
    rows = session.range(100).selectExpr(
        "id", "id % 7 AS key", "CAST(id AS DOUBLE) AS x", "timestamp_seconds(id) AS at"
    )
    rows.write.format("delta").save(table)
    rows.write.format("delta").mode("append").save(table)
    read = session.read.format("delta").load(table)
    sums = read.groupBy("key", F.window("at", "1 minute")).agg(
        F.sum("x"), F.max("at"), F.collect_list("id").alias("ids")
    )
    sums.join(rows.distinct(), "key").orderBy("key").withColumn(
        "row", F.expr("row_number() OVER (PARTITION BY key ORDER BY at)")
    ).toArrow()
    read.mapInArrow(lambda batches: batches, read.schema).write.parquet(str(folder / "parquet"))
    session.read.parquet(str(folder / "parquet")).filter("x > 3").toPandas()

    def keep(batch: DataFrame, _: int) -> None:
        batch.mapInArrow(lambda batches: batches, batch.schema).write.format("noop").mode("append").save()

    stream = (
        session.readStream.format("delta")
        .load(table)
        .withWatermark("at", "1 minute")
        .dropDuplicatesWithinWatermark(["id"])
    )
    folded = stream.groupBy("key", F.window("at", "1 minute")).agg(F.sum("x").alias("x"))
    query = (
        folded.writeStream.foreachBatch(keep)
        .outputMode("update")
        .option("checkpointLocation", str(folder / "checkpoint"))
        .trigger(availableNow=True)
    )
    query.start().awaitTermination()


if __name__ == "__main__":
    try:
        size = make(load_settings()).stat().st_size
        print(f"setup: {size >> 20} MiB of Spark's classes, which jobs need not load again")
    except (AnabranchError, PySparkException, subprocess.SubprocessError, OSError) as error:
        # Without the archive jobs only start more slowly.
        print(f"setup: jobs will start without an archive of classes: {error}")
