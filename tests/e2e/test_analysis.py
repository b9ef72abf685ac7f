"""Tables of Spark SQL and answers at a time, over what the river of heart_disease left."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.errors import AnabranchError, MisuseError
from anabranch.values.times import format_time, from_micros, now_micros
from jobs.cli.answers import analysis as analysis_verbs
from jobs.flows.analysis import Analysis
from jobs.flows.answering import from_lake
from jobs.flows.river import River
from tests.support.heart_river import PATIENT, Lived


@pytest.fixture(scope="module")
def analysis(lived: Lived) -> Iterator[Analysis]:
    found = Analysis(lived.context)
    found.register(["heart_disease"])
    yield found
    for name in (
        "current",
        "scores",
        "history",
        "quarantine",
        "predictions",
        *(f"events_{source}" for source in lived.project.sources),
    ):
        lived.context.spark.catalog.dropGlobalTempView(f"heart_disease_{name}")


def plan(frame: DataFrame) -> str:
    return str(frame._jdf.queryExecution().executedPlan())


def test_current_rows_are_a_table_of_spark(analysis: Analysis, lived: Lived) -> None:
    spark = lived.context.spark
    table = spark.table("anabranch.heart_disease_current")
    assert table.count() == 303
    (row,) = table.where(F.col("key") == PATIENT).collect()
    found, known = row.asDict(), dict(lived.context.views.current(lived.project, PATIENT) or {})
    assert found.pop("as_of").timestamp() == known.pop("as_of").timestamp()
    assert found == known
    looked_up = spark.sql(
        f"SELECT key, score FROM anabranch.heart_disease_scores WHERE key IN ('{PATIENT}', 'nobody')"
    )
    assert [found["key"] for found in looked_up.collect()] == [PATIENT]
    sick = spark.sql(
        "SELECT count(*) AS n FROM anabranch.heart_disease_scores WHERE score > 0.5 AND layer = 'batch'"
    ).collect()[0]["n"]
    assert (
        sick == sum(1 for found in table.collect() if found["score"] > 0.5 and found["layer"] == "batch") > 50
    )


def test_the_last_row_of_a_keys_history_is_its_current_row(analysis: Analysis, lived: Lived) -> None:
    spark = lived.context.spark
    history = spark.table("anabranch.heart_disease_history")
    current = {row["key"]: row.asDict() for row in spark.table("anabranch.heart_disease_current").collect()}
    newest: dict[str, dict[str, Any]] = {}
    for row in sorted((row.asDict() for row in history.collect()), key=lambda row: row["slot"]):
        newest[row["key"]] = row
    slots = {key: row.pop("slot") for key, row in newest.items()}
    assert newest == current
    assert {row["layer"] for row in current.values()} == {"batch", "speed"}
    assert all(
        row["as_of"].timestamp() // 3600 * 3600 == slots[key].timestamp() for key, row in current.items()
    )
    mine = history.where(F.col("key") == PATIENT)
    assert mine.rdd.getNumPartitions() == 1  # its partition, not ranges of the table
    assert {row["key"] for row in mine.collect()} == {PATIENT}


def test_history_of_the_lake_joins_with_current_rows(analysis: Analysis, lived: Lived) -> None:
    found = lived.context.spark.sql(
        """SELECT c.key, count(*) AS exams, max_by(e.chol, e.examined_at) AS chol, any_value(c.chol) AS now
           FROM anabranch.heart_disease_events_exams e JOIN anabranch.heart_disease_current c ON e.patient_id
           = c.key GROUP BY c.key"""
    ).collect()
    assert len(found) == 303
    assert all(row["chol"] == row["now"] for row in found)
    names = {row["tableName"] for row in lived.context.spark.sql("SHOW TABLES IN anabranch").collect()}
    assert names >= {
        f"heart_disease_{name}"
        for name in ("current", "scores", "events_exams", "events_bracelet", "quarantine", "predictions")
    }


def test_a_river_gives_frames_back_as_what_came_and_answers_as_the_command_does(lived: Lived) -> None:
    heart = River(lived.context)["heart_disease"]
    assert lived.project.label is not None
    time = lived.project.label.source.time
    moments = [from_micros(now_micros()), from_micros(0), from_micros(now_micros())]
    rows = pd.DataFrame({"patient_id": [PATIENT, PATIENT, "nobody"], time: moments, "ward": [3, 1, 2]})
    found = heart.training_set(rows)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == [*rows.columns, *(column.name for column in lived.project.columns)]
    assert found["ward"].tolist() == [3, 1, 2]
    chol = lived.answer["features"]["chol"]
    assert found["chol"].fillna(-1).tolist() == [chol, -1, -1]
    table = heart.training_set(pa.Table.from_pandas(rows))
    assert table.column("chol").to_pylist() == [chol, None, None]
    in_spark = heart.training_set(lived.context.spark.createDataFrame(rows))
    assert {row["ward"]: row["chol"] for row in in_spark.collect()} == {3: chol, 1: None, 2: None}

    patients = [{"patient_id": name, "ward": ward} for ward, name in enumerate([PATIENT, "p002", PATIENT])]
    scored = heart.score(patients)
    assert [sorted(row) for row in scored] == [["label", "model_version", "patient_id", "score", "ward"]] * 3
    assert [row["ward"] for row in scored] == [0, 1, 2]
    assert scored[0]["score"] == scored[2]["score"] != scored[1]["score"]
    assert scored[0]["model_version"] == lived.demo.trained.version

    answered = heart.answer(PATIENT)
    assert answered["features"]["chol"] == heart.features({"patient_id": PATIENT})["chol"] == chol
    assert answered["score"] == pytest.approx(lived.answer["score"], abs=0.2)
    explained = heart.why(PATIENT)
    assert explained is not None
    assert 0 < len(explained["contributions"]) <= len(lived.project.model_features)
    with pytest.raises(MisuseError, match="does not fit heart_disease"):
        heart.answer({"patient": PATIENT})
    with pytest.raises(MisuseError, match=f"has no column '{time}'"):
        heart.training_set(rows.drop(columns=[time]))


def test_no_plan_and_no_table_shows_a_password_or_an_address(analysis: Analysis, lived: Lived) -> None:
    frame = lived.context.spark.table("anabranch.heart_disease_current")
    port = str(lived.context.settings.views.port)
    text = frame._jdf.queryExecution().toString() + str(
        lived.context.spark.sql("DESCRIBE EXTENDED anabranch.heart_disease_current").collect()
    )
    assert port not in text
    assert "password" not in text


def values(lived: Lived, row: Any) -> dict[str, Any]:
    return {column.name: row[column.name] for column in lived.project.columns}


def test_batch_and_speed_are_merged_at_a_time_as_serving_merges_them(
    analysis: Analysis, lived: Lived
) -> None:
    at = now_micros() // 1_000_000 * 1_000_000
    moment = f"{from_micros(at):%Y-%m-%d %H:%M:%S}"
    found = lived.context.spark.sql(
        "SELECT * FROM heart_disease_at(TABLE(SELECT key FROM anabranch.heart_disease_scores), TIMESTAMP "
        f"'{moment}')"
    ).collect()
    assert len(found) == 303
    keys = [{"patient_id": row["key"]} for row in found]
    served = lived.context.answers.features(lived.project, keys, at)
    scorer = lived.context.models.scorer("heart_disease")
    scores = scorer.score({name: [answer.values[name] for answer in served] for name in scorer.features})
    for row, answer, score in zip(found, served, scores, strict=True):
        assert values(lived, row) == pytest.approx(dict(answer.values))
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert (row["as_of"].timestamp(), row["degraded"], row["layer"]) == (at / 1e6, None, "merged")
    patient = next(row for row in found if row["key"] == PATIENT)
    assert patient["readings_7d"] == lived.answer["features"]["readings_7d"]
    by_frame = {
        row["key"]: values(lived, row)
        for row in analysis.answers_at(lived.project, format_time(at), [PATIENT, "nobody"]).collect()
    }
    assert by_frame[PATIENT] == pytest.approx(values(lived, patient))
    assert by_frame["nobody"]["readings_1h"] == 0
    assert len(analysis.answers_at(lived.project, keys=[PATIENT]).collect()) == 1


def test_before_the_cut_the_lake_answers(analysis: Analysis, lived: Lived) -> None:
    at = lived.demo.built.manifest.cut - 3600 * 1_000_000
    (row,) = analysis.answers_at(lived.project, format_time(at), [PATIENT]).collect()
    expected = from_lake(lived.context, lived.project, {"patient_id": PATIENT}, at)
    assert values(lived, row) == pytest.approx(expected)
    assert row["readings_7d"] < lived.answer["features"]["readings_7d"]
    with pytest.raises(AnabranchError, match="is in the future"):
        analysis.answers_at(lived.project, "2999-01-01T00:00:00Z")


def test_the_verb_sql_prints_a_table_or_json(
    lived: Lived, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Kept:
        """The run's own context, which outlives the verb."""

        def __new__(cls, _: object) -> Any:
            return lived.context

    monkeypatch.setattr("jobs.wiring.context.Context", Kept)
    monkeypatch.setattr(lived.context, "close", lambda: None, raising=False)
    statement = "SELECT key, score FROM anabranch.heart_disease_scores ORDER BY score DESC"
    analysis_verbs.sql(statement, most=3, as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["columns"], len(told["rows"]), told["complete"]) == (["key", "score"], 3, False)
    assert told["rows"][0]["score"] >= told["rows"][2]["score"]
    analysis_verbs.sql(statement, most=3)
    shown = capsys.readouterr().out
    assert told["rows"][0]["key"] in shown
    assert "3 rows, and there are more" in shown
    with pytest.raises(AnabranchError, match="cannot be run"):
        analysis_verbs.sql("SELECT nothing FROM anabranch.heart_disease_scores")
