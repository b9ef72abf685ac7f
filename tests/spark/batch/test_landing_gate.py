"""Files at the quality gate: a refused load changes nothing, and lands when data or threshold are right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Label, Model, Project, Source
from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError
from anabranch.events.expectations import Expectation, Suite, project_suite
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, QualitySettings
from anabranch.stores.lake.lake import Lake
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from batch.quality.gate import QualityGate, RefusedLoadError
from batch.training.training_sets import lake_frame
from jobs.wiring.settings import ROOT
from jobs.wiring.suites import suites
from tests.support.stores import stores

SALES = Source(name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP, n INT")
PROJECT = Project(
    name="shops", views=(FeatureView(name="by_shop", source=SALES, key="shop", features={"n": Count()}),)
)
RULE = Expectation(
    type="expect_column_values_to_be_between", kwargs={"column": "n", "min_value": 0, "max_value": 10}
)
AT = "2024-05-01T10:00:00Z"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def load(spark: SparkSession, lake: Lake, file: Path, **settings: Any) -> LoadSummary:
    gate = QualityGate(
        project=PROJECT,
        settings=QualitySettings(suites="", **settings),
        suites={"sales": Suite(source=SALES, expectations=(RULE,))},
    )
    return ingest(stores(spark=spark, lake=lake), PROJECT, "sales", [str(file)], Silent(), gate)


def test_a_refused_load_changes_nothing_and_lands_when_it_is_corrected(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(
        "id,shop,at,n\n" + "".join(f"{number},a,{AT},{99 if number < 3 else 1}\n" for number in range(4))
    )
    with pytest.raises(
        RefusedLoadError,
        match=r"a.csv is refused: 3 of 4 rows \(75.0%\) are bad, at most 50% may be "
        r"\(most often: n: '99' is not between 0 and 10\); nothing",
    ):
        load(spark, lake, file)
    assert lake.events(spark, PROJECT, SALES).count() == 0
    assert lake.quarantine(spark, PROJECT).count() == 0
    landed = load(spark, lake, file, refuse_above=0.75)
    assert (landed.rows, landed.quarantined, landed.unmet) == (1, 3, ("n is not between 0 and 10",))
    assert {row["reason"] for row in lake.quarantine(spark, PROJECT).collect()} == {
        "n: '99' is not between 0 and 10"
    }
    assert [Path(report).exists() for report in landed.reports] == [True]
    again = load(spark, lake, file)
    assert (again.rows, again.skipped_files, again.reports) == (0, 1, ())


def test_the_real_exams_and_diagnoses_are_as_their_suites_expect(spark: SparkSession, lake: Lake) -> None:
    project = load_project("heart_disease", (ROOT / "projects",))
    settings = QualitySettings(suites=str(ROOT / "conf" / "quality"))
    found = suites(settings, project)
    assert all(suite.origin.endswith(f"{name}.json") for name, suite in found.items())
    assert {rule.columns[0] for rule in found["bracelet"].rules} == {"heart_rate"}
    gate = QualityGate(project=project, settings=settings, suites=found)
    for name in ("exams", "diagnoses"):
        landed = ingest(
            stores(spark=spark, lake=lake),
            project,
            name,
            [str(ROOT / "projects" / "data" / f"{name}.csv")],
            Silent(),
            gate,
        )
        assert (landed.rows, landed.quarantined, landed.unmet) == (303, 0, ())


def test_labels_of_three_grades_are_refused_where_the_metric_is_for_two_classes(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    project = replace(PROJECT, label=Label(source=SALES, key="shop", target="n"), model=Model())
    gate = QualityGate(
        project=project, settings=QualitySettings(suites=""), suites={"sales": project_suite(project, SALES)}
    )
    file = tmp_path / "grades.csv"
    file.write_text("id,shop,at,n\n" + "".join(f"{number},a,{AT},{number % 3}\n" for number in range(9)))
    with pytest.raises(RefusedLoadError, match=r"refused: n is not one of 0, 1: 3 rows are not \(33.3%\)"):
        ingest(stores(spark=spark, lake=lake), project, "sales", [str(file)], Silent(), gate)
    # Past the gate, training refuses them before it computes a feature.
    ingest(stores(spark=spark, lake=lake), project, "sales", [str(file)], Silent())
    with pytest.raises(AnabranchError, match="the label's target gives 2, not 0 or 1"):
        lake_frame(stores(spark=spark, lake=lake), project, lake.versions(spark, project), Silent())
