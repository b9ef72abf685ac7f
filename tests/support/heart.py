"""The heart project's shipped data, as rows and in a lake."""

import csv
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.events.judging import judge, read_cells
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import stage
from anabranch.stores.lake.schemas import prepare_events
from projects.heart_disease import project

DATA = Path(__file__).parents[2] / "projects" / "data"


def read(name: str) -> list[dict[str, str]]:
    """Rows of a shipped CSV."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(
    spark: SparkSession, lake: Lake, source_name: str, rows: list[dict[str, str]], version: int = 1
) -> None:
    """Append `rows` of one source, all of whose cells are texts, as landing does."""
    source = project.sources[source_name]
    names = [column.name for column in source.columns]
    texts = spark.createDataFrame(
        [[row[name] for name in names] for row in rows], ", ".join(f"{name} STRING" for name in names)
    )
    raw = texts.withColumns(
        {
            "_raw": F.lit(""),
            "_arrival": F.to_timestamp(F.lit("2024-06-01 00:00:00")),
            "_file": F.lit("test"),
            "_topic": F.lit(None).cast("string"),
            "_partition": F.lit(None).cast("int"),
            "_offset": F.monotonically_increasing_id(),
        }
    )
    judged = judge(source, project.key_sets(source), read_cells(source, raw), 300)
    prepare_events(spark, lake, project, source)
    stage(lake, judged, project, source).commit({f"test-{source_name}": version})
