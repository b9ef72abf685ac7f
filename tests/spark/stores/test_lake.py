"""The lake's contract: append once, read as declared, keep what is bad."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError
from anabranch.events.judging import judge, parse
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.settings import LakeSettings
from anabranch.stores.lake import loads, staging
from anabranch.stores.lake.increments import read_increments, states_there, write_increment
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import stage
from anabranch.stores.lake.schemas import check_tables, prepare_events
from anabranch.stores.lake.staging import commit_files
from anabranch.values.times import to_micros
from jobs.servers.processes import wait_until

ARRIVAL = datetime(2024, 5, 1, 12, tzinfo=UTC)
RAW = "value STRING, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT"


def project_of(schema: str) -> Project:
    source = Source(name="sales", topic="sales", id="id", time="at", schema=schema)
    return Project(
        name="shops", views=(FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()}),)
    )


OLD = project_of("id STRING, shop STRING, at TIMESTAMP, n INT")
SALES = OLD.sources["sales"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path)))


def judged(
    spark: SparkSession,
    project: Project,
    *events: dict[str, object],
    arrival: datetime = ARRIVAL,
    file: str | None = None,
) -> DataFrame:
    source = project.sources["sales"]
    rows = [
        (json.dumps(event), arrival, file, None if file else "sales", 0, offset)
        for offset, event in enumerate(events)
    ]
    return judge(source, project.key_sets(source), parse(source, spark.createDataFrame(rows, RAW)), 300)


def append(lake: Lake, frame: DataFrame, project: Project, app_id: str, version: int) -> bool:
    source = project.sources["sales"]
    check_tables(frame.sparkSession, lake, project)
    prepare_events(frame.sparkSession, lake, project, source)
    return stage(lake, frame, project, source).commit({app_id: version})


def sale(number: object, **more: object) -> dict[str, object]:
    return {"id": str(number), "shop": "a", "at": "2024-05-01T10:00:00Z", "n": number} | more


def test_a_source_without_a_table_has_no_events_of_the_declared_types(
    spark: SparkSession, lake: Lake
) -> None:
    events = lake.events(spark, OLD, SALES)
    nothing = spark.createDataFrame(
        [], f"{SALES.schema}, " + ", ".join(f"{name} {kind}" for name, kind in LAKE_COLUMNS.items())
    )
    assert_df_equality(events, nothing, ignore_nullable=True)
    assert lake.quarantine(spark, OLD).count() == 0
    assert lake.versions(spark, OLD) == {}
    assert lake.last(spark, OLD, SALES, "load") == -1


def test_an_append_of_the_same_name_changes_nothing(spark: SparkSession, lake: Lake) -> None:
    rows = judged(spark, OLD, sale(1), sale("x"))
    append(lake, rows, OLD, "load", 0)
    assert lake.versions(spark, OLD) == {"sales": 1}  # version 0 is the empty table
    done = [
        append(lake, rows, OLD, app_id, version)
        for app_id, version in (("load", 0), ("load", 1), ("other", 0))
    ]
    assert done == [False, True, True]
    assert lake.events(spark, OLD, SALES).count() == 3
    assert lake.quarantine(spark, OLD).count() == 3
    assert lake.events(spark, OLD, SALES, version=1).count() == 1
    assert [lake.last(spark, OLD, SALES, name) for name in ("load", "other", "none")] == [1, 0, -1]


def test_an_append_cut_off_after_quarantine_is_completed_by_repeating_it(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = judged(spark, OLD, sale(1), sale("x"))

    def cut_off(spark: SparkSession, path: str, *more: Any) -> bool:
        if path == lake.path(OLD, SALES):
            raise InterruptedError
        return commit_files(spark, path, *more)

    with monkeypatch.context() as patched:
        patched.setattr(loads, "commit_files", cut_off)
        with pytest.raises(InterruptedError):
            append(lake, rows, OLD, "load", 0)
    assert (lake.last(spark, OLD, SALES, "load"), lake.quarantine(spark, OLD).count()) == (-1, 1)
    append(lake, rows, OLD, "load", 0)
    assert (lake.events(spark, OLD, SALES).count(), lake.quarantine(spark, OLD).count()) == (1, 1)


def test_quarantine_keeps_text_reason_and_place(spark: SparkSession, lake: Lake) -> None:
    append(lake, judged(spark, OLD, sale(1), sale("x")), OLD, "load", 0)
    (row,) = lake.quarantine(spark, OLD).collect()
    found = row.asDict()
    assert json.loads(found.pop("raw")) == sale("x")
    arrival = found.pop("arrival")
    assert arrival.astimezone(UTC) == ARRIVAL
    assert found == {
        "source": "sales",
        "reason": "n: 'x' is not INT",
        "file": None,
        "topic": "sales",
        "partition": 0,
        "offset": 1,
        "header": None,
    }


def test_events_are_partitioned_by_the_date_of_arrival(spark: SparkSession, lake: Lake) -> None:
    append(lake, judged(spark, OLD, sale(1)), OLD, "load", 0)
    assert (Path(lake.path(OLD, SALES)) / "_date=2024-05-01").is_dir()


def test_a_large_table_is_asked_for_the_files_of_the_last_days_alone(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(lake, judged(spark, OLD, sale("by topic"), arrival=datetime.now(UTC)), OLD, "load", 0)
    assert lake.file_ids(spark, OLD, SALES, 2) is None
    for number, days in enumerate((0, 2, 4), start=1):
        append(
            lake,
            judged(spark, OLD, sale(days), arrival=datetime.now(UTC) - timedelta(days=days), file="f.jsonl"),
            OLD,
            "load",
            number,
        )

    def ids(days: int | None) -> set[str]:
        found = lake.file_ids(spark, OLD, SALES, days)
        return set() if found is None else {row._file_id for row in found.collect()}

    assert ids(None) == ids(3) == {"0", "2", "4"}
    monkeypatch.setattr("anabranch.stores.lake.lake.LARGE", 0)
    assert ids(None) == {"0", "2", "4"}
    assert ids(3) == {"0", "2"}


def test_a_new_column_is_null_for_old_rows_and_kept_for_new_ones(spark: SparkSession, lake: Lake) -> None:
    append(lake, judged(spark, OLD, sale(1)), OLD, "load", 0)
    new = project_of("id STRING, shop STRING, at TIMESTAMP, n INT, price DOUBLE")
    before = lake.events(spark, new, new.sources["sales"])
    assert [(row["id"], row["price"]) for row in before.collect()] == [("1", None)]
    append(lake, judged(spark, new, sale(2, price=1.5)), new, "load", 1)
    after = lake.events(spark, new, new.sources["sales"]).orderBy("id")
    assert [(row["id"], row["price"]) for row in after.collect()] == [("1", None), ("2", 1.5)]


def test_a_column_of_another_type_is_refused_by_name(spark: SparkSession, lake: Lake) -> None:
    append(lake, judged(spark, OLD, sale(1)), OLD, "load", 0)
    other = project_of("id STRING, shop STRING, at TIMESTAMP, n DATE")
    with pytest.raises(AnabranchError, match="source 'sales': column 'n' has another type in the lake"):
        append(lake, judged(spark, other, sale(None)), other, "load", 1)


def test_a_folder_that_is_no_delta_table_is_refused(spark: SparkSession, lake: Lake) -> None:
    place = Path(lake.path(OLD, SALES))
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(AnabranchError, match="is no Delta table"):
        lake.events(spark, OLD, SALES)


def test_of_two_loads_of_one_name_at_once_the_later_is_told_that_the_name_is_taken(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_events(spark, lake, OLD, SALES)
    path, tell = lake.path(OLD, SALES), staging._tell_history
    event = {"id": "1", "shop": "a", "at": "2024-05-01T10:00:00Z", "n": 1}
    files = [stage(lake, judged(spark, OLD, event), OLD, SALES).files for _ in range(2)]

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(staging, "_tell_history", tell)
        assert commit_files(spark, path, files[1], {"load/1": 0})
        tell(*arguments)

    monkeypatch.setattr(staging, "_tell_history", meanwhile)
    assert not commit_files(spark, path, files[0], {"load/1": 0})
    assert lake.events(spark, OLD, SALES).count() == 1


def test_of_two_first_builds_at_once_both_keep_their_states(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    slow, go = spark.range(0, 1, 1, 1), tmp_path / "go"

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        while not go.exists():
            time.sleep(0.05)
        yield from batches

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(write_increment, lake, "shops", "grains", slow.mapInArrow(wait, "id BIGINT"), 1)
        try:
            wait_until(lambda: any("grains" in name for name in states_there(spark, lake, "shops")), 20)
            write_increment(lake, "shops", "grains", spark.range(0, 2, 1, 1), 2)
        finally:
            go.touch()
        assert first.result() == 1
    assert read_increments(spark, lake, "shops", "grains", [1, 2]).count() == 3


def test_the_statistics_tell_by_when_every_event_had_arrived(spark: SparkSession, lake: Lake) -> None:
    assert lake.last_arrival(spark, OLD, SALES) == 0
    event = {"id": "1", "shop": "a", "at": "2024-05-01T10:00:00Z", "n": 1}
    late = ARRIVAL + timedelta(hours=1, microseconds=999)
    for number, arrival in enumerate((late, ARRIVAL)):
        append(lake, judged(spark, OLD, event, arrival=arrival), OLD, "load", number)
    last = lake.last_arrival(spark, OLD, SALES)
    assert last is not None
    assert to_micros(late) <= last <= to_micros(late) + 1000
