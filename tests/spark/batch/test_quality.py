"""The quality gate: what it says of a load, when it refuses one, and that it keeps a report and to itself."""

import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from great_expectations.expectations import core
from pyspark.sql import DataFrame, Observation, SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.events.expectations import LOADS, ROWS, Expectation, Suite, project_suite
from anabranch.events.judging import judge, parse
from anabranch.settings import LakeSettings, QualitySettings
from anabranch.stores.lake.lake import Lake
from batch.quality.gate import LoadVerdict, QualityGate, RefusedLoadError

SALES = Source(
    name="sales",
    topic="sales",
    id="id",
    time="at",
    schema="id STRING, shop STRING, at TIMESTAMP, n INT, price DOUBLE",
)
PROJECT = Project(
    name="shops", views=(FeatureView(name="by_shop", source=SALES, key="shop", features={"n": Count()}),)
)
RANGE = Expectation(
    type="expect_column_values_to_be_between",
    kwargs={"column": "n", "min_value": 0, "max_value": 10},
    notes="<pieces>",
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def made(*expectations: Expectation, **settings: Any) -> QualityGate:
    suite = Suite(source=SALES, expectations=expectations) if expectations else project_suite(PROJECT, SALES)
    return QualityGate(
        project=PROJECT, settings=QualitySettings(suites="", **settings), suites={"sales": suite}
    )


def judged(
    spark: SparkSession, gate: QualityGate, numbers: list[Any], *, topic: str | None = None
) -> DataFrame:
    event = {"shop": "a", "at": "2024-05-01T10:00:00Z", "price": 1.5}
    rows = [
        (
            json.dumps(event | {"id": str(i), "n": n}),
            1_715_000_000,
            None if topic else "/in/a <b>.json",
            topic,
            0,
            i,
        )
        for i, n in enumerate(numbers)
    ]
    raw = spark.createDataFrame(
        rows, "value STRING, _arrival LONG, _file STRING, _topic STRING, _partition INT, _offset BIGINT"
    )
    raw = raw.withColumn("_arrival", raw["_arrival"].cast("timestamp"))
    return judge(SALES, PROJECT.key_sets(SALES), parse(SALES, raw), 300, gate.suite(SALES))


def close(
    spark: SparkSession, lake: Lake, gate: QualityGate, numbers: list[Any], *, topic: str | None = None
) -> LoadVerdict:
    check, rows, seen = gate.check(SALES), judged(spark, gate, numbers, topic=topic), Observation()
    rows.observe(seen, *check.measures).write.format("noop").mode("overwrite").save()
    return check.close(spark, lake, seen.get, rows.where("_reason IS NOT NULL"))


def reports(lake: Lake) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) for path in sorted(Path(lake.reports(PROJECT, SALES)).glob("*.json"))
    ]


def test_every_expectation_is_one_of_great_expectations() -> None:
    for kind in (*ROWS, *LOADS):
        assert hasattr(core, "".join(word.capitalize() for word in kind.split("_"))), kind


def test_a_good_load_is_accepted_by_what_the_declaration_says(spark: SparkSession, lake: Lake) -> None:
    verdict = close(spark, lake, made(), [1, 2, 3])
    assert (verdict.rows, verdict.bad, verdict.unmet) == (3, 0, ())
    (report,) = reports(lake)
    assert (report["verdict"], report["suite"], len(report["outcomes"])) == (
        "accepted",
        "derived from the declaration",
        7,
    )


def test_rows_against_a_rule_are_counted_and_shown_and_the_others_may_land(
    spark: SparkSession, lake: Lake
) -> None:
    verdict = close(spark, lake, made(RANGE), [1, 2, 99, -5, 3, "x"])
    assert (verdict.rows, verdict.bad, verdict.unmet) == (6, 3, ("n is not between 0 and 10",))
    (report,) = reports(lake)
    assert report["verdict"] == "accepted with warnings"
    (outcome,) = report["outcomes"]
    assert (outcome["unexpected"], sorted(outcome["samples"]), outcome["observed"]) == (
        2,
        ["-5", "99"],
        "2 rows are not (40%)",
    )
    groups = {group["kind"]: (group["count"], json.loads(group["raw"])["n"]) for group in report["groups"]}
    assert groups == {"n: '…' is not between 0 and 10": (2, -5), "n: '…' is not INT": (1, "x")}


def test_the_report_is_a_page_that_needs_nothing_else(spark: SparkSession, lake: Lake) -> None:
    page = Path(close(spark, lake, made(RANGE), [1, 2, 99]).report).read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|src=|<link|url\(|@import", page)
    assert "/in/a &lt;b&gt;.json" in page
    assert "&lt;pieces&gt;" in page
    assert "between 0 and 10" in page
    seen = Balanced()
    seen.feed(page)
    assert seen.open == []


class Balanced(HTMLParser):
    """Every element that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


LOAD_RULES = [
    ({"mostly": 0.9}, "n is not between 0 and 10: 1 rows are not (25%)"),
    ({}, None),
]


@pytest.mark.parametrize(("more", "said"), LOAD_RULES)
def test_a_rule_refuses_a_load_only_where_it_says_how_many_rows_may_break_it(
    spark: SparkSession, lake: Lake, more: dict[str, float], said: str | None
) -> None:
    gate = made(Expectation(type=RANGE.type, kwargs={**RANGE.kwargs, **more}))
    if said is None:
        assert close(spark, lake, gate, [1, 2, 3, 99]).bad == 1
        return
    with pytest.raises(RefusedLoadError, match=re.escape(said)):
        close(spark, lake, gate, [1, 2, 3, 99])
    assert reports(lake)[0]["verdict"] == "refused"


REFUSING = [
    ("expect_table_row_count_to_be_between", {"min_value": 10}, "the number of rows is not at least 10: 4"),
    ("expect_table_row_count_to_equal", {"value": 5}, "the number of rows is not 5: 4"),
    ("expect_column_mean_to_be_between", {"column": "n", "max_value": 2}, "n is not a mean at most 2: 2.5"),
    ("expect_column_min_to_be_between", {"column": "at", "min_value": "2024-06-01"},
     "at is not a minimum at least 2024-06-01: 2024-05-01T10:00:00+00:00"),
    ("expect_column_unique_value_count_to_be_between", {"column": "shop", "min_value": 2},
     "shop is not a number of values at least 2: 1"),
    ("expect_column_proportion_of_unique_values_to_be_between", {"column": "shop", "min_value": 0.9},
     "shop is not a share of different values at least 0.9: 0.25"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "kwargs", "said"), REFUSING)
def test_a_load_against_what_is_expected_of_it_as_a_whole_is_refused(
    spark: SparkSession, lake: Lake, kind: str, kwargs: dict[str, Any], said: str
) -> None:
    expected = Expectation(type=kind, kwargs=kwargs)
    with pytest.raises(RefusedLoadError, match=re.escape(said)):
        close(spark, lake, made(expected), [1, 2, 3, 4])
    warned = close(spark, lake, made(Expectation(type=kind, kwargs=kwargs, severity="warning")), [1, 2, 3, 4])
    assert len(warned.unmet) == 1


def test_more_bad_rows_than_the_share_refuse_a_file_and_only_warn_of_a_topic(
    spark: SparkSession, lake: Lake
) -> None:
    with pytest.raises(RefusedLoadError) as refused:
        close(spark, lake, made(refuse_above=0.25), [1, 2, "x", "y"])
    assert str(refused.value).startswith(
        "/in/a <b>.json is refused: 2 of 4 rows (50.0%) are bad, at most 25% may be "
        "(most often: n: 'x' is not INT); nothing of it was landed (see /"
    )
    assert close(spark, lake, made(refuse_above=0.5), [1, 2, "x", "y"]).unmet == ()
    assert close(spark, lake, made(refuse_above=0.25, mode="warn"), [1, 2, "x", "y"]).unmet == (
        "2 of 4 rows (50.0%) are bad, at most 25% may be (most often: n: 'x' is not INT)",
    )
    assert close(spark, lake, made(refuse_above=0.25), ["x"], topic="sales").unmet == (
        "1 of 1 rows (100.0%) are bad, at most 25% may be (most often: n: 'x' is not INT)",
    )
    with pytest.raises(RefusedLoadError, match="topic sales, offsets 0 to 0 is refused"):
        close(spark, lake, made(refuse_above=0.25, topic_mode="refuse"), ["x"], topic="sales")


def test_clean_micro_batches_share_a_report_a_day_and_others_have_their_own(
    spark: SparkSession, lake: Lake
) -> None:
    gate = made(RANGE)
    for numbers in ([1], [1, 2], [1, 99], [1, 99], [1, 2, 99]):
        close(spark, lake, gate, numbers, topic="sales")
    assert sorted(report["load"] for report in reports(lake)) == [
        "topic sales, offsets 0 to 1", "topic sales, offsets 0 to 1", "topic sales, offsets 0 to 2"
    ]  # fmt: skip


def test_the_gate_opens_no_connection_and_writes_nothing_elsewhere(
    spark: SparkSession, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    asked: list[object] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if not (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        ):  # Spark's own JVM is on loopback
            asked.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    close(spark, lake, made(RANGE), [1, 99])
    assert asked == []
    assert [path for path in home.rglob("*") if path.name != "spark-warehouse"] == []
