"""A replay killed while it writes: run again it lands every row once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch.declare.loading import load_project
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.lake.lake import Lake
from batch.landing.ingest import ingest
from batch.quality.quarantine import ReplayChoice, pending, replay
from jobs.wiring.settings import ROOT
from tests.support.stores import stores

DECLARATION = """
from anabranch import Count, FeatureView, Project, Source

sales = Source(name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP, n INT")
by_shop = FeatureView(name="by_shop", source=sales, key="shop", features={"n": Count()})
project = Project(name="killed", views=(by_shop,))
"""
ROWS = 50


@pytest.mark.drill  # test_quarantine.py stops one before its commit
def test_a_replay_killed_while_it_writes_lands_every_row_once_when_it_is_repeated(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "killed.py").write_text(DECLARATION)
    project = load_project("killed", (tmp_path,))
    source, lake = project.sources["sales"], Lake(LakeSettings(root=str(tmp_path / "data" / "lake")))
    opened, file = stores(spark=spark, lake=lake), tmp_path / "a.jsonl"
    file.write_text(
        "".join(
            json.dumps({"id": str(i), "shop": "a", "at": "2024-05-01", "n": f"{i} pieces"}) + "\n"
            for i in range(ROWS)
        )
    )
    assert ingest(opened, project, "sales", [str(file)], Silent()).quarantined == ROWS
    events = Path(lake.path(project, source))
    before = set(events.rglob("*.parquet"))
    change = "n=replace(n, ' pieces', '')"
    environment = os.environ | {
        "ANABRANCH_PROJECTS": str(tmp_path),
        "ANABRANCH__PATHS__DATA": str(tmp_path / "data"),
        "ANABRANCH__PATHS__JARS": str(ROOT / ".anabranch" / "jars"),
        "ANABRANCH__SPARK__DRIVER_MEMORY": "512m",
    }
    command = [sys.executable, "-m", "jobs.cli", "quarantine", "killed", "--replay", "--set", change]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while (
            set(events.rglob("*.parquet")) == before
            and running.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert set(events.rglob("*.parquet")) != before, (tmp_path / "log").read_text()

    choice = ReplayChoice(changes={"n": change.partition("=")[2]})
    replay(opened, project, source, Silent(), choice=choice)
    assert sorted(row["n"] for row in lake.events(spark, project, source).collect()) == list(range(ROWS))
    assert pending(opened, project, source).count() == 0
