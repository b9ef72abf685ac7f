"""A champion that the declaration left behind, with real servers: tiles and features go on, scores stay
empty, and everybody says why.
"""

import uuid
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession

from jobs.flows.answering import answer_key
from jobs.flows.building import build_project
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import Streams
from tests.servers.batch.test_builds import wait_for_a_cut
from tests.servers.speed.test_score_requests import DECLARATION, PATIENCE, Desk


@pytest.fixture(scope="module")
def desk(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A model that reads the town, which the declaration then has no more."""
    folder, name = tmp_path_factory.mktemp("projects"), f"left_{uuid.uuid4().hex[:8]}"
    file, text = folder / f"{name}.py", DECLARATION.format(name=name)
    file.write_text(text, encoding="utf-8")
    context = Context(replace(servers, projects=(folder,)))
    context.spark = spark
    found = Desk(context, context.project(name))
    context.models.promote(name, found.learn("logistic"))
    file.write_text(text.replace('"town": Last("town"), ', ""), encoding="utf-8")
    found.project = context.project(name)
    assert found.project.model_features == ("pages", "visits")
    return found


def drain(desk: Desk) -> None:
    running = Streams(desk.context.speed_layer(once=True), [desk.project])
    running.start()
    assert wait_until(lambda: bool(running.look()) and not running.active, PATIENCE)


def said(desk: Desk) -> str:
    return f"version 1 of '{desk.project.name}' reads 'town', which is declared no more: train again"


def test_the_stream_goes_on_without_scores_and_warns_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for visits in (1, 2):
        desk.visit("ann")
        desk.ask({"request_id": f"r{visits}", "key": "ann"})
        drain(desk)
        row = desk.context.views.current(desk.project, "ann")
        assert row is not None
        assert (row["visits"], row["pages"], row["layer"]) == (visits, 5 * visits, "speed")
        assert (row["score"], row["label"], row["model_version"]) == (None, None, None)
        error = desk.answer(f"r{visits}")["error"]
        assert (error["type"], error["detail"]) == ("urn:anabranch:problem:no-model", said(desk))
    assert [
        record.getMessage() for record in caplog.records if record.name.startswith("anabranch.stores.models")
    ] == [f"{said(desk)}; until then its scores stay empty"]
    ((status, problem),) = desk.rest([{"key": "ann"}])
    assert (status, problem["detail"]) == (503, said(desk))


def test_a_build_goes_on_without_scores_until_there_is_a_model_that_fits(desk: Desk) -> None:
    context, project = desk.context, desk.project
    wait_for_a_cut(context.settings)
    version = build_project(context, project, None, Steps()).manifest.batch_version
    row = context.views.current(project, "ann")
    assert row is not None
    assert (row["visits"], row["layer"], row["batch_version"]) == (2, "batch", version)
    assert (row["score"], row["model_version"]) == (None, None)
    answered = answer_key(context, project, {"who": "ann"}, None)
    assert (answered["features"]["visits"], answered["score"], answered["model_version"]) == (2, None, None)
    context.models.promote(project.name, desk.learn("logistic"))
    desk.visit("ann")
    drain(desk)
    scored = context.views.current(project, "ann")
    assert scored is not None
    assert (scored["visits"], scored["model_version"]) == (3, "2")
    assert scored["score"] is not None
