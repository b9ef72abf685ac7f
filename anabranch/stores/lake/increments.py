"""Increments: what each build added to the state that a batch keeps, in Delta tables below the lake's root.

    <root>/<project>/states/<name>     one table a state, partitioned by `build`, the batch version that wrote
    the rows

A manifest lists the builds that make up a state. Rows of other builds are never read: they belong to a build
that was cut off or is still under way, so nothing needs to be taken back, and cleaning can wait until the
next build is current.
"""

from collections.abc import Iterable

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from anabranch.stores.files.filesystems import hadoop
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.staging import repeated, snapshot


def write_increment(lake: Lake, project: str, name: str, frame: DataFrame, build: int) -> int:
    """Append the rows of a build; returns how many. A build's number is unique: nothing is written twice."""

    def write() -> int:
        counted = Observation()
        rows = frame.withColumn("build", F.lit(build).cast("bigint")).observe(
            counted, F.count(F.lit(1)).alias("rows")
        )
        rows.write.format("delta").mode("append").partitionBy("build").save(lake.state_path(project, name))
        return int(counted.get["rows"])

    # Of two first builds at once, each would make the table.
    return repeated(write)


def read_increments(
    spark: SparkSession, lake: Lake, project: str, name: str, builds: Iterable[int]
) -> DataFrame:
    """The rows of the builds, without `build`."""
    return (
        spark.read.format("delta")
        .load(lake.state_path(project, name))
        .where(F.col("build").isin(*builds))
        .drop("build")
    )


def builds_there(spark: SparkSession, lake: Lake, project: str, name: str) -> set[int]:
    """Builds that have rows in the table, read from its log alone."""
    found = snapshot(spark, lake.state_path(project, name))
    if found is None:
        return set()
    # Few rows of a small table's log are at hand without a job of Spark, as long as nothing is aggregated.
    builds = DataFrame(found.allFiles().toDF(), spark).select(F.col("partitionValues")["build"]).collect()
    return {int(row[0]) for row in builds}


def drop_increments(spark: SparkSession, lake: Lake, project: str, name: str, builds: Iterable[int]) -> None:
    """Delete the rows of builds; their files stay until the table is vacuumed."""
    asked = set(builds)
    gone = sorted(asked & builds_there(spark, lake, project, name)) if asked else []
    if gone:
        table, listed = lake.state_path(project, name), ", ".join(map(str, gone))
        spark.sql(f"DELETE FROM delta.`{table}` WHERE build IN ({listed})").collect()


def states_there(spark: SparkSession, lake: Lake, project: str) -> list[str]:
    """Names of the project's tables of states."""
    system, folder = hadoop(spark, lake.state_path(project, ""))
    return (
        [status.getPath().getName() for status in system.listStatus(folder)] if system.exists(folder) else []
    )
