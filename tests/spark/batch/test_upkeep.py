"""Upkeep: fewer files, the same events, and every version readable that somebody named."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from anabranch.errors import AnabranchError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.increments import read_increments, write_increment
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.table_files import Table
from anabranch.stores.models.versions import ModelVersion
from batch.settings import UpkeepSettings
from batch.upkeep.tables import TendedTable, Upkeep, named_versions, retention_for
from jobs.servers.processes import wait_until
from tests.spark.stores.test_lake import OLD, SALES, append, judged, sale
from tests.support.stores import stores_with

SETTINGS = UpkeepSettings(small_files=4, quarantine_seconds=315_360_000)
BRIEF = replace(SETTINGS, history_seconds=1, leftovers_seconds=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def loaded(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of six loads of one day, each a file of one event, and one bad row each."""
    folder = tmp_path_factory.mktemp("loaded")
    for number in range(6):
        append(
            Lake(LakeSettings(root=str(folder))),
            judged(spark, OLD, sale(number), sale("x")),
            OLD,
            "load",
            number,
        )
    return folder


@pytest.fixture
def lake(loaded: Path, tmp_path: Path) -> Lake:
    """That lake, for one test alone."""
    shutil.copytree(loaded, tmp_path / "lake")
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def manifest(**more: object) -> Manifest:
    """A batch version of the lake at version 3, which has three loads: version 0 is the empty table."""
    plain: dict[str, object] = {"fingerprints": {}, "tables": {}, "rows": {}, "lake_versions": {"sales": 3}}
    given: Any = {**plain, **more}
    return Manifest(project="shops", batch_version=1, cut=0, slack=0, built_at=0, **given)


def model(version: str, lake_version: int, *aliases: str) -> ModelVersion:
    return ModelVersion(
        version=version,
        aliases=aliases,
        created="",
        metrics={},
        fingerprint="",
        lake_versions={"sales": lake_version},
        run="",
    )


def upkeep(
    spark: SparkSession,
    lake: Lake,
    settings: UpkeepSettings,
    entry: Manifest | None,
    *models: ModelVersion,
    dry_run: bool = False,
) -> dict[str, TendedTable]:
    work = Upkeep(stores_with(None, spark=spark, lake=lake), settings, Silent(), dry_run)
    return {each.table: each for each in work.run(OLD, entry, models)}


def ids(frame: DataFrame) -> list[str]:
    return sorted(row["id"] for row in frame.select("id").collect())


def test_a_day_of_small_files_becomes_one_file_of_the_same_events(spark: SparkSession, lake: Lake) -> None:
    tended = upkeep(spark, lake, SETTINGS, None)
    events, bad = tended["events/sales"], tended["quarantine/sales"]
    assert (events.before.files, events.after.files, [each.files for each in events.compacted]) == (6, 1, [6])
    assert (bad.before.files, bad.after.files) == (6, 1)
    assert ids(lake.events(spark, OLD, SALES)) == [str(number) for number in range(6)]
    assert lake.quarantine(spark, OLD).count() == 6
    again = upkeep(spark, lake, SETTINGS, None)
    assert [each.compacted for each in again.values()] == [(), ()]


def test_appended_events_are_readable_across_a_compaction_and_after_it(
    spark: SparkSession, lake: Lake
) -> None:
    before = lake.versions(spark, OLD)["sales"]
    upkeep(spark, lake, SETTINGS, None)
    append(lake, judged(spark, OLD, sale(6)), OLD, "load", 6)
    after = lake.versions(spark, OLD)["sales"]
    assert ids(lake.appended(spark, OLD, SALES, before, after)) == ["6"]
    assert ids(lake.appended(spark, OLD, SALES, 3, after)) == ["3", "4", "5", "6"]
    assert lake.last(spark, OLD, SALES, "load") == 6


def test_a_version_is_readable_within_the_horizon_and_its_files_go_after_it(
    spark: SparkSession, lake: Lake
) -> None:
    assert upkeep(spark, lake, SETTINGS, None)["events/sales"].removed == 0
    assert ids(lake.events(spark, OLD, SALES, version=3)) == ["0", "1", "2"]
    assert wait_until(lambda: upkeep(spark, lake, BRIEF, None)["events/sales"].removed == 6, 60)
    with pytest.raises(AnabranchError, match=r"version 3 of .* is older than upkeep keeps"):
        lake.events(spark, OLD, SALES, version=3).collect()
    assert ids(lake.events(spark, OLD, SALES)) == [str(number) for number in range(6)]


def test_a_version_that_is_named_outlives_the_horizon(spark: SparkSession, lake: Lake) -> None:
    # Who names versions is a rule of `named_versions` (below); here the batch before does.
    entry = manifest(lake_versions={"sales": 6}, previous=manifest())
    removed: list[int] = []

    def tend() -> int:
        tended = upkeep(spark, lake, BRIEF, entry)
        assert tended["events/sales"].retention > 86_400
        removed.append(tended["quarantine/sales"].removed)
        return sum(removed)

    # The quarantine, which nobody names, tells when the brief horizon has passed.
    assert wait_until(lambda: tend() > 0, 60)
    assert tend() == 6
    assert ids(lake.events(spark, OLD, SALES, version=3)) == ["0", "1", "2"]
    assert ids(lake.appended(spark, OLD, SALES, 3, 6)) == ["3", "4", "5"]


def test_a_dry_run_reports_and_changes_nothing(spark: SparkSession, lake: Lake) -> None:
    version = lake.versions(spark, OLD)
    told = upkeep(spark, lake, replace(SETTINGS, quarantine_seconds=1), None, dry_run=True)
    assert [each.files for each in told["events/sales"].compacted] == [6]
    assert told["quarantine/sales"].deleted == 6
    assert lake.versions(spark, OLD) == version
    assert lake.quarantine(spark, OLD).count() == 6


def test_old_rows_leave_quarantine(spark: SparkSession, lake: Lake) -> None:
    assert upkeep(spark, lake, UpkeepSettings(), None)["quarantine/sales"].deleted == 6  # they are of 2024
    assert lake.quarantine(spark, OLD).count() == 0


def test_events_that_land_meanwhile_stay(spark: SparkSession, lake: Lake) -> None:
    failures: list[BaseException] = []

    def land() -> None:
        try:
            for number in range(6, 9):
                append(lake, judged(spark, OLD, sale(number)), OLD, "load", number)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    upkeep(spark, lake, SETTINGS, None)  # the table knows its horizon
    landing = threading.Thread(target=land)
    landing.start()
    while landing.is_alive():
        upkeep(spark, lake, replace(SETTINGS, small_files=2), None)
    landing.join()
    assert failures == []
    assert ids(lake.events(spark, OLD, SALES)) == sorted(str(number) for number in range(9))


def test_states_of_builds_in_the_manifest_alone_are_compacted(spark: SparkSession, lake: Lake) -> None:
    for build in (1, 2):
        write_increment(lake, "shops", "grains", spark.range(8).repartition(8), build)
    tended = upkeep(spark, lake, SETTINGS, manifest(increments={"grains": [1]}))["states/grains"]
    assert [each.partition for each in tended.compacted] == ["1"]
    assert read_increments(spark, lake, "shops", "grains", [1, 2]).count() == 16


def test_a_new_table_has_the_retention_that_upkeep_sets(spark: SparkSession, lake: Lake) -> None:
    before = lake.versions(spark, OLD)["sales"]
    Table(spark, lake.path(OLD, SALES)).remember(SETTINGS.history_seconds)
    assert lake.versions(spark, OLD)["sales"] == before  # no commit that loads would have to repeat


def test_the_history_names_the_jobs_and_what_they_added(spark: SparkSession, lake: Lake) -> None:
    upkeep(spark, lake, SETTINGS, None)
    newest, *_, oldest = [
        each
        for each in Table(spark, lake.path(OLD, SALES)).history(10)
        if each.operation in ("OPTIMIZE", "WRITE")
    ]
    assert (newest.operation, newest.files, newest.rows, newest.job) == ("OPTIMIZE", 1, None, None)
    assert (oldest.version, oldest.job, oldest.rows, oldest.files) == (1, "load #0", 1, 1)
    assert oldest.bytes is not None


def test_only_batches_and_models_in_force_name_versions() -> None:
    entry = manifest(lake_versions={"sales": 7}, previous=manifest(lake_versions={"sales": 4, "other": 1}))
    assert named_versions("sales", entry, [model("1", 1), model("2", 6, "champion")]) == [4, 6, 7]
    assert named_versions("other", entry, []) == [1]
    assert named_versions("sales", None, []) == []


def test_the_retention_is_the_horizon_or_reaches_beyond_every_named_version() -> None:
    day = 86_400
    assert retention_for(30 * day, {}, NOW) == 30 * day
    assert retention_for(30 * day, {3: None, 2: NOW - timedelta(days=29)}, NOW) == 30 * day
    assert retention_for(30 * day, {3: None, 2: NOW - timedelta(days=31)}, NOW) == 60 * day
    assert retention_for(30 * day, {2: NOW - timedelta(days=130)}, NOW) == 240 * day
