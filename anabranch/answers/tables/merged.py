"""Batch and speed merged at a time, as rows of Spark: for keys of a frame, and as a table function of SQL.

Spark's tasks run the code that serves (features.py, current.py).
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import udtf
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType
from pyspark.sql.udtf import UserDefinedTableFunction

from anabranch.answers.current import rows_of
from anabranch.answers.features import Answers
from anabranch.answers.service import AnswerService
from anabranch.declare.projects import Project
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.cassandra.current_rows import current_columns
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.registry import Models
from anabranch.values.keys import key_values
from anabranch.values.names import quoted
from anabranch.values.times import to_micros


def merged_schema(project: Project) -> str:
    """The columns of merged rows: those of current rows."""
    columns = {"key": "STRING", **current_columns(project, merged=True)}
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())


Merge = Callable[[Sequence[str], int | None], Iterator[dict[str, Any]]]


def merger(views: ViewsSettings, models: ModelsSettings, project: Project) -> Merge:
    """A function from keys (stored texts) and a time (microseconds, None: now) to merged rows."""

    def merge(keys: Sequence[str], at: int | None) -> Iterator[dict[str, Any]]:
        service, registry = AnswerService(Answers(Views(views), patience=60.0)), Models(models)
        version = registry.usable_champion(project) if project.model is not None else None
        scorer = None if version is None else registry.scorer(project.name, version)
        features = service.features(project, [key_values(project.keys, key) for key in keys], at)
        yield from rows_of(project, features, scorer, "merged")

    return merge


def merged_at(keys: DataFrame, merge: Merge, project: Project, at: int | None) -> DataFrame:
    """Merged rows of the keys in the column `key`, at a time or now."""
    schema = merged_schema(project)
    wanted = to_arrow_schema(cast("StructType", StructType.fromDDL(schema)), timezone="UTC")

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = list(merge(batch.column("key").to_pylist(), at))
            if rows:
                yield pa.RecordBatch.from_pylist(rows, schema=wanted)

    return keys.select("key").mapInArrow(run, schema)


def register_function(spark: SparkSession, name: str, merge: Merge, project: Project) -> None:
    """Register ``SELECT * FROM name(TABLE(SELECT key FROM ...), TIMESTAMP '2026-11-21 12:00:00')``."""
    schema = merged_schema(project)
    names = cast("StructType", StructType.fromDDL(schema)).fieldNames()

    class Merged:
        """Collects the keys of its part of the table, then merges them together."""

        def __init__(self) -> None:
            self.keys: list[str] = []
            self.at: datetime | None = None

        def eval(self, row: Any, at: datetime | None) -> None:
            self.keys.append(row["key"])
            self.at = at

        def terminate(self) -> Iterator[tuple[Any, ...]]:
            if self.keys:
                for row in merge(self.keys, None if self.at is None else to_micros(self.at)):
                    yield tuple(row[name] for name in names)

    spark.udtf.register(name, cast("UserDefinedTableFunction", udtf(Merged, returnType=schema)))
