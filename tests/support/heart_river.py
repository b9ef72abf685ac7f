"""The demo's path on its real data: files, batch views, a model, the stream, answers, mass scoring, verification."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.progress import Silent
from batch.building.current_rows import reset_current_rows
from batch.building.publication import Built
from batch.building.verification import Verified
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from batch.scoring.data_sets import Scored, score_data_set
from batch.scoring.parts import ScoringOrder
from batch.training.job import TrainingJob
from batch.training.train import Trained, train
from jobs.demo import WEARERS, simulated_exams, simulated_readings
from jobs.flows.answering import answer_key
from jobs.flows.building import build_project
from jobs.flows.verifying import verify_settled
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import start
from tests.support.heart import DATA

PATIENT = WEARERS[0]
READINGS = 30


@dataclass(frozen=True)
class Lived:
    """What each step of the river gave."""

    context: Context
    project: Project
    landed: dict[str, LoadSummary]
    built: Built
    trained: Trained
    before: dict[str, Any]
    current: dict[str, Any]
    after: dict[str, Any]
    scored: Scored
    scores: Path
    verified: Verified


def live(servers: Settings, spark: SparkSession, folder: Path) -> Lived:
    """The river on the real data, once."""
    context = Context(servers)
    project = context.project("heart_disease")
    landed = {
        name: ingest(context, project, name, [str(DATA / f"{name}.csv")], Silent())
        for name in ("exams", "diagnoses")
    }
    built = build_project(context, project, None, Steps())
    trained = train(context, TrainingJob(project=project))
    reset_current_rows(context, project)
    before = answer_key(context, project, {"patient_id": PATIENT}, None)
    queries = start(context.speed_layer(once=False), project)
    try:
        context.bus.publish(
            "bracelet-feed", [(None, json.dumps(event).encode()) for event in simulated_readings(READINGS)]
        )
        context.bus.publish("exams", [(None, json.dumps(event).encode()) for event in simulated_exams()])
        current = until(lambda: current_row(context, project, before))
    finally:
        for query in queries:
            query.processAllAvailable()
            query.stop()
    after = answer_key(context, project, {"patient_id": PATIENT}, None)
    scores = folder / "scores"
    order = ScoringOrder(source=str(DATA / "exams.csv"), out=str(scores))
    scored = score_data_set(context, project, order, Silent())
    verified = verify_settled(context, project, None, Steps())
    return Lived(context, project, landed, built, trained, before, current, after, scored, scores, verified)


def until(look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What `look` finds, once it finds something."""
    found: list[dict[str, Any] | None] = [None]

    def seen() -> bool:
        found[0] = look()
        return found[0] is not None

    assert wait_until(seen, 120), "the stream did not catch up within two minutes"
    assert found[0] is not None
    return found[0]


def current_row(context: Context, project: Project, before: dict[str, Any]) -> dict[str, Any] | None:
    """The patient's current row, as soon as readings and the new exam are in it."""
    row = context.views.current(project, PATIENT)
    complete = (
        row is not None
        and row["readings_1d"] == before["features"]["readings_1d"] + READINGS
        and row["trestbps"] == 155
    )
    return row if complete else None
