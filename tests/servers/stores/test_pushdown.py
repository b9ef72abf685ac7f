"""Filters pushed down to Cassandra find the rows that Spark alone would find, and read less."""

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC
from itertools import product

import pytest
from cassandra.cluster import Session
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch import FeatureView, LastK, Max, Project, Source, Sum
from anabranch.stores.cassandra.data_source.pushdown import pushing
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.session import session_for
from anabranch.stores.cassandra.writer import write_rows
from anabranch.values.times import HOUR, from_micros, to_micros
from jobs.flows.analysis import Analysis
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from tests.support.law import START

KEYS, SLOTS = 60, 5
CONDITIONS = (
    "true",
    "key = '7'",
    "key IN ('7', '8', 'never')",
    "slot >= 2 AND value > 20",
    "key = '9' AND slot = 1",
    "kind = 'b' OR key = '7'",
    "key = 'never'",
)


@pytest.fixture
def session(servers: Settings) -> Session:
    return session_for(servers.views)


@pytest.fixture
def name(servers: Settings, spark: SparkSession, session: Session) -> Iterator[str]:
    found = f"pushed_{uuid.uuid4().hex[:8]}"
    session.execute(
        f"CREATE TABLE {found} (key text, slot bigint, value double, kind text, PRIMARY KEY ((key), slot))"
    )
    write_rows(truth(spark), servers.views, found, None)
    yield found
    session.execute(f"DROP TABLE {found}")


@pytest.fixture
def view(servers: Settings, spark: SparkSession, name: str) -> Iterator[str]:
    """The table as a view of the session, as analysts have it."""
    spark.dataSource.register(CassandraSource)
    frame = (
        spark.read.format("cassandra")
        .options(**cassandra_options(servers.views), table=name, pushdown="true")
        .load()
    )
    pushing(spark, frame, "cassandra").createOrReplaceTempView(name)
    yield name
    spark.catalog.dropTempView(name)


def truth(spark: SparkSession) -> DataFrame:
    """The rows, read from nowhere; columns in Cassandra's order, which is by name behind the key."""
    return spark.range(KEYS * SLOTS).selectExpr(
        f"CAST(id % {KEYS} AS STRING) AS key",
        f"id DIV {KEYS} AS slot",
        "IF(id % 3 = 0, 'a', 'b') AS kind",
        "id / 2D AS value",
    )


def rows(frame: DataFrame) -> list[tuple[object, ...]]:
    return sorted((tuple(row) for row in frame.collect()), key=repr)


def counted(frame: DataFrame) -> int:
    """Rows that came from the source when the frame is collected."""
    frame.collect()
    plan = frame._jdf.queryExecution().executedPlan()
    plan = plan.executedPlan() if plan.getClass().getSimpleName() == "AdaptiveSparkPlanExec" else plan
    leaves = plan.collectLeaves()
    return sum(int(leaves.apply(i).metrics().apply("numOutputRows").value()) for i in range(leaves.size()))


def test_each_query_of_a_frame_gets_its_own_rows_whatever_came_before(spark: SparkSession, view: str) -> None:
    whole = truth(spark).cache()
    expected = {condition: rows(whole.where(condition)) for condition in CONDITIONS}
    assert [len(expected[condition]) for condition in CONDITIONS[:3]] == [KEYS * SLOTS, SLOTS, 2 * SLOTS]
    frame = spark.table(view)
    prepared = {condition: frame.where(condition) for condition in CONDITIONS}
    for query in prepared.values():
        query._jdf.queryExecution().optimizedPlan()  # planned now, read later, in another order
    for first, second in zip(CONDITIONS, CONDITIONS[1:] + CONDITIONS[:1], strict=True):
        assert rows(frame.where(first)) == expected[first], (first, second)
        assert rows(spark.sql(f"SELECT * FROM {view} WHERE {second}")) == expected[second], (first, second)
        assert frame.count() == KEYS * SLOTS
    for condition in reversed(CONDITIONS):
        assert rows(prepared[condition]) == expected[condition], condition
        assert rows(prepared[condition]) == expected[condition], condition
    whole.unpersist()


def test_both_sides_of_a_join_and_subqueries_get_their_own_rows(spark: SparkSession, view: str) -> None:
    truth(spark).createOrReplaceTempView("truth")
    statements = [
        "SELECT l.key, r.key AS other, l.value, r.value AS more FROM {0} l JOIN {0} r ON l.slot = r.slot "
        f"WHERE l.{one} AND r.{other}"
        for one, other in product(("key = '7'", "kind = 'a'"), ("key = '8'", "value > 100"))
    ]
    statements += [
        """WITH c AS (SELECT * FROM {0}) SELECT a.key, b.key, (SELECT max(value) FROM c) AS top
        FROM c a JOIN c b USING (slot) WHERE a.key = '3' AND b.key = '4'""",
        "SELECT count(*) FROM {0} WHERE value > (SELECT avg(value) FROM {0} WHERE key = '7')",
        """SELECT * FROM {0} WHERE key = '5' UNION ALL SELECT * FROM {0} WHERE key = '6'
        UNION ALL SELECT * FROM {0}""",
        """SELECT * FROM {0} o WHERE key = '7' AND EXISTS
        (SELECT 1 FROM {0} i WHERE i.slot = o.slot AND i.key = '8' AND i.value > 64)""",
        """SELECT key, (SELECT count(*) FROM {0} i WHERE i.key = o.key) AS n FROM {0} o
        WHERE o.slot = 0 AND o.kind = 'a'""",
    ]
    for statement in statements:
        assert rows(spark.sql(statement.format(view))) == rows(spark.sql(statement.format("truth"))), (
            statement
        )
    frame = spark.table(view)
    one, other = frame.where("key = '7'"), frame.where("key IN ('7', '8')").withColumnRenamed("value", "more")
    assert one.join(other, ["key", "slot"]).count() == SLOTS
    assert other.join(one, ["key", "slot"]).count() == SLOTS
    spark.catalog.dropTempView("truth")


def test_cached_frames_other_sessions_and_threads_get_their_own_rows(spark: SparkSession, view: str) -> None:
    frame = spark.table(view)
    assert len(rows(frame.where("key = '7'"))) == SLOTS
    kept = frame.where("kind = 'a'").cache()
    assert rows(kept.where("key = '6'")) == rows(truth(spark).where("kind = 'a' AND key = '6'"))
    assert kept.count() == truth(spark).where("kind = 'a'").count()
    assert frame.count() == KEYS * SLOTS
    kept.unpersist()
    frame.createOrReplaceGlobalTempView(view)
    there = spark.newSession().table(f"{spark.conf.get('spark.sql.globalTempDatabase')}.{view}")
    assert (there.where("key = '7'").count(), there.count()) == (SLOTS, KEYS * SLOTS)
    found: dict[int, list[tuple[object, ...]]] = {}
    threads = [
        threading.Thread(target=lambda key=key: found.__setitem__(key, rows(frame.where(f"key = '{key}'"))))
        for key in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {key: rows(truth(spark).where(f"key = '{key}'")) for key in range(4)}
    spark.catalog.dropGlobalTempView(view)


def test_a_key_costs_a_read_of_its_partition_and_a_table_its_ranges(
    spark: SparkSession, session: Session, view: str
) -> None:
    def asked() -> dict[str, int]:
        """Cassandra's own counts of reads: of a partition, and of a range of tokens."""
        where = f"WHERE keyspace_name = '{session.keyspace}' AND table_name = '{view}'"
        kinds = ("local_read_latency", "local_scan_latency")
        return {
            kind: row.count
            if (row := session.execute(f"SELECT count FROM system_views.{kind} {where}").one())
            else 0
            for kind in kinds
        }

    frame, before = spark.table(view), asked()
    assert (
        counted(frame.where("key = '7'")),
        counted(frame.where("key IN ('7', '8')")),
        counted(frame.where("value > 147")),
    ) == (SLOTS, 2 * SLOTS, 5)
    of_keys = asked()
    assert of_keys["local_read_latency"] - before["local_read_latency"] == 3
    assert counted(frame) == KEYS * SLOTS
    assert asked()["local_scan_latency"] > of_keys["local_scan_latency"]


def test_the_tables_of_a_project_push_filters_down(
    servers: Settings, spark: SparkSession, session: Session
) -> None:
    visits = Source(name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, x DOUBLE")
    project = Project(
        name=f"tables_{uuid.uuid4().hex[:8]}",
        views=(
            FeatureView(
                name="seen",
                source=visits,
                key="who",
                features={"total": Sum("x"), "seen_last": Max("at"), "seen_lately": LastK("at", 2)},
            ),
        ),
    )
    context = Context(servers)
    context.spark = spark
    context.views.ensure_current(project)
    for hour in range(3):
        at = START + hour * HOUR
        said = {
            "score": None,
            "label": None,
            "model_version": None,
            "batch_version": 1,
            "as_of": from_micros(at),
            "layer": "batch",
            "degraded": None,
        }
        rows = [
            {
                "key": f"k{number}",
                "who": f"k{number}",
                "total": float(number + hour),
                "seen_last": from_micros(at + number),
                "seen_lately": [from_micros(at + number)],
                **said,
            }
            for number in range(40)
        ]
        context.views.write_current(project.name, rows, at)
    tables = Analysis(context).tables
    tables.register(project)
    current, scores, history = (
        spark.table(f"anabranch.{project.name}_{name}") for name in ("current", "scores", "history")
    )
    assert (current.count(), scores.count(), history.count()) == (40, 40, 120)
    assert [
        (row["total"], row["as_of"].timestamp() * 1e6) for row in current.where("key = 'k7'").collect()
    ] == [(9.0, START + 2 * HOUR)]
    mine = history.where("key = 'k7'").orderBy("slot")
    assert [row["total"] for row in mine.collect()] == [7.0, 8.0, 9.0]
    assert [counted(frame.where("key = 'k7'")) for frame in (current, scores, history)] == [1, 1, 3]
    # Times keep their microseconds, and Cassandra compares them as Spark does.
    last = START + 2 * HOUR
    late = current.where(F.col("seen_last") >= F.lit(from_micros(last + 38))).select(
        "seen_last", "seen_lately"
    )
    assert sorted(to_micros(row["seen_last"].astimezone(UTC)) - last for row in late.collect()) == [38, 39]
    assert {len(row["seen_lately"]) for row in late.collect()} == {1}
    assert (counted(late), counted(current.where(F.col("seen_last") == F.lit(from_micros(last))))) == (2, 1)
    assert str(servers.views.port) not in current._jdf.queryExecution().toString()
    joined = spark.sql(
        f"SELECT h.key FROM anabranch.{project.name}_history h "
        f"JOIN anabranch.{project.name}_current c USING (key, as_of) WHERE h.total = c.total"
    )
    assert joined.count() == 40
    for name in ("current", "scores", "history", "quarantine", "events_visits"):
        spark.catalog.dropGlobalTempView(f"{project.name}_{name}")
    for name in ("current", "history"):
        session.execute(f"DROP TABLE {project.name}_{name}")
