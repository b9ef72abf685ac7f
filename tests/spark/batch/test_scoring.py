"""Mass scoring over a lake of the Cleveland data, with a model trained from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.values.times import parse_time
from batch.scoring.data_sets import score_data_set
from batch.scoring.features import features_at
from batch.scoring.frames import score
from batch.scoring.parts import ScoringOrder
from batch.scoring.row_files import MARKER, read_rows, write_rows
from batch.training.job import TrainingJob
from batch.training.train import train
from projects.heart_disease import ATTRIBUTES, project
from tests.support.heart import DATA, fill, read
from tests.support.stores import stores


class Heard(Silent):
    """Progress that is kept."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def step(self, text: str) -> None:
        self.told.append(text)


LATE = parse_time("2024-05-01T00:00:00Z")


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(LakeSettings(root=str(tmp_path_factory.mktemp("lake"))))
    fill(spark, lake, "exams", read("exams.csv"))
    fill(spark, lake, "diagnoses", read("diagnoses.csv"))
    readings = [
        {
            "reading_id": f"r{i}",
            "patient_id": "p001",
            "measured_at": f"2024-04-30T23:{i:02d}:00Z",
            "heart_rate": str(60 + i),
        }
        for i in range(10)
    ]
    fill(spark, lake, "bracelet", readings)
    return lake


@pytest.fixture(scope="module")
def models(spark: SparkSession, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    models = Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )
    trained = train(stores(spark=spark, lake=lake, models=models), TrainingJob(project=project))
    assert (trained.rows, trained.left_out, trained.champion) == (303, 0, True)
    return models


def expected(models: Models) -> dict[str, float]:
    """Score by patient from the shipped attributes alone, through the in-process scorer."""
    exams = read("exams.csv")
    scorer = models.scorer("heart_disease")
    empty = {
        name: [0.0 if name.startswith(("readings", "fast")) else None] * len(exams)
        for name in scorer.features
    }
    given: dict[str, list[Any]] = {
        name: [float(row[name]) if row[name] else None for row in exams] for name in ATTRIBUTES
    }
    return dict(
        zip([row["patient_id"] for row in exams], scorer.score({**empty, **given}).tolist(), strict=True)
    )


def found(frame: DataFrame) -> dict[str, Any]:
    return {row["patient_id"]: row for row in frame.collect()}


def test_training_over_the_lake_equals_training_from_the_shipped_files(
    spark: SparkSession, lake: Lake, models: Models
) -> None:
    entry = models.list("heart_disease")[-1]
    assert entry.lake_versions == lake.versions(spark, project)
    assert entry.metrics["roc_auc"] > 0.85


def test_rows_with_keys_alone_get_their_features_from_the_lake(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    rows = tmp_path / "patients.csv"
    rows.write_text(
        "patient_id,note\n" + "".join(f'p{i:03d},"a, ""b"""\n' for i in range(1, 304)) + "nobody,\n"
    )
    out = tmp_path / "out"
    scored = score_data_set(
        stores(spark=spark, lake=lake, models=models),
        project,
        ScoringOrder(source=str(rows), out=str(out), at=parse_time("2024-03-01T00:00:00Z")),
        Silent(),
    )
    assert (scored.rows, scored.version, len(scored.attached)) == (304, "1", 31)
    result = spark.read.parquet(str(out))
    assert result.columns == ["patient_id", "note", "score", "label", "model_version"]
    by_key, known = found(result), expected(models)
    np.testing.assert_allclose([by_key[key]["score"] for key in known], list(known.values()), atol=1e-5)
    assert {row["label"] for row in by_key.values()} == {0, 1}
    assert all((row["score"] >= 0.5) == (row["label"] == 1) for row in by_key.values())
    assert by_key["p001"]["note"] == 'a, "b"'
    assert 0 < by_key["nobody"]["score"] < 1
    assert json.loads((out / MARKER).read_text())["rows"] == 304


def test_features_are_as_of_the_given_time_and_columns_of_the_rows_win(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    # Before any exam everything is unknown, so patients differ only where the rows say so.
    (tmp_path / "rows.jsonl").write_text(
        '{"patient_id": "p001", "age": 45}\n{"patient_id": "p002", "age": 45}\n'
        '{"patient_id": "p003", "age": "46"}\n'
    )
    score_data_set(
        stores(spark=spark, lake=lake, models=models),
        project,
        ScoringOrder(
            source=str(tmp_path / "rows.jsonl"),
            out=str(tmp_path / "early"),
            at=parse_time("2023-01-01T00:00:00Z"),
        ),
        Silent(),
    )
    early = found(spark.read.parquet(str(tmp_path / "early")))
    assert early["p001"]["score"] == early["p002"]["score"]
    score_data_set(
        stores(spark=spark, lake=lake, models=models),
        project,
        ScoringOrder(source=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "late"), at=LATE),
        Silent(),
    )
    late = found(spark.read.parquet(str(tmp_path / "late")))
    assert late["p001"]["score"] != late["p002"]["score"]
    exam = read("exams.csv")[1] | {"age": "45"}
    scorer = models.scorer("heart_disease")
    alone = scorer.score(
        {
            name: [
                float(exam[name])
                if exam.get(name)
                else 0.0
                if name.startswith(("readings", "fast"))
                else None
            ]
            for name in scorer.features
        }
    )
    assert late["p002"]["score"] == pytest.approx(alone[0], abs=1e-5)


def test_joined_features_are_those_before_each_rows_own_time(
    spark: SparkSession, models: Models, tmp_path: Path
) -> None:
    early, late = (
        row | {"patient_id": "p1", "examined_at": f"2024-03-{day}T08:00:00Z"}
        for row, day in zip(read("exams.csv"), ("01", "10"), strict=False)
    )
    lake, scorer = Lake(LakeSettings(root=str(tmp_path / "lake"))), models.scorer("heart_disease")
    fill(spark, lake, "exams", [early, late])
    fill(spark, lake, "diagnoses", read("diagnoses.csv")[:1])
    fill(
        spark,
        lake,
        "bracelet",
        [
            {
                "reading_id": "r1",
                "patient_id": "p1",
                "measured_at": "2024-03-10T07:30:00Z",
                "heart_rate": "130",
            }
        ],
    )
    moments = {
        "before": "2024-02-01T00:00:00Z",
        "between": "2024-03-05T12:00:00Z",
        "at": "2024-03-10T08:00:00Z",
        "after": "2024-03-10T08:00:01Z",
        "never": "",
    }
    asked = tmp_path / "asked.csv"
    asked.write_text(
        # Rows come from anywhere: also with names that columns of ours have while features are attached.
        "patient_id,note,diagnosed_at,_at,_given,_key,_event_micros,a.b (c)\n"
        + "".join(f"p1,{note},{moment},1,2,3,4,5\n" for note, moment in moments.items())
    )
    scored = score_data_set(
        stores(spark=spark, lake=lake, models=models),
        project,
        ScoringOrder(source=str(asked), out=str(tmp_path / "out"), join=True),
        Silent(),
    )
    assert scored.attached == scorer.features
    scores = {row["note"]: row["score"] for row in spark.read.parquet(str(tmp_path / "out")).collect()}
    # What `features --at` answers for the same rows, and what the events say by hand.
    features_at(stores(spark=spark, lake=lake), project, str(asked), str(tmp_path / "known"), Silent())
    known = {row["note"]: row for row in spark.read.parquet(str(tmp_path / "known")).collect()}
    wanted = {
        "before": (None, 0),
        "between": (int(early["chol"]), 0),
        "at": (int(early["chol"]), 1),
        "after": (int(late["chol"]), 1),
        "never": (None, 0),
    }
    assert {note: (row["chol"], row["readings_1h"]) for note, row in known.items()} == wanted
    # As known: everything was landed in June, so rows of March know nothing, and one of July everything.
    opened = stores(spark=spark, lake=lake)
    with pytest.raises(
        AnabranchError, match=r"arrived at 2024-06-01T00:00:00Z, and the latest row is of 2024"
    ):
        features_at(opened, project, str(asked), str(tmp_path / "as_known"), Silent(), as_known=True)
    dated = tmp_path / "dated.csv"
    dated.write_text("patient_id,diagnosed_at\np1,2024-03-05T12:00:00Z\np1,2024-07-01T00:00:00Z\n")
    steps = Heard()
    features_at(opened, project, str(dated), str(tmp_path / "as_known"), steps, as_known=True)
    rows = spark.read.parquet(str(tmp_path / "as_known"))
    assert not [name for name in rows.columns if name.startswith("_")]
    assert [row["chol"] for row in rows.orderBy("diagnosed_at").collect()] == [None, int(late["chol"])]
    assert "as known: 33.3% of the events before a row's time arrived after it and do not count" in steps.told
    by_row = scorer.score({name: [known[note][name] for note in moments] for name in scorer.features})
    assert [scores[note] for note in moments] == pytest.approx(by_row.tolist(), abs=1e-6)
    assert len({round(scores[note], 6) for note in ("before", "between", "after")}) == 3
    # Each moment by itself, as `--at` takes all rows.
    for note in ("between", "after"):
        at = parse_time(moments[note])
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(asked), out=str(tmp_path / note), at=at, keep=("note",)),
            Silent(),
        )
        found_then = [row["score"] for row in spark.read.parquet(str(tmp_path / note)).collect()]
        assert found_then == pytest.approx([scores[note]] * len(moments), abs=1e-6)


def test_features_are_not_joined_as_of_now_where_rows_lack_their_time(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("patient_id\np001\n")
    order = ScoringOrder(source=str(tmp_path / "rows.csv"), out=str(tmp_path / "out"), join=True)
    with pytest.raises(MisuseError, match="has no column 'diagnosed_at', the time of a row"):
        score_data_set(stores(spark=spark, lake=lake, models=models), project, order, Silent())


def test_complete_rows_need_no_lake_and_every_form_scores_alike(
    spark: SparkSession, models: Models, lake: Lake, tmp_path: Path
) -> None:
    scorer = models.scorer("heart_disease")
    names = ["patient_id", *scorer.features]
    rows = [
        [row["patient_id"], *[float(row[name]) if row.get(name) else None for name in scorer.features]]
        for row in read("exams.csv")[:20]
    ]
    frame = spark.createDataFrame(
        rows, ", ".join(["patient_id STRING", *[f"{name} DOUBLE" for name in scorer.features]])
    ).select(*names)
    forms = {"parquet": "rows.parquet", "json": "rows.jsonl", "delta": "table", "csv": "rows.csv"}
    for form, name in forms.items():
        frame.write.format(form).option("header", "true").save(str(tmp_path / name))
    nowhere = Lake(LakeSettings(root=str(tmp_path / "nowhere")))
    results = []
    for form, name in forms.items():
        scored = score_data_set(
            stores(spark=spark, lake=nowhere, models=models),
            project,
            ScoringOrder(
                source=str(tmp_path / name), out=str(tmp_path / f"out-{form}"), version="1", at=LATE
            ),
            Silent(),
        )
        # JSON lacks columns that are null in every row: they are looked up, and null again in an empty lake.
        assert scored.attached == () or form == "json"
        results.append(
            {
                key: row["score"]
                for key, row in found(spark.read.parquet(str(tmp_path / f"out-{form}"))).items()
            }
        )
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-9)


def test_a_data_frame_is_scored_without_any_file(spark: SparkSession, models: Models) -> None:
    scorer = models.scorer("heart_disease")
    rows = spark.range(3).select("id", *[F.lit(1).alias(name) for name in scorer.features])
    scored = score(stores(spark=spark, models=models), project, rows).collect()
    assert len({row["score"] for row in scored}) == 1
    plan = (
        score(stores(spark=spark, models=models), project, rows)
        ._jdf.queryExecution()
        .executedPlan()
        .toString()
    )
    assert plan.count("ArrowEvalPython") == 1  # scored once, though label reads the score too
    with pytest.raises(MisuseError, match=r"lack the model's features age.*the key columns patient_id"):
        score(stores(spark=spark, models=models), project, spark.range(1))


def test_results_go_to_csv_and_a_repeated_run_replaces_them(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "scores.csv"
    for count in (5, 3):
        rows.write_text("patient_id\n" + "".join(f"p{i:03d}\n" for i in range(1, count + 1)))
        assert (
            score_data_set(
                stores(spark=spark, lake=lake, models=models),
                project,
                ScoringOrder(source=str(rows), out=str(out), at=LATE),
                Silent(),
            ).rows
            == count
        )
    assert read_rows(spark, str(out)).columns == ["patient_id", "score", "label", "model_version"]
    assert read_rows(spark, str(out)).count() == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "scores.csv"]


def test_a_folder_that_anabranch_did_not_write_is_never_replaced(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(MisuseError, match="Anabranch did not write"):
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(DATA / "exams.csv"), out=str(tmp_path / "mine")),
            Silent(),
        )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(MisuseError, match="is a file"):
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(DATA / "exams.csv"), out=str(tmp_path / "mine" / "thesis.txt")),
            Silent(),
        )


def test_a_cell_of_the_wrong_type_is_named_and_earlier_results_stay(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "out"
    rows.write_text("patient_id,age\np001,63.0\np002, \n")
    assert (
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(rows), out=str(out), at=LATE),
            Silent(),
        ).rows
        == 2
    )
    rows.write_text("patient_id,age\np001,63\np002,sixty\n")
    with pytest.raises(MisuseError, match=r"age: 'sixty' is not BIGINT, in the row .*: correct the cell"):
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(rows), out=str(out), at=LATE),
            Silent(),
        )
    assert spark.read.parquet(str(out)).count() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.csv"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "who\np001\n", "the key column 'patient_id'"),
        ("rows.csv", "patient_id,label\np001,1\n", "already have a column 'label'"),
        ("rows.csv", "patient_id,Age\np001,1\n", "a column 'Age', which differs from 'age' in case only"),
        ("rows.xlsx", "PK", "the form of .* is not known"),
        (None, "", "no file or folder .* exists"),
    ],
)
def test_rows_that_cannot_be_scored_are_explained(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path, name: str | None, text: str, message: str
) -> None:
    path = tmp_path / (name or "nothing.csv")
    if name:
        path.write_text(text)
    with pytest.raises(MisuseError, match=message):
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(path), out=str(tmp_path / "out")),
            Silent(),
        )


def test_an_empty_data_set_gives_an_empty_result(
    spark: SparkSession, lake: Lake, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("patient_id\n")
    assert (
        score_data_set(
            stores(spark=spark, lake=lake, models=models),
            project,
            ScoringOrder(source=str(tmp_path / "rows.csv"), out=str(tmp_path / "out")),
            Silent(),
        ).rows
        == 0
    )


def test_a_write_that_fails_leaves_nothing_behind(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.range(3).select(
        F.when(F.col("id") == 2, F.raise_error(F.lit("broken"))).otherwise(F.col("id")).alias("id")
    )
    with pytest.raises(Exception, match="broken"):
        write_rows(rows, str(tmp_path / "out"), {})
    assert list(tmp_path.iterdir()) == []
