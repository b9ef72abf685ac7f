"""Scoring on write: a real `anabranch score --follow` scores each event of a topic once, through a kill."""

import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.progress import Silent
from anabranch.values.times import SECOND, format_time, now_micros
from batch.landing.topics import land
from batch.scoring.on_write import follow, followers
from jobs.servers.processes import wait_until
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from tests.servers.speed.test_score_requests import Desk
from tests.support.stream_rig import PATIENCE, Rig

DECLARATION = '''
"""Visits that are scored as they arrive."""
from anabranch import Count, FeatureView, Label, Last, Model, OnWrite, Project, Source, Sum

schema = "id STRING, who STRING, at TIMESTAMP, seen INT, place STRING"
visits = Source(name="visits", topic="{name}", id="id", time="at", schema=schema)
features = {{"pages": Sum("seen"), "town": Last("place"), "visits": Count()}}
project = Project(
    name="{name}",
    views=(FeatureView(name="seen", source=visits, key="who", features=features),),
    label=Label(source=visits, key="who", target="seen > 2"),
    model=Model(),
    score_on_write=(OnWrite(source="visits", to="{out}"), OnWrite(table="{asked}", to="serving")),
)
'''


class Door:
    """The project, what was published to its topic, and the process that scores it."""

    def __init__(self, servers: Settings, spark: SparkSession, folder: Path) -> None:
        self.rig = Rig(servers, folder, name=f"door_{uuid.uuid4().hex[:8]}")
        self.out, self.asked, self.spark = folder / "scores", folder / "asked", spark
        text = DECLARATION.format(name=self.rig.name, out=self.out, asked=self.asked)
        (folder / f"{self.rig.name}.py").write_text(text, encoding="utf-8")
        registry = f"sqlite:///{folder / 'registry.db'}"
        self.rig.environment = {"ANABRANCH__MODELS__TRACKING_URI": registry}
        self.context = Context(
            replace(servers, projects=(folder,), models=replace(servers.models, tracking_uri=registry))
        )
        self.context.spark = spark
        self.project: Project = self.context.project(self.rig.name)
        desk = Desk(self.context, self.project)
        self.version = desk.learn("logistic")
        self.context.models.promote(self.rig.name, self.version)

    def arrive(self, ids: Sequence[int]) -> None:
        """Events with these numbers as ids come by topic, and are landed."""
        events = [
            {
                "id": f"v{number}",
                "who": f"w{number % 7}",
                "at": format_time(now_micros() - SECOND),
                "seen": number % 5,
                "place": "Oslo",
            }
            for number in ids
        ]
        self.context.bus.ensure_topics([self.rig.name])
        self.context.bus.publish(self.rig.name, [(None, json.dumps(event).encode()) for event in events])
        land(self.context, self.project, Silent())

    def start(self) -> None:
        self.rig.process = self.rig.command("score", self.rig.name, "--follow", "--every", "1s", "--json")

    def rows(self) -> list[Any]:
        """What is scored until now."""
        there = any((self.out / "_delta_log").glob("*.json"))
        return self.spark.read.format("delta").load(str(self.out)).collect() if there else []


@pytest.fixture
def door(servers: Settings, spark: SparkSession, tmp_path: Path) -> Iterator[Door]:
    found = Door(servers, spark, tmp_path)
    spark.createDataFrame(
        [("a1", "ann", 9.0, "Oslo", 3)], "ask STRING, who STRING, pages DOUBLE, town STRING, visits BIGINT"
    ).write.format("delta").save(str(found.asked))
    yield found
    if found.rig.process is not None:
        found.rig.kill()


def test_events_that_arrive_by_topic_are_scored_once_through_copies_a_kill_and_a_lost_checkpoint(
    door: Door,
) -> None:
    door.arrive([*range(20), 3, 4])
    door.start()
    assert wait_until(lambda: len(door.rows()) >= 20, PATIENCE), door.rig.state()
    door.rig.kill()
    # Copies of what was scored, and of each other, among what is new.
    door.arrive([*range(15, 40), 38])
    door.start()
    assert wait_until(lambda: len(door.rows()) >= 40, PATIENCE), door.rig.state()
    assert door.rig.stop() == 0, door.rig.said()
    told = json.loads(door.rig.said().splitlines()[-1])
    assert told["rows"]["source visits"] == 20
    rows = door.rows()
    assert sorted(row["id"] for row in rows) == sorted(f"v{number}" for number in range(40))
    assert {row["model_version"] for row in rows} == {door.version}
    assert all(0 < row["score"] < 1 and row["label"] == int(row["score"] >= 0.5) for row in rows)
    assert {"seen", "place", "who"} <= set(rows[0].asDict())
    assert not [name for name in rows[0].asDict() if name.startswith("_")]
    # The other rows were scored back into serving.
    current = door.context.views.current(door.project, "ann")
    assert current is not None
    expected = door.context.models.scorer(door.rig.name).score(
        {"pages": [9.0], "town": ["Oslo"], "visits": [3.0]}
    )[0]
    assert (current["score"], current["model_version"]) == (pytest.approx(expected), door.version)
    # Who loses the place of the query reads everything again: nothing comes twice.
    door.arrive([40])
    for place in Path(door.context.lake.settings.root).glob(f"{door.rig.name}/checkpoints/scoring/*"):
        place.rename(place.with_name(f"{place.name}-lost"))
    wanted, end = followers(door.context, door.project), threading.Event()
    done = follow(door.context, door.project, wanted, Silent(), every_seconds=None, stopping=end)
    assert done == {"source visits": 1, str(door.asked): 1}
    assert sorted(row["id"] for row in door.rows()) == sorted(f"v{number}" for number in range(41))
