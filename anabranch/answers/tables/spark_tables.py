"""Tables of Spark SQL in the namespace ``anabranch``: current rows, the lake's history, answers at a time.

    anabranch.<project>_current             every feature, score, versions, as_of, layer, degraded
    anabranch.<project>_scores              the same rows without their features, so that less is read
    anabranch.<project>_history             what those rows were: a key's last row of each `slot`
    anabranch.<project>_events_<source>     every landed event as it came, duplicates too
    anabranch.<project>_predictions         what serving answered, where the project has a model
    anabranch.<project>_quarantine          rows that could not be used
    <project>_at(TABLE(keys), time)         a table function: batch and speed merged at a time

They are views of one session, so that no catalogue has to be kept anywhere and no table has properties with
a password in them. Delta must be the session's catalogue, which reads no tables of Python data sources;
views of the session's own database it leaves alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from anabranch.answers.tables.merged import merged_at, merger, register_function
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.cassandra.current_rows import own_columns, time_features
from anabranch.stores.cassandra.data_source.pushdown import pushing
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.tables import current_table, history_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.lake.lake import Lake

NAMESPACE = "anabranch"
_FORMAT = "anabranch"


@dataclass(frozen=True)
class SparkTables:
    """Registers the tables of projects in a session, and reads them as frames."""

    spark: SparkSession
    lake: Lake
    views: ViewsSettings
    models: ModelsSettings

    def register(self, project: Project) -> list[str]:
        """Register a project's tables and function and return the tables' names. Raises UnavailableError."""
        database = self.spark.conf.get("spark.sql.globalTempDatabase")
        if database != NAMESPACE:
            raise AnabranchError(
                f"this session's database of views is {database!r}: "
                f"start it with spark.sql.globalTempDatabase={NAMESPACE}"
            )
        frames: dict[str, DataFrame] = {}
        views = Views(self.views)
        if views.has_table(current_table(project.name)):
            frames |= {"current": self.current(project), "scores": self.current(project, narrow=True)}
        if views.has_table(history_table(project.name)):
            frames["history"] = self._read(project, history_table(project.name))
        frames |= {
            f"events_{source.name}": self.lake.events(self.spark, project, source)
            for source in project.sources.values()
        }
        frames["quarantine"] = self.lake.quarantine(self.spark, project)
        if project.model is not None:
            frames["predictions"] = self.lake.predictions(self.spark, project)
        for name, frame in frames.items():
            frame.createOrReplaceGlobalTempView(f"{project.name}_{name}")
        register_function(self.spark, f"{project.name}_at", merger(self.views, self.models, project), project)
        return [f"{NAMESPACE}.{project.name}_{name}" for name in frames]

    def current(self, project: Project, *, narrow: bool = False) -> DataFrame:
        """The current rows; `narrow` without features."""
        if not narrow:
            return self._read(project, current_table(project.name))
        keys = [name for name in project.keys if name != "key"]
        own = [column.name for column in own_columns(project, merged=True)]
        return self._read(project, current_table(project.name), ["key", *keys, *own])

    def _read(self, project: Project, table: str, columns: Sequence[str] = ()) -> DataFrame:
        """A table of a project, whole or some columns of it; queries push their filters down."""
        source = type(
            "NamedCassandraSource",
            (_Named,),
            {"known": {**cassandra_options(self.views), "pushdown": "true"}},
        )
        self.spark.dataSource.register(source)
        options = {"columns": ",".join(columns)} if columns else {"times": json.dumps(time_features(project))}
        return pushing(
            self.spark, self.spark.read.format(_FORMAT).options(table=table, **options).load(), _FORMAT
        )

    def merged(self, project: Project, at: int | None = None, keys: DataFrame | None = None) -> DataFrame:
        """Batch and speed merged at a time (microseconds; None: now), for keys in the column `key` or all."""
        wanted = self.current(project, narrow=True) if keys is None else keys
        return merged_at(wanted, merger(self.views, self.models, project), project, at)


class _Named(CassandraSource):
    """Cassandra with its address and password in the class, which travels to executors and is in no plan."""

    @classmethod
    def name(cls) -> str:
        return _FORMAT
