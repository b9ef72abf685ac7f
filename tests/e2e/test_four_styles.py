"""One truth in every style: the same 1,000 keys over REST, on a device, by mass scoring and by messages, from
one declaration and one model.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.progress import Silent
from anabranch.settings import ModelsSettings
from anabranch.stores.files.hdfs import Hdfs
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import DAY, HOUR, format_time, now_micros, parse_time
from batch.landing.ingest import ingest
from batch.landing.topics import land
from batch.release.exporting import export
from batch.scoring.data_sets import score_data_set
from batch.scoring.features import attach_features
from batch.scoring.parts import ScoringOrder
from batch.training.job import TrainingJob
from batch.training.train import train
from jobs.flows.building import build_project
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.serve import build
from jobs.wiring.settings import Settings
from serving.http.messages import HttpRequest
from speed.query import scores_topic
from speed.requests import prepare_requests, requests_topic, start_requests
from speed.streams import start
from tests.servers.batch.test_builds import wait_for_a_cut
from tests.servers.stores.test_bus import read
from tests.support.edge import device, scored

KEYS = [f"w{number:04d}" for number in range(1_000)]
SINGLE = KEYS[::5]
DECLARATION = """
from anabranch import Count, FeatureView, Label, Last, Max, Mean, Model, Project, Source, Sum

visits = Source(name="visits", id="id", time="at",
                schema="id STRING, who STRING, at TIMESTAMP, pages INT, town STRING, paid DOUBLE, "
                        "member BOOLEAN, joined DATE")
outcomes = Source(name="outcomes", id="id", time="at",
    schema="id STRING, who STRING, at TIMESTAMP, bought INT")
view = FeatureView(name="seen", source=visits, key="who", features={{
    "pages": Last("pages"), "town": Last("town"), "paid_mean": Mean("paid"), "paid_max": Max("paid"),
    "visits": Count(),
    "many": Count(where="pages > 10"), "member": Last("member"), "joined": Last("joined")}})
clicks = Source(name="clicks", topic="{name}-clicks", id="id", time="at",
    schema="id STRING, who STRING, at TIMESTAMP, spent DOUBLE")
lately = FeatureView(name="lately", source=clicks, key="who", windows=("7d",),
    features={{"spent": Sum("spent"), "clicks": Count()}})
project = Project(name="{name}", views=(view, lately),
    label=Label(source=outcomes, key="who", target="bought > 0"), model=Model(trainer="xgboost"))
"""


@dataclass(frozen=True)
class Styles:
    """What each style said, by key: `rest` of all keys in one request, `single` of some in one each.
    `features` are those that REST has of these.
    """

    mass: Mapping[str, Mapping[str, Any]]
    rest: Mapping[str, Mapping[str, Any]]
    single: Mapping[str, Mapping[str, Any]]
    edge: Mapping[str, Mapping[str, Any]]
    messages: Mapping[str, Mapping[str, Any]]
    features: Mapping[str, Mapping[str, Any]]


def write_events(folder: Path) -> None:
    """Three visits a key, one in six values missing; keys without an outcome know a town that training
    never sees.
    """
    random = np.random.default_rng(8)
    visits, outcomes = ["id,who,at,pages,town,paid,member,joined"], ["id,who,at,bought"]
    for number, key in enumerate(KEYS):
        towns = ["Oslo", "Bergen"] if number < 600 else ["Oslo", "Rome"]
        pages = random.integers(0, 25, 3)
        for visit in range(3):
            cells = [
                str(pages[visit]),
                random.choice(towns),
                f"{random.normal(50, 20):.2f}",
                random.choice(["true", "false"]),
                f"20{10 + number % 14}-02-03",
            ]
            shown = ["" if random.random() < 1 / 6 else cell for cell in cells]
            visits.append(
                ",".join([f"v{number}-{visit}", key, f"2024-03-0{1 + visit}T0{number % 10}:00:00Z", *shown])
            )
        if number < 600:
            bought = int(pages.sum() + spent_before(number) + random.normal(0, 8) > 44)
            outcomes.append(f"o{number},{key},2024-04-{1 + number % 28:02d}T00:00:00Z,{bought}")
    (folder / "visits.csv").write_text("\n".join(visits) + "\n")
    (folder / "outcomes.csv").write_text("\n".join(outcomes) + "\n")
    (folder / "keys.csv").write_text("\n".join(["who", *KEYS]) + "\n")


def spent_before(number: int) -> float:
    """What a key with an outcome spends in the week before it."""
    return number % 17


def clicks(bus: Bus, project: Project, name: str, when: Callable[[int], int | None]) -> None:
    """Publish a click of each key at a time of its own, unless that is None."""
    times = [(number, when(number)) for number in range(len(KEYS))]
    events = [
        {
            "id": f"{name}-{number}",
            "who": KEYS[number],
            "at": format_time(at),
            "spent": spent_before(number) if name == "then" else number % 23,
        }
        for number, at in times
        if at is not None
    ]
    bus.ensure_topics([f"{project.name}-clicks"])
    bus.publish(f"{project.name}-clicks", [(None, json.dumps(event).encode()) for event in events])


@pytest.fixture(scope="module")
def styles(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Styles:
    folder, name = tmp_path_factory.mktemp("styles"), f"styles_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(DECLARATION.format(name=name))
    write_events(folder)
    registry = ModelsSettings(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts")
    )
    ours = replace(servers, projects=(folder,), models=registry)
    context = Context(ours)
    project, models = context.project(name), context.models
    for source in ("visits", "outcomes"):
        ingest(context, project, source, [str(folder / f"{source}.csv")], Silent())
    outcome, now = parse_time("2024-04-01T00:00:00Z"), now_micros()
    clicks(
        context.bus,
        project,
        "then",
        lambda number: outcome + (number % 28) * DAY - 2 * HOUR if number < 600 else None,
    )
    clicks(context.bus, project, "before", lambda _: now - 2 * DAY)
    wait_for_a_cut(ours)
    build_project(context, project, None, Steps())
    assert train(context, TrainingJob(project=project)).champion
    clicks(context.bus, project, "since", lambda number: now - DAY if number % 3 else None)
    for query in start(context.speed_layer(once=True), project):
        assert query.awaitTermination(300), "the clicks are not taken in"
    land(context, project, Silent())
    scorer = models.scorer(name)
    assert scorer.both({feature: [None] for feature in scorer.features})[1] is not None, (
        "single answers are to come from ONNX"
    )
    order = ScoringOrder(source=str(folder / "keys.csv"), out=str(folder / "scores"))
    score_data_set(context, project, order, Silent())
    mass = {row["who"]: row.asDict() for row in spark.read.parquet(str(folder / "scores")).collect()}
    export(models, project, str(folder / "bundle"), None, Silent(), Hdfs(ours.files))
    keys = spark.createDataFrame([(key,) for key in KEYS], "who STRING")
    found = attach_features(context, project, keys, models.scorer(name).features, now_micros()).collect()
    rows = [json.loads(json.dumps(row.asDict(), default=str)) for row in found]
    answers = scored(folder / "bundle", device(folder / "device"), rows)
    edge = {row["who"]: answer for row, answer in zip(rows, answers, strict=True)}
    rest, single, features = over_rest(ours, name)
    return Styles(
        mass=mass,
        rest=rest,
        single=single,
        edge=edge,
        messages=by_message(context, project),
        features=features,
    )


def over_rest(settings: Settings, name: str) -> list[dict[str, Any]]:
    """The server over the real stores: one request with all keys, then one each for some keys, and the
    features of these.
    """
    app = build(settings)
    app.live.refresh()

    async def ask(method: str, path: str, body: object = None) -> Any:
        response = await app.handle(
            HttpRequest(method, f"/v1/projects/{name}/{path}", json.dumps(body).encode())
        )
        assert response.status == 200, response.body
        return json.loads(response.body)

    async def asked() -> list[dict[str, Any]]:
        many = (await ask("POST", "predict", {"keys": KEYS}))["predictions"]
        single = {key: await ask("POST", "predict", {"key": key}) for key in SINGLE}
        return [
            {answer["key"]: answer for answer in many},
            single,
            {key: (await ask("GET", f"features/{key}"))["features"] for key in SINGLE},
        ]

    return asyncio.run(asked())


def by_message(context: Context, project: Project) -> dict[str, Mapping[str, Any]]:
    """A request a key on the topic of score requests, all of them answered by one run of the stream's
    query.
    """
    layer = context.speed_layer(once=True)
    prepare_requests(layer, project)
    context.bus.publish(
        requests_topic(project.name),
        [(None, json.dumps({"request_id": key, "key": key}).encode()) for key in KEYS],
    )
    query = start_requests(layer, project)
    assert query.awaitTermination(300), "the requests are not answered"
    answers = [
        json.loads(value or b"") for _, _, _, value, _, _ in read(context.bus, scores_topic(project.name))
    ]
    return {answer["request_id"]: answer for answer in answers if "request_id" in answer}


def column(said: Mapping[str, Mapping[str, Any]], name: str) -> Sequence[Any]:
    return [said[key][name] for key in KEYS]


@pytest.mark.parametrize("style", ["rest", "edge", "messages"])
def test_a_thousand_keys_have_one_score_in_every_style(styles: Styles, style: str) -> None:
    said = getattr(styles, style)
    assert set(said) == set(styles.mass) == set(KEYS)
    np.testing.assert_allclose(column(said, "score"), column(styles.mass, "score"), rtol=0, atol=1e-6)
    for name in ("label", "model_version"):
        assert column(said, name) == column(styles.mass, name)


def test_keys_asked_one_by_one_which_onnx_scores_have_the_score_of_all_styles(styles: Styles) -> None:
    assert len(styles.single) == 200
    for key, answer in styles.single.items():
        assert answer["score"] == pytest.approx(styles.mass[key]["score"], rel=0, abs=1e-6)
        assert {name: answer[name] for name in ("label", "model_version")} == {
            name: styles.mass[key][name] for name in ("label", "model_version")
        }


def test_windows_take_events_of_batch_and_stream(styles: Styles) -> None:
    found = {key: (values["clicks_7d"], values["spent_7d"]) for key, values in styles.features.items()}
    numbers = {key: int(key[1:]) for key in SINGLE}
    assert found == {
        key: (2, 2.0 * (number % 23)) if number % 3 else (1, float(number % 23))
        for key, number in numbers.items()
    }


def test_the_thousand_keys_tell_something(styles: Styles) -> None:
    assert len(set(column(styles.mass, "score"))) > 100
    assert set(column(styles.mass, "label")) == {0, 1}
    assert not any(column(styles.rest, "degraded"))
