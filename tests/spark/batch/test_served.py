"""Training on served features: what the model read, joined to the labels that came later."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Label, Last, Model, Project, Slice, Source
from anabranch.declare.sources import Source as AnySource
from anabranch.errors import AnabranchError
from anabranch.events.judging import judge, read_cells
from anabranch.events.predictions import NAME, predictions_source
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import stage
from anabranch.stores.lake.schemas import prepare_events
from anabranch.stores.models.registry import Models
from anabranch.values.times import format_time
from batch.training.job import TrainingJob
from batch.training.served import served_frame, served_versions
from batch.training.train import reproduce, train
from tests.support.stores import stores

DAY = 86_400_000_000
START = 1_750_000_000_000_000
visits = Source(
    name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, town STRING, late BOOLEAN"
)
view = FeatureView(
    name="seen", source=visits, key="who", features={"n": Count(), "town": Last("town"), "more": Count()}
)
project = Project(
    name="served_desk",
    views=(view,),
    label=Label(source=visits, key="who", target="late"),
    model=Model(trainer="logistic", features=("n", "town"), slices=(Slice(feature="more"),)),
)


def append(spark: SparkSession, lake: Lake, source: AnySource, rows: list[dict[str, str]], load: int) -> None:
    """Rows whose cells are texts, as landing appends them."""
    names = [column.name for column in source.columns]
    texts = spark.createDataFrame(
        [[row.get(name) for name in names] for row in rows], ", ".join(f"{name} STRING" for name in names)
    )
    raw = texts.withColumns(
        {
            "_raw": F.lit(""),
            "_arrival": F.timestamp_micros(F.lit(START + 400 * DAY)),
            "_file": F.lit("test"),
            "_topic": F.lit(None).cast("string"),
            "_partition": F.lit(None).cast("int"),
            "_offset": F.monotonically_increasing_id(),
        }
    )
    judged = judge(source, project.key_sets(source), read_cells(source, raw), 300)
    prepare_events(spark, lake, project, source)
    stage(lake, judged, project, source).commit({f"test-{source.name}": load})


def prediction(name: str, who: str, at: int, used: dict[str, object], **answered: object) -> dict[str, str]:
    document = {"score": 0.5, "model_version": "1", "degraded": False, **answered}
    return {
        "prediction_id": name,
        "at": format_time(at),
        "asked": json.dumps({"key": who}),
        "used": json.dumps(used),
        "answered": json.dumps(document),
        "versions": "{}",
    }


def label(name: str, who: str, at: int, late: bool) -> dict[str, str]:
    return {"id": name, "who": who, "at": format_time(at), "town": "Oslo", "late": str(late).lower()}


def test_labels_meet_the_features_that_were_served_last_before_them(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lake(LakeSettings(root=str(tmp_path)))
    opened = stores(spark=spark, lake=lake)
    with pytest.raises(AnabranchError, match="no served features in the lake"):
        served_versions(opened, project)
    noon, own = START + 10 * DAY, predictions_source(project.name)
    made = [
        prediction("p1", "a", noon - 9, {"n": 1.0, "town": "Oslo"}),
        prediction("p2", "a", noon - 5, {"n": 2.0, "town": None}),
        prediction("p3", "a", noon - 4, {"n": 3.0, "town": "Oslo"}, degraded=True),
        prediction("p4", "a", noon - 3, {"n": 4.0}),  # of a version that did not read the town
        prediction("p5", "a", noon, {"n": 5.0, "town": "Oslo"}),  # not before the label
        prediction("p6", "b", noon - 40 * DAY, {"n": 6.0, "town": "Oslo"}),  # beyond the horizon
    ]
    append(spark, lake, own, [*made, made[1]], 1)
    came = [label("l1", "a", noon, late=True), label("l2", "b", noon, late=False)]
    append(spark, lake, visits, [*came, label("l3", "c", noon, late=False)], 1)
    versions = served_versions(opened, project)
    frame, total = served_frame(opened, project, versions, Silent())
    assert total == 3
    assert [row.asDict() for row in frame.collect()] == [
        {"_key": "a", "_time": noon, "_target": 1.0, "n": 2.0, "town": None, "more": None}
    ]
    append(spark, lake, own, [prediction("p7", "c", noon - 1, {"n": 7.0, "town": "Oslo"})], 2)
    assert served_frame(opened, project, versions, Silent())[0].count() == 1
    assert served_frame(opened, project, served_versions(opened, project), Silent())[0].count() == 2


def test_a_version_learns_from_served_features_and_comes_out_again(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lake(LakeSettings(root=str(tmp_path)))
    tracked = ModelsSettings(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=str(tmp_path / "m")
    )
    opened, own = stores(spark=spark, lake=lake, models=Models(tracked)), predictions_source(project.name)
    times = [(number, f"w{number}", START + number * DAY) for number in range(60)]
    made = [
        prediction(f"p{number}", who, at - 1, {"n": float(number % 4), "town": "Oslo"})
        for number, who, at in times
    ]
    append(spark, lake, own, made, 1)
    append(spark, lake, visits, [label(f"l{n}", who, at, late=n % 4 > 1) for n, who, at in times], 1)
    trained = train(opened, TrainingJob(project=project, from_served=True))
    assert (trained.rows, trained.left_out, trained.metrics["roc_auc"]) == (60, 0, 1.0)
    (entry,) = opened.models.list(project.name)
    assert set(entry.lake_versions) == {"visits", NAME}
    append(spark, lake, own, [prediction("later", "w3", times[3][2] - 1, {"n": 9.0, "town": "Oslo"})], 2)
    assert reproduce(opened, TrainingJob(project=project), trained.version).different == ()
