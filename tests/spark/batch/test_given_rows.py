"""Rows that users give are read by the rules that landing has for events, or refused with row and reason."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.errors import MisuseError
from anabranch.events.decoders.decoder import table_cells
from anabranch.events.given_rows import read_column
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.values.times import parse_time
from anabranch.values.types import parse_type
from batch.landing.ingest import ingest
from batch.scoring.features import attach_features, features_at
from batch.scoring.row_files import read_rows
from tests.support.stores import stores

PURCHASES = Source(
    name="purchases", id="purchase_id", time="at",
    schema="purchase_id STRING, customer_id BIGINT, at TIMESTAMP, amount DOUBLE",
)  # fmt: skip
PROJECT = Project(
    name="buyers",
    views=(
        FeatureView(
            name="all", source=PURCHASES, key="customer_id", features={"n": Count(), "spent": Sum("amount")}
        ),
    ),
)
FORMS = ("7", "7.0", "007", " 7 ")
FULL, NONE = (4, 100.0), (0, None)


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("buyers")
    lake = Lake(LakeSettings(root=str(folder / "lake")))
    (folder / "purchases.csv").write_text(
        "purchase_id,customer_id,at,amount\n"
        + "".join(f"p{i},{form},2024-05-0{i}T10:00:00Z,{10 * i}\n" for i, form in enumerate(FORMS, 1))
    )
    ingest(stores(spark=spark, lake=lake), PROJECT, "purchases", [str(folder / "purchases.csv")], Silent())
    return lake


def looked_up(spark: SparkSession, lake: Lake, rows: Path) -> dict[str, tuple[int, float | None]]:
    """The features by `row_id`."""
    out = rows.with_suffix(".out")
    features_at(stores(spark=spark, lake=lake), PROJECT, str(rows), str(out), Silent())
    return {row["row_id"]: (row["n"], row["spent"]) for row in spark.read.parquet(str(out)).collect()}


def refusal(spark: SparkSession, lake: Lake, rows: Path) -> str:
    with pytest.raises(MisuseError) as refused:
        looked_up(spark, lake, rows)
    return str(refused.value)


def csv(path: Path, rows: Mapping[str, str], at: str = "2024-06-01T00:00:00Z") -> Path:
    lines = [f"{row},{key},{at}\n" for row, key in rows.items()]
    path.write_text("row_id,customer_id,at\n" + "".join(lines))
    return path


def test_a_key_is_found_however_it_is_written(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    rows = csv(tmp_path / "rows.csv", dict(enumerate_names([*FORMS, "", "8"])))
    assert looked_up(spark, lake, rows) == {
        **dict.fromkeys(("r0", "r1", "r2", "r3"), FULL),
        "r4": NONE,
        "r5": NONE,
    }
    # What pandas makes of whole numbers as soon as one is missing.
    table = {"row_id": ["r0", "r1"], "customer_id": [7.0, None], "at": [datetime(2024, 6, 1, tzinfo=UTC)] * 2}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    assert looked_up(spark, lake, tmp_path / "rows.parquet") == {"r0": FULL, "r1": NONE}


def test_doubles_in_columns_of_whole_numbers_have_all_their_digits(spark: SparkSession) -> None:
    """In rows that are given and in files: JDK 17 writes some with other digits than they have."""
    numbers = [-9.292860303920501e17, 2.0**53, 7.0, 1.5, None]
    rows = spark.createDataFrame([(number,) for number in numbers], "n DOUBLE").coalesce(1)
    for kind in ("BIGINT", "DECIMAL(20,0)"):
        read, reason = read_column(rows, "n", parse_type(kind))
        assert reason is not None
        found = rows.select(read, reason.isNull()).collect()
        assert [None if value is None else int(value) for value, _ in found] == [
            -929286030392050048, 9007199254740992, 7, None, None,
        ]  # fmt: skip
        assert [right for _, right in found] == [True, True, True, False, True]
    source = Source(name="s", topic="s", id=None, time="at", schema="n BIGINT, at TIMESTAMP")
    lake = [f"CAST(NULL AS {kind}) AS {name}" for name, kind in LAKE_COLUMNS.items()]
    cells = table_cells(source, rows.selectExpr("n", "TIMESTAMP '2024-05-01' AS at", *lake))
    assert [row["n"] for row in cells.collect()][:3] == ["-929286030392050048", "9007199254740992", "7.0"]


def enumerate_names(keys: list[str]) -> list[tuple[str, str]]:
    return [(f"r{number}", key) for number, key in enumerate(keys)]


def test_a_score_attaches_the_same_features_and_keeps_the_rows_as_they_were(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    rows = read_rows(
        spark, str(csv(tmp_path / "rows.csv", dict(enumerate_names([*FORMS, ""])), "2024-06-01T00:00Z"))
    )
    for at in (None, parse_time("2024-06-01")):
        found = attach_features(stores(spark=spark, lake=lake), PROJECT, rows, ("n", "spent"), at).collect()
        kept = {row["row_id"]: (row["customer_id"], (row["n"], row["spent"])) for row in found}
        assert kept == {**{f"r{n}": (form, FULL) for n, form in enumerate(FORMS)}, "r4": (None, NONE)}


def test_times_are_read_in_every_form_that_landing_reads(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    read = {
        "2024-05-03": 2,
        "2024-05-03T12:00Z": 3,
        "2024-05-03 12:00:00.123456789+02:00": 3,
        "2024-05-03T10:00:01z": 3,
        "2024-05-03T05:00:00-05": 2,
        "": 0,
    }
    rows = tmp_path / "rows.csv"
    rows.write_text("row_id,customer_id,at\n" + "".join(f"{at or 'none'},7,{at}\n" for at in read))
    found = looked_up(spark, lake, rows)
    assert {at: found[at or "none"][0] for at in read} == read


@pytest.mark.parametrize("at", ["1714564800000", "12:00", "2024-02-30"])
def test_a_time_that_landing_would_not_read_is_refused_with_its_row(
    spark: SparkSession, lake: Lake, tmp_path: Path, at: str
) -> None:
    rows = csv(tmp_path / "rows.csv", {"good": "7"})
    with rows.open("a") as more:
        more.write(f"bad,7,{at}\n")
    assert refusal(spark, lake, rows) == (
        f"{rows}: at: '{at}' is not TIMESTAMP (ISO 8601, such as 2024-05-01T12:00:00Z), "
        f'in the row {{"row_id":"bad","customer_id":"7","at":"{at}"}}: '
        "correct the cell, or leave it empty where the value is unknown"
    )


def test_numbers_are_no_times_whatever_file_they_come_in(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    table = pa.table({"row_id": ["r"], "customer_id": [7], "at": [1714564800000]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text('{"row_id": "r", "customer_id": 7, "at": 1714564800000}\n')
    for name in ("rows.parquet", "rows.jsonl"):
        assert "at: '1714564800000' is not TIMESTAMP" in refusal(spark, lake, tmp_path / name)


def test_a_key_that_landing_would_not_read_is_refused_with_its_row(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    rows = csv(tmp_path / "rows.csv", {"good": "7", "bad": "seven"})
    assert 'customer_id: \'seven\' is not BIGINT, in the row {"row_id":"bad"' in refusal(spark, lake, rows)


def test_quoted_line_breaks_are_part_of_their_row(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    at = "2024-06-01T00:00:00Z"
    rows.write_text(
        f'row_id,customer_id,at,note\r\n1,7,{at},"two\nlines"\r\n'
        f'2,8,{at},"a\n9,7,{at},x\n"\r\n3,7,{at},"say ""hi"""\r\n',
        newline="",
    )
    assert looked_up(spark, lake, rows) == {"1": FULL, "2": NONE, "3": FULL}
    notes = {row["row_id"]: row["note"] for row in read_rows(spark, str(rows)).collect()}
    assert notes == {"1": "two\nlines", "2": f"a\n9,7,{at},x\n", "3": 'say "hi"'}


def test_files_that_would_be_read_as_something_else_are_refused(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    at = "2024-06-01T00:00:00Z"
    texts = {
        "latin.csv": f"row_id,customer_id,at\nna\xefve,7,{at}\n".encode("latin-1"),
        "wide.csv": f"row_id,customer_id,at\nr,7,{at}\n".encode("utf-16"),
        "cells.csv": f"row_id,customer_id,at\nr,7,{at},more\n".encode(),
        "torn.jsonl": b'{"row_id": "r", "customer_id": 7, "at": "2024-06-01"}\n{"row_id": "s"\n',
    }
    reasons = {}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        reasons[name] = refusal(spark, lake, tmp_path / name).removeprefix(f"{tmp_path / name}")
    encoding = " is not UTF-8"
    torn = {"cells.csv": f": rows are torn, such as r,7,{at}", "torn.jsonl": ": rows are torn"}
    wanted = {"latin.csv": encoding, "wide.csv": encoding, **torn}
    assert {name: found[: len(wanted[name])] for name, found in reasons.items()} == wanted


def test_times_in_nanoseconds_are_read_to_the_microsecond(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    times = pa.array([1_717_200_000_123_456_789, -1], pa.timestamp("ns"))
    pq.write_table(pa.table({"at": times, "n": [10**15, 7]}), tmp_path / "rows.parquet")
    for place in (tmp_path / "rows.parquet", tmp_path):
        found = read_rows(spark, str(place)).selectExpr("unix_micros(at) AS at", "n").collect()
        assert {(row["at"], row["n"]) for row in found} == {(1_717_200_000_123_456, 10**15), (-1, 7)}
