"""Input that is broken, grows, changes or does not fit: one sentence says so, and nothing is lost or torn."""

import gzip
import json
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

import batch.landing.ingest
from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.rows import LONGEST_EVENT
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import check_tables
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from tests.support.stores import stores

HEADER = "id,shop,at,n,note\n"
AT = "2024-05-01T10:00:00Z"


def project_of(schema: str) -> Project:
    sales = Source(name="sales", id="id", time="at", schema=schema)
    return Project(
        name="shops", views=(FeatureView(name="by_shop", source=sales, key="shop", features={"n": Count()}),)
    )


PROJECT = project_of("id STRING, shop STRING, at TIMESTAMP, n INT, note STRING")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def load(spark: SparkSession, lake: Lake, *files: Path, project: Project = PROJECT) -> LoadSummary:
    return ingest(stores(spark=spark, lake=lake), project, "sales", [str(file) for file in files], Silent())


def ids(spark: SparkSession, lake: Lake, project: Project = PROJECT) -> list[str]:
    return sorted(row["id"] for row in lake.events(spark, project, project.sources["sales"]).collect())


def lines(*numbers: int) -> str:
    return "".join(f"{number},a,{AT},{number},\n" for number in numbers)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_torn_archive_is_refused_by_name_and_lands_when_it_is_whole(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    whole = gzip.compress((HEADER + lines(*range(30_000))).encode(), compresslevel=1)
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(
        AnabranchError,
        match=r"torn\.csv\.gz is torn, it ends too early or is damaged: nothing of .* was landed",
    ):
        load(spark, lake, torn)
    assert ids(spark, lake) == []
    torn.write_bytes(whole)
    assert load(spark, lake, torn).rows == 30_000


def test_a_parquet_file_with_flipped_bytes_is_refused_by_name(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    columns = {"id": [str(n) for n in range(5_000)], "shop": ["a"] * 5_000, "at": [moment] * 5_000}
    ints = {"n": pa.array(range(5_000), pa.int32()), "note": [f"note {n * n}" for n in range(5_000)]}
    file = tmp_path / "flipped.parquet"
    pq.write_table(
        pa.table({**columns, **ints}).cast(
            pa.schema(
                [
                    ("id", pa.string()),
                    ("shop", pa.string()),
                    ("at", pa.timestamp("us", "UTC")),
                    ("n", pa.int32()),
                    ("note", pa.string()),
                ]
            )
        ),
        file,
    )
    content = bytearray(file.read_bytes())
    for place in range(8, 600):
        content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(AnabranchError, match=r"flipped\.parquet is torn, it ends too early or is damaged"):
        load(spark, lake, file)
    assert ids(spark, lake) == []


def test_a_source_or_a_file_that_is_not_there_is_told_before_spark_starts(tmp_path: Path) -> None:
    none = stores(spark=None, lake=None)
    with pytest.raises(MisuseError, match="has no source 'sale': it has sales"):
        ingest(none, PROJECT, "sale", [str(tmp_path / "a.csv")], Silent())
    with pytest.raises(AnabranchError, match=r"there is no file '.*/a\.csv': check the path"):
        ingest(none, PROJECT, "sales", [str(tmp_path / "a.csv")], Silent())
    with pytest.raises(AnabranchError, match="names no file of events"):
        ingest(none, PROJECT, "sales", [str(tmp_path / "*.csv")], Silent())


def test_a_wrong_delimiter_and_another_encoding_are_named(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.csv", HEADER + lines(1))
    with pytest.raises(AnabranchError, match="has semicolons between its own: add --delimiter ';'"):
        load(spark, lake, good, write(tmp_path / "semi.csv", (HEADER + lines(2)).replace(",", ";")))
    wide = tmp_path / "wide.csv"
    wide.write_bytes((HEADER + lines(2)).encode("utf-16"))
    with pytest.raises(AnabranchError, match=r"wide\.csv is UTF-16: nothing was landed"):
        load(spark, lake, good, wide)
    assert ids(spark, lake) == []


def test_a_row_of_ten_megabytes_goes_to_quarantine_with_the_beginning_of_its_text(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    long = f'2,a,{AT},2,"{"x" * 10_000_000}"'
    assert load(spark, lake, write(tmp_path / "a.csv", HEADER + lines(1) + long + "\n" + lines(3))).rows == 2
    event = json.dumps({"id": "5", "shop": "a", "at": AT, "note": "x" * 10_000_000})
    assert (
        load(
            spark,
            lake,
            write(tmp_path / "a.jsonl", event + "\n" + json.dumps({"id": "4", "shop": "a", "at": AT})),
        ).rows
        == 1
    )
    assert ids(spark, lake) == ["1", "3", "4"]
    bad = {(row["reason"], len(row["raw"])) for row in lake.quarantine(spark, PROJECT).collect()}
    assert bad == {
        (f"too large: {len(text)} bytes, an event may have {LONGEST_EVENT}", LONGEST_EVENT)
        for text in (long, event)
    }


def test_quarantine_keeps_the_header_of_a_bad_row(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    load(spark, lake, write(tmp_path / "a.csv", f"n,note,at,shop,id\nmany,x,{AT},a,1\n"))
    (row,) = lake.quarantine(spark, PROJECT).collect()
    assert (row["header"], row["raw"]) == ("n,note,at,shop,id", f"many,x,{AT},a,1")


def while_it_is_read(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Something happens after a file was looked at and before its rows are read."""
    parse = batch.landing.ingest.parse_rows  # type: ignore[attr-defined]

    def parsed(*given: Any) -> DataFrame:
        happens()
        found: DataFrame = parse(*given)
        return found

    monkeypatch.setattr("batch.landing.ingest.parse_rows", parsed)


def test_a_file_that_changes_while_it_is_read_is_refused_and_lands_whole_next_time(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.csv", HEADER + lines(1))
    with monkeypatch.context() as patched:
        while_it_is_read(patched, lambda: write(file, HEADER + lines(1, 2)))
        with pytest.raises(
            AnabranchError, match=r"a\.csv changed while it was read: nothing of a\.csv was landed"
        ):
            load(spark, lake, file)
    assert ids(spark, lake) == []
    assert not list(Path(lake.path(PROJECT, PROJECT.sources["sales"])).rglob("*.parquet"))
    assert (load(spark, lake, file).rows, ids(spark, lake)) == (2, ["1", "2"])


def test_files_that_come_into_a_folder_while_it_is_read_are_left_to_the_next_load(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write(folder / "a.csv", HEADER + lines(1))
    write(folder / "deep" / "b +%20.csv", HEADER + lines(2))
    with monkeypatch.context() as patched:
        while_it_is_read(patched, lambda: write(folder / "deep" / "c.csv", HEADER + lines(3)))
        assert load(spark, lake, folder).rows == 2
    result = load(spark, lake, folder)
    assert (result.rows, result.skipped_files, ids(spark, lake)) == (1, 2, ["1", "2", "3"])
    files = {row["_file"] for row in lake.events(spark, PROJECT, PROJECT.sources["sales"]).collect()}
    assert files == {str(folder / name) for name in ("a.csv", "deep/b +%20.csv", "deep/c.csv")}


def test_many_small_files_are_one_commit_and_few_files_of_the_lake(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        write(
            folder / f"{number}.csv",
            HEADER + lines(number) + ("x,a,,,\n" if number % 20 == 0 else "") + ("" if number else lines(99)),
        )
    write(folder / "twin.csv", (folder / "7.csv").read_text())
    result = load(spark, lake, folder)
    assert (result.rows, result.quarantined, result.skipped_files) == (61, 3, 1)
    assert lake.versions(spark, PROJECT) == {"sales": 1}  # one made the table, one is the load
    assert (
        len(list(Path(lake.path(PROJECT, PROJECT.sources["sales"])).rglob("*.parquet")))
        <= spark.sparkContext.defaultParallelism
    )


def test_a_disk_that_is_full_leaves_nothing_visible_and_nothing_lost(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    load(spark, lake, write(tmp_path / "first.csv", HEADER + lines(-1)))
    file = write(
        tmp_path / "a.csv",
        HEADER + "".join(f"{number},a,{AT},{number},{hash(str(number)):x}\n" for number in range(50_000)),
    )
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    (machine,) = [each for each in alive if "SparkSubmit" in " ".join(each.cmdline())]
    before = resource.prlimit(machine.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(machine.pid, resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(
            AnabranchError, match=r"the disk of the lake is full: nothing of a\.csv was landed; make room"
        ):
            load(spark, lake, file)
    finally:
        resource.prlimit(machine.pid, resource.RLIMIT_FSIZE, before)
    assert ids(spark, lake) == ["-1"]
    assert load(spark, lake, file).rows == 50_000
    assert len(set(ids(spark, lake))) == 50_001


def test_a_place_that_is_no_delta_table_is_refused_before_anything_is_written(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.csv", HEADER + lines(1))
    for path in (
        lake.path(PROJECT, PROJECT.sources["sales"]),
        lake.quarantine_path(PROJECT, PROJECT.sources["sales"]),
    ):
        Path(path).mkdir(parents=True)
        mine = write(Path(path) / "notes.txt", "mine")
        with pytest.raises(
            AnabranchError, match="is no Delta table: nothing was landed; move what is there away"
        ):
            load(spark, lake, file)
        assert [each.name for each in Path(path).iterdir()] == ["notes.txt"]
        mine.unlink()
    assert load(spark, lake, file).rows == 1


def test_a_new_column_needs_no_rewriting_and_one_that_went_or_changed_is_refused(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    load(spark, lake, write(tmp_path / "a.csv", HEADER + lines(1)))
    table = Path(lake.path(PROJECT, PROJECT.sources["sales"]))
    before = {each: each.stat().st_mtime_ns for each in table.rglob("*.parquet")}
    wider = project_of("id STRING, shop STRING, at TIMESTAMP, n INT, note STRING, price DECIMAL(10,2)")
    load(
        spark, lake, write(tmp_path / "b.csv", f"id,shop,at,n,note,price\n2,a,{AT},2,,1.50\n"), project=wider
    )
    rows = {row["id"]: row["price"] for row in lake.events(spark, wider, wider.sources["sales"]).collect()}
    assert {name: price and str(price) for name, price in rows.items()} == {"1": None, "2": "1.50"}
    assert {each: each.stat().st_mtime_ns for each in before} == before
    versions = lake.versions(spark, wider)
    old = "id STRING, shop STRING, at TIMESTAMP, n INT, note STRING"
    gone = r"column 'price' \(DECIMAL\(10,2\)\) is in the lake and no longer declared"
    retyped = r"column 'n' has another type in the lake \(INT\) than in the declaration \(BIGINT\)"
    for schema, message in ((old, gone), (old.replace("INT", "BIGINT") + ", price DECIMAL(10,2)", retyped)):
        other = project_of(schema)
        with pytest.raises(AnabranchError, match=message):
            load(spark, lake, write(tmp_path / "c.csv", "whatever\n"), project=other)
        with pytest.raises(AnabranchError, match=message):
            check_tables(spark, lake, other)
    assert lake.versions(spark, wider) == versions
