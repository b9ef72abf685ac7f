"""A table of PostgreSQL, read where it lies, in a process and a session with jars of their own.

    python -m tests.support.tables_of_others FOLDER JARS URL

Ends with an AssertionError where something is not as it has to be.
"""

import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.errors import AnabranchError
from anabranch.events.copies import distinct
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, TableSettings
from anabranch.stores.lake.lake import FeedError, Lake
from anabranch.stores.opened import Stores
from batch.landing.tables_in_place import read_tables
from jobs.wiring.settings import load_settings
from jobs.wiring.spark_session import spark_jars, spark_session
from tests.support.stores import stores

USER, PASSWORD = "reader", "hunter2-of-the-database"
AT = "2024-05-01 10:00:00"


class Reader:
    """A lake, and a project whose one source is a table."""

    def __init__(self, spark: SparkSession, folder: str, table: str, schema: str) -> None:
        source = Source(name="sales", table=table, id="id", time="at", schema=schema)
        view = FeatureView(
            name="by_shop", source=source, key="shop", features={"n": Count(), "sum": Sum("n")}
        )
        self.source, self.project = source, Project(name="shops", views=(view,))
        settings = LakeSettings(root=f"{folder}/lake", tables=TableSettings(username=USER, password=PASSWORD))
        self.stores: Stores = stores(spark=spark, lake=Lake(settings))
        self.spark, self.lake = spark, self.stores.lake

    def read(self) -> int:
        return read_tables(self.stores, self.project, Silent())["sales"].rows

    @property
    def version(self) -> int:
        return self.lake.versions(self.spark, self.project)["sales"]

    def ids(self, version: int | None = None) -> list[str]:
        events = self.lake.events(self.spark, self.project, self.source, version=version)
        return sorted(row["id"] for row in distinct(self.source, events).collect())

    def appended(self, after: int) -> list[str]:
        found = self.lake.appended(self.spark, self.project, self.source, after, self.version)
        return sorted(row["id"] for row in found.collect())

    def why_full(self, after: int) -> str:
        with pytest.raises(FeedError) as raised:
            self.appended(after)
        return str(raised.value)


def told(reader: Reader) -> str:
    """The error of a reading that must not succeed."""
    with pytest.raises(AnabranchError) as raised:
        reader.read()
    return str(raised.value)


def database(spark: SparkSession, folder: str, url: str) -> None:
    """A table of PostgreSQL whose column `no` grows."""
    properties = {"user": USER, "password": PASSWORD}

    def run(*statements: str) -> None:
        gateway = spark.sparkContext._jvm
        assert gateway is not None
        pair = gateway.java.util.Properties()
        for name, value in properties.items():
            pair.setProperty(name, value)
        connection = gateway.org.postgresql.Driver().connect(url, pair)
        for statement in statements:
            connection.createStatement().execute(statement)
        connection.close()

    run(
        "CREATE TABLE sales (no BIGINT, id TEXT, shop TEXT, at TIMESTAMP, n BIGINT)",
        f"INSERT INTO sales VALUES (1, '1', 'a', '{AT}', 1), (2, '2', 'a', '{AT}', 2)",
    )
    schema = "id STRING, shop STRING, at TIMESTAMP, n BIGINT"
    reader = Reader(spark, folder, f"jdbc:{url.removeprefix('jdbc:')}#public.sales?column=no", schema)
    assert reader.read() == 2
    first = reader.version
    run(f"INSERT INTO sales VALUES (4, '4', 'a', '{AT}', 4)")
    assert reader.read() == 1
    assert (reader.appended(first), reader.ids(), reader.ids(first)) == (["4"], ["1", "2", "4"], ["1", "2"])
    second = reader.version
    run(f"INSERT INTO sales VALUES (3, '3', 'a', '{AT}', 3)")  # came late, below what was read
    reader.read()
    assert "had 3 rows and has 4" in reader.why_full(second), reader.why_full(second)
    assert reader.ids() == ["1", "2", "3", "4"]
    third = reader.version
    run("DELETE FROM sales WHERE no = 1")
    reader.read()
    assert "had 4 rows and has 3" in reader.why_full(third)
    with pytest.raises(AnabranchError, match="can no longer be read"):
        reader.ids(third)
    lacking = Reader(spark, folder, f"{url}#public.sales?column=number", schema)
    assert "has no column 'number'" in told(lacking)
    run(f"ALTER USER {USER} PASSWORD 'another'")
    assert "ANABRANCH__TABLES__PASSWORD" in told(reader)
    assert PASSWORD not in told(reader) + repr(reader.lake.settings) + repr(reader.source)


def main(folder: str, jars: str, url: str) -> None:
    """Start the session and look."""
    own = str(Path(".anabranch/jars").resolve())
    settings = load_settings({}, {"paths.data": f"{folder}/data", "paths.jars": own})
    listed = [*map(str, spark_jars(settings)), *map(str, sorted(Path(jars).glob("*.jar")))]
    spark = spark_session(settings, "tables", **{"spark.jars": ",".join(listed)})
    database(spark, folder, url)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
