"""The shipped project: its declaration and the data that comes with it."""

import csv
from pathlib import Path

from anabranch.values.times import HOUR, parse_time
from projects.heart_disease import ATTRIBUTES, project

DATA = Path(__file__).parents[3] / "projects" / "data"


def read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_declaration_has_thirteen_attributes_and_eighteen_heart_rate_features() -> None:
    names = [column.name for column in project.columns]
    assert names[:13] == list(ATTRIBUTES)
    assert len(names) == 13 + 6 * 3
    assert {"bpm_mean_1h", "bpm_sd_7d", "readings_1d", "fast_1h"} <= set(names)
    assert project.keys == ("patient_id",)
    assert project.model is not None
    assert (project.model.task, project.model.metric, project.model.trainer) == ("class", "roc_auc", "auto")


def test_shipped_exams_have_exactly_the_columns_of_their_source() -> None:
    exams, diagnoses = read("exams.csv"), read("diagnoses.csv")
    assert list(exams[0]) == [column.name for column in project.sources["exams"].columns]
    assert list(diagnoses[0]) == [column.name for column in project.sources["diagnoses"].columns]


def test_shipped_data_is_the_303_cleveland_patients_with_six_unknown_cells() -> None:
    exams, diagnoses = read("exams.csv"), read("diagnoses.csv")
    assert [row["patient_id"] for row in exams] == [f"p{i:03d}" for i in range(1, 304)]
    assert [row["patient_id"] for row in diagnoses] == [f"p{i:03d}" for i in range(1, 304)]
    assert sum(row[name] == "" for row in exams for name in ATTRIBUTES) == 6
    assert sum(row["num"] == "1" for row in diagnoses) == 139


def test_every_diagnosis_comes_26_hours_after_its_exam() -> None:
    times = {row["patient_id"]: parse_time(row["examined_at"]) for row in read("exams.csv")}
    found = {row["patient_id"]: parse_time(row["diagnosed_at"]) for row in read("diagnoses.csv")}
    assert {found[key] - times[key] for key in times} == {26 * HOUR}
