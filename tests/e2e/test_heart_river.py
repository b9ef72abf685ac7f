"""The demo's path on its real data: files, batch views, a model, the stream, answers, mass scoring, verification."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from batch.landing import ingest
from batch.landing_loads import Landed
from batch.scoring import Scored, score_path
from batch.training import Trained, train
from batch.verification import Verified
from batch.views import Built, reset_current_rows
from features.declaration import Project
from jobs.answering import answer_key
from jobs.building import build_project
from jobs.context import Context
from jobs.demo import EXAMPLE, WEARERS, simulated_exams, simulated_readings
from jobs.processes import wait_until
from jobs.settings import Settings
from jobs.show import Steps
from jobs.verifying import verify_settled
from speed.views import start
from stores.progress import Silent
from tests.heart import DATA

PATIENT = WEARERS[0]
READINGS = 30


@dataclass(frozen=True)
class Lived:
    """What each step of the river gave."""

    context: Context
    project: Project
    landed: dict[str, Landed]
    built: Built
    trained: Trained
    before: dict[str, Any]
    current: dict[str, Any]
    after: dict[str, Any]
    scored: Scored
    scores: Path
    verified: Verified


@pytest.fixture(scope="module")
def lived(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    context = Context(servers)
    project, lake, models, times = context.project("heart_disease"), context.lake, context.models, servers.times
    landed = {name: ingest(spark, lake, project, name, [str(DATA / f"{name}.csv")], times, Silent()) for name in ("exams", "diagnoses")}
    built = build_project(context, project, None, Steps())
    trained = train(spark, lake, models, project, Silent())
    reset_current_rows(spark, lake, context.views, models, project)
    before = answer_key(context, project, {"patient_id": PATIENT}, None)
    queries = start(spark, context.channel(once=False), project)
    try:
        context.bus.publish("bracelet-feed", [(None, json.dumps(event).encode()) for event in simulated_readings(READINGS)])
        context.bus.publish("exams", [(None, json.dumps(event).encode()) for event in simulated_exams()])
        current = until(lambda: current_row(context, project, before))
    finally:
        for query in queries:
            query.processAllAvailable()
            query.stop()
    after = answer_key(context, project, {"patient_id": PATIENT}, None)
    scores = tmp_path_factory.mktemp("heart") / "scores"
    scored = score_path(spark, lake, models, project, DATA / "exams.csv", scores, None, Silent())
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
    complete = row is not None and row["readings_1d"] == before["features"]["readings_1d"] + READINGS and row["trestbps"] == 155
    return row if complete else None


def test_every_real_exam_and_diagnosis_lands(lived: Lived) -> None:
    for landed in lived.landed.values():
        assert landed.rows + 303 * landed.skipped_files == 303
        assert landed.quarantined == 0


def test_the_batch_views_cover_every_patient(lived: Lived) -> None:
    assert lived.built.manifest.rows["latest_exam"] == 303
    assert lived.built.current_rows == 303


def test_the_model_tells_the_sick_from_the_well(lived: Lived) -> None:
    assert lived.trained.rows == 303
    assert lived.trained.metrics["roc_auc"] > 0.8
    scorer = lived.context.models.scorer("heart_disease")
    assert 0 < scorer.score({name: [EXAMPLE.get(name)] for name in scorer.features})[0] < 1


def test_readings_and_a_new_exam_change_features_and_score_by_the_stream(lived: Lived) -> None:
    before, after = lived.before["features"], lived.after["features"]
    assert after["readings_1h"] == before["readings_1h"] + READINGS
    assert 40 < after["bpm_min_1h"] <= after["bpm_mean_1h"] <= after["bpm_max_1h"] < 120
    assert after["trestbps"] == 155
    assert lived.after["degraded"] is False


def test_the_current_row_is_the_answer(lived: Lived) -> None:
    names = [column.name for column in lived.project.columns]
    assert {name: lived.current[name] for name in names} == pytest.approx({name: lived.after["features"][name] for name in names})
    assert lived.current["score"] == pytest.approx(lived.after["score"], abs=1e-6)
    assert (lived.current["model_version"], lived.current["batch_version"]) == (lived.trained.version, lived.built.manifest.batch_version)


def test_every_patient_is_scored(lived: Lived) -> None:
    assert lived.scored.rows == 303
    scores = {row["patient_id"]: row["score"] for row in pq.read_table(lived.scores).to_pylist()}
    with (DATA / "exams.csv").open(encoding="utf-8", newline="") as lines:
        assert set(scores) == {row["patient_id"] for row in csv.DictReader(lines)}
    assert all(0 < score < 1 for score in scores.values())


def test_everything_served_equals_the_lake(lived: Lived) -> None:
    assert lived.verified.keys == 303
    assert lived.verified.mismatches == 0
    assert {found.matches for found in lived.verified.features.values()} == {303}
