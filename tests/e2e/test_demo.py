"""The demo on its real data, step by step: what it says it does is done."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.demo import EXAMPLE
from tests.support.heart import DATA
from tests.support.heart_river import PATIENT, Lived


def test_every_real_exam_and_diagnosis_lands_past_the_quality_gate(lived: Lived) -> None:
    for landed in lived.demo.landed.values():
        assert (landed.rows, landed.quarantined, landed.skipped_files) == (303, 0, 0)
        assert all(Path(report).exists() for report in landed.reports)
    assert all(landed.reports for landed in lived.demo.landed.values())


def test_the_batch_views_cover_every_patient(lived: Lived) -> None:
    assert lived.demo.built.manifest.rows["latest_exam"] == 303
    assert lived.demo.built.current_rows == 303


def test_the_model_separates_the_sick_from_the_well(lived: Lived) -> None:
    assert lived.demo.trained.rows == 303
    assert lived.demo.trained.metrics["roc_auc"] > 0.8


def test_readings_and_a_new_exam_change_features_and_score_by_the_stream(lived: Lived) -> None:
    before, after = lived.demo.before, lived.demo.after
    assert after["readings_1h"] == before["readings_1h"] + 60
    assert 40 < after["bpm_min_1h"] <= after["bpm_mean_1h"] <= after["bpm_max_1h"] < 120
    assert after["trestbps"] == before["trestbps"] + 10
    assert lived.answer["degraded"] is False


def test_the_current_row_is_the_answer(lived: Lived) -> None:
    names = [column.name for column in lived.project.columns]
    assert {name: lived.current[name] for name in names} == pytest.approx(
        {name: lived.answer["features"][name] for name in names}
    )
    assert lived.current["score"] == pytest.approx(lived.answer["score"], abs=1e-6)
    versions = (lived.demo.trained.version, lived.demo.built.manifest.batch_version)
    assert (lived.current["model_version"], lived.current["batch_version"]) == versions


def test_rest_answers_the_example_as_the_model_does(lived: Lived) -> None:
    scorer = lived.context.models.scorer("heart_disease")
    (score,) = scorer.score({name: [EXAMPLE.get(name)] for name in scorer.features})
    assert lived.demo.answer["score"] == pytest.approx(score, abs=1e-6)
    assert lived.demo.answer["model_version"] == lived.demo.trained.version


def test_every_patient_is_scored(lived: Lived) -> None:
    assert lived.demo.scored.rows == 303
    table = pq.read_table(lived.context.settings.data / "demo" / "scores")
    scores = {row["patient_id"]: row["score"] for row in table.to_pylist()}
    with (DATA / "exams.csv").open(encoding="utf-8", newline="") as lines:
        assert set(scores) == {row["patient_id"] for row in csv.DictReader(lines)}
    assert all(0 < score < 1 for score in scores.values())
    assert PATIENT in scores


def test_everything_served_equals_the_lake(lived: Lived) -> None:
    assert (lived.demo.verified.keys, lived.demo.verified.mismatches) == (303, 0)
