"""Tables of users are read where they lie: what they have now is what counts, whatever was done to them."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.copies import distinct, distinct_among
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, QualitySettings
from anabranch.stores.lake.lake import FeedError, Lake
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from batch.landing.tables_in_place import read_tables
from batch.quality.gate import QualityGate, RefusedLoadError
from batch.quality.quarantine import pending, replay
from jobs.wiring.suites import suites
from tests.support.drill import LONG, SEED
from tests.support.stores import stores

SCHEMA = "id STRING, shop STRING, at TIMESTAMP, n BIGINT"
AT = "2024-05-01 10:00:00"
Row = tuple[str | None, str | None, str | None, int | None]


def project_of(table: str) -> Project:
    sales = Source(name="sales", table=table, id="id", time="at", schema=SCHEMA)
    view = FeatureView(name="by_shop", source=sales, key="shop", features={"n": Count(), "sum": Sum("n")})
    return Project(name="shops", views=(view,))


class Rig:
    """A lake, and a project whose one source is a table."""

    def __init__(self, spark: SparkSession, folder: Path, kind: str) -> None:
        self.spark, self.place = spark, folder / "sales"
        self.project = project_of(f"{kind}:{self.place}")
        self.source = self.project.sources["sales"]
        self.stores = stores(spark=spark, lake=Lake(LakeSettings(root=str(folder / "lake"))))
        self.lake = self.stores.lake

    def read(self, gate: QualityGate | None = None) -> LoadSummary:
        return read_tables(self.stores, self.project, Silent(), gate)["sales"]

    def frame(self, *rows: Row) -> DataFrame:
        made = self.spark.createDataFrame(rows, "id STRING, shop STRING, at STRING, n BIGINT")
        return made.withColumn("at", F.col("at").cast("timestamp")).coalesce(1)

    def append(self, *rows: Row) -> None:
        kind = str(self.source.table).partition(":")[0]
        self.frame(*rows).write.format(kind).mode("append").save(str(self.place))

    @property
    def version(self) -> int:
        return self.lake.versions(self.spark, self.project)["sales"]

    def events(self, version: int | None = None) -> list[Row]:
        found = self.lake.events(self.spark, self.project, self.source, version=version)
        return sorted((row["id"], row["shop"], str(row["at"]), row["n"]) for row in found.collect())

    def appended(self, after: int) -> list[str]:
        found = self.lake.appended(self.spark, self.project, self.source, after, self.version)
        return sorted(row["id"] for row in found.collect())


def row(name: str, n: int = 1, shop: str | None = "a", at: str | None = AT) -> Row:
    return (name, shop, at, n)


def test_rows_of_a_table_without_an_id_are_told_apart_by_their_values(
    spark: SparkSession, tmp_path: Path
) -> None:
    rig = Rig(spark, tmp_path, "delta")
    rig.project = replace(
        rig.project,
        views=tuple(replace(view, source=replace(view.source, id=None)) for view in rig.project.views),
    )
    rig.source = rig.project.sources["sales"]
    rig.append(row("1"), row("1"), row("2"), row("2", 7))
    assert rig.read() == LoadSummary(rows=4)
    first = rig.version

    def counted() -> list[tuple[str, int]]:
        found = distinct(rig.source, rig.lake.events(spark, rig.project, rig.source))
        return sorted((each["id"], each["n"]) for each in found.collect())

    assert counted() == [("1", 1), ("2", 1), ("2", 7)]
    rig.append(row("2"), row("3"))
    rig.read()
    assert rig.appended(first) == ["2", "3"]
    assert counted() == [("1", 1), ("2", 1), ("2", 7), ("3", 1)]
    names = {each["_identity"] for each in rig.lake.events(spark, rig.project, rig.source).collect()}
    assert len(names) == 4
    assert all(name.startswith("row:") for name in names)


def test_of_a_delta_table_only_appended_rows_are_new_and_other_changes_are_noticed(
    spark: SparkSession, tmp_path: Path
) -> None:
    rig = Rig(spark, tmp_path, "delta")
    rig.append(row("1"), row("2"))
    assert rig.read() == LoadSummary(rows=2)
    first = rig.version
    assert rig.events() == [row("1"), row("2")]
    assert rig.read() == LoadSummary()
    assert rig.version == first  # nothing new is no new version

    rig.append(row("3"))
    rig.append(row("4"))
    assert rig.read() == LoadSummary(rows=2)
    assert rig.appended(first) == ["3", "4"]
    assert rig.events(first) == [row("1"), row("2")]  # the version that was pinned then

    DeltaTable.forPath(spark, str(rig.place)).optimize().executeCompaction()
    moved = rig.version
    assert rig.read() == LoadSummary()
    assert rig.version > moved  # the pin moves on, since the files from before may be cleaned up
    assert rig.appended(first) == ["3", "4"]
    assert rig.appended(moved) == []

    table, before = DeltaTable.forPath(spark, str(rig.place)), rig.version
    table.update("id = '1'", {"n": F.lit(10)})
    assert rig.read() == LoadSummary(rows=4)
    with pytest.raises(FeedError, match=r"version \d+ \(UPDATE\) changed or deleted rows"):
        rig.appended(before)
    assert rig.events() == [row("1", 10), row("2"), row("3"), row("4")]
    before = rig.version
    table.delete("id = '4'")
    rig.append(row("5"))
    rig.read()
    with pytest.raises(FeedError, match=r"\(DELETE\) changed or deleted rows"):
        rig.appended(before)
    table.restoreToVersion(0)
    rig.read()
    assert rig.events() == [row("1"), row("2")]


def test_a_version_that_was_vacuumed_is_told_before_it_is_read(spark: SparkSession, tmp_path: Path) -> None:
    rig = Rig(spark, tmp_path, "delta")
    rig.append(row("1"), row("2"))
    rig.read()
    first = rig.version
    DeltaTable.forPath(spark, str(rig.place)).delete("id = '1'")
    rig.read()
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    DeltaTable.forPath(spark, str(rig.place)).vacuum(0)
    with pytest.raises(AnabranchError, match=r"version 0 of table delta:\S+ can no longer be read .*anew"):
        rig.events(first)
    assert rig.events() == [row("2")]


class Folded:
    """The rows that count, brought up to date as builds do it: by what was appended, while that is known."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.rows, self.version, self.full = rig, dict[str, tuple[Any, ...]](), -1, 0

    def brought_up(self) -> dict[str, tuple[Any, ...]]:
        rig, source = self.rig, self.rig.source
        rig.read()
        everything = rig.lake.events(rig.spark, rig.project, source)
        whole = self._of(distinct(source, everything))
        new = self._new(everything) if self.version >= 0 else None
        if new is None:
            self.rows, self.full = whole, self.full + 1
        else:
            self.rows |= new
        self.version = rig.version
        assert self.rows == whole
        return whole

    def _new(self, everything: DataFrame) -> dict[str, tuple[Any, ...]] | None:
        """The rows that are new; None where that is not known, or a copy comes before one that counted."""
        rig, source = self.rig, self.rig.source
        try:
            appended = rig.lake.appended(rig.spark, rig.project, source, self.version, rig.version)
        except FeedError:
            return None
        new = distinct_among(source, appended, everything, F.lit(True), few=True)
        return None if any(each["_again"] for each in new.collect()) else self._of(new)

    @staticmethod
    def _of(rows: DataFrame) -> dict[str, tuple[Any, ...]]:
        return {row["id"]: (row["shop"], str(row["at"]), row["n"]) for row in rows.collect()}


def test_the_law_holds_over_a_delta_table_under_any_changes(spark: SparkSession, tmp_path: Path) -> None:
    rig, chance = Rig(spark, tmp_path, "delta"), random.Random(SEED)
    folded, table = Folded(rig), dict[int, Row]()
    count = 0

    def append(*ids: int) -> None:
        nonlocal count
        made = {count + at: row(str(each), chance.randrange(100)) for at, each in enumerate(ids)}
        count += len(ids)
        table.update(made)
        rig.append(*made.values())

    append(*range(8))
    changes = ["append", "copies", "optimize", "delete", "append"]
    for change in changes if not LONG else chance.choices([*changes, "update"], k=60):
        here, some = DeltaTable.forPath(spark, str(rig.place)), str(chance.randrange(max(count, 1)))
        if change == "append":
            append(*range(count, count + 3))
        elif change == "copies":
            append(*[int(str(chance.choice(list(table.values()))[0])) for _ in range(3)])
        elif change == "optimize":
            here.optimize().executeCompaction()
        elif change == "update":
            here.update(f"id = '{some}'", {"n": F.col("n") + 1000})
            table |= {
                at: row(some, int(each[3] or 0) + 1000) for at, each in table.items() if each[0] == some
            }
        elif len({each[0] for each in table.values()}) > 1:
            here.delete(f"id = '{some}'")
            table = {at: each for at, each in table.items() if each[0] != some}
        counted = folded.brought_up()
        assert counted.keys() == {each[0] for each in table.values()}
        for name, values in counted.items():
            assert (name, *values) in table.values()
    assert folded.full < len(changes) or LONG


def test_of_a_parquet_folder_new_files_are_new_and_a_changed_or_missing_one_is_noticed(
    spark: SparkSession, tmp_path: Path
) -> None:
    rig = Rig(spark, tmp_path, "parquet")
    rig.append(row("1"))
    assert rig.read() == LoadSummary(rows=1)
    first = rig.version
    rig.append(row("2"))
    assert rig.read() == LoadSummary(rows=1)
    assert rig.appended(first) == ["2"]
    assert rig.events(first) == [row("1")]
    second = rig.version
    next(rig.place.glob("part-*.parquet")).unlink()
    with pytest.raises(AnabranchError, match=r"the state of 2 files of table \S+ can no longer .* is gone"):
        rig.events()
    rig.read()
    with pytest.raises(FeedError, match=r"its file \S+ is gone"):
        rig.appended(second)
    assert len(rig.events()) == 1


def test_bad_rows_go_to_quarantine_by_reference_and_a_refused_load_leaves_the_last_version(
    spark: SparkSession, tmp_path: Path
) -> None:
    rig = Rig(spark, tmp_path, "delta")
    quality = QualitySettings(suites=str(tmp_path / "suites"))
    gate = QualityGate(project=rig.project, settings=quality, suites=suites(quality, rig.project))
    rig.append(row("1"), row("2"), row("3"), row("4", shop=""), row("5", at="2999-01-01 00:00:00"))
    summary = rig.read(gate)
    assert (summary.rows, summary.quarantined, len(summary.reports)) == (3, 2, 1)
    bad = {each["raw"][:9]: each for each in pending(rig.stores, rig.project, rig.source).collect()}
    assert bad['{"id":"4"']["reason"] == "no key: shop is missing"
    assert bad['{"id":"5"']["reason"].startswith("from the future")
    assert {each["file"] for each in bad.values()} == {f"delta:{rig.place} version 0"}
    assert replay(rig.stores, rig.project, rig.source, Silent()).landed == 0
    assert [each[0] for each in rig.events()] == ["1", "2", "3"]

    before = rig.version
    rig.append(row("6", shop="x" * 9000), row("7", shop="y" * 9000), row("8"))
    with pytest.raises(RefusedLoadError, match=r"2 of 3 rows \(66.7%\) are bad"):
        rig.read(gate)
    assert (rig.version, [each[0] for each in rig.events()]) == (before, ["1", "2", "3"])
    tolerant = replace(gate, settings=replace(quality, mode="warn"))
    assert rig.read(tolerant).quarantined == 2
    assert [each[0] for each in rig.events()] == ["1", "2", "3", "8"]
    texts = {each["raw"] for each in pending(rig.stores, rig.project, rig.source).collect()}
    assert {'{"id":"6"}', '{"id":"7"}'} < texts  # a large row is not copied

    # Rows that are put right lead to a new reading of all, and quarantine tells only of what is bad now.
    DeltaTable.forPath(spark, str(rig.place)).update("id <> '1'", {"shop": F.lit("a"), "at": F.lit(AT)})
    rig.read(gate)
    assert [each[0] for each in rig.events()] == list("12345678")
    assert pending(rig.stores, rig.project, rig.source).isEmpty()


def test_a_table_that_does_not_fit_is_told_in_one_line(spark: SparkSession, tmp_path: Path) -> None:
    away = project_of(f"delta:{tmp_path}/nowhere")
    with pytest.raises(AnabranchError, match=r"source 'sales': there is no folder \S+nowhere"):
        read_tables(stores(), away, Silent())  # without a Spark session
    with pytest.raises(MisuseError, match=r"source 'sales' is read from table delta:\S+: nothing was landed"):
        ingest(stores(), away, "sales", ["sales.csv"], Silent())
    rig = Rig(spark, tmp_path, "parquet")
    frame = rig.frame(row("1"))
    for number, (rows, told) in enumerate(
        {
            frame.drop("at"): "has no time column 'at': it has id, shop, n",
            frame.withColumnRenamed("id", "sale"): "has no id column 'id': it has sale",
            frame.withColumn("at", F.unix_micros("at")): "time column 'at' is BIGINT and declared TIMESTAMP",
            frame.withColumn("n", F.array("n")): "column 'n' is array<bigint>, which is no BIGINT",
        }.items()
    ):
        place = str(tmp_path / f"other{number}")
        rows.write.parquet(place)
        with pytest.raises(AnabranchError, match=f"source 'sales': table parquet:{place}.*{told}"):
            read_tables(rig.stores, project_of(f"parquet:{place}"), Silent())
        with pytest.raises(AnabranchError, match=f'{place} is no Delta table: write table="parquet:'):
            read_tables(rig.stores, project_of(f"delta:{place}"), Silent())
    frame.write.format("delta").save(str(tmp_path / "delta"))
    with pytest.raises(AnabranchError, match=r'is a Delta table.*write table="delta:'):
        read_tables(rig.stores, project_of(f"parquet:{tmp_path}/delta"), Silent())
    assert rig.lake.versions(spark, rig.project) == {}  # nothing was begun
