"""The demo's path on its real data, step by step."""

import csv

import pyarrow.parquet as pq
import pytest

from jobs.demo import EXAMPLE
from tests.support.heart import DATA
from tests.support.heart_river import READINGS, Lived


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
    assert {name: lived.current[name] for name in names} == pytest.approx(
        {name: lived.after["features"][name] for name in names}
    )
    assert lived.current["score"] == pytest.approx(lived.after["score"], abs=1e-6)
    assert (lived.current["model_version"], lived.current["batch_version"]) == (
        lived.trained.version,
        lived.built.manifest.batch_version,
    )


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
