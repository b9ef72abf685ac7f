"""The real commands, killed with their JVM at several points and repeated: each row is in the lake once."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from anabranch import Project
from anabranch.declare.loading import load_project
from batch.landing.ingest import ingest
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from tests.support.commands import environment_of
from tests.support.drill import LONG, recovery

DECLARATION = '''
"""Things that are counted."""
from anabranch import Count, FeatureView, Project, Source

schema = "id STRING, thing STRING, at TIMESTAMP, x DOUBLE"
things = Source(name="things", topic="{name}", id="id", time="at", schema=schema)
ever = FeatureView(name="ever", source=things, key="thing", features={{"all": Count()}})
project = Project(name="{name}", views=(ever,))
'''
AT = "2024-05-01T10:00:00Z"
PATIENCE = 240  # seconds: several people may share the machine


class Landing:
    """A project of its own, and its commands."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.name = f"killed_{uuid.uuid4().hex[:8]}"
        self.folder = folder
        (folder / f"{self.name}.py").write_text(DECLARATION.format(name=self.name), encoding="utf-8")
        self.project: Project = load_project(self.name, (folder,))
        self.context = Context(settings)
        lake = self.context.lake
        self.events = Path(lake.path(self.project, self.project.sources["things"]))
        self.quarantine = Path(lake.quarantine_path(self.project, self.project.sources["things"]))
        self.environment = {
            **os.environ,
            **environment_of(settings),
            "ANABRANCH_PROJECTS": str(folder),
            "ANABRANCH__QUALITY__MODE": "off",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.cli", *words]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def killed_when(self, happened: Callable[[], object], *words: str) -> None:
        """Run the command, and kill it and its JVM as soon as it `happened`."""
        process = self.start(*words)
        wait_until(happened, process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert process.stdout is not None
        process.stdout.close()

    def run(self, *words: str) -> dict[str, object]:
        process = self.start(*words, "--json")
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        found: dict[str, object] = json.loads(said.splitlines()[-1])
        return found

    def ingested(self, spark: SparkSession, files: Sequence[Path]) -> int:
        """Repeat `ingest`, as the command or, in the gate, in this process; how many files were skipped."""
        if LONG:
            return int(str(self.run("ingest", self.name, "things", *map(str, files))["skipped_files"]))
        self.context.spark = spark
        return ingest(self.context, self.project, "things", [*map(str, files)], Steps()).skipped_files

    def events_there(self, spark: SparkSession) -> int:
        return self.context.lake.events(spark, self.project, self.project.sources["things"]).count()

    def data_files(self) -> set[str]:
        return {str(path) for path in self.events.rglob("*.parquet")}

    def commits(self, table: Path) -> int:
        return len(list((table / "_delta_log").glob("*.json")))

    def assert_once(self, spark: SparkSession, good: set[str], bad: set[str]) -> int:
        """Every row is there, once; returns how many."""
        rows = [
            row["id"]
            for row in self.context.lake.events(spark, self.project, self.project.sources["things"])
            .select("id")
            .collect()
        ]
        texts = [
            row["raw"] for row in self.context.lake.quarantine(spark, self.project).select("raw").collect()
        ]
        assert (len(rows), set(rows)) == (len(good), good)
        assert (len(texts), set(texts)) == (len(bad), bad)
        return len(rows) + len(texts)


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.stdout.read() if process.stdout else "")


@pytest.fixture
def landing(servers: Settings, tmp_path: Path) -> Landing:
    return Landing(servers, tmp_path)


def test_ingest_killed_at_any_moment_lands_every_row_once_when_repeated(
    landing: Landing, spark: SparkSession
) -> None:
    good, bad = set[str](), set[str]()
    files = []
    for number in range(3):
        lines = [f"{number}-{row},t{row % 9},{AT},{row}" for row in range(40_000)]
        wrong = [f"{number}-bad-{row},t,{AT},many" for row in range(50)]
        files.append(landing.folder / f"{number}.csv")
        # Another order of the columns is another group, and so another commit.
        head, cells = ("id,thing,at,x", (0, 1, 2, 3)) if number < 2 else ("x,at,thing,id", (3, 2, 1, 0))
        wrong = [",".join(line.split(",")[cell] for cell in cells) for line in wrong]
        files[-1].write_text(
            "\n".join([head, *[",".join(line.split(",")[cell] for cell in cells) for line in lines], *wrong])
            + "\n"
        )
        good |= {line.split(",")[0] for line in lines}
        bad |= set(wrong)
    command = ("ingest", landing.name, "things", *map(str, files))
    if LONG:
        landing.killed_when(landing.data_files, *command)  # writing the first group
        assert landing.events_there(spark) in (0, 80_000)
        landing.killed_when(
            lambda: landing.commits(landing.quarantine) > 1, *command
        )  # its bad rows are in quarantine
    written = landing.data_files()
    landing.killed_when(
        lambda: landing.commits(landing.events) > 1 and landing.data_files() - written, *command
    )  # the first group is there
    points = f"{'as it writes, between quarantine and lake, ' if LONG else ''}between two commits"
    with recovery("ingest is killed", f"{points}; the command repeated") as found:
        assert landing.ingested(spark, files) in (2, 3)
        found.compared = landing.assert_once(spark, good, bad)
    assert landing.ingested(spark, files) == 3
    landing.assert_once(spark, good, bad)


@pytest.mark.drill  # as `ingest`, above; tests/servers/batch has landings that are stopped and followed
def test_land_killed_at_any_moment_and_followed_lands_every_message_once(
    landing: Landing, spark: SparkSession
) -> None:
    bus = landing.context.bus
    bus.ensure_topics([landing.name])

    def publish(first: int, count: int) -> None:
        events = [
            {"id": f"e{number}", "thing": "t", "at": AT, "x": number}
            for number in range(first, first + count)
        ]
        bus.publish(landing.name, [(None, json.dumps(event).encode()) for event in events])
        bus.publish(landing.name, [(None, f"nonsense {first}".encode())])

    publish(0, 20_000)
    if LONG:
        landing.killed_when(landing.data_files, "land", landing.name)
    landing.killed_when(lambda: landing.commits(landing.quarantine) > 1, "land", landing.name)
    points = f"{'as it writes, ' if LONG else ''}between quarantine and lake"
    after = "followed while more comes, stopped, repeated"
    with recovery("landing is killed", f"{points}; {after}") as found:
        found.compared = _landed_after_all(landing, spark, publish)


def _landed_after_all(landing: Landing, spark: SparkSession, publish: Callable[[int, int], None]) -> int:
    publish(20_000, 1_000)
    process = landing.start("land", landing.name, "--follow", "--every", "1s", "--json")
    wait_until(lambda: landing.commits(landing.events) > 1, process)
    before = landing.commits(landing.events)
    publish(30_000, 1_000)
    wait_until(lambda: landing.commits(landing.events) > before, process)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    landing.run("land", landing.name)
    good = {
        f"e{number}"
        for first, count in ((0, 20_000), (20_000, 1_000), (30_000, 1_000))
        for number in range(first, first + count)
    }
    return landing.assert_once(spark, good, {f"nonsense {first}" for first in (0, 20_000, 30_000)})
