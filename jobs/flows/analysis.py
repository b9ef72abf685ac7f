"""Tables of every project and answers at any time, for notebooks and `anabranch sql`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.answers.requests import stored_key
from anabranch.answers.tables.spark_tables import SparkTables
from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.folds.spark import key_column, point_in_time
from anabranch.values.keys import SEPARATOR, key_text, read_key
from anabranch.values.times import from_micros, now_micros, parse_time
from jobs.wiring.context import Context


@dataclass
class Analysis:
    """A context with its tables."""

    context: Context

    @cached_property
    def tables(self) -> SparkTables:
        """The tables of any project."""
        return SparkTables(
            self.context.spark, self.context.lake, self.context.views.settings, self.context.models.settings
        )

    def register(self, names: Iterable[str] | None = None) -> list[str]:
        """Register the tables of these projects (of every declared one by default); returns their names."""
        wanted = list_projects(self.context.settings.projects) if names is None else names
        return [table for name in wanted for table in self.tables.register(self.context.served(name))]

    def sql(self, statement: str) -> DataFrame:
        """Run SQL over the tables of the projects that it names, or of all when it names none."""
        declared = list(list_projects(self.context.settings.projects))
        named = [name for name in declared if f"{name}_" in statement]
        self.register(named or declared)
        return self.context.spark.sql(statement)

    def answers_at(
        self, project: Project, at: str | None = None, keys: Sequence[str] | None = None
    ) -> DataFrame:
        """Features of keys at a time, or now: `key`, every feature, `as_of`. By default of all current rows.

        From the batch's cut on they are merged from Cassandra, as serving does, with scores, versions and the
        reason why a value may not be exact (`degraded`). Earlier times are folded from events in the lake.
        """
        spark, moment = self.context.spark, None if at is None else parse_time(at)
        project, _ = self.context.answers.served(project)
        if moment is not None and moment > now_micros():
            raise AnabranchError(f"{at} is in the future: give a time that has passed")
        given = (
            None
            if keys is None
            else spark.createDataFrame([(_stored(project, key),) for key in keys], "key STRING")
        )
        manifest = self.context.views.manifest(project.name)
        if moment is None or (manifest is not None and moment >= manifest.cut):
            return self.tables.merged(project, moment, given)
        return self._from_lake(
            spark, project, moment, given if given is not None else self.tables.current(project, narrow=True)
        )

    def _from_lake(self, spark: SparkSession, project: Project, at: int, keys: DataFrame) -> DataFrame:
        parts = F.split("key", SEPARATOR)
        rows = keys.select(
            *[parts[number].alias(name) for number, name in enumerate(project.keys)],
            F.lit(from_micros(at)).alias("as_of"),
        )
        frame = point_in_time(project, self.context.lake.distinct_events(spark, project), rows, "as_of")
        return (
            frame.select(key_column(project.keys).alias("key"), *frame.columns)
            if project.keys != ("key",)
            else frame
        )


def _stored(project: Project, key: str) -> str:
    """The stored text of a key as people write it."""
    words = [key]
    if len(project.keys) > 1:
        words = re.split(f" (?=(?:{'|'.join(map(re.escape, project.keys))})=)", key)
    return key_text(project.keys, stored_key(read_key(project.keys, words), project))
