"""Files are refused whole when they do not fit; else each row lands exactly once, good or in quarantine."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.staging import commit_files
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from tests.support.stores import stores

SALES = Source(
    name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP, n INT, note STRING"
)
PROJECT = Project(
    name="shops", views=(FeatureView(name="by_shop", source=SALES, key="shop", features={"n": Count()}),)
)
HEADER = "id,shop,at,n,note\n"
AT = "2024-05-01T10:00:00Z"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def load(spark: SparkSession, lake: Lake, *files: Path | str) -> LoadSummary:
    return ingest(stores(spark=spark, lake=lake), PROJECT, "sales", [str(file) for file in files], Silent())


def rows(spark: SparkSession, lake: Lake) -> dict[str, tuple[str | None, int | None, str | None]]:
    found = lake.events(spark, PROJECT, SALES).collect()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: (row["shop"], row["n"], row["note"]) for row in found}


def reasons(spark: SparkSession, lake: Lake) -> dict[str, str]:
    return {row["raw"]: row["reason"] for row in lake.quarantine(spark, PROJECT).collect()}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_good_csv_rows_land_and_bad_ones_go_to_quarantine_with_a_reason(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    bad = {
        f"7,a,{AT},2": "the row has not 5 cells: as many as the header are expected",
        f"8,a,{AT},2,x,y": "the row has not 5 cells: as many as the header are expected",
        f'9,a,{AT},2,"open': "a quote is not closed: a row must stand on one line, quotes in it doubled",
        f"10,a,{AT},many,": "n: 'many' is not INT",
        f",a,{AT},1,": "no id: id is missing",
        "12,a,,1,": "no event time: at is missing",
        f"13,,{AT},1,": "no key: shop is missing",
        "14,a,2999-01-01,1,": "from the future: at 2999-01-01 00:00:00 is after its arrival",
    }
    good = [
        f'1,a,{AT},45.0,"one, ""two"""',
        f"2,a,{AT},,",
        "3,b,2024-05-01 10:00,+3, spaced ",
        f'4,"b",{AT},4,""',
        "",
        "  ",
    ]
    result = load(
        spark,
        lake,
        write(tmp_path / "sales [1].csv", "\ufeff" + HEADER + "\r\n".join([*good, *bad]) + "\r\n"),
    )
    assert (result.rows, result.quarantined, result.skipped_files) == (4, len(bad), 0)
    assert rows(spark, lake) == {
        "1": ("a", 45, 'one, "two"'),
        "2": ("a", None, None),
        "3": ("b", 3, " spaced "),
        "4": ("b", 4, None),
    }
    assert reasons(spark, lake) == bad
    event = lake.events(spark, PROJECT, SALES).first()
    assert event is not None
    assert (event["_file"], event["_topic"]) == (str(tmp_path / "sales [1].csv"), None)


def test_columns_of_a_csv_may_stand_in_any_order(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    load(spark, lake, write(tmp_path / "a.csv", f"n,note,at,shop,id\n5,x,{AT},a,1\n"))
    assert rows(spark, lake) == {"1": ("a", 5, "x")}


def test_the_same_content_lands_once_under_whatever_name(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    first = write(tmp_path / "a.csv", HEADER + f"1,a,{AT},1,\nx,a,{AT},bad,\n")
    assert (load(spark, lake, first).rows, load(spark, lake, first).skipped_files) == (1, 1)
    again = load(spark, lake, write(tmp_path / "b.csv", first.read_text()), first)
    assert (again.rows, again.quarantined, again.skipped_files) == (0, 0, 2)
    assert (len(rows(spark, lake)), len(reasons(spark, lake))) == (1, 1)


def test_a_load_cut_off_between_quarantine_and_lake_lands_every_row_once_when_repeated(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.csv", HEADER + f"1,a,{AT},1,\nx,a,{AT},bad,\n")
    with monkeypatch.context() as patched:
        patched.setattr(
            "anabranch.stores.lake.loads.commit_files",
            lambda spark, path, *rest: commit_files(spark, path, *rest) if "quarantine" in path else 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            load(spark, lake, file)
    assert (len(rows(spark, lake)), len(reasons(spark, lake))) == (0, 1)
    result = load(spark, lake, file)
    assert (result.rows, result.quarantined, result.skipped_files) == (1, 1, 0)
    assert lake.quarantine(spark, PROJECT).count() == len(rows(spark, lake)) == 1


def test_json_lines_of_a_folder_and_of_gzip_land(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    event = {"id": "1", "shop": "a", "at": AT, "n": 1, "note": ""}
    write(
        folder / "a.jsonl",
        "\ufeff" + json.dumps(event) + "\n\n" + json.dumps(event | {"id": "2", "n": "x"}) + "\nnonsense\n",
    )
    (folder / "more" / "b.ndjson.gz").write_bytes(gzip.compress(json.dumps(event | {"id": "3"}).encode()))
    write(folder / "_SUCCESS", "")
    result = load(spark, lake, folder)
    assert (result.rows, result.quarantined) == (2, 2)
    assert rows(spark, lake) == {"1": ("a", 1, ""), "3": ("a", 1, "")}
    assert Counter(reasons(spark, lake).values()) == Counter(
        ["n: 'x' is not INT", "malformed JSON: one JSON object is expected"]
    )


def test_parquet_is_read_by_the_same_rules_whatever_its_types(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    times = pa.array([1714557600123456, None], pa.timestamp("us"))  # without a zone: UTC
    table = pa.table({"shop": ["a", "a"], "id": [1, 2], "at": times, "n": [1.0, 2.5], "note": [None, "x"]})
    pq.write_table(table, tmp_path / "a.parquet")
    result = load(spark, lake, tmp_path / "*.parquet")
    assert (result.rows, result.quarantined) == (1, 1)
    assert rows(spark, lake) == {"1": ("a", 1, None)}
    event = lake.events(spark, PROJECT, SALES).first()
    assert event is not None
    assert event["at"].timestamp() == 1714557600.123456
    assert list(reasons(spark, lake).values()) == ["n: '2.5' is not INT"]


REFUSED = {
    "lacks 'note' and has unknown 'remark': nothing was landed": "id,shop,at,n,remark\n",
    "has twice 'n'": "id,shop,at,n,n,note\n",
    "lacks 'id', 'shop', 'at', 'n', 'note' and has unknown 'id;shop;at;n;note'": HEADER.replace(",", ";"),
    "has no header": "\n" + HEADER,
    "is empty": "",
}


def test_a_csv_whose_header_does_not_fit_is_refused_before_anything_lands(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.csv", HEADER + f"1,a,{AT},1,\n")
    for message, text in REFUSED.items():
        with pytest.raises(AnabranchError, match=message):
            load(spark, lake, good, write(tmp_path / "bad.csv", text))
    assert rows(spark, lake) == {}


def test_a_file_that_cannot_be_read_is_refused(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,shop,at,n,n\xf6te\n".encode("latin-1"))
    torn = write(tmp_path / "torn.parquet", "PAR1 but no more")
    for name, message in (
        ("none.csv", "names no file"), (latin, "cannot be read as CSV"), (torn, "cannot be read as PARQUET"),
        (write(tmp_path / "_hidden.csv", HEADER), "may not begin with"),
        (write(tmp_path / "a.xlsx", "x"), "no known format"),
    ):  # fmt: skip
        with pytest.raises(AnabranchError, match=message):
            load(spark, lake, tmp_path / name)
    with pytest.raises(MisuseError, match="has no source 'sale': it has sales"):
        ingest(stores(spark=spark, lake=lake), PROJECT, "sale", [], Silent())


def test_a_row_that_is_not_utf8_goes_to_quarantine_and_its_neighbours_land(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        HEADER.encode() + f"1,a,{AT},1,caf\u00e9\n".encode() + f"2,a,{AT},1,caf\u00e9\n".encode("latin-1")
    )
    assert (load(spark, lake, file).rows, rows(spark, lake)) == (1, {"1": ("a", 1, "caf\u00e9")})
    assert list(reasons(spark, lake).values()) == ["the text is not UTF-8"]
