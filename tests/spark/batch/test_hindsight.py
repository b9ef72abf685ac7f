"""The hindsight audit over real trainings: an event that is written back before its label is found out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from anabranch import (
    ApproxDistinct,
    Count,
    Derived,
    FeatureView,
    Gate,
    Label,
    Last,
    Model,
    Project,
    Source,
)
from anabranch.errors import AnabranchError
from anabranch.settings import ModelsSettings
from anabranch.stores.models.registry import Models
from batch.evaluation.kept_runs import keep, kept
from batch.training.job import TrainingJob, TrainingSet
from batch.training.train import Trained, fit_and_log, train_run
from batch.training.training_sets import check_arrived, label_rows, training_set
from tests.support.stores import stores

DAY = datetime(2026, 3, 1, tzinfo=UTC)
claims = Source(
    name="claims",
    id="id",
    time="at",
    schema="id STRING, who STRING, at TIMESTAMP, amount DOUBLE, state STRING, fraud BOOLEAN",
)
notes = FeatureView(
    name="notes",
    source=claims,
    key="who",
    features={
        "amount": Last("amount"),
        "state": Last("state"),
        "states": ApproxDistinct("state"),
        "events": Count(where="fraud IS NULL"),
    },
)


def project(model: Model) -> Project:
    return Project(
        name="claims_desk",
        views=(notes,),
        derived={"investigated": Derived("state = 'investigated'")},
        label=Label(source=claims, key="who", target="fraud"),
        model=model,
    )


LEAKING = Model(
    trainer="logistic", split="key", gate=Gate(hindsight=0.02), features=("amount", "states", "investigated")
)


def events(spark: SparkSession, *, file: str | None = None) -> DataFrame:
    """Claims of 240 people. Those that turn out to be frauds are marked as investigated, which is dated back
    to before the decision and arrives a day after it; others are marked as paid.
    """
    random, rows = np.random.default_rng(3), []
    for number in range(240):
        fraud, at = number % 3 == 0, DAY + timedelta(hours=number)
        amount = float(random.normal(120 if fraud else 100, 25))
        who, late = f"w{number:03}", at + timedelta(days=3)
        mark = "investigated" if fraud else "paid"
        rows += [
            (f"a{number}", who, at, amount, "open", None, at + timedelta(seconds=1), file),
            (f"b{number}", who, at + timedelta(hours=40), amount, mark, None, late, file),
            (f"c{number}", who, at + timedelta(hours=48), None, None, fraud, at + timedelta(hours=48), file),
        ]
    return spark.createDataFrame(
        rows,
        "id STRING, who STRING, at TIMESTAMP, amount DOUBLE, state STRING, fraud BOOLEAN, "
        "_arrival TIMESTAMP, _file STRING",
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def given(declared: Project, found: DataFrame) -> TrainingSet:
    assert declared.label is not None
    labels = label_rows(declared.label, found.where("fraud IS NOT NULL"))
    return TrainingSet(table=training_set(declared, {"claims": found}, labels).toArrow())


def checks(trained: Trained) -> dict[str, Any]:
    return {check.name: check for check in trained.checks}


def test_a_model_that_is_better_on_paper_only_is_refused_and_its_features_are_named(
    spark: SparkSession, models: Models, tmp_path: Path
) -> None:
    declared = project(LEAKING)
    rows = given(declared, events(spark))
    run = train_run(TrainingJob(project=declared), rows)
    keep(run, tmp_path / "kept")
    assert kept(tmp_path / "kept").hindsight == run.hindsight
    assert "_sight" not in run.test.column_names
    trained = fit_and_log(stores(models=models), TrainingJob(project=declared), rows)
    found = trained.hindsight
    assert found is not None
    assert found == run.hindsight
    assert (found.rows, found.events, found.late, found.loaded) == (240, 480, 240, 0)
    # The mark of a paid claim changes the number of states, but not whether it is investigated.
    assert {one.feature: one.rows for one in found.features} == {"investigated": 80, "states": 240}
    assert trained.metrics["roc_auc"] == found.with_hindsight == 1.0
    assert found.without is not None
    assert 0.5 < found.without < 0.9
    assert found.gain is not None
    assert found.low is not None
    assert found.gain > found.low > 0.02
    assert not trained.champion
    assert not checks(trained)["hindsight"].passed
    assert "with hindsight" in trained.reason
    assert "a gain of at most 0.02 is wanted" in trained.reason
    entry = models.entry(declared.name, trained.version)
    assert entry.tags["hindsight"] == found.said
    card = models.files(declared.name, trained.version, ["report/model_card.html"])["report/model_card.html"]
    assert "share of the rows" in card.decode()
    assert "100.0%" in card.decode()


def test_of_many_rows_a_sample_is_examined(spark: SparkSession) -> None:
    declared, found = project(LEAKING), events(spark)
    assert declared.label is not None
    labels = label_rows(declared.label, found.where("fraud IS NOT NULL"))
    table = training_set(declared, {"claims": found}, labels, share=0.5).toArrow()
    assert table.num_rows == 240
    run = train_run(TrainingJob(project=declared), TrainingSet(table=table))
    assert run.hindsight is not None
    assert run.hindsight.rows == table.num_rows - table.column("_sight").null_count
    assert 80 < run.hindsight.rows < 160
    assert {one.feature: one.rows for one in run.hindsight.features}["states"] == run.hindsight.rows
    assert run.hindsight.gain is not None
    assert run.hindsight.gain > 0.02


def test_a_model_that_learns_as_known_sees_what_was_there(spark: SparkSession, models: Models) -> None:
    declared = project(replace(LEAKING, as_known=True))
    assert declared.fingerprint != project(LEAKING).fingerprint
    rows = given(declared, events(spark))
    assert rows.table.column("investigated").to_pylist() == [0.0] * 240
    assert set(rows.table.column("states").to_pylist()) == {1.0}
    trained = fit_and_log(stores(models=models), TrainingJob(project=declared), rows)
    assert trained.hindsight is not None
    assert trained.hindsight.without == trained.metrics["roc_auc"] < 0.9
    assert checks(trained)["hindsight"].passed
    assert trained.champion


def test_history_that_was_loaded_from_files_is_not_audited_and_not_known(
    spark: SparkSession, models: Models
) -> None:
    declared, loaded = project(LEAKING), events(spark, file="history.csv")
    rows = given(declared, loaded)
    assert rows.table.column("_sight").combine_chunks().field("late").to_pylist() == [0] * 240
    trained = fit_and_log(stores(models=models), TrainingJob(project=declared), rows)
    assert trained.hindsight is not None
    assert trained.hindsight.loaded == trained.hindsight.events > 0
    assert checks(trained)["hindsight"].passed
    assert "not measurable: every event came from files" in checks(trained)["hindsight"].said
    labelled = int((DAY - timedelta(hours=1)).timestamp() * 1e6)
    with pytest.raises(
        AnabranchError, match="nothing was known at any row's time: the first event of claims"
    ):
        check_arrived(declared, {"claims": loaded}, labelled)
