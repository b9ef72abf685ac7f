"""Cassandra as a Spark data source: what is written comes back, every row once."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from cassandra.cluster import Session
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import EqualTo, GreaterThan, InputPartition
from pyspark.sql.types import StructType

from anabranch.errors import MisuseError
from anabranch.folds.packing import unpack_extras
from anabranch.stores.cassandra.data_source.reader import CassandraReader, PushingReader, TokenRange
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.session import session_for
from anabranch.stores.cassandra.writer import write_rows
from jobs.wiring.settings import Settings

MOMENT = datetime(2024, 5, 1, 12, 30, 0, 123_000, tzinfo=UTC)


@pytest.fixture
def session(servers: Settings) -> Session:
    return session_for(servers.views)


@pytest.fixture
def table(session: Session) -> Iterator[Callable[[str], str]]:
    """Makes a table of the given columns; its name."""
    made: list[str] = []

    def make(columns: str) -> str:
        made.append(f"source_{uuid.uuid4().hex[:8]}")
        session.execute(f"CREATE TABLE {made[-1]} ({columns})")
        return made[-1]

    yield make
    for name in made:
        session.execute(f"DROP TABLE {name}")


@pytest.fixture(params=["source", "stage"])
def write(servers: Settings, spark: SparkSession, request: pytest.FixtureRequest) -> Callable[..., None]:
    if request.param == "stage":

        def write_counted(frame: DataFrame, name: str, timestamp: str | None = None) -> None:
            assert (
                write_rows(frame, servers.views, name, None if timestamp is None else int(timestamp))
                == frame.count()
            )

        return write_counted
    spark.dataSource.register(CassandraSource)
    options = cassandra_options(servers.views)
    return lambda frame, name, **more: (
        frame.write.format("cassandra").options(**options, table=name, **more).mode("append").save()
    )


@pytest.fixture
def read(servers: Settings, spark: SparkSession) -> Callable[..., DataFrame]:
    spark.dataSource.register(CassandraSource)
    options = cassandra_options(servers.views)
    return lambda name, **more: spark.read.format("cassandra").options(**options, table=name, **more).load()


Make = Callable[[str], str]
Write = Callable[..., None]
Read = Callable[..., DataFrame]


def test_every_type_is_read_as_it_was_written(
    spark: SparkSession, table: Make, write: Write, read: Read
) -> None:
    kinds = {
        "s": "text",
        "l": "bigint",
        "i": "int",
        "h": "smallint",
        "d": "double",
        "f": "float",
        "b": "boolean",
        "t": "timestamp",
        "y": "date",
        "x": "blob",
    }
    name = table(
        f"id text PRIMARY KEY, {', '.join(f'{column} {kind}' for column, kind in kinds.items())}, m decimal"
    )
    schema = (
        "id STRING, s STRING, l BIGINT, i INT, h SMALLINT, d DOUBLE, f FLOAT, b BOOLEAN, t TIMESTAMP, "
        "y DATE, x BINARY, m DECIMAL(38,10)"
    )
    rows: list[tuple[Any, ...]] = [
        (
            "1",
            "é\x1f'",
            2**62,
            -(2**31),
            -3,
            0.1,
            0.5,
            False,
            MOMENT,
            date(1969, 12, 31),
            bytearray(b"\x00\xff"),
            Decimal("-12345678901234567890.1234567890"),
        ),
        ("2", *[None] * 11),
        (
            "3",
            "",
            0,
            0,
            0,
            float("inf"),
            -0.0,
            True,
            MOMENT.replace(year=1960),
            date(2024, 2, 29),
            bytearray(b""),
            Decimal("0E-10"),
        ),
    ]
    write(spark.createDataFrame(rows, schema), name)
    found = read(name)
    assert {field.name: field.dataType.simpleString() for field in found.schema.fields} == {
        part.split()[0]: part.split()[1].lower() for part in schema.split(", ")
    }
    back = found.selectExpr(
        "id", "s", "l", "i", "h", "d", "f", "b", "unix_micros(t) t", "y", "x", "m"
    ).collect()
    micros = {row[0]: None if row[8] is None else round(row[8].timestamp() * 1000) * 1000 for row in rows}
    assert {row["id"]: tuple(row) for row in back} == {
        row[0]: (*row[:8], micros[row[0]], *row[9:]) for row in rows
    }


def test_times_are_read_in_utc_whatever_zone_the_machine_is_in(
    servers: Settings, spark: SparkSession, table: Make, write: Write
) -> None:
    name = table("id text PRIMARY KEY, at timestamp")
    write(spark.createDataFrame([("1", MOMENT)], "id STRING, at TIMESTAMP"), name)
    reader = CassandraReader(
        {**cassandra_options(servers.views), "table": name},
        StructType().add("id", "string").add("at", "timestamp"),
    )
    # Spark would take a time without a zone for one of the machine's own.
    assert list(reader.read(TokenRange(-(2**63), 2**63 - 1))) == [("1", MOMENT)]


def test_lists_of_features_are_read_as_arrays(session: Session, table: Make, read: Read) -> None:
    name = table("id text PRIMARY KEY, n frozen<list<bigint>>, y frozen<list<date>>")
    session.execute(f"INSERT INTO {name} (id, n, y) VALUES ('1', [3, -1], ['2024-02-29'])")
    session.execute(f"INSERT INTO {name} (id) VALUES ('2')")
    found = {row["id"]: (row["n"], row["y"]) for row in read(name).collect()}
    assert found == {"1": ([3, -1], [date(2024, 2, 29)]), "2": (None, None)}


def test_states_are_blobs_of_float64_and_extras_are_framed(
    spark: SparkSession, session: Session, table: Make, write: Write
) -> None:
    name = table("key text PRIMARY KEY, states blob, extras blob")
    states = [float("-inf"), 0.1, -0.0, 2.0**60]
    extras = [[b"one", None], [b"", b"\x00" * 300]]
    frame = spark.createDataFrame(
        [("a", states, extras), ("b", [1.0], None), ("c", [], [[None, b"x"]])],
        "key STRING, states ARRAY<DOUBLE>, extras ARRAY<ARRAY<BINARY>>",
    )
    write(frame, name)
    rows = {row.key: row for row in session.execute(f"SELECT * FROM {name}")}
    assert np.frombuffer(rows["a"].states, dtype="<f8").tobytes() == np.array(states).tobytes()
    assert unpack_extras(rows["a"].extras, 2) == extras
    assert (np.frombuffer(rows["b"].states, dtype="<f8").tolist(), rows["b"].extras) == ([1.0], None)
    assert (rows["c"].states, unpack_extras(rows["c"].extras, 2)) == (b"", [[None, b"x"]])


def test_extras_of_one_tile_are_framed(
    spark: SparkSession, session: Session, table: Make, write: Write
) -> None:
    name = table("key text PRIMARY KEY, extra blob")
    write(spark.createDataFrame([("a", [None, b"x"]), ("b", None)], "key STRING, extra ARRAY<BINARY>"), name)
    rows = {row.key: row.extra for row in session.execute(f"SELECT * FROM {name}")}
    assert unpack_extras(rows["a"], 2) == [[None, b"x"]]
    assert rows["b"] is None


def test_reading_by_token_ranges_gives_every_row_once(
    spark: SparkSession, table: Make, write: Write, read: Read
) -> None:
    name = table("key text, slot bigint, value double, PRIMARY KEY ((key), slot)")
    frame = spark.range(6000).selectExpr("CAST(id % 1500 AS STRING) AS key", "id AS slot", "id / 2D AS value")
    write(frame, name)
    write(frame, name)  # an upsert: again changes nothing
    found = read(name, partitions="7")
    assert found.rdd.getNumPartitions() == 7
    assert sorted(found.collect()) == sorted(frame.collect())


def test_a_slow_retry_never_replaces_a_newer_write(
    spark: SparkSession, session: Session, table: Make, write: Write
) -> None:
    name = table("key text PRIMARY KEY, value double")
    write(spark.createDataFrame([("a", 2.0)], "key STRING, value DOUBLE"), name, timestamp="2000")
    write(spark.createDataFrame([("a", 1.0)], "key STRING, value DOUBLE"), name, timestamp="1000")
    assert session.execute(f"SELECT value FROM {name}").one().value == 2.0


def test_rows_larger_than_a_batch_are_written(
    spark: SparkSession, session: Session, table: Make, write: Write
) -> None:
    name = table("key text PRIMARY KEY, states blob")
    write(
        spark.range(50).selectExpr(
            "CAST(id AS STRING) AS key", "transform(sequence(1, 10000), i -> CAST(i AS DOUBLE)) AS states"
        ),
        name,
    )
    sizes = {len(row.states) for row in session.execute(f"SELECT states FROM {name}")}
    assert sizes == {80_000}


def test_an_error_for_an_unknown_table_lists_the_existing_ones(read: Read) -> None:
    with pytest.raises(PySparkException, match="Cassandra has no table 'nowhere': there are "):
        read("nowhere")


def test_a_table_is_seen_as_soon_as_it_is_created(table: Make, read: Read) -> None:
    for _ in range(3):
        assert read(table("key text PRIMARY KEY, value double")).count() == 0


def test_overwriting_is_refused(servers: Settings, spark: SparkSession) -> None:
    spark.dataSource.register(CassandraSource)
    frame = spark.range(1).selectExpr("CAST(id AS STRING) AS key")
    with pytest.raises(PySparkException, match="cannot be overwritten: use mode"):
        frame.write.format("cassandra").options(**cassandra_options(servers.views), table="any").mode(
            "overwrite"
        ).save()


def test_a_reader_takes_its_own_ranges_only(servers: Settings) -> None:
    reader = CassandraReader(
        {**cassandra_options(servers.views), "table": "any"}, StructType().add("key", "string")
    )
    with pytest.raises(MisuseError, match="token ranges only"):
        list(reader.read(InputPartition(0)))


def test_a_filter_on_the_key_reads_that_partition_and_no_other(
    spark: SparkSession, table: Make, write: Write, read: Read, servers: Settings
) -> None:
    name = table("key text, slot bigint, value double, PRIMARY KEY ((key), slot)")
    write(
        spark.range(3000).selectExpr("CAST(id % 1000 AS STRING) AS key", "id AS slot", "id / 2D AS value"),
        name,
    )
    found = read(name, pushdown="true").where("key IN ('7', '8', 'never') AND value > 500")
    assert sorted(found.collect()) == [
        ("7", 1007, 503.5),
        ("7", 2007, 1003.5),
        ("8", 1008, 504.0),
        ("8", 2008, 1004.0),
    ]
    assert found.rdd.getNumPartitions() == 1  # not the four of a whole table
    assert (
        "key" not in str(found._jdf.queryExecution().executedPlan()).partition("Filter")[2].partition("\n")[0]
    )
    assert read(name, pushdown="true").where("key = '7' AND key = '8'").collect() == []
    reader = PushingReader({**cassandra_options(servers.views), "table": name}, read(name).schema)
    assert list(reader.pushFilters([EqualTo(("key",), "7")])) == []
    (only,) = reader.partitions()
    assert sorted(reader.read(only)) == [("7", 7, 3.5), ("7", 1007, 503.5), ("7", 2007, 1003.5)]


def test_other_filters_drop_rows_in_cassandra_and_give_sparks_result(
    servers: Settings, spark: SparkSession, table: Make, write: Write, read: Read
) -> None:
    name = table("key text PRIMARY KEY, value double, kind text, at timestamp")
    rows = [
        (str(i), value, kind, MOMENT)
        for i, (value, kind) in enumerate(
            [(0.0, "a"), (-0.0, "a"), (float("nan"), "b"), (None, None), (3.5, "b"), (9.0, "")]
        )
    ]
    frame = spark.createDataFrame(rows, "key STRING, value DOUBLE, kind STRING, at TIMESTAMP")
    write(frame, name)
    conditions = (
        "value >= 0",
        "value > 3",
        "value < 3.5",
        "kind = 'b' AND value > 3",
        "kind = ''",
        "kind > 'a'",
        "value IS NULL",
        "at = TIMESTAMP '2024-05-01 12:30:00.123'",
        "at > TIMESTAMP '2024-05-01 12:30:00.1229999'",
        "NOT kind = 'b'",
    )
    for condition in conditions:
        expected = sorted(row["key"] for row in frame.where(condition).collect())
        assert (
            sorted(row["key"] for row in read(name, pushdown="true").where(condition).collect()) == expected
        ), condition
    reader = PushingReader({**cassandra_options(servers.views), "table": name}, read(name).schema)
    left = list(reader.pushFilters([GreaterThan(("value",), 3.0), EqualTo(("kind",), "b")]))
    assert len(left) == 2  # which Spark judges again
    sent = [row for part in reader.partitions() for row in reader.read(part)]
    assert sorted(row[0] for row in sent) == ["2", "4"]


def test_a_frame_gives_all_its_rows_after_a_query_that_had_a_filter(
    spark: SparkSession, table: Make, write: Write, read: Read
) -> None:
    name = table("key text PRIMARY KEY, value double")
    write(spark.range(50).selectExpr("CAST(id AS STRING) AS key", "id / 2D AS value"), name)
    found = read(name)
    assert found.where("key = '7'").collect() == [("7", 3.5)]
    assert len(found.collect()) == found.count() == 50
    one, other = found.where("key = '7'"), found.where("key IN ('7', '8')").withColumnRenamed("value", "more")
    assert [
        row["key"]
        for row in one.join(other, "key")
        .union(other.join(one, "key").select("key", "value", "more"))
        .collect()
    ] == ["7", "7"]


def test_the_option_columns_reads_only_those_columns(
    spark: SparkSession, table: Make, write: Write, read: Read
) -> None:
    name = table("key text PRIMARY KEY, value double, more text")
    write(spark.createDataFrame([("a", 2.0, "x")], "key STRING, value DOUBLE, more STRING"), name)
    assert read(name, columns="value,key").collect() == [(2.0, "a")]
    with pytest.raises(PySparkException, match="has no column 'vaule'"):
        read(name, columns="vaule")
