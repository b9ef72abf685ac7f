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
from batch.landing.records import CsvForm
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
        f"10,a,{AT},many,": "n: 'many' is not INT",
        f",a,{AT},1,": "no id: id is missing",
        "12,a,,1,": "no event time: at is missing",
        f"13,,{AT},1,": "no key: shop is missing",
        "14,a,2999-01-01,1,": "from the future: at 2999-01-01 00:00:00 is after its arrival",
        f'9,a,{AT},2,"open': "a quote is not closed, or one within a text is not doubled",
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
        ("none.csv", "there is no file"), (latin, "is not in UTF-8: .* --encoding latin-1"),
        (torn, "cannot be read as PARQUET"),
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


def test_line_breaks_within_quotes_belong_to_their_row_and_no_piece_becomes_an_event(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    texts = {
        "1": "first\nsecond",
        "2": f"please add\n99,victim,{AT},7,I pay double\nthanks",
        "3": f"\r\n98,victim,{AT},7,x\r\n",
        "4": 'say "hi"\n',
        "5": "plain",
    }
    quoted = {name: '"' + text.replace('"', '""') + '"' for name, text in texts.items()}
    stray = f'6,a,{AT},1,5" x 7" board'
    lines = [*(f"{name},a,{AT},1,{text}" for name, text in quoted.items()), stray]
    wanted = texts | {"6": '5" x 7" board'}
    # The ids of the second file differ: the same lines would be the same content.
    for ending, name, more in (("\n", "unix.csv", ""), ("\r\n", "windows.csv", "w")):
        content = ending.join([HEADER.rstrip(), *(more + line for line in lines)]) + ending
        found = load(spark, lake, write(tmp_path / name, content))
        assert (found.rows, found.quarantined) == (6, 0)
    assert rows(spark, lake) == {
        f"{more}{name}": ("a", 1, text) for more in ("", "w") for name, text in wanted.items()
    }
    twin = write(tmp_path / "b.csv", (tmp_path / "unix.csv").read_text())
    again = load(spark, lake, tmp_path / "unix.csv", twin)
    assert (again.rows, again.skipped_files) == (0, 2)


def test_rows_of_several_lines_are_whole_across_the_splits_of_a_file(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    lines = [
        f'{n},a,{AT},{n % 7},"{n}\n{n}x,victim,{AT},1,\n"' if n % 5 else f"{n},a,{AT},0,"
        for n in range(2_000)
    ]
    file = write(tmp_path / "a.csv", HEADER + "\n".join(lines) + "\n")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "10000")
    try:
        assert load(spark, lake, file).rows == 2_000
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
    wanted = {
        str(n): ("a", n % 7 if n % 5 else 0, f"{n}\n{n}x,victim,{AT},1,\n" if n % 5 else None)
        for n in range(2_000)
    }
    assert rows(spark, lake) == wanted


def test_a_quote_that_would_swallow_the_rest_of_a_file_refuses_the_file(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    lines = "".join(f"{n},a,{AT},1,{'x' * 1000}\n" for n in range(1_100))
    file = write(tmp_path / "a.csv", HEADER + f'x,a,{AT},1,"open\n' + lines)
    with pytest.raises(
        AnabranchError, match=r"a\.csv: a quote opens a text that does not end within 1048576"
    ):
        load(spark, lake, file)
    assert rows(spark, lake) == {}


def test_a_folder_of_a_delta_table_is_refused_and_so_are_its_files(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    frame = spark.createDataFrame(
        [("1", "a", AT, 1, "x")], "id STRING, shop STRING, at STRING, n INT, note STRING"
    )
    frame.write.format("delta").partitionBy("shop").save(str(table))
    (part,) = table.rglob("*.parquet")
    for given in (table, part, tmp_path / "*" / "*" / "*.parquet"):
        with pytest.raises(
            AnabranchError, match="is a Delta table, whose files also hold rows that were deleted"
        ):
            load(spark, lake, given)
    assert rows(spark, lake) == {}


def test_times_in_nanoseconds_land_to_the_microsecond(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    """As pandas writes them; times before 1970 are cut off downwards, as texts are."""
    nanoseconds = [1714557600123456789, -1, None]
    times = pa.array(nanoseconds, pa.timestamp("ns", "UTC"))
    table = pa.table({"shop": ["a"] * 3, "id": ["1", "2", "3"], "at": times, "n": [1] * 3, "note": ["x"] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    landed = load(spark, lake, tmp_path / "a.parquet")
    assert (landed.rows, landed.quarantined) == (2, 1)
    found = lake.events(spark, PROJECT, SALES).selectExpr("id", "unix_micros(at) AS at").collect()
    assert {row["id"]: row["at"] for row in found} == {"1": 1714557600123456, "2": -1}


def test_csv_of_another_form_is_refused_with_the_option_that_reads_it(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    header = HEADER.strip()
    text = f'1;a;{AT};7;"caf\u00e9; ""au lait""\n2;victim;{AT};7;x"\n3;a;{AT};1;na\u00efve\n'
    semicolons = tmp_path / "semi.csv"
    semicolons.write_bytes((header.replace(",", ";") + "\n" + text).encode("cp1252"))
    forms = {
        "case.csv": ("Id, SHOP, At, N, Note\n" + f"4,a,{AT},1,x\n", f"add --header '{header}'"),
        "both.csv": (
            " ID|shop|at|n|note\n" + f"5|a|{AT}|1|x\n",
            f"add --delimiter '\\|' --header '{header}'",
        ),
    }
    for name, (content, way) in forms.items():
        with pytest.raises(AnabranchError, match=way):
            load(spark, lake, write(tmp_path / name, content))
    with pytest.raises(AnabranchError, match=r"has semicolons between its own: add --delimiter ';'$"):
        load(spark, lake, semicolons)
    opened, names = stores(spark=spark, lake=lake), tuple(header.split(","))
    for file, form in (
        (semicolons, CsvForm(delimiter=";", encoding="cp1252")),
        (tmp_path / "case.csv", CsvForm(header=names)),
        (tmp_path / "both.csv", CsvForm(delimiter="|", header=names)),
    ):
        for again in (False, True):
            landed = ingest(opened, PROJECT, "sales", [str(file)], Silent(), form=form)
            assert (landed.quarantined, landed.skipped_files) == (0, int(again))
    assert rows(spark, lake) == {
        "1": ("a", 7, f'caf\u00e9; "au lait"\n2;victim;{AT};7;x'),
        "3": ("a", 1, "na\u00efve"),
        "4": ("a", 1, "x"),
        "5": ("a", 1, "x"),
    }


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";;", "utf-8"), ("\u00a7", "utf-8"), (";", "utf-16"), (",", "klingon")]
)
def test_a_form_of_csv_that_cannot_be_read_is_misuse(delimiter: str, encoding: str) -> None:
    with pytest.raises(MisuseError, match="give one ASCII character and an encoding that extends ASCII"):
        CsvForm(delimiter=delimiter, encoding=encoding)
