"""Replays from quarantine: what is good by today's rules lands exactly once, as of now; the rest stays."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import DeclarationError
from anabranch.events.copies import distinct
from anabranch.events.expectations import Expectation, Suite
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, QualitySettings, TimeSettings
from anabranch.stores.lake.lake import Lake
from batch.landing.ingest import ingest
from batch.quality.gate import QualityGate
from batch.quality.quarantine import ReplayChoice, Replayed, pending, replay
from batch.quality.reasons import explain, kind
from jobs.cli.river.quality import shortened
from tests.support.stores import stores

SALES = Source(
    name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP, n INT, note STRING"
)
AT = "2024-05-01T10:00:00Z"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
LINES = [
    f"1,a,{AT},1,",
    f"2,a,{AT},2.5,x",
    f"3,a,{AT},3 pieces,",
    f"4,a,{TOMORROW},4,",
    f"5,a,{AT},99,",
    f",a,{AT},6,",
    f'7,a,{AT},7,"open',
]


def project_of(source: Source) -> Project:
    return Project(
        name="shops", views=(FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()}),)
    )


def gate_of(source: Source, most: int) -> QualityGate:
    rule = Expectation(type="expect_column_values_to_be_between", kwargs={"column": "n", "max_value": most})
    settings = QualitySettings(suites="", refuse_above=1.0)
    return QualityGate(
        project=project_of(source),
        settings=settings,
        suites={"sales": Suite(source=source, expectations=(rule,))},
    )


def test_a_long_text_is_listed_shortened_with_its_length(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("x" * 1_048_576,), ("short",), (None,)], "raw STRING")
    shown = [row["raw"] for row in rows.select(shortened(F.col("raw")).alias("raw")).collect()]
    assert shown == ["x" * 200 + "... (1,048,576 characters)", "short", None]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def load(spark: SparkSession, lake: Lake, file: Path, text: str) -> None:
    file.write_text(text)
    ingest(
        stores(spark=spark, lake=lake), project_of(SALES), "sales", [str(file)], Silent(), gate_of(SALES, 10)
    )


def again(
    spark: SparkSession,
    lake: Lake,
    source: Source = SALES,
    *,
    most: int = 10,
    skew: int = 300,
    **options: Any,
) -> Replayed:
    opened = stores(spark=spark, lake=lake)
    opened.settings = replace(opened.settings, times=TimeSettings(future_skew_seconds=skew))
    gate, choice = gate_of(source, most), ReplayChoice(**options)
    return replay(opened, project_of(source), source, Silent(), gate, choice)


def left(spark: SparkSession, lake: Lake) -> list[str]:
    return sorted(
        row["raw"].partition(",")[0]
        for row in pending(stores(spark=spark, lake=lake), project_of(SALES), SALES).collect()
    )


def test_rows_land_once_when_the_rules_change_and_the_others_stay(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    load(spark, lake, tmp_path / "a.csv", "id,shop,at,n,note\n" + "\n".join(LINES) + "\n")
    before = lake.quarantine(spark, project_of(SALES))
    assert left(spark, lake) == ["", "2", "3", "4", "5", "7"]
    assert again(spark, lake, changes={"n": "replace(n, ' pieces', '')"}, reason="'3 pieces'") == Replayed(
        landed=1, bad=0
    )
    assert again(spark, lake, most=100, skew=200_000) == Replayed(landed=2, bad=3)
    assert again(spark, lake, most=100, skew=200_000) == Replayed(landed=0, bad=3)  # none twice
    assert left(spark, lake) == ["", "2", "7"]

    events = lake.events(spark, project_of(SALES), SALES)
    wanted = spark.createDataFrame([("1", 1), ("3", 3), ("4", 4), ("5", 99)], "id STRING, n INT")
    assert_df_equality(events.select("id", "n"), wanted, ignore_row_order=True, ignore_nullable=True)
    assert_df_equality(lake.quarantine(spark, project_of(SALES)), before, ignore_row_order=True)
    row = events.where("id = '5'").collect()[0]
    assert row["_file"].startswith("quarantine:")
    assert f"file={tmp_path}/a.csv".replace("/", "%2F") in row["_file"]
    assert row["_topic"] is None
    assert row["_arrival"] > events.where("id = '1'").collect()[0]["_arrival"]  # it is owed as of now


def test_a_replay_stopped_before_its_commit_lands_once_when_it_is_repeated(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(
        spark,
        lake,
        tmp_path / "a.jsonl",
        "".join(json.dumps({"id": str(i), "shop": "a", "at": AT, "n": 99}) + "\n" for i in range(3)),
    )
    with monkeypatch.context() as patched:
        patched.setattr(
            "anabranch.stores.lake.loads.StagedLoad.commit",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            again(spark, lake, most=100)
    assert [again(spark, lake, most=100) for _ in range(2)] == [Replayed(landed=3), Replayed()]
    events = lake.events(spark, project_of(SALES), SALES)
    assert events.count() == distinct(SALES, events).count() == 3


def test_the_columns_of_a_csv_stay_known(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    load(spark, lake, tmp_path / "a.csv", f'n,"note",at,shop,id\n99,x,{AT},a,1\n')
    load(spark, lake, tmp_path / "b.csv", f"note,n,at,shop,id\ny,98,{AT},a,2\n")
    assert again(spark, lake, most=100) == Replayed(landed=2, bad=0)
    events = lake.events(spark, project_of(SALES), SALES)
    assert {(row["id"], row["n"], row["note"]) for row in events.collect()} == {
        ("1", 99, "x"),
        ("2", 98, "y"),
    }


def test_an_expression_over_columns_that_are_not_there_is_told(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(
        DeclarationError, match="--set n: no column 'm': the source has id, shop, at, n, note"
    ):
        again(spark, lake, changes={"n": "m"})
    with pytest.raises(DeclarationError, match="--set 'm' is no column"):
        again(spark, lake, changes={"m": "n"})


KINDS = {
    "age: 'it's 5' is not INT": ("age: '…' is not INT", True),
    "n: '99' is not between 0 and 10; m: 'x' is not DATE (ISO 8601, such as 2024-05-01)": (
        "n: '…' is not between 0 and 10; m: '…' is not DATE (ISO 8601, such as 2024-05-01)", True),
    "from the future: at 2999-01-01 00:00:00.5 is after its arrival": (
        "from the future: at … is after its arrival", True),
    "too large: 2000000 bytes, an event may have 1048576": (
        "too large: … bytes, an event may have 1048576", False),
    "the text is not UTF-8": ("the text is not UTF-8", False),
    "no id: id is missing": ("no id: id is missing", True),
    "malformed JSON: one JSON object is expected": ("malformed JSON: one JSON object is expected", True),
}  # fmt: skip


def test_reasons_are_counted_by_kind_and_each_is_explained(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(reason,) for reason in KINDS], "reason STRING").select(
        "reason", kind(F.col("reason")).alias("kind")
    )
    for row in frame.collect():
        wanted, replays = KINDS[row["reason"]]
        assert row["kind"] == wanted
        found = explain(row["kind"])
        assert (found.replays, found.means != "a rule of another version") == (replays, True), row["kind"]
