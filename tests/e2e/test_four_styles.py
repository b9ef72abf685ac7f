"""One truth in every style: the same 1,000 keys over REST, on a device, by mass scoring and by messages, from one declaration and one model."""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.exporting import export
from batch.landing import ingest
from batch.scoring import score_path
from batch.scoring_inputs import with_features
from batch.training import train
from features.declaration import Project
from jobs.building import build_project
from jobs.context import Context
from jobs.serve import build
from jobs.settings import Settings
from jobs.show import Steps
from serving.http import Request
from speed.requests import prepare_requests, requests_topic, start_requests
from speed.views import scores_topic
from stores.answers import now_micros
from stores.hdfs import Hdfs
from stores.progress import Silent
from stores.settings import ModelsSettings
from tests.edge import device, scored
from tests.servers.test_bus import read

KEYS = [f"w{number:04d}" for number in range(1_000)]
DECLARATION = """
from features import Count, FeatureView, Label, Last, Max, Mean, Model, Project, Source

visits = Source(name="visits", id="id", time="at",
                schema="id STRING, who STRING, at TIMESTAMP, pages INT, town STRING, paid DOUBLE, member BOOLEAN, joined DATE")
outcomes = Source(name="outcomes", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, bought INT")
view = FeatureView(name="seen", source=visits, key="who", features={{
    "pages": Last("pages"), "town": Last("town"), "paid_mean": Mean("paid"), "paid_max": Max("paid"), "visits": Count(),
    "many": Count(where="pages > 10"), "member": Last("member"), "joined": Last("joined")}})
project = Project(name="{name}", views=(view,), label=Label(source=outcomes, key="who", target="bought > 0"), model=Model(trainer="xgboost"))
"""


@dataclass(frozen=True)
class Styles:
    """What each style said, by key."""

    mass: Mapping[str, Mapping[str, Any]]
    rest: Mapping[str, Mapping[str, Any]]
    edge: Mapping[str, Mapping[str, Any]]
    messages: Mapping[str, Mapping[str, Any]]


def write_events(folder: Path) -> None:
    """Three visits a key, one in six values missing; keys without an outcome know a town that training never sees."""
    random = np.random.default_rng(8)
    visits, outcomes = ["id,who,at,pages,town,paid,member,joined"], ["id,who,at,bought"]
    for number, key in enumerate(KEYS):
        towns = ["Oslo", "Bergen"] if number < 600 else ["Oslo", "Rome"]
        pages = random.integers(0, 25, 3)
        for visit in range(3):
            cells = [str(pages[visit]), random.choice(towns), f"{random.normal(50, 20):.2f}", random.choice(["true", "false"]), f"20{10 + number % 14}-02-03"]
            shown = ["" if random.random() < 1 / 6 else cell for cell in cells]
            visits.append(",".join([f"v{number}-{visit}", key, f"2024-03-0{1 + visit}T0{number % 10}:00:00Z", *shown]))
        if number < 600:
            outcomes.append(f"o{number},{key},2024-04-{1 + number % 28:02d}T00:00:00Z,{int(pages.sum() + random.normal(0, 8) > 36)}")
    (folder / "visits.csv").write_text("\n".join(visits) + "\n")
    (folder / "outcomes.csv").write_text("\n".join(outcomes) + "\n")
    (folder / "keys.csv").write_text("\n".join(["who", *KEYS]) + "\n")


@pytest.fixture(scope="module")
def styles(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Styles:
    folder, name = tmp_path_factory.mktemp("styles"), f"styles_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(DECLARATION.format(name=name))
    write_events(folder)
    registry = ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    ours = replace(servers, projects=(folder,), models=registry)
    context = Context(ours)
    project, lake, models = context.project(name), context.lake, context.models
    for source in ("visits", "outcomes"):
        ingest(spark, lake, project, source, [str(folder / f"{source}.csv")], ours.times, Silent())
    build_project(context, project, None, Steps())
    assert train(spark, lake, models, project, Silent()).champion
    score_path(spark, lake, models, project, folder / "keys.csv", folder / "scores", None, Silent())
    mass = {row["who"]: row.asDict() for row in spark.read.parquet(str(folder / "scores")).collect()}
    export(models, project, str(folder / "bundle"), None, Silent(), Hdfs(ours.files))
    keys = spark.createDataFrame([(key,) for key in KEYS], "who STRING")
    found = with_features(spark, lake, project, keys, models.scorer(name).features, now_micros()).collect()
    rows = [json.loads(json.dumps(row.asDict(), default=str)) for row in found]
    answers = scored(folder / "bundle", device(folder / "device"), rows)
    edge = {row["who"]: answer for row, answer in zip(rows, answers, strict=True)}
    return Styles(mass=mass, rest=over_rest(ours, name), edge=edge, messages=by_message(context, project))


def over_rest(settings: Settings, name: str) -> dict[str, Mapping[str, Any]]:
    """One request with all keys to the server over the real stores."""
    app = build(settings)
    app.live.refresh()
    body = json.dumps({"keys": KEYS}).encode()
    response = asyncio.run(app.handle(Request("POST", f"/v1/projects/{name}/predict", body, "application/json")))
    assert response.status == 200, response.body
    return {answer["key"]: answer for answer in json.loads(response.body)["predictions"]}


def by_message(context: Context, project: Project) -> dict[str, Mapping[str, Any]]:
    """A request a key on the topic of score requests, all of them answered by one run of the stream's query."""
    channel = context.channel(once=True)
    prepare_requests(channel, project)
    context.bus.publish(requests_topic(project.name), [(None, json.dumps({"request_id": key, "key": key}).encode()) for key in KEYS])
    query = start_requests(context.spark, channel, project)
    assert query.awaitTermination(300), "the requests are not answered"
    answers = [json.loads(value or b"") for _, _, _, value, _, _ in read(context.bus, scores_topic(project.name))]
    return {answer["request_id"]: answer for answer in answers}


def column(said: Mapping[str, Mapping[str, Any]], name: str) -> Sequence[Any]:
    return [said[key][name] for key in KEYS]


@pytest.mark.parametrize("style", ["rest", "edge", "messages"])
def test_a_thousand_keys_have_one_score_in_every_style(styles: Styles, style: str) -> None:
    said = getattr(styles, style)
    assert set(said) == set(styles.mass) == set(KEYS)
    np.testing.assert_allclose(column(said, "score"), column(styles.mass, "score"), rtol=0, atol=1e-6)
    for name in ("label", "model_version"):
        assert column(said, name) == column(styles.mass, name)


def test_the_thousand_keys_tell_something(styles: Styles) -> None:
    assert len(set(column(styles.mass, "score"))) > 100
    assert set(column(styles.mass, "label")) == {0, 1}
    assert not any(column(styles.rest, "degraded"))
