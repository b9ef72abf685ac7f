"""`anabranch.Client` against the REST server on a real socket; its stores are in memory."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pytest

from anabranch import AsyncClient, Client
from anabranch.client import InvalidCallError, RefusedError, RemotePrediction, RemoteProject, UnknownError
from anabranch.stores.files.api_keys import RIGHTS, ApiKeys
from tests.servers.serving.test_serving_http import started
from tests.support.serving_fakes import NOW

PROJECT = "heart_disease"


@dataclass(frozen=True)
class Guarded:
    """A server that asks callers for keys, and one of these."""

    url: str
    key: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("client")
    key = ApiKeys(folder / "keys.json").add("*", NOW, rights=RIGHTS)[1]
    with started(folder, auth="on") as running:
        yield Guarded(f"http://127.0.0.1:{running.port}", key)


@pytest.fixture
def project(server: Guarded) -> Iterator[RemoteProject]:
    with Client(server.url, server.key) as client:
        yield client[PROJECT]


def test_the_catalogue_and_the_health_are_documents(server: Guarded) -> None:
    with Client(server.url, server.key) as client:
        assert [each["name"] for each in client.projects()] == [PROJECT]
        assert client.health()["status"] == "ready"
        assert client[PROJECT].about()["keys"] == ["patient_id"]


def test_a_key_and_features_are_scored(project: RemoteProject) -> None:
    stored, given = project.answer("p1"), project.predict("p1", features={"age": 61})
    assert isinstance(stored, RemotePrediction)
    assert (stored.key, stored.degraded, stored.as_of.tzinfo is not None) == ("p1", False, True)
    assert (stored.score, given.score) == (project.answer({"patient_id": "p1"}).score, given.score)
    assert given.score != stored.score
    assert project.features("p1")["features"]["age"] == 60


def test_errors_are_exceptions_with_the_servers_words(project: RemoteProject, server: Guarded) -> None:
    with pytest.raises(UnknownError) as unknown:
        project.answer("nobody")
    assert (unknown.value.kind, unknown.value.field, unknown.value.status) == ("unknown-key", "key", 404)
    with pytest.raises(InvalidCallError) as invalid:
        project.predict(features={"age": "old"})
    assert (invalid.value.field, "'old' is not" in str(invalid.value)) == ("features.age", True)
    with Client(server.url, server.key) as client, pytest.raises(UnknownError, match="no project 'nothing'"):
        client["nothing"].about()


def test_frames_are_scored_and_come_back_as_what_they_were(project: RemoteProject) -> None:
    rows = [
        {"patient_id": name, "ward": ward} for name, ward in (("p1", 3), ("nobody", 4)) for _ in range(600)
    ]
    listed = project.score(rows)
    assert [row["ward"] for row in listed] == [3] * 600 + [4] * 600
    assert listed[0]["score"] == project.answer("p1").score
    assert (listed[0]["error"], listed[-1]["score"]) == (None, None)
    assert "nobody" in listed[-1]["error"]
    frame = project.score(pd.DataFrame(rows, index=range(7, 1207)))
    assert isinstance(frame, pd.DataFrame)
    assert (list(frame.index[:2]), frame["score"].notna().sum()) == ([7, 8], 600)
    table = project.score(pa.Table.from_pylist(rows[:3]))
    assert table.column("score").to_pylist() == [listed[0]["score"]] * 3


def test_events_are_published_or_refused_whole(project: RemoteProject) -> None:
    (source, *_) = project.about()["sources"]
    good = {column["name"]: None for column in source["schema"]}
    with pytest.raises(InvalidCallError, match="missing"):
        project.publish(source["name"], [good])


def test_calls_are_awaited_together(server: Guarded) -> None:
    async def ask() -> list[RemotePrediction]:
        async with AsyncClient(server.url, server.key) as client:
            project = client[PROJECT]
            assert (await project.features("p1"))["known"] is True
            assert len(await project.score([{"patient_id": "p1"}])) == 1
            return await asyncio.gather(*[project.answer("p1") for _ in range(50)])

    assert len({found.score for found in asyncio.run(ask())}) == 1


def test_a_caller_without_the_right_key_is_refused(server: Guarded) -> None:
    with Client(server.url, "not a key") as client, pytest.raises(RefusedError) as caught:
        client[PROJECT].answer("p1")
    assert caught.value.status == 401
